"""Experiments on a Dask cluster: processes with nothing in common."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from keras_lottery.experiments import Cluster, Experiment
from keras_lottery.experiments.progress import Silence

# Processes that start TensorFlow, each of them.
pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
SMALL = Experiment(
    rounds=2, iterations=40, eval_every=20, trials=2, backend="graph"
)


def start(directory, *command):
    return subprocess.Popen(
        [sys.executable, "-m", "distributed.cli." + command[0], *command[1:]],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A scheduler's address and its two workers, each a process."""
    directory = tmp_path_factory.mktemp("cluster")
    scheduler = start(
        directory,
        "dask_scheduler",
        *("--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
    )
    for line in scheduler.stderr:
        if "Scheduler at:" in line:
            address = line.split()[-1]
            break
    workers = [
        start(
            directory,
            *("dask_worker", address, "--nthreads", "1", "--no-nanny"),
            *("--no-dashboard", "--host", "127.0.0.1"),
        )
        for _ in range(2)
    ]
    yield address, workers
    for process in (*workers, scheduler):
        process.kill()
        process.communicate()


def untimed(results):
    return [dataclasses.replace(result, seconds=0.0) for result in results]


class Killer(Silence):
    """Kills a process once so many trainings are done."""

    def __init__(self, process, after):
        self.process, self.left = process, after

    def done(self, place, result, found=False):
        self.left -= 1
        if self.left == 0:
            os.kill(self.process.pid, signal.SIGKILL)


def test_a_worker_dies_and_the_results_are_those_of_one_process(
    cluster, tmp_path
):
    address, workers = cluster
    alone = SMALL.run(tmp_path / "alone")
    with Cluster(address) as executor:
        executor._client.wait_for_workers(2, timeout=60)
        results = SMALL.run(
            tmp_path / "cluster", Killer(workers[0], 4), executor=executor
        )
    assert workers[0].wait(10) == -signal.SIGKILL
    assert untimed(results) == untimed(alone)
    for trial in (0, 1):
        ticket = f"tickets/trial_{trial}/level_02.ticket"
        assert (tmp_path / "cluster" / ticket).exists()


def test_a_scheduler_that_does_not_answer_is_named():
    with pytest.raises(RuntimeError, match="tcp://127.0.0.1:9 "):
        Cluster("tcp://127.0.0.1:9", timeout=0.5)


def test_without_dask_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RuntimeError, match="pip install"):
        Cluster("tcp://127.0.0.1:9")
