"""How subjects are measured: in processes of their own, and in turn.

The processes of the subjects import this module, and must have no framework
but their own: so nothing here imports this package when it is imported.
"""

import contextlib
import dataclasses
import importlib
import os
import sys
import threading
import time

import psutil


class Unavailable(Exception):
    """What a subject needs is not installed."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is measured: a class, and how it is run.

    The class is made of a `Problem`, which is not timed. It has `run()`, one
    repetition, returning a dict from metric to number, and `finish()`, the
    same for what is measured once. `about` may be a dict of what to know about
    it, such as versions, and `warm_up` may be `False`: then it does not run
    once before the repetitions.

    Attributes:
        where: str, `"module:class"`.
        networks: tuple of str, on which it runs.
        repetitions: optional int, at most so many.
        env: optional dict of str, environment variables of its process.
    """

    where: str
    networks: tuple = ()
    repetitions: int | None = None
    env: dict | None = None

    def make(self, problem):
        """The object of its class, made of a `Problem`."""
        module, name = self.where.split(":")
        return getattr(importlib.import_module(module), name)(problem)


@dataclasses.dataclass(frozen=True)
class Row:
    """One number: `repetition` counts from 1, and is `None` for what was
    measured once."""

    subject: str
    network: str
    metric: str
    repetition: int | None
    value: float


def take_turns(subjects, problem, repetitions, tell, skip):
    """Measures subjects on one problem.

    All are started and warmed up before the first repetition; after that
    only one works at a time: A B C A B C, so that a slow minute hits all alike.

    Args:
        subjects: dict, name -> `Subject`.
        problem: `Problem`.
        repetitions: int.
        tell: function of a str: what is running now.
        skip: function of a str: what is left out, and why.

    Returns:
        Pair of a list of `Row` and a dict, subject -> what to know about it.
    """
    rows, about, workers = [], {}, {}

    def note(name, repetition, values):
        rows.extend(
            Row(name, problem.network, metric, repetition, value)
            for metric, value in values.items()
        )

    with contextlib.ExitStack() as stack:
        for name, subject in subjects.items():
            tell(f"{problem.network}: preparing {name}")
            worker = stack.enter_context(Worker(subject))
            try:
                values, about[name] = worker.prepare(problem)
            except Unavailable as reason:
                skip(f"{problem.network}: {name} skipped: {reason}")
                continue
            note(name, None, values)
            workers[name] = worker
        for repetition in range(1, repetitions + 1):
            for name, worker in workers.items():
                if repetition <= (subjects[name].repetitions or repetitions):
                    tell(
                        f"{problem.network}: repetition {repetition} of "
                        f"{repetitions}, {name}"
                    )
                    note(name, repetition, worker.run())
        tell(f"{problem.network}: memory")
        for name, worker in workers.items():
            note(name, None, worker.finish())
    return rows, about


class Worker:
    """A subject in a process of its own, where it is between repetitions.

    Args:
        subject: `Subject`.
    """

    def __init__(self, subject):
        self.subject = subject

    def __enter__(self):
        from keras_lottery.processes import Process

        with contextlib.ExitStack() as stack:
            self._process = stack.enter_context(Process(self.subject.env))
            pid = self._process.call(os.getpid)
            self._memory = stack.enter_context(PeakMemory(pid))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def prepare(self, problem):
        """Makes the subject and runs it once.

        Returns:
            Pair of dicts: metric to number, and what to know about it.

        Raises:
            Unavailable: If what it needs is not installed.
        """
        return self._call(_prepare, self.subject, problem)

    def run(self):
        """One repetition: a dict, metric to number."""
        return self._call(_run)

    def finish(self):
        """What is measured once, after all repetitions: such a dict."""
        values = self._call(_finish)
        return {"peak_rss_mb": self._memory.peak_mb, **values}

    def _call(self, function, *arguments):
        try:
            return self._process.call(function, *arguments)
        except Unavailable:
            raise
        except Exception as error:
            # The cause is the traceback in the process.
            raise RuntimeError(
                f"{self.subject.where} failed:\n{error.__cause__ or error}"
            ) from None


# In the process of a subject.

_made = None


def _prepare(subject, problem):
    global _made
    # What frameworks print is not shown.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    began = time.perf_counter()
    _made = subject.make(problem)
    values = {}
    if getattr(_made, "warm_up", True):
        _made.run()
        values["warm_up_seconds"] = time.perf_counter() - began
    return values, getattr(_made, "about", {})


def _run():
    return _made.run()


def _finish():
    return _made.finish()


# Clocks and memory.


def epoch_clock(callback):
    """A callback whose `seconds` are those of the last epoch of `fit`.

    What `fit` does once, before its epochs, is left out: it would weigh more
    on a short repetition than on a real training.

    Args:
        callback: the `Callback` class of the Keras in use.

    Returns:
        An instance of a subclass of it.
    """

    class EpochClock(callback):
        def on_epoch_begin(self, epoch, logs=None):
            self._began = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.seconds = time.perf_counter() - self._began

    return EpochClock()


def resident_mb(pid=None):
    """How much memory a process holds, by default this one, in MB."""
    return psutil.Process(pid).memory_info().rss / 1e6


class PeakMemory:
    """The most memory that a process holds meanwhile, looked at repeatedly.

    Args:
        pid: optional int. Defaults to this process.
        interval: float, seconds between two looks.

    Attributes:
        peak_mb: float, in MB.
    """

    def __init__(self, pid=None, interval=0.02):
        self._pid, self._interval = pid, interval
        self._ended = threading.Event()

    def __enter__(self):
        self.peak_mb = resident_mb(self._pid)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._ended.set()
        self._thread.join()

    def _watch(self):
        with contextlib.suppress(psutil.Error):
            while not self._ended.wait(self._interval):
                self.peak_mb = max(self.peak_mb, resident_mb(self._pid))


# The machine.

_VARIABLES = ("OMP_", "OPENBLAS_", "MKL_", "TF_", "XLA_")


def machine():
    """A dict of what a number was measured on, and what else ran there."""
    from keras_lottery.experiments import environment

    return {
        **environment.describe(),
        "variables": {
            name: value
            for name, value in os.environ.items()
            if name.startswith(_VARIABLES)
        },
        # Mean number of running processes in the last minute.
        "load_before": psutil.getloadavg()[0],
    }
