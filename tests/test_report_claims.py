"""Claims: the rule of the verdict, and each claim on results made up."""

import json

import pytest
from scripts import finish
from test_experiments_results import result

from keras_lottery.experiments.results import to_csv
from keras_lottery.report import check_claims, claims
from keras_lottery.report.paper_claims import CLAIMS, Claim


def verdict(values):
    claim = Claim("X", "", "", (), lambda trial: trial, "points", 0.5)
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


def test_every_claim_has_its_own_id():
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)


def run_directory(directory, results, **settings):
    known = {
        "model": "lenet_300_100",
        "dataset": "mnist",
        "iterations": 50_000,
        "dropout": 0.0,
    }
    directory.mkdir()
    text = json.dumps({**known, **settings})
    (directory / "experiment.json").write_text(text)
    (directory / "results.csv").write_text(to_csv(results))
    return directory


def test_the_text_has_the_rule_every_claim_and_every_verdict(tmp_path):
    stops = [100 - 5 * level for level in range(9)]
    results = []
    for trial in range(3):
        results += ladder("ticket", [0.98] * 9, stops, trial)
    text = check_claims([run_directory(tmp_path / "run", results)])
    assert claims.RULE in text and claims.PAPER in text
    lines = text.splitlines()
    for claim in CLAIMS:
        about = [line for line in lines if line.startswith(f"{claim.id} ")]
        assert len(about) == 2
        assert about[0].endswith(("reproduced", "undecided", "not run"))
        assert about[1].endswith(claim.text)
    (first,) = (
        line for line in lines if line.startswith("C1 ") and "[" in line
    )
    assert "35.00 [35.00, 35.00] % earlier, 3 trials" in first
    assert first.endswith("reproduced")
    assert "not on the paper's experiment" not in text


def test_the_text_tells_of_each_run_where_it_is_not_the_papers(tmp_path):
    results = ladder("ticket", [0.98], [100])
    others = [
        run_directory(tmp_path / "digits", results, dataset="digits"),
        run_directory(tmp_path / "own", results, model="own.net"),
    ]
    text = check_claims(others)
    assert "digits: The claims are about mnist with 50,000 iterations" in text
    assert "own: The paper claims nothing about own.net." in text


def test_trials_of_several_runs_are_judged_together(tmp_path):
    stops = [100 - 5 * level for level in range(9)]
    runs = [
        run_directory(tmp_path / str(seed), ladder("ticket", [0.98] * 9, stops))
        for seed in range(3)
    ]
    assert "3 trials" in check_claims(runs)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one directory of a run"):
        check_claims([])
    with pytest.raises(ValueError, match="must be the directory of a run"):
        check_claims([tmp_path / "missing"])


@pytest.mark.slow
def test_the_tool_refuses_a_wrong_directory_in_one_line(tmp_path):
    code, out, error = finish("check_claims", str(tmp_path))
    (line,) = error.splitlines()
    assert code == 2 and not out
    assert line.startswith("check_claims.py: `run_dir` must be the directory")
    assert str(tmp_path) in line
