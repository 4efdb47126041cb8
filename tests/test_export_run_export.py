"""The level of a run that is meant: its weights, its export, its gains."""

import dataclasses
import os
import shutil

import numpy as np
import pytest

from keras_lottery.experiments import Experiment
from keras_lottery.export import (
    Gains,
    export_run,
    measure_run_gains,
    model_of_run,
    run_export,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory and its results."""
    directory = tmp_path_factory.mktemp("run")
    experiment = Experiment(
        rounds=2, iterations=40, trials=2, backend="graph", rate=0.5
    )
    return directory, experiment.run(directory)


@pytest.mark.parametrize("trial, level", [(0, 0), (1, 2)])
def test_it_has_the_weights_that_the_level_was_trained_to(run, trial, level):
    directory, results = run
    found = model_of_run(directory, level, trial)
    (row,) = [
        r
        for r in results
        if (r.trial, r.arm, r.level) == (trial, "ticket", level)
    ]
    # Times are rounded in the file.
    assert dataclasses.replace(found.result, seconds=0) == dataclasses.replace(
        row, seconds=0
    )
    for (x, y), accuracy in (
        (found.data.test, row.final_test_accuracy),
        (found.data.validation, row.final_val_accuracy),
    ):
        right = np.argmax(found.model(x), -1) == y
        assert right.mean() == pytest.approx(accuracy, abs=1e-6)
    assert found.model.lottery.density == pytest.approx(row.density)
    assert found.model.lottery.level == level


def test_levels_by_name_and_as_text(run):
    directory, _ = run
    assert model_of_run(directory, "last").result.level == 2
    assert model_of_run(directory, "1").result.level == 1
    assert model_of_run(directory).result.level in (0, 1, 2)


def test_what_is_not_there(run, tmp_path):
    directory, _ = run
    for arguments, message in [
        ({"level": 3}, r'"last" or one of \[0, 1, 2\]. Received: level=3'),
        ({"level": "worst"}, "Received: level='worst'"),
        ({"trial": 2}, "`trial` and `arm` must be of the run"),
        ({"arm": "reinit"}, r"keeps its tickets, of which .* \['ticket'\]"),
        ({"arm": "one_shot"}, "`trial` and `arm` must be of the run"),
    ]:
        with pytest.raises(ValueError, match=message):
            model_of_run(directory, **arguments)
    with pytest.raises(ValueError, match=r"has no experiment\.json"):
        model_of_run(tmp_path)


def test_a_ticket_that_is_damaged_or_missing(run, tmp_path):
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tickets/trial_0/level_01.ticket"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    advice = "Run find_ticket.py with the same flags on this `run_dir` to train"
    for found in ("is damaged: its checksum.*", "is missing. "):
        with pytest.raises(
            ValueError, match=f"level_01.ticket {found}{advice}"
        ):
            model_of_run(tmp_path, 1)
        path.unlink(missing_ok=True)


def test_an_output_directory_that_is_a_file(run, tmp_path):
    (tmp_path / "file").write_text("")
    for format in ("serving", "litert"):
        with pytest.raises(ValueError, match="`output_dir` must be .* is a fi"):
            export_run(run[0], tmp_path / "file", format)


def test_litert(run, tmp_path):
    exported = export_run(
        run[0], tmp_path, "litert", level="1", compact=True, name="digits"
    )
    assert os.listdir(tmp_path) == ["digits.tflite"]
    assert exported.accuracy == exported.accuracy_before
    text = exported.summary()
    assert "level 1 of arm ticket, trial 0: 50." in text
    why = "weights, the smallest density whose validation accuracy at"
    assert why not in text
    assert why in dataclasses.replace(exported, level="best").summary()
    assert f"written: {tmp_path / 'digits.tflite'}\nverified: max diff" in text
    percent = f"{100 * exported.accuracy:.2f} %"
    assert f"test accuracy: {percent} before, {percent} after, of 300" in text


def test_gains_are_those_of_the_level_and_level_0(run, monkeypatch):
    given = []

    def measure_gains(model, test, *, dense, representative, batch_sizes):
        assert batch_sizes == (1, 32, 256)
        given.extend([model, dense, test, representative])
        return Gains()

    monkeypatch.setattr(run_export, "measure_gains", measure_gains)
    gains = measure_run_gains(run[0], "2")
    model, dense, test, representative = given
    assert (model.lottery.level, dense.lottery.level) == (2, 0)
    assert len(test[0]) == 300 and len(representative) == 256
    percent = f"{model.lottery.density:.2%}"
    assert gains.title == f"level 2: {percent} of the prunable weights"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"format": "onnx"}, "`format` must be one of"),
        ({"quantize": "int8"}, "`quantize` must not be given with format"),
        ({"format": "litert", "version": 2}, "`version` must not be given"),
        ({"format": "litert", "softmax": True}, "`softmax` must not be given"),
    ],
)
def test_wrong_arguments_are_refused_first(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_run("nowhere", tmp_path, **arguments)
    assert not os.listdir(tmp_path)
