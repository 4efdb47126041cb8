"""What is noted of the environment of a run."""

import json

import keras

from keras_lottery.experiments import environment
from keras_lottery.experiments.run import Run


def entries(directory):
    return json.loads((directory / "environment.json").read_text())


def test_command_versions_and_hardware_are_noted(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["tools/x.py", "--run_dir=a b"])
    Run(tmp_path).add_environment(workers=2)
    (entry,) = entries(tmp_path)
    assert entry["command"] == "python tools/x.py '--run_dir=a b'"
    assert entry["versions"]["keras"] == keras.__version__
    assert entry["cores"] >= 1 and entry["threads"] >= 1
    assert entry["cpu"] and entry["memory_gib"] > 0
    assert entry["workers"] == 2 and entry["started"].endswith("UTC")


def test_a_run_that_goes_on_is_noted_if_something_changed(tmp_path):
    run = Run(tmp_path)
    run.add_environment()
    run.add_environment()
    assert len(entries(tmp_path)) == 1
    run.add_environment(workers=2)
    assert [e["workers"] for e in entries(tmp_path)] == [1, 2]


def test_threads_are_those_that_were_set(monkeypatch):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    assert environment.describe()["threads"] == 3
