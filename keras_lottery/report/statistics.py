"""Statistics of a run: means over trials, differences between arms, curves."""

import collections
import dataclasses
import functools
import math
import operator
import statistics

import numpy as np

from keras_lottery import masks as masks_lib
from keras_lottery.experiments.plan import Place


@dataclasses.dataclass(frozen=True)
class Point:
    """One level of one arm: mean, minimum and maximum over trials.

    Args:
        level: int.
        density: float, mean over trials.
        mean: float.
        low: float.
        high: float.
        trials: int, how many values.
    """

    level: int
    density: float
    mean: float
    low: float
    high: float
    trials: int


def series(results, column):
    """One measurement of every arm at every level, over trials.

    Args:
        results: iterable of `experiments.Result`.
        column: str, a numeric column of it; or a function of a result.

    Returns:
        A dict, arm -> list of `Point` by level; the arms in the order in
        which they first appear.
    """
    grouped = collections.defaultdict(lambda: collections.defaultdict(list))
    for result in results:
        grouped[result.arm][result.level].append(result)
    return {
        arm: [
            _point(level, group, column)
            for level, group in sorted(levels.items())
        ]
        for arm, levels in grouped.items()
    }


def _point(level, group, column):
    values = list(map(_function(column), group))
    return Point(
        level,
        statistics.fmean(result.density for result in group),
        statistics.fmean(values),
        min(values),
        max(values),
        len(values),
    )


def _function(column):
    return column if callable(column) else operator.attrgetter(column)


def generalisation_gap(result):
    """Training accuracy minus test accuracy, at the end of training."""
    return result.final_train_accuracy - result.final_test_accuracy


def evenly_spaced(items, count=5):
    """At most `count` of the items, among them the first and the last."""
    items = list(items)
    if len(items) <= count:
        return items
    step = (len(items) - 1) / (count - 1)
    return [items[round(i * step)] for i in range(count)]


class Trial:
    """The results of one trial, by arm and density.

    Where a ticket was reinitialised several times, its reinitialisation is
    the mean of them.

    Args:
        results: iterable of `experiments.Result`.
    """

    def __init__(self, results):
        levels = collections.defaultdict(list)
        for result in results:
            arm = "reinit" if result.arm in _REINITS else result.arm
            levels[arm, result.level].append(result)
        self._arms = collections.defaultdict(list)
        for (arm, _), draws in sorted(levels.items()):
            self._arms[arm].append(_mean_result(draws))

    def has(self, arm):
        """Whether an arm was trained."""
        return arm in self._arms

    def at(self, arm, density):
        """The result of an arm nearest to a density, or `None`."""
        levels = self._arms.get(arm, ())
        if not levels:
            return None
        near = min(levels, key=lambda r: abs(r.density - density))
        return near if is_near(near.density, density) else None

    def within(self, arm, high, low):
        """Results of an arm from its level at `high` to that at `low`.

        None if it has no level at one of them.
        """
        first, last = self.at(arm, high), self.at(arm, low)
        if first is None or last is None:
            return []
        return [
            r
            for r in self._arms[arm]
            if last.density <= r.density <= first.density
        ]


def is_near(density, other):
    """Whether a density can stand for another: within a tenth of it."""
    return abs(density - other) <= 0.1 * other


# 1803.03635, section 2: three for each ticket.
_REINITS = "reinit", "reinit_2", "reinit_3"


def _mean_result(draws):
    numbers = (
        "early_stop_iteration",
        "early_stop_test_accuracy",
        "final_train_accuracy",
        "final_test_accuracy",
    )
    means = {
        name: statistics.fmean(getattr(result, name) for result in draws)
        for name in numbers
    }
    if any(math.isnan(result.early_stop_val_loss) for result in draws):
        # A training that diverged at once has no early stop.
        means["early_stop_iteration"] = math.nan
    return dataclasses.replace(draws[0], **means)


