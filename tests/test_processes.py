"""Other processes: shares of the cores, and what becomes of jobs that die."""

import os
import pathlib
import signal
import sys
import tempfile
import threading
import time

import cloudpickle
import psutil
import pytest

from keras_lottery import processes
from keras_lottery.processes import Process, Processes, Serial

# To import this module, a process would import TensorFlow.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def die_once(path):
    """Kills its own process, the first time."""
    path = pathlib.Path(path)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def cores():
    return os.getpid(), psutil.Process().cpu_affinity()


def fail():
    raise ValueError("of the job")


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)


def complain():
    os.write(2, b"of the job")


@pytest.fixture(scope="module")
def executor():
    executor = Processes(2)
    yield executor
    executor.shutdown()


@pytest.mark.slow
def test_each_process_has_its_share_of_the_cores(executor):
    shares = dict(executor.submit(cores).result() for _ in range(6))
    share = max(1, len(processes.cores()) // 2)
    assert all(len(share_of_one) == share for share_of_one in shares.values())
    assert set().union(*shares.values()) <= set(processes.cores())


@pytest.mark.slow
def test_standard_error_has_what_a_job_writes_and_not_tensorflow(capfd):
    with Processes(1) as executor:
        executor.submit(complain).result()
    assert capfd.readouterr().err == "of the job"


@pytest.mark.slow
def test_the_job_of_a_process_that_dies_is_run_again(executor, tmp_path):
    others = [executor.submit(cores) for _ in range(3)]
    assert executor.submit(die_once, tmp_path / "died").result() == "done"
    assert all(other.result() for other in others)


@pytest.mark.slow
def test_a_job_that_kills_every_process_is_given_up(executor):
    with pytest.raises(RuntimeError, match="lost its process 3 times"):
        executor.submit(die).result()
    assert executor.submit(cores).result()


def test_the_error_of_a_job_is_its_own(executor):
    with pytest.raises(ValueError, match="of the job"):
        executor.submit(fail).result()


def test_call_is_a_process_of_its_own_with_its_environment():
    def told():
        return os.getpid(), os.environ["TOLD"]

    pid, value = processes.call(told, env={"TOLD": "yes"})
    assert pid != os.getpid() and value == "yes"
    assert "TOLD" not in os.environ


def test_call_gives_the_error_of_the_function():
    with pytest.raises(ValueError, match="of the job"):
        processes.call(fail)


def test_call_tells_of_a_process_that_died():
    with pytest.raises(RuntimeError, match="ended without an answer"):
        processes.call(die)


def test_a_process_keeps_its_state_and_imports_nothing_by_itself():
    def imported():
        import sys

        return {"keras_lottery", "tensorflow"} & set(sys.modules)

    def count():
        import sys

        sys.counted = getattr(sys, "counted", 0) + 1
        return sys.counted

    with Process() as process:
        assert process.call(imported) == set()
        assert [process.call(count) for _ in range(3)] == [1, 2, 3]


@pytest.mark.slow
def test_a_process_ends_with_the_one_that_started_it():
    def start():
        import os
        import signal

        from keras_lottery.processes import Process

        pid = Process().call(os.getpid)
        with open(path, "w") as file:
            file.write(str(pid))
        os.kill(os.getpid(), signal.SIGKILL)

    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "pid")
        with pytest.raises(RuntimeError, match="ended without an answer"):
            processes.call(start)
        pid = int(pathlib.Path(path).read_text())
    psutil.wait_procs(
        [psutil.Process(pid)] if psutil.pid_exists(pid) else [], 30
    )
    assert not psutil.pid_exists(pid)


@pytest.mark.slow
def test_an_executor_may_be_shut_down_twice_and_takes_no_more_jobs():
    with Processes(1) as executor:
        assert executor.submit(int, "3").result(60) == 3
        executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(int, "3")


def test_without_affinity_every_core_counts(monkeypatch):
    class OfMacOS:
        pass

    monkeypatch.setattr(processes.psutil, "Process", OfMacOS)
    assert processes.cores() == list(range(os.cpu_count()))


def test_shares_overlap_where_cores_are_too_few():
    assert all(len(share) == 1 for share in processes.shares(1000))


def test_serial_runs_at_once():
    ran = []
    Serial().submit(ran.append, 1)
    assert ran == [1]


def test_a_process_that_grows_is_kept(executor):
    def most():
        from loky import process_executor

        return process_executor._MAX_MEMORY_LEAK_SIZE

    assert executor.submit(most).result() > 10**12


@pytest.mark.slow
def test_a_waiting_job_that_is_cancelled_is_not_run(
    executor, tmp_path, monkeypatch
):
    lost = []
    monkeypatch.setattr(threading, "excepthook", lost.append)
    go_on = tmp_path / "go_on"
    running = [executor.submit(wait_for, str(go_on)) for _ in range(2)]
    end = time.monotonic() + 60
    while not all(job.running() for job in running):
        assert time.monotonic() < end
        time.sleep(0.01)
    waiting = executor.submit(time.sleep, 60)
    assert waiting.cancel() and not running[0].cancel()
    go_on.touch()
    # After the others, and not after a minute.
    assert executor.submit(int).result(30) == 0
    assert not lost
