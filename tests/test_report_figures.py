"""The figure of a list of results, as a file."""

import pytest
from test_experiments_results import result

from keras_lottery.report import against_density, figures


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_figure_is_written(tmp_path, suffix):
    path = tmp_path / f"figure.{suffix}"
    results = [
        result(trial=trial, arm=arm, level=level, density=0.8**level)
        for trial in (0, 1)
        for arm in ("ticket", "reinit")
        for level in (0, 1, 2)
    ]
    against_density(results, path, "a title")
    assert path.stat().st_size > 10_000


def test_levels_that_read_the_same_keep_their_lines():
    labels = figures._labels({0: 1.0, 1: 0.9995, 2: 0.8})
    assert labels == {0: "100 % (level 0)", 1: "100 % (level 1)", 2: "80.0 %"}
