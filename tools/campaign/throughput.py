"""The coordinator at work on trainings that take no time.

Everything but the training is real: the store and its files, the executor and
its answer to processes that die, and the bytes that go to a worker and back.
"""

import concurrent.futures
import hashlib
import os
import pickle
import random
import shutil
import tempfile
import threading
import time

import numpy as np
from benchmarks import memory
from keras_lottery.experiments.library import Library
from keras_lottery.experiments.places import plan

from keras_lottery import files
from keras_lottery.experiments import Experiment
from keras_lottery.experiments.arms import ARMS
from keras_lottery.experiments.progress import Silence
from keras_lottery.experiments.runner import Coordinator
from keras_lottery.experiments.store import TIMINGS, Store
from keras_lottery.processes import Processes

ARMS_OF_IT = ("ticket", "reinit", "random_mask", "one_shot")
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


class Instant(Processes):
    """Executor of which the processes are threads, and the jobs no work.

    Args:
        workers: int.
        deaths: float, the share of jobs during which a worker dies.
        ticket_bytes: int, size of a ticket.
        store: `Store`, which says where files are.
    """

    def __init__(self, workers, deaths, ticket_bytes, store):
        self.store = store
        self.deaths, self.lost = deaths, 0
        self.sent = self.returned = 0
        self._random = random.Random(0)
        self._lock = threading.Lock()
        self._made = _files(ticket_bytes)
        super().__init__(workers, attempts=10)

    def _pool(self, cores):
        return _Pool(self, cores)

    def work(self, job):
        """What a worker does with a job; it may die of it."""
        content = pickle.dumps(job)
        place = pickle.loads(content).args[1]
        with self._lock:
            self.sent += len(content)
            if self._random.random() < self.deaths:
                self.lost += 1
                raise concurrent.futures.process.BrokenProcessPool
        key = hashlib.sha256(repr(place).encode()).hexdigest()[:32]
        record, ticket = self._made
        made = {self.store.record_path(key): record, TIMINGS: b"{}"}
        if ARMS[place.arm].chain:
            path = self.store.ticket_path(place.trial, place.arm, place.level)
            made[path] = ticket
        content = pickle.dumps((key, made))
        with self._lock:
            self.returned += len(content)
        return pickle.loads(content)


class _Pool:
    """One worker, which lasts until it dies."""

    _processes = None

    def __init__(self, executor, cores):
        self.executor, self.cores = executor, cores

    def submit(self, job):
        future = concurrent.futures.Future()
        try:
            future.set_result(self.executor.work(job))
        except concurrent.futures.process.BrokenProcessPool as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_):
        pass


def measure(jobs, workers, deaths, ticket_bytes, directory=None):
    """Runs a coordinator on instant trainings.

    Args:
        jobs: int, at least so many.
        workers: int.
        deaths: float, the share of jobs during which a worker dies.
        ticket_bytes: int, size of a ticket.
        directory: optional str, where to. Defaults to a temporary one.

    Returns:
        A dict of what was measured.
    """
    rounds = 16
    trials = -(-jobs // (len(ARMS_OF_IT) * (rounds + 1)))
    experiment = Experiment(rounds=rounds, trials=trials, arms=ARMS_OF_IT)
    run_dir = tempfile.mkdtemp(dir=directory)
    try:
        store = Store(run_dir)
        # Or the first job would run alone.
        store.put(TIMINGS, b"{}")
        executor = Instant(workers, deaths, ticket_bytes, store)
        before = _peak()
        began = time.perf_counter()
        results = Coordinator(
            experiment, store, Silence(), Library(experiment, store)
        ).run(executor)
        seconds = time.perf_counter() - began
        places = plan(experiment)
        found = {(r.trial, r.level, r.arm) for r in results}
        wanted = {(p.trial, p.level, p.arm) for p in places}
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
            "memory MB": _peak() / 1e6,
            "memory MB before": before / 1e6,
        }
    finally:
        shutil.rmtree(run_dir)


def _files(ticket_bytes):
    """The bytes of a record and of a ticket."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "record")
        files.write(path, {"record": _RECORD}, [("curve", "x", np.ones(400))])
        with open(path, "rb") as file:
            return file.read(), bytes(ticket_bytes)


def _peak():
    return memory.peak_rss() * 1e6
