"""Executors: processes that may die, and what becomes of their jobs."""

import os
import pathlib
import signal

import pytest

from keras_lottery.experiments.executors import Processes, Serial


def cores():
    return sorted(os.sched_getaffinity(0))


def die_once(path):
    """Kills its own process, the first time."""
    path = pathlib.Path(path)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise ValueError("of the job")


@pytest.fixture(scope="module")
def processes():
    executor = Processes(2)
    yield executor
    executor.shutdown()


def test_each_process_has_its_share_of_the_cores(processes):
    shares = {tuple(processes.submit(cores).result()) for _ in range(6)}
    share = max(1, len(cores()) // 2)
    assert all(len(share_of_one) == share for share_of_one in shares)
    assert set().union(*shares) <= set(cores())


def test_the_job_of_a_process_that_dies_is_run_again(processes, tmp_path):
    others = [processes.submit(cores) for _ in range(3)]
    assert processes.submit(die_once, tmp_path / "died").result() == "done"
    assert all(other.result() for other in others)


def test_a_job_that_kills_every_process_is_given_up(processes):
    with pytest.raises(Exception, match="terminated abruptly"):
        processes.submit(die).result()
    assert processes.submit(cores).result()


def test_the_error_of_a_job_is_its_own(processes):
    with pytest.raises(ValueError, match="of the job"):
        processes.submit(fail).result()


def test_serial_runs_at_once():
    ran = []
    Serial().submit(ran.append, 1)
    assert ran == [1]
