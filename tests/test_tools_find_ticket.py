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
        return [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


SMALL = ("--rounds=1", "--iterations=40", "--backend=graph")


def test_it_ends_with_a_table_and_says_where_everything_is(tmp_path):
    code, out, err = finish(*SMALL, f"--run_dir={tmp_path}")
    assert code == 0, err
    assert "density" in out and str(tmp_path) in out
    assert len(rows(tmp_path)) == 2 * 2
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert (tmp_path / "tickets/trial_0/level_01.ticket").exists()
    # TensorFlow's greetings stay out of it.
    assert all(line.startswith("[") for line in err.splitlines()), err


# What is refused, and in which words, is the library's; see its tests.
@pytest.mark.parametrize(
    "flag, run_dir, message",
    [
        ("--rate=1.2", "run", "`rate` must be in [0, 1). Received: rate=1.2"),
        pytest.param(
            "--rounds=1",
            "/proc/nowhere/run",
            "/proc/nowhere",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(flag, run_dir, message, tmp_path):
    code, out, err = finish(flag, f"--run_dir={tmp_path / run_dir}")
    assert code == 2 and err.count("\n") == 1 and message in err
    assert not out and not (tmp_path / "run" / "results.csv").exists()


def limit_files():
    import resource

    # As a full disk does, it fails a write half-way.
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_costs_one_training(tmp_path):
    run_dir = f"--run_dir={tmp_path}"
    code, out, err = finish(*SMALL, run_dir, preexec_fn=limit_files)
    lines = [line for line in err.splitlines() if not line.startswith("[")]
    assert code == 2 and len(lines) <= 2, err
    assert "File too large: " in lines[-1] and lines[-1].endswith("'")
    assert not list(tmp_path.rglob("*.ticket"))
    assert not list((tmp_path / "tickets").rglob(".*"))
    code, out, err = finish(*SMALL, run_dir)
    assert code == 0 and len(rows(tmp_path)) == 2 * 2


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


def wait_until_it_trains(process, run_dir):
    """Waits for the choice that a run writes before its trainings."""
    path, began = run_dir / "backend.json", time.time()
    while process.poll() is None:
        if path.exists() and path.stat().st_mtime > began:
            return
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_killed_under_load_ends_in_the_same_results(tmp_path):
    flags = ("--rounds=3", "--iterations=400", "--trials=2")
    flags += ("--arms=ticket,reinit,one_shot",)
    code, _, err = finish(*flags, f"--run_dir={tmp_path / 'whole'}")
    assert code == 0, err
    killed_dir = tmp_path / "killed"
    moments, killed = random.Random(0), 0
    for workers in (1, 1, 2) * 4:
        process = start(
            *flags, f"--workers={workers}", f"--run_dir={killed_dir}"
        )
        wait_until_it_trains(process, killed_dir)
        # Processes of workers take seconds to start.
        earliest = 0 if workers == 1 else 6
        with busy():
            try:
                process.wait(earliest + moments.uniform(0, 6))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
        process.communicate()
    assert killed >= 6
    code, _, err = finish(*flags, f"--run_dir={killed_dir}")
    assert code == 0, err
    assert rows(killed_dir) == rows(tmp_path / "whole")