@dataclasses.dataclass(frozen=True)
class Difference:
    """One arm minus another, over the trials that have both.

    Two arms of a trial share their data, its split and its order: their
    difference within a trial says more than the difference of their means.

    Args:
        level: int, or `None` for the mean over levels from 1.
        density: float, the first arm's; `None` like the level.
        values: list of float, one per trial.
    """

    level: int | None
    density: float | None
    values: list

    @property
    def p(self):
        """That of `sign_flip`; `None` for a single trial, which is no test."""
        return sign_flip(self.values) if len(self.values) > 1 else None


def differences(results, arm, other, column):
    """Differences between two arms, paired by trial.

    Args:
        results: list of `experiments.Result`.
        arm: str.
        other: str, the arm that is subtracted.
        column: str, a column of the results, or a function of a result.

    Returns:
        A list of `Difference`, one per level at which the densities of both
        are within a tenth of each other. If there is more than one level
        from 1 on, the last one is that of each trial's mean over them: one
        test instead of one per level.
    """
    value = _function(column)
    table = {(r.arm, r.trial, r.level): r for r in results}
    levels = collections.defaultdict(dict)
    densities = {}
    for (name, trial, level), first in sorted(table.items()):
        second = table.get((other, trial, level))
        if name != arm or second is None:
            continue
        if is_near(second.density, first.density):
            levels[level][trial] = value(first) - value(second)
            densities.setdefault(level, first.density)
    rows = [
        Difference(level, densities[level], list(found.values()))
        for level, found in levels.items()
    ]
    means = _means_over_levels([levels[level] for level in levels if level])
    return rows + ([Difference(None, None, means)] if means else [])


def _means_over_levels(levels):
    """Each trial's mean over levels; a list of dicts, trial -> difference."""
    if len(levels) < 2:
        return []
    # A trial that lacks a level would be a mean over other levels.
    trials = set.intersection(*map(set, levels))
    return [
        statistics.fmean(found[trial] for found in levels)
        for trial in sorted(trials)
    ]


# Of so many differences all choices of signs are counted; of more, so many are
# drawn.
_MOST_EXACT, _DRAWN = 30, 100_000


