"""The examples of CONTRIBUTING.md run, one after the other."""

import pathlib
import re

from keras_lottery import criteria, models, recipes
from keras_lottery.experiments.arms import ARMS

PAGE = pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md"


def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tables = criteria.NAMES, ARMS, models.NETWORKS, recipes.RECIPES
    before = [dict(table) for table in tables]
    text = PAGE.read_text()
    examples = list(re.finditer(r"```python\n(.*?)```", text, re.DOTALL))
    assert len(examples) == 5
    names = {"__name__": "contributing"}
    try:
        for example in examples:
            # With the lines of the page, for the traceback.
            skipped = "\n" * text[: example.start(1)].count("\n")
            exec(compile(skipped + example[1], PAGE, "exec"), names)
    finally:
        for table, old in zip(tables, before):
            table.clear()
            table.update(old)
