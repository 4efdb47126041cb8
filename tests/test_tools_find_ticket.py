"""The main job as a user runs it: a process of its own."""

import contextlib
import csv
import functools
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import scripts

from keras_lottery import processes

start = functools.partial(scripts.start, "find_ticket")
finish = functools.partial(scripts.finish, "find_ticket")


def rows(run_dir):
    """The rows of `results.csv`, without the times."""
    with open(run_dir / "results.csv") as file:
        return [row[:-1] for row in csv.reader(file)]


SMALL = ("--rounds=1", "--iterations=40", "--backend=graph")


def test_it_ends_with_a_table_and_says_where_everything_is(tmp_path):
    code, out, err = finish(*SMALL, f"--run_dir={tmp_path}")
    assert code == 0, err
    assert "density" in out and str(tmp_path) in out
    assert len(rows(tmp_path)) == 1 + 2 * 2
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert (tmp_path / "tickets/trial_0/level_01.ticket").exists()
    # TensorFlow's greetings stay out of it.
    assert all(line.startswith("[") for line in err.splitlines()), err
    code, out, err = finish(
        "--rounds=1", "--iterations=50", f"--run_dir={tmp_path}"
    )
    assert code == 2 and err.count("\n") == 1
    assert "iterations=40 before, 50 now" in err


# What is refused, and in which words, is the library's; see its tests.
@pytest.mark.parametrize(
    "flag, message",
    [
        ("--rate=1.2", "`rate` must be in [0, 1). Received: rate=1.2"),
        ("stray", "stray arguments: stray"),
    ],
)
def test_a_wrong_value_is_one_line(flag, message, tmp_path):
    code, out, err = finish(flag, f"--run_dir={tmp_path / 'run'}")
    assert code == 2 and err.count("\n") == 1 and message in err
    assert not (tmp_path / "run" / "results.csv").exists()


def limit_files():
    import resource

    # As a full disk does, it fails a write half-way.
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def test_a_full_disk_is_one_line_and_costs_one_training(tmp_path):
    run_dir = f"--run_dir={tmp_path}"
    code, out, err = finish(*SMALL, run_dir, preexec_fn=limit_files)
    lines = [line for line in err.splitlines() if not line.startswith("[")]
    assert code == 2 and len(lines) <= 2, err
    assert "File too large: " in lines[-1] and lines[-1].endswith("'")
    assert not list(tmp_path.rglob("*.ticket"))
    assert not list((tmp_path / "tickets").rglob(".*"))
    code, out, err = finish(*SMALL, run_dir)
    assert code == 0 and len(rows(tmp_path)) == 1 + 2 * 2


def test_a_directory_that_cannot_be_written_is_one_line():
    code, out, err = finish(*SMALL, "--run_dir=/proc/nowhere/run")
    assert code == 2 and err.count("\n") == 1 and "/proc/nowhere" in err


@contextlib.contextmanager
def busy():
    """Keeps every core busy with something else."""
    forever = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(forever) for _ in processes.cores()]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.slow
@pytest.mark.parametrize("workers, kills", [(1, 12), (2, 6)])
def test_a_run_killed_under_load_ends_in_the_same_results(
    tmp_path, workers, kills
):
    flags = ("--rounds=3", "--iterations=400", "--trials=2")
    flags += ("--arms=ticket,reinit,one_shot", f"--workers={workers}")
    code, _, err = finish(*flags, f"--run_dir={tmp_path / 'whole'}")
    assert code == 0, err
    moments = random.Random(0)
    killed = 0
    with busy():
        for _ in range(kills):
            process = start(*flags, f"--run_dir={tmp_path / 'killed'}")
            try:
                # Its start takes seconds; then trainings follow each other.
                process.wait(moments.uniform(6, 24))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
            process.communicate()
            time.sleep(0.1)
        assert killed >= 3
        code, _, err = finish(*flags, f"--run_dir={tmp_path / 'killed'}")
    assert code == 0, err
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
