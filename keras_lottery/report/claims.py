"""The judge of the paper's claims: one rule for all.

A claim names what must have been run, a quantity of one trial, and the range
that the quantity lies in if the claim holds. The trials of one experiment give
a two-sided 90 % interval of the quantity's mean, by Student's t: each of its
ends is on the wrong side of the true mean in 5 of 100 cases. The verdict is

    reproduced      the whole interval is in the claimed range;
    not reproduced  no part of it is;
    undecided       it holds both answers, there are fewer than three trials,
                    or a measurement is not a number;
    not applicable  no run has what the claim needs; what is missing is named.

A claim about a range of densities must hold at each of its levels, and the run
must have levels at both ends. Densities are matched to the nearest level, if
it is within a tenth of what the claim names. Experiments that differ in more
than their seed are judged apart, and a trial that is given twice counts once.
"""

import dataclasses
import math
import statistics

from keras_lottery.display import percent
from keras_lottery.experiments.run import Run
from keras_lottery.report import tables
from keras_lottery.report.paper_claims import CLAIMS, Claim
from keras_lottery.report.statistics import Trial

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
UNDECIDED, NOT_APPLICABLE = "undecided", "not applicable"
PAPER = (
    "Frankle & Carbin, The Lottery Ticket Hypothesis, ICLR 2019, "
    "https://arxiv.org/abs/1803.03635."
)
RULE = (
    "The rule: reproduced, if the 90 % interval (Student's t, paired by trial, "
    "at least three trials) lies in the claimed range; not reproduced, if it "
    "lies outside; else undecided."
)
_TRIALS = 3
# Quantiles of Student's t at 95 %, by degrees of freedom from 1.
_T = (
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812,
    1.796, 1.782, 1.771, 1.761, 1.753, 1.746, 1.740, 1.734, 1.729, 1.725,
    1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict on a claim.

    Args:
        claim: `Claim`.
        verdict: str.
        why: str, what is missing or what leaves it open; may be empty.
        scale: str, how much was run.
        trials: int.
        mean: optional float. Of a claim about a range of densities, that and
            the interval are of the level that decides.
        low: optional float, the lower end of the interval.
        high: optional float, the upper end.
    """

    claim: Claim
    verdict: str
    why: str = ""
    scale: str = ""
    trials: int = 0
    mean: float | None = None
    low: float | None = None
    high: float | None = None


def check_claims(run_dirs):
    """The paper's claims, judged on what one or more runs have measured.

    Args:
        run_dirs: list of str or path-like, directories of runs.

    Returns:
        A str of lines: the paper, the rule, a table of the verdicts, what
        each claim says, and what is missing or leaves it open. Where nothing
        can be judged, one sentence that says why.

    Raises:
        ValueError: If no directory is given, or one of them holds no run.

    Example:

    ```python
    from keras_lottery import report
    from keras_lottery.experiments import Experiment

    Experiment(rounds=3, iterations=200).run("runs/digits")
    print(report.check_claims(["runs/digits"]))
    ```

    Source: Frankle & Carbin, 1803.03635.
    """
    if not run_dirs:
        raise ValueError(
            "`run_dirs` must name at least one directory of a run. Received: "
            f"run_dirs={run_dirs!r}"
        )
    runs = [Run.open(run_dir) for run_dir in run_dirs]
    verdicts = check(CLAIMS, [(run.experiment, run.results) for run in runs])
    if all(one.verdict == NOT_APPLICABLE for one in verdicts):
        return _none_applies(verdicts)
    return "\n".join([PAPER, RULE, "", tables.verdicts_text(verdicts)])


def _none_applies(verdicts):
    """One sentence: each reason, and of which claims it is."""
    claims = {}
    for one in verdicts:
        claims.setdefault(one.why, []).append(one.claim.id)
    reasons = [f"{why} ({', '.join(ids)})" for why, ids in claims.items()]
    return f"None of the paper's claims can be judged: {'; '.join(reasons)}."


def check(claims, runs):
    """The verdict on every claim.

    Args:
        claims: list of `Claim`.
        runs: list of (experiment, results): the dict of `experiment.json`,
            and a list of `experiments.Result`.

    Returns:
        A list of `Verdict`, in the order of the claims: one for each
        experiment that has what the claim needs, or one that says what is
        missing.
    """
    experiments = _together(runs)
    return [one for claim in claims for one in _verdicts(claim, experiments)]


def judge(claim, trials, scale=""):
    """The verdict on one claim, from the trials of one experiment.

    Args:
        claim: `Claim`.
        trials: list of `Trial`.
        scale: str, how much was run.

    Returns:
        A `Verdict`.
    """
    by_trial = [claim.measure(trial) for trial in trials]
    missing = [found for found in by_trial if isinstance(found, str)]
    measured = [found for found in by_trial if not isinstance(found, str)]
    if not measured:
        why = missing[0] if missing else "no trial"
        return Verdict(claim, NOT_APPLICABLE, why, scale)
    if len({len(found) for found in measured}) > 1:
        why = "its trials have different levels"
        return Verdict(claim, UNDECIDED, why, scale, len(measured))
    levels = [_judge_level(claim, values) for values in zip(*measured)]
    decisive = min(levels, key=lambda one: (_ORDER[one[0]], one[-1]))
    verdict, why, numbers, _ = decisive
    return Verdict(claim, verdict, why, scale, len(measured), *numbers)


# The worst of its levels is the verdict on a range.
_ORDER = {NOT_REPRODUCED: 0, UNDECIDED: 1, REPRODUCED: 2}


def _judge_level(claim, values):
    """(verdict, why, (mean, low, high), distance from the wrong side)."""
    low, high = claim.holds
    if not all(map(math.isfinite, values)):
        return UNDECIDED, "a measurement is not a number", (), -math.inf
    mean, reach = _interval(values)
    numbers = tuple(map(claim.shown, (mean, mean - reach, mean + reach)))
    distance = min(mean - low, high - mean)
    if len(values) < _TRIALS:
        why = f"{tables.plural(len(values), 'trial')}, of at least {_TRIALS}"
        return UNDECIDED, why, numbers[:1], distance
    if low < mean - reach and mean + reach < high:
        return REPRODUCED, "", numbers, distance
    if mean + reach <= low or mean - reach >= high:
        return NOT_REPRODUCED, "", numbers, distance
    return UNDECIDED, "the interval holds both answers", numbers, distance


def _interval(values):
    """The mean, and how far its 90 % interval reaches to either side."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.inf
    error = statistics.stdev(values) / math.sqrt(len(values))
    return mean, _T[min(len(values) - 1, len(_T)) - 1] * error


def _verdicts(claim, experiments):
    found, missing = [], []
    for experiment, trials in experiments:
        why = claim.needs.missing(experiment)
        if why:
            missing.append(why)
            continue
        verdict = judge(claim, trials, scale(experiment, claim.needs))
        if verdict.verdict == NOT_APPLICABLE:
            missing.append((1, verdict.why))
        else:
            found.append(verdict)
    if found:
        return found
    # That of the run which comes closest.
    why = min(missing, default=(0, "no run"))[1]
    return [Verdict(claim, NOT_APPLICABLE, why)]


def _together(runs):
    """Pairs (experiment, trials) of what may be judged as one."""
    groups = []
    for experiment, results in runs:
        same = [trials for known, trials in groups if _same(known, experiment)]
        trials = same[0] if same else {}
        if not same:
            groups.append((experiment, trials))
        for result in results:
            place = experiment.get("seed"), result.trial
            rows = trials.setdefault(place, {})
            rows[result.arm, result.level] = result
    return [
        (experiment, [Trial(rows.values()) for rows in trials.values()])
        for experiment, trials in groups
    ]


def _same(one, other):
    # Which arms were trained, how many levels and trials, changes no trial.
    free = {"seed", "trials", "arms", "rounds", "backend"}
    free |= {"instability", "ticket_from"}
    return {k: v for k, v in one.items() if k not in free} == {
        k: v for k, v in other.items() if k not in free
    }


def scale(experiment, needs):
    """How a run differs from the paper's that a claim is about: a str.

    Args:
        experiment: dict of `experiment.json`, which has what is needed.
        needs: `paper_claims.Needs`.
    """
    recipe = needs.recipe
    text = f"{experiment['iterations']:,}"
    if recipe.iterations != experiment["iterations"]:
        text += f" of {recipe.iterations:,}"
    text += " iterations"
    if experiment.get("image_size"):
        text += f", {experiment['image_size']} pixels"
    wanted = needs.learning_rate or recipe.learning_rate
    own = experiment.get("learning_rate") or wanted
    if own != wanted:
        text += f", learning rate {own} of {wanted}"
    rate = experiment.get("rate") or recipe.rate
    if rate != recipe.rate:
        text += f", rounds of {percent(rate)}"
    if experiment.get("precision", "float32") != "float32":
        text += f", {experiment['precision']}"
    for name, value in experiment.get("network", ()):
        text += f", {name} {value}"
    return text
