"""The tuning tool as a user runs it: a process of its own."""

import functools
import pathlib
import re

import pytest
import scripts

# Processes that start TensorFlow, each of them.
pytestmark = pytest.mark.slow

SMALL = ("--rounds=1", "--iterations=20", "--max_trials=2", "--backend=graph")


finish = functools.partial(scripts.finish, "tune")


def test_it_ends_with_a_table_and_the_best_ticket(tmp_path):
    run_dir = f"--run_dir={tmp_path / 'tuned'}"
    code, out, err = finish(*SMALL, run_dir)
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["trial", "status", "ticket_density"]
    assert "criterion" in lines[0] and len(lines[1].split()) >= 9
    path = next(line for line in lines if line.startswith("The best ticket"))
    assert pathlib.Path(path.split()[-1]).exists()
    # The dense network of the second search is that of the first.
    assert "1 of 2 trainings were found, not repeated." in err
    code, again, err = finish(*SMALL, run_dir)
    assert code == 0 and again == out
    assert "level" not in err


# What is refused, and in which words, is the library's; see its tests.
@pytest.mark.parametrize(
    "flags, message",
    [
        (["--objective=loss"], "`objective` must be one of"),
        (["stray"], "stray arguments: stray"),
    ],
)
def test_a_wrong_value_is_one_line(flags, message, tmp_path):
    code, out, err = finish(*flags, f"--run_dir={tmp_path / 'run'}")
    assert code == 2 and err.count("\n") == 1 and message in err
    assert not (tmp_path / "run").exists()


def test_two_searches_at_a_time(tmp_path):
    flags = (*SMALL, "--workers=2", f"--run_dir={tmp_path / 'run'}")
    code, out, err = finish(*flags)
    assert code == 0, err
    assert out.count("completed") == 2
    assert "Running Trial #2" in err and "Running Trial" not in out
    # Nor do the processes say what devices there are.
    assert not re.search(r"^[IWE]\d{4} |^WARNING: ", err, re.MULTILINE), err
