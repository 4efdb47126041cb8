"""export_run: a level of a run is exported, and its accuracy stays."""

import os

import pytest

from keras_lottery.experiments import Experiment
from keras_lottery.export import export_run, model_of_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    Experiment(rounds=1, iterations=40, arms=("ticket",), backend="graph").run(
        directory
    )
    return directory


def test_litert(run_dir, tmp_path):
    exported = export_run(
        run_dir, tmp_path, "litert", level="1", compact=True, name="digits"
    )
    assert os.listdir(tmp_path) == ["digits.tflite"]
    assert exported.accuracy == exported.accuracy_before
    told = exported.summary()
    assert "level 1 of arm ticket, trial 0: 80.20 % of the prunable" in told
    assert f"written: {tmp_path / 'digits.tflite'}\nverified: max diff" in told
    percent = f"{100 * exported.accuracy:.2f} %"
    assert f"test accuracy: {percent} before, {percent} after, of 300" in told


def test_a_level_may_be_text(run_dir):
    assert model_of_run(run_dir, "0").result.level == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"format": "onnx"}, "`format` must be one of"),
        (
            {"quantize": "int8"},
            "`quantize` must not be given with format",
        ),
        ({"format": "litert", "version": 2}, "`version` must not be given"),
        ({"format": "litert", "softmax": True}, "`softmax` must not be given"),
    ],
)
def test_wrong_arguments_are_refused_first(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_run("nowhere", tmp_path, **arguments)
    assert not os.listdir(tmp_path)
