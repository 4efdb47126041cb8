"""The rule by which the paper's claims are judged on what runs measured.

Each claim is a measurement of one trial, a number to compare it with, and the
side on which the measurement has to lie. The verdict is

    not run         no trial has what the claim needs;
    undecided       fewer than three trials, or trials on both sides of the
                    number while their mean is on the claimed side;
    reproduced      the mean of at least three trials, and each of them, on
                    the claimed side;
    not reproduced  the mean of at least three trials on the other side.

Densities are matched to the nearest level, if it is within a tenth of what
the claim names. Accuracies are compared in percentage points.
"""

import collections
import dataclasses
import statistics

from keras_lottery import recipes
from keras_lottery.experiments.run import Run
from keras_lottery.report import tables
from keras_lottery.report.paper_claims import CLAIMS, Claim

_TRIALS = 3
PAPER = (
    "Frankle & Carbin, The Lottery Ticket Hypothesis, ICLR 2019, "
    "https://arxiv.org/abs/1803.03635."
)
RULE = (
    "The rule: reproduced, if at least three trials have it, on average and "
    "each of them; not reproduced, if their mean does not; else undecided."
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict on a claim: mean, minimum and maximum over trials."""

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


def check_claims(run_dirs):
    """The paper's claims, judged on what one or more runs have measured.

    The trials of all runs of a network are judged together.

    Args:
        run_dirs: list of str or path-like, directories of runs.

    Returns:
        A str of lines: the paper, the rule, where a run is not the paper's
        experiment, a table of the verdicts, and what each claim says.

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
    notes = [
        f"{run.directory}: {text}"
        for run in runs
        if (text := note(run.experiment))
    ]
    return "\n".join([PAPER, RULE, *notes, "", tables.verdicts_text(verdicts)])


def check(claims, runs):
    """The verdict on every claim.

    Args:
        claims: list of `Claim`.
        runs: list of (experiment, results): the dict of `experiment.json`,
            and a list of `experiments.Result`.

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


def judge(claim, trials):
    """The verdict on one claim.

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


def note(experiment):
    """Where an experiment is not the paper's: a sentence, or an empty str.

    Args:
        experiment: dict of `experiment.json`.
    """
    name = network(experiment)
    if not any(name in claim.models for claim in CLAIMS):
        return f"The paper claims nothing about {name}."
    known = recipes.RECIPES
    if experiment.get("dropout"):
        known = recipes.DROPOUT_RECIPES
    recipe = known[experiment["model"]]
    theirs = recipe.dataset, recipe.iterations
    ours = experiment["dataset"], experiment["iterations"]
    if ours == theirs:
        return ""
    return (
        f"The claims are about {theirs[0]} with {theirs[1]:,} iterations; "
        f"this is {ours[0]} with {ours[1]:,}. Its verdicts are not on the "
        "paper's experiment."
    )
