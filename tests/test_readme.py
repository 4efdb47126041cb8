"""The Python examples of the README and of the pages run, one by one."""

import pathlib
import re

import pytest

from keras_lottery.experiments.arms import ARMS

ROOT = pathlib.Path(__file__).parents[1]
# Page: number of its examples, files that they write.
PAGES = {
    "README.md": (2, ["model.ticket", "digits.tflite"]),
    "docs/index.md": (3, ["model.ticket"]),
    "docs/laboratory.md": (2, ["runs/own/results.csv"]),
    "docs/production.md": (1, ["digits.tflite"]),
    "docs/tuning.md": (1, ["best.ticket"]),
}
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(autouse=True)
def arms_as_before():
    before = dict(ARMS)
    yield
    ARMS.clear()
    ARMS.update(before)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    number, files = PAGES[page]
    text = (ROOT / page).read_text()
    examples = list(EXAMPLE.finditer(text))
    assert len(examples) == number
    names = {"__name__": "page"}
    for example in examples:
        # With the lines of the page, for the traceback.
        skipped = "\n" * text[: example.start(1)].count("\n")
        exec(compile(skipped + example[1], ROOT / page, "exec"), names)
    for file in files:
        assert (tmp_path / file).stat().st_size > 200
    if "served" in names:
        assert (tmp_path / "served/digits/1/saved_model.pb").exists()
    if "frame" in names:
        assert names["frame"]["early_stop_test_accuracy"].min() > 0.5


def test_all_pages_with_examples_are_run():
    found = {
        path.relative_to(ROOT).as_posix()
        for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        if EXAMPLE.search(path.read_text())
    }
    assert found == PAGES.keys()


def test_the_readme_is_short_and_has_its_two_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 180
    assert "pip install . && python tools/find_ticket.py\n" in text
    assert 'pip install ".[test]" && pytest\n' in text
