"""Series, tables and figures of results."""

import pytest
from test_experiments_results import result

from keras_lottery.report import against_density, summary
from keras_lottery.report.series import series

RESULTS = [
    result(trial=trial, arm=arm, level=level, density=0.8**level,
           early_stop_iteration=100 * (trial + 1))
    for trial in (0, 1)
    for arm in ("ticket", "reinit")
    for level in (0, 1, 2)
]  # fmt: skip


def test_points_are_mean_minimum_and_maximum_over_trials():
    points = series(RESULTS, "early_stop_iteration")["ticket"]
    assert [p.level for p in points] == [0, 1, 2]
    first = points[0]
    assert (first.mean, first.low, first.high) == (150, 100, 200)
    assert first.trials == 2
    assert points[2].density == pytest.approx(0.64)


def test_the_table_has_a_line_for_each_level():
    lines = summary(RESULTS).splitlines()
    assert len(lines) == 2 + 3
    assert "ticket" in lines[0] and "reinit" in lines[0]
    assert lines[3].split()[:4] == ["1", "80.00%", "150", "91.00%"]


def test_a_level_that_one_arm_lacks_is_left_blank():
    lacking = [r for r in RESULTS if (r.arm, r.level) != ("reinit", 2)]
    assert len(summary(lacking).splitlines()[-1].split()) == 2 + 3


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_figure_is_written(tmp_path, suffix):
    path = tmp_path / f"figure.{suffix}"
    against_density(RESULTS, path, "a title")
    assert path.stat().st_size > 10_000
