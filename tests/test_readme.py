"""The Python examples of README.md run, one after the other."""

import pathlib
import re

import pytest

from keras_lottery.experiments.arms import ARMS

PAGE = pathlib.Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = dict(ARMS)
    text = PAGE.read_text()
    examples = list(re.finditer(r"```python\n(.*?)```", text, re.DOTALL))
    assert len(examples) == 7
    names = {"__name__": "readme"}
    try:
        for example in examples:
            # With the lines of the page, for the traceback.
            skipped = "\n" * text[: example.start(1)].count("\n")
            exec(compile(skipped + example[1], PAGE, "exec"), names)
    finally:
        ARMS.clear()
        ARMS.update(before)
    for path in ("model.ticket", "best.ticket", "digits.tflite"):
        assert (tmp_path / path).stat().st_size > 1_000
    assert (tmp_path / "served/digits/1/saved_model.pb").exists()
    assert names["frame"]["early_stop_test_accuracy"].min() > 0.5
