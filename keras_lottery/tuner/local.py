"""Local workers: a chief with workers of its own, on one machine."""

import _thread
import contextlib
import multiprocessing
import os
import socket
import sys
import threading

from keras_lottery.experiments.executors import become_worker, shares
from keras_lottery.tuner.distribution import ATTEMPTS, ID, IP, PORT


def local_workers(count, function, *args):
    """A context in which this process is a chief with workers of its own.

    They share the cores and end with it, however it ends. One that dies is
    started again, and goes on with its trial.

    Args:
        count: int.
        function: function at the top level of a module, which makes the same
            tuner and calls its `search`.
        *args: its arguments.
    """
    context = contextlib.ExitStack()
    context.enter_context(
        _environment(**{IP: "127.0.0.1", PORT: str(_free_port()), ID: "chief"})
    )
    for number, cores in enumerate(shares(count)):
        worker = _LocalWorker(f"worker{number}", cores, function, args)
        worker.start()
        context.callback(worker.end)
    return context


class _LocalWorker(threading.Thread):
    """Keeps a process running until it has done its work."""

    def __init__(self, name, cores, function, args):
        super().__init__(name=name, daemon=True)
        self._cores = cores
        self._work = (name, function, *args)
        self._lock = threading.Lock()
        self._process = None
        self._over = False

    def run(self):
        # A process inherits the cores of the thread that starts it.
        os.sched_setaffinity(0, self._cores)
        for _ in range(ATTEMPTS):
            with self._lock:
                if self._over:
                    return
                self._process = multiprocessing.get_context("spawn").Process(
                    target=_work, args=self._work, daemon=True
                )
                self._process.start()
            self._process.join()
            if self._over or self._process.exitcode == 0:
                return
        # Nobody else would tell the chief that it waits in vain.
        print(f"{self.name} died {ATTEMPTS} times.", file=sys.stderr)
        _thread.interrupt_main()

    def end(self):
        with self._lock:
            self._over = True
            if self._process:
                self._process.terminate()
        self.join()


def _work(name, function, *args):
    become_worker()
    os.environ[ID] = name
    function(*args)


@contextlib.contextmanager
def _environment(**variables):
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
