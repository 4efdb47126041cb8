"""Coordinates the jobs of an experiment and writes its run directory."""

import concurrent.futures
import functools

from keras_lottery.experiments import environment
from keras_lottery.experiments.arms import ARMS
from keras_lottery.experiments.executors import Processes, Serial
from keras_lottery.experiments.jobs import run_job
from keras_lottery.experiments.places import plan
from keras_lottery.experiments.progress import Silence
from keras_lottery.experiments.results import Result, to_csv
from keras_lottery.experiments.store import Store
from keras_lottery.schedules import check_integer


def run(experiment, run_dir, progress=None, workers=1, executor=None):
    """Trains whatever of an experiment is not in the run directory yet.

    After each training `results.csv` holds all that is known, so that a run
    that is killed loses at most the trainings in progress.

    Args:
        experiment: `Experiment`.
        run_dir: str or path-like.
        progress: optional `Progress`. Defaults to silence.
        workers: int, processes to train in. Defaults to 1, this process.
        executor: optional `concurrent.futures.Executor` to train on instead.

    Returns:
        A list of `Result`, by trial, arm and level.
    """
    check_integer("workers", workers, minimum=1)
    store = Store(run_dir)
    experiment.load_data(0)  # a missing data set is told before all else
    store.claim(experiment)
    environment.record(store, workers)
    if executor is None:
        executor = Serial() if workers == 1 else Processes(workers)
    coordinator = Coordinator(experiment, store, progress or Silence())
    try:
        return coordinator.run(executor)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


class Coordinator:
    """Hands out what can be trained now, and writes what comes back.

    Args:
        experiment: `Experiment`.
        store: `Store`, which nobody else writes.
        progress: `Progress`.
    """

    def __init__(self, experiment, store, progress):
        self.experiment = experiment
        self.store = store
        self.progress = progress
        self.results = {}
        self.keys = store.load_places()

    def run(self, executor):
        """Runs all jobs on an executor; returns the list of `Result`."""
        places = plan(self.experiment)
        self.progress.begin(len(places), self.experiment.iterations)
        waiting = [p for p in places if not self._found(p)]
        self._write_results()
        running = {}
        slots = getattr(executor, "slots", len(places))
        while waiting or running:
            # The first job alone chooses the backend that all others use.
            known = self.store.exists("timings.json")
            for place in self._ready(waiting, slots if known else 1, running):
                waiting.remove(place)
                running[self._submit(executor, place)] = place
            done, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                self._finish(running.pop(future), *future.result())
        self.progress.end()
        return self._write_results()

    def _found(self, place):
        """Takes a place's result from the store, if it is all there."""
        key = self.keys.get(place)
        record = key and self.store.load_record(key)
        if not record:
            return False
        if ARMS[place.arm].chain and not self.store.ticket_is_of(place, key):
            return False
        self._take(place, record, found=True)
        return True

    def _ready(self, waiting, slots, running):
        free = slots - len(running)
        ready = [
            p for p in waiting if p.needs is None or p.needs in self.results
        ]
        return ready[: max(0, free)]

    def _submit(self, executor, place):
        inputs = ["timings.json"]
        before = place.needs
        if before:
            inputs.append(
                self.store.ticket_path(before.trial, before.arm, before.level)
            )
        known = self.store.known_keys()
        if ARMS[place.arm].chain:
            # Its ticket is wanted, not only its result.
            known = set()
        self.progress.training(place)
        job = functools.partial(
            run_job, self.experiment, place, self.store.take(inputs), known
        )
        if isinstance(executor, Serial):
            return executor.submit(job, progress=self.progress.iteration)
        return executor.submit(job)

    def _finish(self, place, key, files):
        for path, content in files.items():
            self.store.put(path, content)
        record = self.store.load_record(key)
        if record is None:
            raise OSError(f"The record of {place} could not be read back.")
        self.keys[place] = key
        self.store.save_places(self.keys)
        self._take(place, record)
        self._write_results()

    def _take(self, place, record, found=False):
        result = Result(place.trial, place.arm, place.level, **record)
        self.results[place] = result
        self.progress.done(result, found)

    def _write_results(self):
        arms = self.experiment.arms
        shown = sorted(
            (r for r in self.results.values() if r.arm in arms),
            key=lambda r: (r.trial, arms.index(r.arm), r.level),
        )
        self.store.write_text("results.csv", to_csv(shown))
        return shown
