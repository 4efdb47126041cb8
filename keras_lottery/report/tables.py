"""The table that a run ends with, as text."""

from keras_lottery.report.series import series


def summary(results):
    """Early stopping and accuracy of each arm at each level.

    Args:
        results: list of `experiments.Result`.

    Returns:
        A str of lines: density, then for each arm the early-stop iteration,
        the test accuracy there and at the end (means over trials).
    """
    columns = (
        series(results, "early_stop_iteration"),
        series(results, "early_stop_test_accuracy"),
        series(results, "final_test_accuracy"),
    )
    arms = list(columns[0])
    width = 28
    lines = [
        " " * 17 + "".join(f"{arm:^{width}}" for arm in arms).rstrip(),
        f"{'level':>5}{'density':>10}  "
        + f"{'stop at':>10}{'test acc.':>10}{'at end':>8}" * len(arms),
    ]
    by_level = [
        {arm: {p.level: p for p in points} for arm, points in column.items()}
        for column in columns
    ]
    levels = sorted({p.level for points in columns[0].values() for p in points})
    for level in levels:
        cells, density = [], None
        for arm in arms:
            points = [column[arm].get(level) for column in by_level]
            if points[0] is None:
                cells.append(" " * width)
                continue
            stop, accuracy, final = points
            density = stop.density
            cells.append(
                f"{stop.mean:>10,.0f}{accuracy.mean:>10.2%}{final.mean:>8.2%}"
            )
        lines.append(f"{level:>5}{density:>10.2%}  " + "".join(cells).rstrip())
    return "\n".join(lines)
