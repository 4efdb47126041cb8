"""The campaign simulation: trainings that take no time, and a schedule.

Everything but the training is real in `measure`: the coordinator, the run
directory and its files, and the bytes that go to a worker and back.
`makespan` is how long a campaign takes on so many workers, by list scheduling.
"""

import concurrent.futures
import hashlib
import heapq
import pickle
import random
import re
import tempfile
import threading
import time

import numpy as np
import pandas as pd

from benchmarks.measurement import PeakMemory, resident_mb
from keras_lottery.experiments import Experiment
from keras_lottery.experiments.arms import ARMS
from keras_lottery.experiments.bench import Trained
from keras_lottery.experiments.experiment import Coordinator
from keras_lottery.experiments.plan import Queue, plan
from keras_lottery.experiments.progress import Silence
from keras_lottery.experiments.run import Run
from keras_lottery.experiments.store import Store
from keras_lottery.rewinding import RewindPoint
from keras_lottery.tickets import Ticket
from keras_lottery.training import Training

# Levels 0 to these: as far as the paper prunes each network.
ROUNDS = {
    "lenet_300_100": 18,
    "conv_2": 16,
    "conv_4": 16,
    "conv_6": 20,
    "resnet_18": 14,
    "vgg_19": 20,
}

_CONTROLS = re.compile("signs|_shuffled|transferred")


def experiments(trials):
    """The paper's campaign: six networks, each with every arm it can have,
    but for controls that other papers ask for.

    Args:
        trials: int.

    Returns:
        A list of `Experiment`.
    """
    found = []
    for model, rounds in ROUNDS.items():
        dataset = "mnist" if model == "lenet_300_100" else "cifar10"
        arms = [arm.name for arm in ARMS.values() if arm.shown]
        arms = [name for name in arms if not _CONTROLS.search(name)]
        if model in ("resnet_18", "vgg_19"):
            # They are pruned globally, and tfmot's arm does not know them.
            arms = [name for name in arms if name not in ("global", "tfmot")]
        found.append(
            Experiment(
                dataset, model=model, rounds=rounds, trials=trials, arms=arms
            )
        )
    return found


def makespan(campaign, workers):
    """Seconds from the first training to the end of the last.

    Args:
        campaign: list of (`Experiment`, seconds of one training). The longest
            chains come first.
        workers: int, trainings at a time.

    Returns:
        A float.
    """
    queues = [Queue(plan(experiment)) for experiment, _ in campaign]
    running, now, free = [], 0.0, workers
    while any(map(len, queues)):
        for i, queue in enumerate(queues):
            while free and queue.ready:
                free -= 1
                end = now + campaign[i][1]
                heapq.heappush(running, (end, i, queue.next()))
        now, i, place = heapq.heappop(running)
        queues[i].done(place)
        free += 1
    return now


def chain(experiment, seconds):
    """Seconds of the longest chain: what no number of workers shortens."""
    return (experiment.rounds + 1) * seconds


def costs(campaign, sizes=(2, 64, 1000)):
    """The table of hours: of each experiment and of all.

    Args:
        campaign: list of (`Experiment`, seconds of one training).
        sizes: sequence of int, numbers of workers.

    Returns:
        A str of lines.
    """
    campaign = sorted(campaign, key=lambda pair: -chain(*pair))
    parts = {pair[0].model: [pair] for pair in campaign} | {"all": campaign}
    hours = pd.DataFrame(
        {name: _costs(part, sizes) for name, part in parts.items()}
    ).T
    forms = dict.fromkeys(hours, "{:,.0f}".format)
    forms |= {"each": "{:.2f}".format, "chain": "{:,.1f}".format}
    return hours.to_string(formatters=forms, na_rep="")


def _costs(part, sizes):
    """Dict, column -> number, of a part of a campaign."""
    trainings = [len(plan(experiment)) for experiment, _ in part]
    seconds = {
        "each": part[0][1] if len(part) == 1 else float("nan"),
        "worker h": sum(n * s for n, (_, s) in zip(trainings, part)),
        "chain": max(chain(*pair) for pair in part),
        **{f"{size} w": makespan(part, size) for size in sizes},
    }
    hours = {name: value / 3600 for name, value in seconds.items()}
    return {"trainings": sum(trainings), **hours}


# The coordinator at work.