def sign_flip(differences):
    """Two-sided p of the sign-flip permutation test of a zero mean.

    If the arms did not differ, each trial's difference could as well have had
    the other sign. p is the share of the 2**n choices of signs whose mean is
    at least as far from 0 as the mean measured; so it is at least 2 / 2**n.
    Up to 30 differences it is exact. Of more, whose choices are too many, a
    hundred thousand are drawn, always the same ones.

    Args:
        differences: list of float, one per trial.

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
    if len(values) > _MOST_EXACT:
        draw = np.random.default_rng(0)
        signs = draw.choice([-1.0, 1.0], (_DRAWN, len(values)))
        far = np.abs(signs @ values) >= reach
        # The signs as they were measured are one of the choices.
        return (int(far.sum()) + 1) / (_DRAWN + 1)
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


@dataclasses.dataclass
class LearningCurves:
    """The learning curves of one level of one arm.

    Args:
        iterations: array of int, at which every trial was evaluated.
        values: dict, `"val_loss"` and `"val_accuracy"` -> array, (trials,
            iterations).
        early_stops: list of int, the early-stop iteration of each trial.
        diverged: int, trials besides that ended early, if not all did.
    """

    iterations: np.ndarray
    values: dict
    early_stops: list
    diverged: int = 0


@dataclasses.dataclass
class TicketStatistics:
    """What the ticket files of the arm `ticket` show.

    Args:
        keys: dict, `Place` -> key of its training.
        densities: dict, (level, layer) -> list of fractions, one per trial.
        layers: list of str, in the order of the model.
        masks: dict, a few levels -> the first layer's mask in one trial.
        survivors: dict, the same levels -> dict, layer -> its trained
            weights that were not pruned.
        trial: int, the trial of the masks and the survivors.
    """

    keys: dict
    densities: dict
    layers: list
    masks: dict
    survivors: dict
    trial: int | None


class Measurements:
    """What a run has measured so far, by arm and level.

    Args:
        run: `experiments.run.Run`.
    """

    def __init__(self, run):
        self.run = run
        self.experiment = run.experiment
        self.results = run.results

    @functools.cached_property
    def arms(self):
        """The arms that have results, in the order of the results."""
        return list(dict.fromkeys(r.arm for r in self.results))

    @functools.cached_property
    def trials(self):
        """The number of trials that have results."""
        return len({r.trial for r in self.results})

    @property
    def planned(self):
        """The number of results that the complete run has."""
        levels = self.experiment["rounds"] + 1
        arms = self.experiment["arms"]
        return self.experiment["trials"] * levels * len(arms)

    def of(self, arm, level=None):
        """The results of an arm, or of one level of it."""
        return [
            r for r in self.results if r.arm == arm and level in (None, r.level)
        ]

    def levels(self, arm):
        """Dict, level -> mean density, of an arm."""
        grouped = collections.defaultdict(list)
        for result in self.of(arm):
            grouped[result.level].append(result.density)
        return {k: sum(v) / len(v) for k, v in sorted(grouped.items())}

    @functools.cached_property
    def _keys(self):
        # Older runs have no list of places; their tickets name the training.
        return {**self.tickets.keys, **self.run.load_places()}

    def learning_curves(self, arm, level):
        """The `LearningCurves` of one level of an arm, or `None`."""
        found, stops = [], []
        for result in self.of(arm, level):
            key = self._keys.get(Place(result.trial, level, arm))
            curves = key and self.run.load_curves(key)
            if curves:
                found.append(curves)
                stops.append(result.early_stop_iteration)
        if not found:
            return None
        # A training that diverged ended early.
        ends = [curves["iterations"][-1] for curves in found]
        whole = [i for i, end in enumerate(ends) if end == max(ends)]
        values = {
            name: np.stack([found[i][name] for i in whole])
            for name in ("val_accuracy", "val_loss")
        }
        return LearningCurves(
            found[whole[0]]["iterations"],
            values,
            [stops[i] for i in whole],
            len(found) - len(whole),
        )

    @functools.cached_property
    def tickets(self):
        """The `TicketStatistics` of the run; each file is read once."""
        found = TicketStatistics(
            {}, collections.defaultdict(list), [], {}, {}, None
        )
        shown = evenly_spaced(self.levels("ticket"))
        for result in self.of("ticket"):
            ticket = self.run.load_ticket(result.trial, "ticket", result.level)
            if ticket is not None:
                _add_ticket(found, ticket, result, result.level in shown)
        return found


def _add_ticket(found, ticket, result, shown):
    """Adds one ticket to the `TicketStatistics`."""
    if "key" in ticket.config:
        place = Place(result.trial, result.level, "ticket")
        found.keys[place] = ticket.config["key"]
    layers = layer_names(ticket.masks)
    for path, density in masks_lib.densities(ticket.masks).items():
        found.densities[result.level, layers[path]].append(density)
    found.layers = found.layers or list(layers.values())
    if found.trial is None:
        found.trial = result.trial
    if shown and result.trial == found.trial:
        found.masks[result.level] = next(iter(ticket.masks.values()))
        found.survivors[result.level] = {
            layers[path]: ticket.trained[path][mask]
            for path, mask in ticket.masks.items()
        }


def layer_names(paths):
    """The layers of weights: their paths without the model and the kernel.

    Args:
        paths: iterable of str, of all prunable weights of a model.

    Returns:
        A dict, path -> str.

    Example:

    ```python
    layer_names(["lenet/fc1/kernel", "lenet/fc2/kernel"]).values()  # fc1, fc2
    layer_names(["fc1/kernel", "attention/query/kernel"]).values()
    # fc1, attention/query
    ```
    """
    parts = {path: path.split("/") for path in paths}
    # What all paths begin with is the model, unless it is a layer itself.
    in_model = len({first for first, *_ in parts.values()}) == 1 and all(
        len(one) > 2 for one in parts.values()
    )
    return {
        path: "/".join(one[in_model : -1 if one[-1] == "kernel" else None])
        for path, one in parts.items()
    }
