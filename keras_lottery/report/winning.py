"""The result of a run in a sentence: which of its tickets are winning."""

import collections
import math
import statistics

from keras_lottery.report.tables import accuracy, percent, whole

_WINNING = (
    "A ticket is winning here if its mean test accuracy at early stop is at "
    "least the dense network's, and its mean early-stop iteration at most the "
    "dense network's."
)


def headline(results):
    """The result of a run in a sentence, and the rule that it follows.

    Compared are the trials that have all levels measured so far. A training
    that diverged, or whose model measures no accuracy, has measured nothing.

    Args:
        results: list of `experiments.Result`, at least one.

    Returns:
        A pair of str: the result, and the rule (empty where none was used).

    Example:

    ```python
    from keras_lottery import report
    from keras_lottery.experiments import Experiment

    results = Experiment(rounds=3, iterations=200).run("runs/a")
    print(*report.headline(results))
    ```

    Source: Frankle & Carbin, 1803.03635, section 1 (commensurate accuracy in
    at most as many iterations).
    """
    measured = [r for r in results if _is_measured(r)]
    if not measured:
        return "No training has measured a test accuracy at early stop.", ""
    levels = _of_whole_trials([r for r in measured if r.arm == "ticket"])
    if 0 not in levels or len(levels) < 2:
        return _most_accurate(measured), ""
    trials = {result.trial for result in levels[0]}
    means = {level: _means(tickets) for level, tickets in levels.items()}
    dense = means[0]
    winning = [
        level
        for level, (_, reached, stop) in means.items()
        if level and reached >= dense[1] and stop <= dense[2]
    ]
    over = _over(len(trials), len({result.trial for result in results}))
    if not winning:
        return f"{over}: {_no_winner(means)}", _WINNING
    smallest = max(winning)
    found = f"{over}: {_winner(means[smallest], dense)}"
    reinitialised = [
        r
        for r in measured
        if (r.arm, r.level) == ("reinit", smallest) and r.trial in trials
    ]
    if len(reinitialised) == len(trials):
        _, reached, stop = _means(reinitialised)
        found += (
            f" Reinitialised, it has {accuracy(reached)} % after {whole(stop)}."
        )
    found += f" Winning: level{'s' * (len(winning) > 1)} {_listed(winning)}."
    return found, _WINNING


def _is_measured(result):
    numbers = result.early_stop_test_accuracy, result.early_stop_val_loss
    return not any(map(math.isnan, numbers))


def _of_whole_trials(tickets):
    """Dict, level -> the tickets of the trials that have every level."""
    held = collections.defaultdict(set)
    for ticket in tickets:
        held[ticket.trial].add(ticket.level)
    levels = {level: [] for level in sorted(set().union(*held.values()))}
    whole = [t for t in tickets if held[t.trial] == levels.keys()]
    for ticket in whole:
        levels[ticket.level].append(ticket)
    return levels if whole else {}


def _over(compared, trials):
    text = "One trial" if compared == 1 else f"Mean over {compared} trials"
    if compared < trials:
        text += f" of {trials}, the others not having every level"
    return text


def _winner(ticket, dense):
    density, reached, stop = ticket
    return (
        f"the smallest winning ticket has {percent(density)} of the weights "
        f"and {accuracy(reached)} % test accuracy at early stop, after "
        f"{whole(stop)} iterations; the dense network has "
        f"{accuracy(dense[1])} % after {whole(dense[2])}."
    )


def _no_winner(means):
    _, dense, in_iterations = means[0]
    density, reached, stop = max(
        (mean for level, mean in means.items() if level), key=lambda m: m[1]
    )
    return (
        "no ticket was as accurate at early stop as the dense network "
        f"({accuracy(dense)} %) in as few iterations ({whole(in_iterations)}). "
        f"The most accurate has {accuracy(reached)} % after {whole(stop)}, "
        f"with {percent(density)} of the weights."
    )


def _listed(levels):
    """`"1, 3 to 6"`: runs of levels as their ends."""
    runs = []
    for level in levels:
        if runs and runs[-1][-1] == level - 1:
            runs[-1].append(level)
        else:
            runs.append([level])
    return ", ".join(
        f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run))
        for run in runs
    )


def _means(results):
    """Mean density, test accuracy at early stop, and early-stop iteration."""
    names = "density", "early_stop_test_accuracy", "early_stop_iteration"
    return tuple(
        statistics.fmean(getattr(result, name) for result in results)
        for name in names
    )


def _most_accurate(results):
    best = max(results, key=lambda r: r.early_stop_test_accuracy)
    return (
        f"Most accurate: {best.arm} at {percent(best.density)}, "
        f"{accuracy(best.early_stop_test_accuracy)} % test accuracy at early "
        "stop."
    )
