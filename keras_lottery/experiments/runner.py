"""Coordinates the jobs of an experiment and writes its run directory."""

import concurrent.futures
import functools
import json
import pickle
import time

from keras_lottery.checks import check_integer
from keras_lottery.experiments import environment
from keras_lottery.experiments.arms import ARMS
from keras_lottery.experiments.executors import Serial
from keras_lottery.experiments.jobs import run_job
from keras_lottery.experiments.library import Library
from keras_lottery.experiments.places import Line, plan
from keras_lottery.experiments.progress import Silence
from keras_lottery.experiments.results import Result, Results, to_csv
from keras_lottery.experiments.store import TIMINGS, Store
from keras_lottery.experiments.tensorboard import Board
from keras_lottery.processes import Processes


def run(
    experiment,
    run_dir,
    progress=None,
    workers=1,
    executor=None,
    tensorboard_dir=None,
    shared=None,
):
    """Trains whatever of an experiment is not in the run directory yet.

    A run that is killed loses at most the trainings in progress; what was
    trained is in `results.csv` a second later.

    Args:
        experiment: `Experiment`.
        run_dir: str or path-like.
        progress: optional `Progress`. Defaults to silence.
        workers: int, processes to train in. Defaults to 1, this process.
        executor: optional `concurrent.futures.Executor` to train on instead.
        tensorboard_dir: optional str or path-like, to write the curves to for
            TensorBoard.
        shared: optional str or path-like, see `Library`.

    Returns:
        `Results`, by trial, arm and level.

    Raises:
        ValueError: If the run directory holds another experiment.
        RuntimeError: If another process runs in it.
    """
    check_integer("workers", workers, minimum=1)
    own = executor is None
    if own:
        executor = Serial() if workers == 1 else Processes(workers)
    if not isinstance(executor, Serial):
        _check_sendable(experiment)
    store = Store(run_dir)
    experiment.load_data(0)  # a missing data set is told before all else
    try:
        with store.alone():
            store.claim(experiment)
            environment.record(store, workers)
            return Coordinator(
                experiment,
                store,
                progress or Silence(),
                Library(experiment, store, shared),
                Board(tensorboard_dir) if tensorboard_dir else None,
            ).run(executor)
    finally:
        if own:
            executor.shutdown(wait=False, cancel_futures=True)


def _check_sendable(experiment):
    try:
        pickle.dumps(experiment)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            "`model` must be a function at the top level of a module, for "
            "other processes to find it by its name. Received: "
            f"model={experiment.model!r} ({error})"
        ) from None


class Coordinator:
    """Hands out what can be trained now, and writes what comes back.

    Args:
        experiment: `Experiment`.
        store: `Store`, which nobody else writes.
        progress: `Progress`.
        library: `Library`.
        board: optional `Board`.
    """

    def __init__(self, experiment, store, progress, library, board=None):
        self.experiment = experiment
        self.store = store
        self.progress = progress
        self.library = library
        self.board = board
        self.results = {}
        self.keys = store.load_places()
        self._written = float("-inf")
        self._told = False

    def run(self, executor):
        """Runs all jobs on an executor; returns `Results`."""
        places = plan(self.experiment)
        self.progress.begin(len(places), self.experiment.iterations)
        line = Line(places, [p for p in places if self._found(p)])
        running = {}
        try:
            while len(line) or running:
                while len(running) < self._slots(executor) and line.ready:
                    place = line.next()
                    running[self._submit(executor, place)] = place
                done, _ = concurrent.futures.wait(
                    running, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    place = running.pop(future)
                    if self._finish(place, *future.result()):
                        line.done(place)
                    else:
                        line.again(place)
        finally:
            for future in running:
                future.cancel()
            results = self._write_results()
        self.progress.end()
        return results

    def _slots(self, executor):
        # The first job alone chooses the backend that all others use.
        if not self.store.exists(TIMINGS):
            return 1
        return getattr(executor, "slots", _SLOTS)

    def _found(self, place):
        """Takes a place's result from the store, if it is all there."""
        key = self.keys.get(place)
        record = key and self.store.load_record(key)
        if not record:
            return False
        if ARMS[place.arm].chain and not self.store.ticket_is_of(place, key):
            return False
        self.library.add(place, key)
        self._take(place, record, found=True)
        return True

    def _submit(self, executor, place):
        inputs = [TIMINGS]
        before = place.needs
        if before:
            inputs.append(
                self.store.ticket_path(before.trial, before.arm, before.level)
            )
        self.progress.training(place)
        job = functools.partial(
            run_job,
            self.experiment,
            place,
            self.store.take(inputs),
            self.library.known(place),
        )
        if isinstance(executor, Serial):
            return executor.submit(job, progress=self.progress.iteration)
        return executor.submit(job)

    def _finish(self, place, key, files):
        """Keeps what came of a job; `False` if it is to be done again."""
        for path, content in files.items():
            self.store.put(path, content)
        self._tell_backend()
        if not files and not self.library.fetch(place, key):
            return False
        record = self.store.load_record(key)
        if record is None:
            raise OSError(f"The record of {place} could not be read back.")
        self.library.add(place, key)
        self.keys[place] = key
        self.store.add_place(place, key)
        self._take(place, record, found=not files)
        if time.monotonic() - self._written > _WRITTEN_EVERY:
            self._write_results()
        return True

    def _take(self, place, record, found=False):
        result = Result(place.trial, place.arm, place.level, **record)
        self.results[place] = result
        self.progress.done(place, result, found)
        if self.board and ARMS[place.arm].shown:
            self.board.add(result, self.store.load_curves(self.keys[place]))

    def _tell_backend(self):
        """Says once by what the run is trained, and why."""
        if self._told or not self.store.exists(TIMINGS):
            return
        self._told = True
        with open(self.store.path(TIMINGS)) as file:
            for backend, why in json.load(file).values():
                self.progress.note(f"Training by {backend}: {why}.")

    def _write_results(self):
        self._written = time.monotonic()
        arms = self.experiment.arms
        shown = sorted(
            (r for r in self.results.values() if r.arm in arms),
            key=lambda r: (r.trial, arms.index(r.arm), r.level),
        )
        self.store.write_text("results.csv", to_csv(shown))
        return Results(shown)


_WRITTEN_EVERY = 1.0
# Jobs handed at once to an executor that does not say how many it runs.
_SLOTS = 64
