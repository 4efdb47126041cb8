"""The result of a run in a sentence. Pure Python."""

import statistics

from keras_lottery.report.wording import accuracy, percent, plural, whole

_WINNING = (
    "A ticket is winning here if its mean test accuracy at early stop is at "
    "least the dense network's, and its mean early-stop iteration at most the "
    "dense network's."
)


def headline(run):
    """What was found, and by which rule it is told.

    Args:
        run: `reading.Run`.

    Returns:
        A pair of str: the result, and the rule (empty where none was used).
    """
    levels = run.levels("ticket")
    if 0 not in levels or len(levels) < 2:
        return _most_accurate(run), ""
    dense = _means(run, "ticket", 0)
    winning = [
        level
        for level in levels
        if level and _wins(_means(run, "ticket", level), dense)
    ]
    over = "One trial" if run.trials == 1 else f"Mean over {run.trials} trials"
    if not winning:
        found = (
            f"{over}: no ticket was as accurate at early stop as the dense "
            f"network ({accuracy(dense[0])} %) in as few iterations "
            f"({whole(dense[1])})."
        )
        return f"{found} {_best(run, levels)}", _WINNING
    smallest = max(winning)
    reached, stop = _means(run, "ticket", smallest)
    found = (
        f"{over}: the smallest winning ticket has "
        f"{percent(levels[smallest])} of the weights and "
        f"{accuracy(reached)} % test accuracy at early stop, after "
        f"{whole(stop)} iterations; the dense network has "
        f"{accuracy(dense[0])} % after {whole(dense[1])}."
    )
    if run.of("reinit", smallest):
        again = _means(run, "reinit", smallest)
        found += (
            f" Reinitialised, it has {accuracy(again[0])} % after "
            f"{whole(again[1])}."
        )
    return found, _WINNING


def subject(experiment):
    """What was run, in a few words: dict of settings -> str."""
    return f"{experiment['model']} on {experiment['dataset']}"


def scale(run):
    """How much was run, as a list of short str."""
    settings = run.experiment
    levels = run.levels(run.arms[0])
    return [
        plural(run.trials, "trial"),
        plural(len(run.arms), "arm"),
        f"{plural(len(levels), 'level')}, "
        f"{percent(max(levels.values()))} to {percent(min(levels.values()))}",
        f"{settings['iterations']:,} iterations of {settings['batch_size']}",
    ]


def too_short(run):
    """Whether early stop is, on average, in the last 5 % of the budget."""
    shares = [r.early_stop_iteration / r.iterations for r in run.results]
    return statistics.fmean(shares) > 0.95


def _means(run, arm, level):
    results = run.of(arm, level)
    return (
        statistics.fmean(r.early_stop_test_accuracy for r in results),
        statistics.fmean(r.early_stop_iteration for r in results),
    )


def _wins(ticket, dense):
    return ticket[0] >= dense[0] and ticket[1] <= dense[1]


def _best(run, levels):
    best = max(
        (level for level in levels if level),
        key=lambda level: _means(run, "ticket", level)[0],
    )
    reached, stop = _means(run, "ticket", best)
    return (
        f"The most accurate has {accuracy(reached)} % after {whole(stop)}, "
        f"with {percent(levels[best])} of the weights."
    )


def _most_accurate(run):
    best = max(run.results, key=lambda r: r.early_stop_test_accuracy)
    return (
        f"Most accurate: {best.arm} at {percent(best.density)}, "
        f"{accuracy(best.early_stop_test_accuracy)} % test accuracy at early "
        "stop."
    )
