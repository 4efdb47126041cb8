"""Tables of results as text."""

import dataclasses

from test_experiments_results import result

from keras_lottery.report import summary

RESULTS = [
    result(trial=trial, arm=arm, level=level, density=0.8**level,
           early_stop_iteration=100 * (trial + 1))
    for trial in (0, 1)
    for arm in ("ticket", "reinit")
    for level in (0, 1, 2)
]  # fmt: skip


def test_the_table_has_a_line_for_each_level():
    lines = summary(RESULTS).splitlines()
    assert len(lines) == 2 + 3
    assert "ticket" in lines[0] and "reinit" in lines[0]
    assert lines[3].split()[:4] == ["1", "80.00%", "150", "91.00%"]


def test_a_level_that_one_arm_lacks_is_left_blank():
    lacking = [r for r in RESULTS if (r.arm, r.level) != ("reinit", 2)]
    assert len(summary(lacking).splitlines()[-1].split()) == 2 + 3


def test_a_training_that_diverged_is_not_blank():
    diverged = [
        dataclasses.replace(r, early_stop_test_accuracy=float("nan"))
        for r in RESULTS
    ]
    assert summary(diverged).splitlines()[2].count("nan%") == 2


def test_an_arm_of_other_densities_has_a_column_of_them():
    other = [
        dataclasses.replace(r, arm="transferred", density=0.6**r.level)
        for r in RESULTS
        if r.arm == "ticket"
    ]
    lines = summary(RESULTS + other).splitlines()
    assert [line.split()[1] for line in lines[2:]] == [
        "100.00%",
        "80.00%",
        "64.00%",
    ]
    assert lines[1].split().count("density") == 2
    assert "36.00%" in lines[-1]
