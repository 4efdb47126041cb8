"""Claims: the rule of the verdict, and each claim on results made up."""

import pytest
from test_experiments_results import result

from keras_lottery.report import claims
from keras_lottery.report.paper import CLAIMS


def verdict(values):
    claim = claims.Claim("X", "", "", (), lambda trial: trial, "points", 0.5)
    return claims.judge(claim, values)


@pytest.mark.parametrize(
    "values, expected",
    [
        ([], "not run"),
        ([None, None], "not run"),
        ([1.0], "undecided"),
        ([1.0, 2.0], "undecided"),
        ([1.0, 2.0, 3.0], "reproduced"),
        ([1.0, 2.0, 0.1], "undecided"),
        ([0.1, 0.2, 0.3], "not reproduced"),
        ([0.1, 0.2, 1.1], "not reproduced"),
        ([0.1, 0.1, 0.1, None], "not reproduced"),
    ],
)
def test_the_verdict_is_by_a_rule(values, expected):
    assert verdict(values).verdict == expected


def test_mean_minimum_and_maximum_are_reported():
    v = verdict([1.0, 2.0, 6.0])
    assert (v.mean, v.low, v.high, v.trials) == (3.0, 1.0, 6.0, 3)


def ladder(arm, accuracies, stops, trial=0, train=1.0):
    return [
        result(
            trial=trial,
            arm=arm,
            level=level,
            density=0.8**level,
            early_stop_test_accuracy=accuracy,
            early_stop_iteration=stop,
            final_train_accuracy=train,
            final_test_accuracy=accuracy,
        )
        for level, (accuracy, stop) in enumerate(zip(accuracies, stops))
    ]


def test_a_ladder_that_does_as_the_paper_says_reproduces_it():
    levels = range(18)
    ticket = [0.98 + 0.0004 * min(k, 17 - k) for k in levels]
    stops = [1000 - 50 * k if k < 8 else 600 for k in levels]
    reinit = [0.98 - 0.001 * k for k in levels]
    late = [1000 + 100 * k for k in levels]
    results = []
    for trial in range(3):
        results += ladder("ticket", ticket, stops, trial)
        results += ladder("reinit", reinit, late, trial)
        results += ladder(
            "one_shot", [a - 0.0001 for a in ticket], stops, trial
        )
    run = ({"model": "lenet_300_100", "dropout": 0.0}, results)
    found = {v.claim.id: v.verdict for v in claims.check(CLAIMS, [run])}
    for id in ("C1", "C2a", "C2b", "C4a", "C4b", "C5a", "C5b", "C6a", "C6c"):
        assert found[id] == "reproduced", id
    assert found["C10"] == "reproduced"
    assert found["C8"] == found["C9a"] == "not run"


def test_the_opposite_is_not_reproduced():
    levels = range(18)
    same = [0.98 - 0.001 * k for k in levels]
    later = [1000 + 100 * k for k in levels]
    better = [0.98] * 18
    sooner = [500] * 18
    results = []
    for trial in range(3):
        results += ladder("ticket", same, later, trial, train=1.0)
        results += ladder("reinit", better, sooner, trial)
    run = ({"model": "lenet_300_100"}, results)
    found = {v.claim.id: v.verdict for v in claims.check(CLAIMS, [run])}
    for id in ("C1", "C2a", "C2b", "C3", "C4a", "C4b", "C5a", "C5b", "C10"):
        assert found[id] == "not reproduced", id


def test_a_density_too_far_away_is_no_match():
    trial = claims.Trial([result(arm="ticket", density=0.25)])
    assert trial.at("ticket", 0.211) is None
    assert trial.at("ticket", 0.26) is not None


def test_the_table_names_every_claim():
    text = claims.table(claims.check(CLAIMS, []))
    for number in range(1, 11):
        assert f"C{number}" in text
    assert "measured: not run" in text
