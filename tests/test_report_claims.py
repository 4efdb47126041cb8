"""Claims: the judge, and each claim on results made up."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scripts import finish
from small import some
from test_experiments_results import result

from keras_lottery.experiments.results import to_csv
from keras_lottery.report import check_claims, claims
from keras_lottery.report.paper_claims import CLAIMS, Claim, Needs
from keras_lottery.report.statistics import Trial

BY_ID = {claim.id: claim for claim in CLAIMS}


def judged(values, holds=(0.5, math.inf)):
    """The verdict on one quantity, or on a list of them, of each trial."""
    claim = Claim(
        "X", "", "", Needs("lenet_300_100"),
        lambda found: found if isinstance(found, (list, str)) else [found],
        "points", holds, 1.0, 0.1,
    )  # fmt: skip
    return claims.judge(claim, values)


@pytest.mark.parametrize(
    "values, expected",
    [
        ([], "not applicable"),
        (["the run has no arm x"] * 3, "not applicable"),
        ([1.0], "undecided"),
        ([1.0, 1.0], "undecided"),
        ([1.0, 1.1, 0.9], "reproduced"),
        ([1.0, 2.0, 3.0], "undecided"),
        ([0.1, 0.2, 0.3], "not reproduced"),
        ([0.1, 0.2, 1.1], "undecided"),
        ([0.1, 0.1, 0.1, "no level"], "not reproduced"),
        ([math.nan] * 5, "undecided"),
        ([1.0, 1.0, 1.0, math.nan], "undecided"),
        ([math.inf] * 5, "undecided"),
        # A range of densities: each of its levels.
        ([[1.0, 1.0]] * 3, "reproduced"),
        ([[1.0, 0.1]] * 3, "not reproduced"),
        ([[1.0, 0.2], [1.0, 0.9], [1.0, 0.5]], "undecided"),
        ([[1.0, 1.0], [1.0, 1.0], [1.0]], "undecided"),
    ],
)
def test_the_verdict_is_by_a_rule(values, expected):
    assert judged(values).verdict == expected


def test_a_range_may_have_two_ends():
    holds = (-0.2, 0.2)
    assert judged([0.0, 0.05, -0.05], holds).verdict == "reproduced"
    assert judged([0.5, 0.55, 0.45], holds).verdict == "not reproduced"
    assert judged([0.2, 0.25, 0.15], holds).verdict == "undecided"


def test_the_interval_is_that_of_students_t():
    stats = pytest.importorskip("scipy.stats")
    values = [1.0, 2.0, 6.0, 2.5]
    v = judged(values)
    interval = stats.t.interval(
        0.9, 3, loc=np.mean(values), scale=stats.sem(values)
    )
    assert (v.low, v.high) == pytest.approx(interval, abs=1e-3)
    assert v.mean == np.mean(values) and v.trials == 4
    expected = [stats.t.ppf(0.95, n) for n in range(1, 31)]
    np.testing.assert_allclose(claims._T, expected, atol=6e-4)


# Simulations: what the verdicts are where the truth is known.


def share_reproduced(claim, level_means, trials=5, tries=1000):
    draw = np.random.default_rng(0)
    own = dataclasses.replace(claim, measure=list)
    quantities = draw.normal(
        level_means, claim.spread, (tries, trials, len(level_means))
    )
    found = [claims.judge(own, one).verdict for one in quantities]
    return np.mean([verdict == "reproduced" for verdict in found])


# The others have the numbers of one of these, or nearly.
SIMULATED = some(CLAIMS, *(BY_ID[id] for id in ("C1", "C2b", "C4b", "C5b")))


def levels_of(claim):
    """As many levels as a claim about a range has."""
    return 12 if claim.id == "C5b" else 1


@pytest.mark.parametrize("claim", SIMULATED, ids=lambda claim: claim.id)
def test_without_an_effect_few_claims_are_reproduced(claim):
    # Where nothing differs, and where it is just not what is claimed.
    nulls = [end for end in claim.holds if math.isfinite(end)]
    if claim.holds[0] > 0:
        nulls.append(0.0)
    for null in nulls:
        means = np.full(levels_of(claim), claim.effect)
        means[-1] = null
        # 5 %, and what 1,000 tries are off by.
        assert share_reproduced(claim, means) < 0.07


@pytest.mark.parametrize("claim", SIMULATED, ids=lambda claim: claim.id)
def test_under_the_papers_effect_most_are(claim):
    low, high = claim.holds
    assert low < claim.effect < high
    means = np.full(levels_of(claim), claim.effect)
    assert share_reproduced(claim, means) >= 0.8


LENET = {
    "model": "lenet_300_100",
    "dataset": "mnist",
    "iterations": 50_000,
    "learning_rate": 1.2e-3,
    "dropout": 0.0,
    "warmup": 0,
    "seed": 0,
}
# As the ladder of LeNet, whose output layer is pruned at half the rate.
DENSITIES = [
    (235_200 + 30_000) / 266_200 * 0.8**k + 1_000 / 266_200 * 0.9**k
    for k in range(18)
]


def ladder(arm, accuracies, stops, trial=0, train=1.0):
    return [
        result(
            trial=trial,
            arm=arm,
            level=level,
            density=DENSITIES[level],
            early_stop_test_accuracy=accuracy,
            early_stop_iteration=stop,
            final_train_accuracy=train,
            final_test_accuracy=accuracy,
        )
        for level, (accuracy, stop) in enumerate(zip(accuracies, stops))
    ]


def verdicts(*runs):
    return {v.claim.id: v for v in claims.check(CLAIMS, runs)}


def as_in_the_paper(trials=range(3), **settings):
    levels = range(18)
    ticket = [0.98 + 0.0008 * min(k, 14 - k if k < 14 else 0) for k in levels]
    stops = [1000 - 60 * k if k < 8 else 600 for k in levels]
    reinit = [0.98 - 0.001 * k for k in levels]
    late = [1000 + 100 * k for k in levels]
    results = []
    for trial in trials:
        results += ladder("ticket", ticket, stops, trial, train=1.0)
        results += ladder("reinit", reinit, late, trial)
        one_shot = [a - 0.002 * (k > 13) for k, a in enumerate(ticket)]
        results += ladder("one_shot", one_shot, stops, trial)
    return {**LENET, **settings}, results


def test_a_run_that_does_as_the_paper_says_reproduces_it():
    found = verdicts(as_in_the_paper())
    for id, v in found.items():
        if id.startswith(("C1", "C2", "C3", "C4", "C5", "C6", "C10 lenet")):
            if v.claim.needs.model == LENET["model"]:
                assert v.verdict == "reproduced", (id, v)
                assert v.scale == "50,000 iterations"
        else:
            assert v.verdict == "not applicable"
    assert found["C8 conv_2"].why == "no run of conv_2"


def test_the_opposite_is_not_reproduced():
    levels = range(18)
    same = [0.98 - 0.001 * k for k in levels]
    later = [1000 + 100 * k for k in levels]
    results = []
    for trial in range(3):
        results += ladder("ticket", same, later, trial, train=1.0)
        results += ladder("reinit", [0.98] * 18, [500] * 18, trial)
    found = verdicts((LENET, results))
    for id in ("C1", "C2a", "C2b", "C3", "C4a", "C4b", "C5a", "C5b"):
        assert found[id].verdict == "not reproduced", id
    assert found["C10 lenet_300_100"].verdict == "not reproduced"


def test_without_any_effect_a_range_is_not_reproduced():
    # The maximum over the levels was above dense in 400 of 400 tries.
    draw, count = np.random.default_rng(0), 0
    for _ in range(100):
        results = []
        for trial in range(3):
            for arm in ("ticket", "one_shot"):
                noise = 0.98 + 0.001 * draw.normal(size=18)
                results += ladder(arm, noise, [1000] * 18, trial)
        count += verdicts((LENET, results))["C6b"].verdict == "reproduced"
    assert count <= 5


def test_a_range_has_the_levels_at_its_ends():
    # Within a tenth of 21.1 and of 3.6 %.
    experiment, results = as_in_the_paper()
    densities = {0: 1.0, 1: 0.23, 2: 0.1, 3: 0.033}
    results = [
        dataclasses.replace(r, density=densities[r.level])
        for r in results
        if r.level in densities
    ]
    trial = Trial([r for r in results if r.trial == 0])
    found = trial.within("ticket", 0.211, 0.036)
    assert [r.level for r in found] == [1, 2, 3]
    assert trial.within("ticket", 0.211, 0.01) == []
    v = verdicts((experiment, results))["C10 lenet_300_100"]
    leads = [0.18 * level for level in (1, 2, 3)]
    assert v.mean == pytest.approx(np.mean(leads))


def test_half_a_range_is_none():
    experiment, results = as_in_the_paper()
    results = [r for r in results if r.density > 0.4]
    found = verdicts((experiment, results))
    for id in ("C5b", "C6b", "C10 lenet_300_100"):
        assert found[id].verdict == "not applicable"
    assert found["C5b"].why == "the run has no level of ticket near 2.87 %"


@pytest.mark.parametrize(
    "settings, missing",
    [
        ({"dataset": "digits"}, "is of digits, not mnist"),
        ({"dropout": 0.5}, "has dropout"),
        ({"learning_rate": 0.1}, "has the learning rate 0.1, not 0.0012"),
        ({"block_size": "16x1"}, "does not prune by block_size=1x1"),
        ({"criterion": "random"}, "does not prune by magnitude"),
        ({"rewind_to": 100}, "rewinds to a later step"),
        ({"classes": "0-4"}, "is of the classes 0-4 alone"),
        ({"warmup": 100}, "has warmup"),
        ({"scope": "global"}, "has scope=global, not layerwise"),
        ({"optimizer": "sgd"}, "has optimizer=sgd, not adam"),
        ({"batch_size": 512}, "has batch_size=512, not 60"),
        (
            {"early_stop_metric": "val_accuracy"},
            "has early_stop_metric=val_accuracy, not val_loss",
        ),
    ],
)
def test_a_run_of_something_else_is_no_evidence(settings, missing):
    found = verdicts(as_in_the_paper(**settings))
    assert all(v.verdict == "not applicable" for v in found.values())
    assert found["C1"].why == f"the run {missing}"


def test_a_smaller_scale_may_have_a_learning_rate_of_its_own():
    run = as_in_the_paper(image_size=14, learning_rate=3e-3, iterations=9000)
    v = verdicts(run)["C1"]
    assert v.verdict == "reproduced"
    assert v.scale == (
        "9,000 of 50,000 iterations, 14 pixels, learning rate 0.003 of 0.0012"
    )


def test_the_scale_names_what_else_is_not_the_paper_s():
    run = as_in_the_paper(
        network=[["width", 100]], rate=0.5, precision="mixed_bfloat16"
    )
    assert verdicts(run)["C1"].scale == (
        "50,000 iterations, rounds of 50.0 %, mixed_bfloat16, width 100"
    )


def test_warmup_is_told_from_its_absence():
    deep = {
        "model": "resnet_18",
        "dataset": "cifar10",
        "iterations": 30_000,
        "learning_rate": 0.1,
        "warmup": 0,
    }
    results = [
        result(
            arm=arm,
            trial=trial,
            level=level,
            density=0.8**level,
            final_test_accuracy=0.9,
        )
        for arm in ("ticket", "reinit")
        for trial in range(3)
        for level in range(7)
    ]
    found = verdicts((deep, results))
    assert found["C9b resnet_18"].verdict == "reproduced"
    assert found["C9a resnet_18"].verdict == "not applicable"
    # Of these claims the learning rate is the subject, at every scale.
    other = {**deep, "learning_rate": 0.05, "image_size": 16}
    assert verdicts((other, results))["C9b resnet_18"].why == (
        "the run has the learning rate 0.05, not 0.1"
    )
    with_warmup = {**deep, "learning_rate": 0.03, "warmup": 20_000}
    found = verdicts((with_warmup, results))
    assert found["C9a resnet_18"].verdict == "reproduced"
    assert found["C9b resnet_18"].verdict == "not applicable"


def test_a_trial_that_is_given_twice_counts_once():
    run = as_in_the_paper()
    v = verdicts(run, run)["C1"]
    assert (v.trials, v.verdict) == (3, "reproduced")
    other = as_in_the_paper(seed=1, instability=True)
    assert verdicts(run, other)["C1"].trials == 6
    two = as_in_the_paper(trials=range(2))
    v = verdicts(two, two)["C1"]
    assert (v.trials, v.verdict) == (2, "undecided")
    assert v.why == "2 trials, of at least 3"


def test_other_settings_are_judged_apart():
    runs = as_in_the_paper(), as_in_the_paper(iterations=5_000)
    about = [v for v in claims.check(CLAIMS, runs) if v.claim.id == "C1"]
    assert [v.scale for v in about] == [
        "50,000 iterations",
        "5,000 of 50,000 iterations",
    ]
    assert all(v.trials == 3 for v in about)


def test_all_reinitialisations_count():
    results = []
    for trial in range(3):
        results += ladder("ticket", [0.98] * 18, [100] * 18, trial)
        # The first is far worse; the mean of the three is not.
        for arm, accuracy in (
            ("reinit", 0.95),
            ("reinit_2", 0.995),
            ("reinit_3", 0.995),
        ):
            results += ladder(arm, [accuracy] * 18, [100] * 18, trial)
    assert verdicts((LENET, results))["C4b"].verdict == "not reproduced"


def test_a_training_that_diverged_stops_no_sooner():
    results = []
    for trial in range(3):
        tickets = ladder("ticket", [0.98] * 18, [10_000] * 18, trial)
        results += [tickets[0]] + [
            dataclasses.replace(
                one, early_stop_iteration=1, early_stop_val_loss=math.nan
            )
            for one in tickets[1:]
        ]
    assert verdicts((LENET, results))["C1"].verdict == "undecided"


def test_a_little_better_is_not_what_is_claimed():
    results = []
    for trial in range(3):
        accuracies = [0.98, *[0.9801] * 17]
        results += ladder("ticket", accuracies, [100] * 18, trial)
    assert verdicts((LENET, results))["C2a"].verdict == "not reproduced"


def test_a_density_too_far_away_is_no_match():
    trial = Trial([result(arm="ticket", density=0.25)])
    assert trial.at("ticket", 0.211) is None
    assert trial.at("ticket", 0.26) is not None


def test_every_claim_has_its_own_id():
    assert len(BY_ID) == len(CLAIMS)


def run_directory(directory, results, **settings):
    directory.mkdir()
    text = json.dumps({**LENET, **settings})
    (directory / "experiment.json").write_text(text)
    (directory / "results.csv").write_text(to_csv(results))
    return directory


def test_the_text_has_the_rule_every_claim_and_every_verdict(tmp_path):
    _, results = as_in_the_paper()
    text = check_claims([run_directory(tmp_path / "run", results)])
    assert claims.RULE in text and claims.PAPER in text
    lines = text.splitlines()
    for claim in CLAIMS:
        about = [line for line in lines if line.startswith(f"{claim.id} ")]
        assert len(about) in (2, 3)
        assert about[0].endswith(("reproduced", "undecided", "applicable"))
        assert about[1].endswith(claim.text)
    (first,) = (
        line for line in lines if line.startswith("C1 ") and "[" in line
    )
    assert "42.00 [42.00, 42.00] % earlier, 3 trials" in first
    assert "50,000 iterations" in first and first.endswith("reproduced")
    assert "C7a conv_2" in text and "no run of conv_2" in text


def test_each_run_has_its_own_reason(tmp_path):
    _, results = as_in_the_paper()
    whole = run_directory(tmp_path / "whole", results)
    few = run_directory(
        tmp_path / "few", [r for r in results if r.trial == 0], iterations=5000
    )
    text = check_claims([whole, few])
    reasons = text.partition("why it is open")[2].splitlines()
    (c1,) = (line for line in reasons if line.startswith("C1 "))
    assert "5,000 of 50,000 iterations" in c1 and "of at least 3" in c1


def test_where_nothing_can_be_judged_one_sentence_says_why(tmp_path):
    _, results = as_in_the_paper()
    directory = run_directory(tmp_path / "run", results, dataset="digits")
    text = check_claims([directory])
    assert "\n" not in text and text.count("digits, not mnist") == 1
    assert "of digits, not mnist (C1, C2a, " in text
    assert "no run of conv_2 (C7a" in text


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
