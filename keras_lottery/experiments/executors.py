"""Executors: where jobs run. All speak `concurrent.futures.Executor`."""

import concurrent.futures
import multiprocessing
import os
import queue
import signal
import threading
import time


class Serial(concurrent.futures.Executor):
    """Runs each job at once, in this process."""

    slots = 1

    def submit(self, function, *args, **kwargs):
        future = concurrent.futures.Future()
        future.set_result(function(*args, **kwargs))
        return future


class Processes(concurrent.futures.Executor):
    """One process a slot, each pinned to its share of the cores.

    A process that dies takes only its own job with it: it is replaced and the
    job is run again.

    Args:
        workers: int, number of processes.
        attempts: int, how often a job may lose its process.
    """

    def __init__(self, workers, attempts=3):
        self.slots = workers
        self.attempts = attempts
        self._context = multiprocessing.get_context("spawn")
        self._free = queue.SimpleQueue()
        self._pools = {}
        for slot, cores in enumerate(shares(workers)):
            self._pools[slot] = self._pool(cores)
            self._free.put(slot)

    def _pool(self, cores):
        pool = concurrent.futures.ProcessPoolExecutor(
            1, self._context, become_worker
        )
        pool.cores = cores
        return pool

    def submit(self, function, *args, **kwargs):
        future = concurrent.futures.Future()
        thread = threading.Thread(
            target=self._run, args=(future, function, args, kwargs), daemon=True
        )
        thread.start()
        return future

    def _run(self, future, function, args, kwargs):
        slot = self._free.get()
        try:
            for attempt in range(self.attempts):
                try:
                    # A process inherits the cores of the thread that starts
                    # it, and TensorFlow makes as many threads.
                    os.sched_setaffinity(0, self._pools[slot].cores)
                    job = self._pools[slot].submit(function, *args, **kwargs)
                    future.set_result(job.result())
                    return
                except concurrent.futures.process.BrokenProcessPool:
                    if attempt + 1 == self.attempts:
                        raise
                    self._pools[slot] = self._pool(self._pools[slot].cores)
        except BaseException as error:
            future.set_exception(error)
        finally:
            self._free.put(slot)

    def shutdown(self, wait=True, *, cancel_futures=False):
        for pool in self._pools.values():
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)


def shares(workers):
    """The cores of this process in so many shares, which overlap if they are
    too few: a list of lists."""
    cores = sorted(os.sched_getaffinity(0))
    size = max(1, len(cores) // workers)
    firsts = (i * size % len(cores) for i in range(workers))
    return [cores[first : first + size] for first in firsts]


def become_worker():
    """Makes this process one that its parent ends, however that ends."""
    # Ctrl-C reaches the whole group; the coordinator stops its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process().pid
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent):
    # A coordinator that was killed cannot stop its workers.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
