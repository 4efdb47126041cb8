"""Claims against what was measured: the rule. Pure Python.

Each claim is a measurement of one trial, a number to compare it with, and the
side on which that number has to lie. The verdict is

    not run         no trial has what the claim needs;
    undecided       fewer than three trials, or trials on both sides of the
                    number while their mean is on the claimed side;
    reproduced      the mean of at least three trials, and each of them, on
                    the claimed side;
    not reproduced  the mean on the other side.

Densities are matched to the nearest level, if it is within a tenth of what
the claim names. Accuracies are compared in percentage points.
"""

import collections
import dataclasses
import statistics

_TRIALS = 3


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Args:
        id: str, such as `"C4"`.
        text: str, what is claimed, in a line.
        paper: str, the value in the paper.
        models: tuple of the networks it is about.
        measure: function of a `Trial`, the number or `None`.
        unit: str, `"%"`, `"points"` or `"x"`.
        above: float, the claim holds if the number is greater.
    """

    id: str
    text: str
    paper: str
    models: tuple
    measure: object
    unit: str
    above: float = 0.0


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a claim: mean, minimum and maximum over trials."""

    claim: Claim
    verdict: str
    trials: int = 0
    mean: float | None = None
    low: float | None = None
    high: float | None = None


class Trial:
    """The results of one trial, by arm and density.

    Args:
        results: iterable of `experiments.Result`.
    """

    def __init__(self, results):
        self._arms = collections.defaultdict(list)
        for result in results:
            self._arms[result.arm].append(result)

    def at(self, arm, density):
        """The result of an arm nearest to a density, or `None`."""
        levels = self._arms.get(arm, ())
        if not levels:
            return None
        near = min(levels, key=lambda r: abs(r.density - density))
        close = abs(near.density - density) <= 0.1 * density
        return near if close else None

    def within(self, arm, high, low):
        """Results of an arm with densities from `high` down to `low`."""
        return [
            r
            for r in self._arms.get(arm, ())
            if low * 0.99 <= r.density <= high * 1.01
        ]


def judge(claim, trials):
    """The `Verdict` on a claim.

    Args:
        claim: `Claim`.
        trials: list of `Trial` of a network that the claim is about.

    Returns:
        A `Verdict`.
    """
    values = [claim.measure(trial) for trial in trials]
    values = [value for value in values if value is not None]
    if not values:
        return Verdict(claim, "not run")
    mean = statistics.fmean(values)
    sides = {value > claim.above for value in values}
    if mean <= claim.above and len(values) >= _TRIALS:
        verdict = "not reproduced"
    elif len(values) < _TRIALS or sides == {True, False}:
        verdict = "undecided"
    else:
        verdict = "reproduced"
    return Verdict(claim, verdict, len(values), mean, min(values), max(values))


def check(claims, runs):
    """The verdict on every claim.

    Args:
        claims: list of `Claim`.
        runs: list of (experiment, results): a dict with `model` and
            `dropout`, and a list of `experiments.Result`.

    Returns:
        A list of `Verdict`, in the order of the claims.
    """
    verdicts = []
    for claim in claims:
        trials = [
            trial
            for experiment, results in runs
            if network(experiment) in claim.models
            for trial in by_trial(results)
        ]
        verdicts.append(judge(claim, trials))
    return verdicts


def network(experiment):
    """The network of an experiment, its dropout variant marked."""
    dropout = "+dropout" if experiment.get("dropout") else ""
    return f"{experiment['model']}{dropout}"


def by_trial(results):
    """A `Trial` for each trial of a list of results."""
    trials = collections.defaultdict(list)
    for result in results:
        trials[result.trial].append(result)
    return [Trial(group) for _, group in sorted(trials.items())]


def table(verdicts):
    """The verdicts as lines of text."""
    lines = []
    for v in verdicts:
        lines.append(f"{v.claim.id:<11}{v.claim.text}")
        measured = "not run"
        if v.trials:
            numbers = (f"{n:.2f}" for n in (v.mean, v.low, v.high))
            mean, low, high = numbers
            measured = (
                f"{mean} {v.claim.unit} [{low}, {high}] over {v.trials} "
                f"trial{'s' if v.trials > 1 else ''}: {v.verdict}"
            )
        lines.append(f"     paper: {v.claim.paper}; measured: {measured}")
    return "\n".join(lines)
