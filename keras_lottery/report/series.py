"""Results gathered per arm and level, over trials. Pure Python."""

import collections
import dataclasses
import operator
import statistics


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
    """Dict, arm -> list of `Point` by falling density.

    Args:
        results: iterable of `experiments.Result`.
        column: str, a numeric column of it; or a function of a result.

    Returns:
        The dict, its arms in the order in which they first appear.
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


def measured(column):
    """The function of a result that a column, or a function, stands for."""
    return column if callable(column) else operator.attrgetter(column)


def gap(result):
    """Training accuracy minus test accuracy, at the end."""
    return result.final_train_accuracy - result.final_test_accuracy


def few(items, count=5):
    """At most so many of a list, evenly spaced, its ends among them."""
    items = list(items)
    if len(items) <= count:
        return items
    step = (len(items) - 1) / (count - 1)
    return [items[round(i * step)] for i in range(count)]


def _point(level, group, column):
    measure = measured(column)
    values = [measure(result) for result in group]
    density = statistics.fmean(result.density for result in group)
    return Point(
        level,
        density,
        statistics.fmean(values),
        min(values),
        max(values),
        len(values),
    )
