"""Tests between arms, paired by trial.

Two arms of a trial share their data, its split and its order, and the masks
where the arms do: their difference within a trial says more than their means.
"""

import collections
import dataclasses
import statistics

import numpy as np

from keras_lottery.report.series import measured


@dataclasses.dataclass(frozen=True)
class Difference:
    """One arm minus another, over the trials that have both.

    Args:
        level: int, or `None` for the mean over levels from 1.
        density: float, the first arm's; `None` like the level.
        values: list of float, one a trial.
    """

    level: int | None
    density: float | None
    values: list

    @property
    def p(self):
        """Of `sign_flip`; `None` for a single trial, which tells nothing."""
        return sign_flip(self.values) if len(self.values) > 1 else None


def compare(results, arm, other, column):
    """Differences between two arms, level by level and over all.

    Args:
        results: list of `experiments.Result`.
        arm: str.
        other: str, the arm that is subtracted.
        column: str, a column of the results, or a function of a result.

    Returns:
        A list of `Difference`, one a level; then, if there is more than one
        level from 1 on, that of each trial's mean over them, which is one
        test where the levels are many.
    """
    measure = measured(column)
    table = {(r.arm, r.trial, r.level): r for r in results}
    levels = collections.defaultdict(dict)
    densities = {}
    for (name, trial, level), first in sorted(table.items()):
        second = table.get((other, trial, level))
        if name == arm and second is not None:
            levels[level][trial] = measure(first) - measure(second)
            densities.setdefault(level, first.density)
    rows = [
        Difference(level, densities[level], list(found.values()))
        for level, found in levels.items()
    ]
    pruned = {level: found for level, found in levels.items() if level}
    if len(pruned) > 1:
        # Trials that lack a level would compare other levels with others.
        trials = set.intersection(*map(set, pruned.values()))
        means = [
            statistics.fmean(found[trial] for found in pruned.values())
            for trial in sorted(trials)
        ]
        if means:
            rows.append(Difference(None, None, means))
    return rows


def sign_flip(differences):
    """Exact two-sided p of the sign-flip permutation test of a zero mean.

    If the arms did not differ, each trial's difference could as well have had
    the other sign. p is the share of the 2**n choices of signs whose mean is
    at least as far from 0 as the mean measured; so it is at least 2 / 2**n.

    Args:
        differences: list of float, one a trial.

    Returns:
        A float in (0, 1].

    Example:

    ```python
    sign_flip([0.3, 0.1, 0.2])  # 0.25: the least that three trials can give
    ```

    Source: R. A. Fisher, The Design of Experiments, 1935, section 21.
    """
    values = np.asarray(differences, np.float64)
    if np.isnan(values).any():
        return float("nan")
    # Sums that are equal on paper differ in their last bits.
    reach = abs(values.sum()) - 1e-12 * np.abs(values).sum()
    if reach <= 0:
        return 1.0
    # All sums of one half against the sorted sums of the other: 2**(n/2)
    # numbers instead of 2**n.
    half = len(values) // 2
    some, others = _signed_sums(values[:half]), _signed_sums(values[half:])
    others.sort()
    far = len(others) - np.searchsorted(others, reach - some, side="left")
    far += np.searchsorted(others, -reach - some, side="right")
    return int(far.sum()) / 2 ** len(values)


def _signed_sums(values):
    """The sums of values under every choice of their signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums
