"""Jobs: one training as a function of bytes, to run in any process.

A worker needs no file system of the coordinator's: what a training builds on
is sent to it, and what it came to is sent back. The coordinator alone writes
the store.
"""

import functools
import tempfile
import threading

from keras_lottery.experiments.arms import ARMS
from keras_lottery.experiments.store import TIMINGS, Store


def run_job(experiment, place, inputs, known, progress=None):
    """Trains one place, unless its training is known.

    Args:
        experiment: `Experiment`.
        place: `Place`.
        inputs: dict, path in the run directory -> bytes: what it builds on.
        known: set of str, the keys of trainings that need not be repeated.
        progress: optional function of the iteration.

    Returns:
        A pair: its key, and a dict, path in the run directory -> bytes; empty
        if the key is known.
    """
    with _one_at_a_time:
        bench = _bench(experiment)
        store = bench.store
        for path, content in inputs.items():
            store.put(path, content)
        bench.open(place.trial)
        key = bench.key(place.arm, place.level)
        if key in known:
            return key, {}
        bench.train(place.arm, place.level, progress)
        paths = [store.record_path(key), TIMINGS]
        if ARMS[place.arm].chain:
            ticket = store.ticket_path(place.trial, place.arm, place.level)
            paths.append(ticket)
        return key, store.take(paths)


# An executor of threads shares one bench, which has one model.
_one_at_a_time = threading.Lock()


@functools.lru_cache(maxsize=1)
def _bench(experiment):
    """The bench of this process; it keeps its model and compilation."""
    from keras_lottery.experiments.bench import Bench

    directory = tempfile.TemporaryDirectory(prefix="keras_lottery_")
    bench = Bench(experiment, Store(directory.name))
    bench.directory = directory  # goes with the bench
    return bench
