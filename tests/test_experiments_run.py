"""The run directory: written and found again, never trusted when damaged."""

import json
import os
import types

import numpy as np
import pytest
from small import ticket

from keras_lottery.experiments import Experiment
from keras_lottery.experiments.run import Run

CHOICE = {"backend": "auto", "why": "a test", "asked": "auto"}


def training():
    return types.SimpleNamespace(
        iterations=np.array([10, 20]),
        val_loss=np.array([0.5, 0.4]),
        val_accuracy=np.array([0.8, 0.9]),
        train_loss=np.array([0.6, 0.3]),
    )


def test_what_was_written_is_found(tmp_path):
    run = Run(tmp_path)
    assert run.load_record("ab") is None
    run.save_training("ab", {"density": 0.5}, training())
    assert Run(tmp_path).load_record("ab") == {"density": 0.5}
    curves = run.load_curves("ab")
    assert np.array_equal(curves["val_loss"], training().val_loss)


def test_a_damaged_record_is_named_and_not_trusted(tmp_path, caplog):
    run = Run(tmp_path)
    run.save_training("ab", {"density": 0.5}, training())
    path = tmp_path / "trainings" / "ab.training"
    path.write_bytes(path.read_bytes()[:-40])
    assert run.load_record("ab") is None
    assert "ab.training" in caplog.text


def test_tickets_lie_where_the_readme_says(tmp_path):
    run = Run(tmp_path)
    run.save_ticket(0, "ticket", ticket(level=7))
    assert (tmp_path / "tickets/trial_0/level_07.ticket").exists()
    assert run.load_ticket(0, "ticket", 7).level == 7
    assert run.load_ticket(0, "ticket", 8) is None


def test_a_run_from_before_a_setting_was_known_had_its_default(tmp_path):
    run, now = Run(tmp_path), Experiment(iterations=500)
    run.claim(now, CHOICE)
    path = tmp_path / "experiment.json"
    flags = json.loads(path.read_text())
    assert flags.pop("late_rewind_to") == 10
    path.write_text(json.dumps(flags))
    with pytest.raises(ValueError, match="late_rewind_to=10 before, 20 now"):
        run.claim(Experiment(iterations=500, late_rewind_to=20), CHOICE)
    assert "late_rewind_to" not in json.loads(path.read_text())
    run.claim(now, CHOICE)
    assert json.loads(path.read_text())["late_rewind_to"] == 10
    path.write_text(json.dumps({**flags, "forgotten": 1}))
    with pytest.raises(ValueError, match="forgotten=1 before, None now"):
        run.claim(now, CHOICE)


def test_other_settings_are_refused_naming_the_difference(tmp_path):
    Run(tmp_path).claim(Experiment(iterations=50), CHOICE)
    Run(tmp_path).claim(Experiment(iterations=50), CHOICE)
    with pytest.raises(ValueError, match="iterations=50 before, 60 now"):
        Run(tmp_path).claim(Experiment(iterations=60), CHOICE)


def test_the_lock_is_of_one_process(tmp_path):
    with Run(tmp_path).lock():
        with pytest.raises(RuntimeError, match=f"process {os.getpid()}"):
            with Run(tmp_path).lock():
                raise AssertionError
    with Run(tmp_path).lock():
        pass


def test_the_data_directory_identifies_nothing(tmp_path):
    Run(tmp_path).claim(Experiment(data_dir="here"), CHOICE)
    Run(tmp_path).claim(Experiment(data_dir="elsewhere"), CHOICE)
    settings = Run(tmp_path).experiment
    assert "data_dir" not in settings
    assert Run(tmp_path).load_experiment("there").data_dir == "there"


def test_every_number_that_is_used_is_shown(tmp_path):
    experiment = Experiment(dataset="cifar10", model="resnet_18")
    Run(tmp_path).claim(experiment, CHOICE)
    settings = Run(tmp_path).experiment
    assert None not in settings.values()
    assert settings["rate"] == 0.2 and settings["output_rate"] == 0.0
    assert settings["rates"] == [["shortcut", 0.0]]
    assert settings["weight_decay"] == 1e-4
    assert settings["augment"] and settings["standardize"]


def test_a_run_of_older_settings_that_were_open_goes_on(tmp_path):
    now = Experiment(iterations=500)
    Run(tmp_path).claim(now, CHOICE)
    path = tmp_path / "experiment.json"
    older = {**json.loads(path.read_text()), "rate": None, "rates": None}
    path.write_text(json.dumps({**older, "data_dir": "somewhere"}))
    Run(tmp_path).claim(now, CHOICE)
    with pytest.raises(ValueError, match="rate=0.2 before, 0.3 now"):
        Run(tmp_path).claim(Experiment(iterations=500, rate=0.3), CHOICE)


def test_a_file_is_no_run_directory(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match="`run_dir` must be .*is a file"):
            Run(path)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`ticket_from` must.*ticket_from='a"):
        Run.open("a", "ticket_from")
    with pytest.raises(ValueError, match="has no experiment.json"):
        Run.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    Run(tmp_path).claim(Experiment(), CHOICE)
    with pytest.raises(ValueError, match="has no results.csv"):
        Run.open(tmp_path)
    Run(tmp_path).write_results([])
    with pytest.raises(ValueError, match="at least one trained level"):
        Run.open(tmp_path)
