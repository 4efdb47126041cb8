"""The tuning tool as a user runs it: a process of its own."""

import functools
import os
import pathlib
import signal
import subprocess
import time

import pytest
import scripts

# Processes that start TensorFlow, each of them.
pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
SMALL = ("--rounds=1", "--iterations=20", "--max_trials=2", "--backend=graph")


start = functools.partial(scripts.start, "tune")
finish = functools.partial(scripts.finish, "tune")


def test_it_ends_with_a_table_and_the_best_ticket(tmp_path):
    run_dir = f"--run_dir={tmp_path / 'tuned'}"
    code, out, err = finish(*SMALL, run_dir)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].split()[:2] == ["trial", "ticket_density"]
    assert "criterion" in lines[0] and len(lines[1].split()) >= 8
    path = next(line for line in lines if line.startswith("The best ticket"))
    assert pathlib.Path(path.split()[-1]).exists()
    # The dense network of the second search is that of the first.
    assert "1 of 2 trainings were found, not repeated." in err
    code, again, err = finish(*SMALL, run_dir)
    assert code == 0 and again == out
    assert "level" not in err
    code, out, err = finish(*SMALL, "--margin=0.1", run_dir)
    assert code == 2 and "margin=0.005 before, 0.1 now" in err


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--objective=loss"], "`objective` must be one of"),
        (["--knobs=rat"], "`knobs` must be among"),
        (["--workers=0"], "--workers must be at least 1"),
        (["stray"], "stray arguments: stray"),
    ],
)
def test_a_wrong_value_is_one_line(flags, message, tmp_path):
    code, out, err = finish(*flags, f"--run_dir={tmp_path / 'run'}")
    assert code == 2 and err.count("\n") == 1 and message in err
    assert not (tmp_path / "run").exists()


def test_workers_come_to_the_same_and_end_with_it(tmp_path):
    flags = (*SMALL[:2], "--max_trials=4", "--backend=graph", "--threads=1")
    code, one, err = finish(*flags, f"--run_dir={tmp_path / 'one'}")
    assert code == 0, err
    code, two, err = finish(
        *flags, "--workers=2", f"--run_dir={tmp_path / 'two'}"
    )
    assert code == 0, err
    table = one[: one.index("\n\n")]
    assert two[: two.index("\n\n")] == table


def children(process):
    """The ids of the worker processes of a chief."""
    listed = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "spawn_main"],
        capture_output=True,
        text=True,
    )
    return list(map(int, listed.stdout.split()))


def locks(tmp_path):
    """The ids of the processes that have begun a trial."""
    paths = tmp_path.glob("run/trial_*/.lock")
    return {int(path.read_text() or 0) for path in paths}


def test_a_worker_that_dies_is_replaced_and_dies_with_its_chief(tmp_path):
    flags = ("--rounds=9", "--iterations=5000", "--workers=2")
    process = start(*flags, "--backend=graph", f"--run_dir={tmp_path / 'run'}")
    while len(locks(tmp_path)) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    first = children(process)
    assert locks(tmp_path) == set(first)
    os.kill(first[0], signal.SIGKILL)
    while first[0] in locks(tmp_path):
        assert process.poll() is None
        time.sleep(0.1)
    second = children(process)
    assert locks(tmp_path) == set(second) and first[1] in second
    process.send_signal(signal.SIGKILL)
    process.communicate()
    while any(pathlib.Path(f"/proc/{child}").exists() for child in second):
        time.sleep(0.1)
