"""Executors: where jobs run. All speak `concurrent.futures.Executor`.

`Serial` is this process, `keras_lottery.processes.Processes` others of this
machine, and `Cluster` the workers of a Dask scheduler, on any machines.
"""

import concurrent.futures
import warnings


class Serial(concurrent.futures.Executor):
    """Runs each job at once, in this process."""

    slots = 1

    def submit(self, function, *args, **kwargs):
        future = concurrent.futures.Future()
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

    def __init__(self, address, timeout=30.0):
        try:
            import distributed
        except ImportError as error:
            raise RuntimeError(
                "A Dask cluster needs dask: pip install "
                f'"keras-lottery[dask]" ({error})'
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
    def slots(self):
        """Jobs to hand out: one for each worker and one for it to go on
        with."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        return 2 * max(1, len(workers))

    def submit(self, function, *args, **kwargs):
        """See `concurrent.futures.Executor.submit`."""
        with warnings.catch_warnings():
            # A ticket that a job builds on may well be large.
            warnings.filterwarnings("ignore", "Sending large graph")
            return self._executor.submit(function, *args, **kwargs)

    def shutdown(self, wait=True, *, cancel_futures=False):
        """Leaves the cluster, which goes on running."""
        self._executor.shutdown(wait=wait)
        self._client.close()
