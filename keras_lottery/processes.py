"""Other processes: the one way in which this package starts them.

They are started by loky as programs, not as copies of this one: it works from
a script without `if __name__ == "__main__"` and from a notebook, and functions
of either can be sent. A process ends with the one that started it, however
that ends.
"""

import concurrent.futures
import os
import queue
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import cloudpickle
import loky
import psutil

from keras_lottery.checks import missing

T = TypeVar("T")

# loky replaces processes that have grown by 300 MB, as TensorFlow makes them:
# what they have compiled would be lost.
_KEEP = {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e15"}


class Processes(concurrent.futures.Executor):
    """One process a slot, each pinned to its share of the cores.

    A process that dies takes only its own job with it: it is replaced and the
    job is run again. Each imports TensorFlow when it starts, without the
    messages about devices: the process that starts it has shown them.

    Args:
        workers: int, number of processes.
        attempts: int, how often a job may lose its process. Defaults to 3.
        env: optional dict of str, environment variables of the processes.

    Attributes:
        slots: int, jobs that run at a time.

    Example:

    ```python
    with Processes(2) as executor:
        futures = [executor.submit(pow, 2, n) for n in range(8)]
    ```
    """

    def __init__(
        self,
        workers: int,
        attempts: int = 3,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.slots = workers
        self.attempts = attempts
        self._env = dict(env or {})
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._closed = False
        self._pools: dict[int, loky.ProcessPoolExecutor] = {}
        for slot, cores in enumerate(shares(workers)):
            self._pools[slot] = self._pool(cores)
            self._free.put(slot)

    def _pool(self, cores: list[int]) -> loky.ProcessPoolExecutor:
        pool = loky.ProcessPoolExecutor(
            1,
            initializer=_end_with(os.getpid(), cores),
            env={**_KEEP, **self._env},
        )
        pool.cores = cores
        return pool

    def submit(
        self, function: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[T]:
        """See `concurrent.futures.Executor.submit`."""
        if self._closed:
            raise RuntimeError("After `shutdown` there are no more jobs.")
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        thread = threading.Thread(
            target=self._run, args=(future, function, args, kwargs), daemon=True
        )
        thread.start()
        return future

    def _run(
        self,
        future: concurrent.futures.Future,
        function: Callable,
        args: tuple,
        kwargs: dict,
    ) -> None:
        slot = self._free.get()
        try:
            if not future.set_running_or_notify_cancel():
                return
            for attempt in range(self.attempts):
                try:
                    job = self._pools[slot].submit(function, *args, **kwargs)
                    future.set_result(job.result())
                    return
                except concurrent.futures.process.BrokenProcessPool:
                    if attempt + 1 == self.attempts:
                        raise RuntimeError(
                            f"A job lost its process {self.attempts} times: "
                            "it was killed, or ran out of memory. Give fewer "
                            "`workers`; what was trained is not repeated."
                        ) from None
                    self._pools[slot] = self._pool(self._pools[slot].cores)
        except BaseException as error:
            future.set_exception(error)
        finally:
            self._free.put(slot)

    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False
    ) -> None:
        """Ends the processes, whatever they are doing."""
        if self._closed:
            return
        self._closed = True
        if wait and not cancel_futures:
            for _ in self._pools:
                self._free.get()
        for pool in self._pools.values():
            pool.shutdown(wait=False, kill_workers=True)


class Serial(concurrent.futures.Executor):
    """Runs each job at once, in this process."""

    slots = 1

    def submit(  # type: ignore[override]
        self, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future:
        future: concurrent.futures.Future = concurrent.futures.Future()
        future.set_result(function(*args, **kwargs))
        return future


class Cluster(concurrent.futures.Executor):
    """Runs jobs on a Dask cluster.

    Its workers need this package and no file of the coordinator's. A worker
    should run one job at a time (`dask worker --nthreads 1`), since its jobs
    take turns with one model. The job of a worker that dies is run again on
    another; workers that come later get jobs too.

    Args:
        address: str, of the scheduler, such as `"tcp://host:8786"`.
        timeout: float, seconds to wait for the scheduler and for a first
            worker. Defaults to 30.

    Raises:
        RuntimeError: If Dask is not installed, or the scheduler or a worker
            cannot be reached.

    Example:

    ```python
    with Cluster("tcp://10.0.0.1:8786") as cluster:
        Experiment(trials=5).run("runs/digits", executor=cluster)
    ```
    """

    # Of the coordinator's files its workers see none.
    shares_files = False

    def __init__(self, address: str, timeout: float = 30.0) -> None:
        try:
            import distributed
        except ImportError as error:
            raise RuntimeError(
                f"{missing('A Dask cluster', 'distributed', 'dask')} ({error})"
            ) from None
        try:
            self._client = distributed.Client(address, timeout=timeout)
            self._client.wait_for_workers(1, timeout=timeout)
        except (OSError, TimeoutError, ValueError) as error:
            raise RuntimeError(
                f"The scheduler {address} and a worker of it must answer "
                f"within {timeout:g} seconds: {error}"
            ) from None
        # A job may lose its worker a few times, as `Processes` allows too.
        self._executor = self._client.get_executor(pure=False, retries=2)

    @property
    def slots(self) -> int:
        """Jobs to hand out: one for each worker and one for it to go on
        with."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        return 2 * max(1, len(workers))

    def submit(  # type: ignore[override]
        self, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future:
        """See `concurrent.futures.Executor.submit`."""
        with warnings.catch_warnings():
            # A ticket that a job builds on may well be large.
            warnings.filterwarnings("ignore", "Sending large graph")
            return self._executor.submit(function, *args, **kwargs)

    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False
    ) -> None:
        """Leaves the cluster, which goes on running."""
        self._executor.shutdown(wait=wait)
        self._client.close()


class Process:
    """A process of its own, which keeps its state between calls.

    It imports nothing of this package by itself, and what it writes to
    standard error is not shown.

    Args:
        env: optional dict of str, environment variables, which are set before
            anything is imported.

    Example:

    ```python
    with Process(env={"CUDA_VISIBLE_DEVICES": ""}) as process:
        process.call(random.seed, 0)
        number = process.call(random.random)
    ```
    """

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._pool = loky.ProcessPoolExecutor(
            1,
            initializer=_end_with(os.getpid(), silent=True),
            env={**_KEEP, **(env or {})},
        )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(kill_workers=True)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """What a function returns in the process; see the function `call`."""
        payload = cloudpickle.dumps((function, args))

        # Sent by value, so that it is silent while it imports: annotations are
        # sent too, and a name of this module would import the package.
        def answer() -> Any:
            import pickle

            function, args = pickle.loads(payload)
            return function(*args)

        try:
            result: T = self._pool.submit(answer).result()
            return result
        except concurrent.futures.process.BrokenProcessPool as error:
            first = str(error).strip().partition("\n")[0]
            raise RuntimeError(
                "A process ended without an answer: it was killed, or ran out "
                f"of memory ({first})"
            ) from None


def call(
    function: Callable[..., T],
    *args: Any,
    env: Mapping[str, str] | None = None,
) -> T:
    """What a function returns in a process of its own.

    What the process writes to standard error is not shown.

    Args:
        function: function.
        *args: its arguments.
        env: optional dict of str, environment variables, which are set before
            anything is imported.

    Returns:
        What the function returned.

    Raises:
        Exception: The one that the function raised.
        RuntimeError: If the process ended without an answer.
    """
    with Process(env) as process:
        return process.call(function, *args)


def cores() -> list[int]:
    """The numbers of the processor cores that this process may use."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        return sorted(process.cpu_affinity())
    # macOS pins nothing.
    return list(range(os.cpu_count() or 1))


def shares(workers: int) -> list[list[int]]:
    """The cores of this process in so many shares, which overlap if they are
    too few: a list of lists."""
    all_cores = cores()
    size = max(1, len(all_cores) // workers)
    firsts = (i * size % len(all_cores) for i in range(workers))
    return [all_cores[first : first + size] for first in firsts]


def _end_with(
    parent: int,
    share: list[int] | None = None,
    silent: bool = False,
) -> Callable[[], None]:
    """What makes a process one that its parent ends, however that ends.

    A coordinator that was killed cannot stop its workers. The function is sent
    by value: a process imports nothing of this package for it.

    Args:
        parent: int, the number of the parent process.
        share: optional list of int, the cores that the process may use.
        silent: bool, whether all that it writes to standard error is lost.
            Otherwise TensorFlow's messages at its start are, no more.
    """

    def start() -> None:
        import contextlib
        import os
        import signal
        import threading
        import time

        import psutil

        def end_with_parent() -> None:
            try:
                process = psutil.Process(parent)
                # One that was killed is a zombie until its parent asks for it.
                while (
                    process.is_running()
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    time.sleep(1)
            except psutil.Error:
                pass
            os._exit(1)

        shown = os.dup(2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        # Ctrl-C reaches the whole group; the coordinator stops its workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Before Keras' backend starts, which makes as many threads.
        if share and hasattr(psutil.Process, "cpu_affinity"):
            psutil.Process().cpu_affinity(share)
        threading.Thread(target=end_with_parent, daemon=True).start()
        if not silent:
            # A job that needs a backend says itself why it has none.
            with contextlib.suppress(Exception):
                from keras_lottery import backend

                backend.gpus()
            os.dup2(shown, 2)

    return start