_ARMS = ("ticket", "reinit", "random_mask", "one_shot")
_ROUNDS = 16
_RECORD = {
    "density": 0.5,
    "iterations": 1,
    "early_stop_iteration": 1,
    "early_stop_val_loss": 0.1,
    "early_stop_val_accuracy": 0.9,
    "early_stop_test_accuracy": 0.9,
    "final_train_accuracy": 0.9,
    "final_val_accuracy": 0.9,
    "final_test_accuracy": 0.9,
    "seconds": 0.0,
}
# Of a ticket's weight: its values at the rewind point and after training, in
# four bytes each, and its bit of the mask.
_BYTES_OF_WEIGHT = 8 + 1 / 8


class Instant(concurrent.futures.Executor):
    """An executor of threads on which every training takes no time.

    A job is pickled on its way to a worker, and what comes of it on its way
    back. A job whose worker dies is sent to another, as `Processes` does.

    Args:
        workers: int.
        deaths: float, the share of jobs during which a worker dies.
        ticket_mb: float, size of a ticket.

    Attributes:
        lost: int, the workers that died.
        sent, returned: int, bytes.
    """

    def __init__(self, workers, deaths, ticket_mb):
        self.slots = workers
        self.lost = self.sent = self.returned = 0
        self._deaths, self._random = deaths, random.Random(0)
        self._lock = threading.Lock()
        self._weights = round(1e6 * ticket_mb / _BYTES_OF_WEIGHT)
        self._threads = concurrent.futures.ThreadPoolExecutor(workers)

    def submit(self, job):
        """Submits a job of the coordinator: `train_places`."""
        return self._threads.submit(self._work, job)

    def shutdown(self, wait=True, *, cancel_futures=False):
        """See `concurrent.futures.Executor.shutdown`."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)

    def _work(self, job):
        content = self._send(job)
        while self._dies():
            content = self._send(job)
        _, places, *_ = pickle.loads(content).args
        trained = [_training(place, self._weights) for place in places]
        content = pickle.dumps(trained)
        with self._lock:
            self.returned += len(content)
        return pickle.loads(content)

    def _send(self, job):
        content = pickle.dumps(job)
        with self._lock:
            self.sent += len(content)
        return content

    def _dies(self):
        with self._lock:
            died = self._random.random() < self._deaths
            self.lost += died
        return died


def _training(place, weights):
    """What `train_places` returns of a place, of made-up numbers."""
    key = hashlib.sha256(repr(place).encode()).hexdigest()[:32]
    curve, values = np.ones(400), {"kernel": np.ones(weights, np.float32)}
    training = Training(curve, curve, curve, curve, 1, [], None, 0.0)
    ticket = None
    if ARMS[place.arm].chain:
        ticket = Ticket(
            {"kernel": np.ones(weights, bool)},
            RewindPoint(0, values, {}),
            place.level,
            {"key": key},
            values,
        )
    return key, Trained(_RECORD, training, ticket)


def measure(jobs, workers, deaths, ticket_mb):
    """Runs a coordinator on trainings that take no time.

    Args:
        jobs: int, at least so many.
        workers: int.
        deaths: float, the share of jobs during which a worker dies.
        ticket_mb: float, size of a ticket.

    Returns:
        A dict of what was measured.
    """
    trials = -(-jobs // (len(_ARMS) * (_ROUNDS + 1)))
    experiment = Experiment(rounds=_ROUNDS, trials=trials, arms=_ARMS)
    before = resident_mb()
    with (
        tempfile.TemporaryDirectory() as directory,
        Instant(workers, deaths, ticket_mb) as executor,
        PeakMemory() as memory,
    ):
        run = Run(directory)
        began = time.perf_counter()
        results = Coordinator(
            experiment, run, Silence(), Store(experiment, run)
        ).run(executor)
        seconds = time.perf_counter() - began
    places = plan(experiment)
    found = {(r.trial, r.level, r.arm) for r in results}
    wanted = {
        (p.trial, p.level, p.arm) for p in places if p.arm in experiment.arms
    }
    return {
        "jobs": len(places),
        "workers": workers,
        "seconds": seconds,
        "jobs a second": len(places) / seconds,
        "workers lost": executor.lost,
        "results missing": len(wanted - found),
        "results twice": len(results) - len(found),
        "sent MB": executor.sent / 1e6,
        "returned MB": executor.returned / 1e6,
        "memory MB": memory.peak_mb,
        "memory MB before": before,
    }
