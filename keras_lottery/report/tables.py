"""Tables: the one that a run ends with, as text, and those of the page."""

import functools
import inspect

from keras_lottery.report import html
from keras_lottery.report.paired import compare
from keras_lottery.report.series import series
from keras_lottery.report.wording import (
    accuracy,
    percent,
    plural,
    points,
    signed,
    spread,
    whole,
)

_COLUMNS = (
    ("early-stop iteration", "early_stop_iteration", whole),
    ("validation loss there", "early_stop_val_loss", "{:.4f}".format),
    ("validation accuracy there (%)", "early_stop_val_accuracy", accuracy),
    ("test accuracy there (%)", "early_stop_test_accuracy", accuracy),
    ("training accuracy at the end (%)", "final_train_accuracy", accuracy),
    ("validation accuracy at the end (%)", "final_val_accuracy", accuracy),
    ("test accuracy at the end (%)", "final_test_accuracy", accuracy),
    ("seconds", "seconds", "{:.1f}".format),
)


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


def all_results(run):
    """A table for each arm: every column at every level."""
    return "".join(_of_an_arm(run, arm) for arm in run.arms)


def _of_an_arm(run, arm):
    rows = []
    for level, density in run.levels(arm).items():
        results = run.of(arm, level)
        cells = [
            spread([getattr(r, column) for r in results], form)
            for _, column, form in _COLUMNS
        ]
        rows.append([level, percent(density), len(results), *cells])
    names = ["level", "density", "trials", *(name for name, *_ in _COLUMNS)]
    return html.table(f"Arm {arm}", names, rows)


def between_arms(run, arm="ticket"):
    """A table for each other arm: what an arm has over it, level by level."""
    if arm not in run.arms:
        return ""
    return "".join(_over(run, arm, other) for other in run.arms if other != arm)


def _over(run, arm, other):
    pairs = zip(
        compare(run.results, arm, other, "early_stop_test_accuracy"),
        compare(run.results, arm, other, "early_stop_iteration"),
    )
    rows = [
        [
            "mean from level 1" if by.level is None else percent(by.density),
            spread(by.values, points),
            _p(by.p),
            spread(stops.values, signed),
            _p(stops.p),
            len(by.values),
        ]
        for by, stops in pairs
    ]
    if not rows:
        return ""
    names = [
        "density",
        "test accuracy (points)",
        "p",
        "early-stop iteration",
        "p",
        "trials",
    ]
    return html.table(f"{arm} minus {other}", names, rows)


def _p(p):
    return "\N{EN DASH}" if p is None else f"{p:.3g}"


def layer_densities(tickets, levels):
    """Density of each layer at each level.

    Args:
        tickets: `reading.Tickets`.
        levels: dict, level -> density of the network.
    """
    rows = [
        [
            percent(density),
            *(_share(tickets.densities[level, one]) for one in tickets.layers),
        ]
        for level, density in levels.items()
        if (level, tickets.layers[0]) in tickets.densities
    ]
    return html.table(
        "Density of each layer (%)", ["network", *tickets.layers], rows
    )


def _share(densities):
    """Mean [minimum, maximum] in percent; layerwise they are the same."""
    if len(set(densities)) == 1:
        densities = densities[:1]
    return spread(densities, functools.partial(percent, unit=""))


def verdicts(found):
    """The claims, with what was measured.

    Args:
        found: list of `claims.Verdict`.
    """
    rows = [
        [v.claim.id, v.claim.text, v.claim.paper, _measured(v), _verdict(v)]
        for v in found
    ]
    names = ["claim", "says", "in the paper", "measured here", "verdict"]
    return html.table("Claims", names, rows, kind="text")


def _measured(v):
    if not v.trials:
        return "\N{EN DASH}"
    numbers = f"{v.mean:.2f} {v.claim.unit}"
    if v.trials > 1:
        numbers = f"{v.mean:.2f} [{v.low:.2f}, {v.high:.2f}] {v.claim.unit}"
    numbers = numbers.replace("-", "\N{MINUS SIGN}")
    return f"{numbers}, {plural(v.trials, 'trial')}"


def _verdict(v):
    kind = v.verdict.replace(" ", "-")
    return html.Markup(f'<span class="{kind}">{v.verdict}</span>')


def arms(names):
    """What each arm is, in the words of its own documentation.

    Args:
        names: dict, arm -> the function it was registered with.
    """
    pairs = []
    for name, function in names.items():
        text = " ".join((inspect.getdoc(function) or "").split())
        pairs.append((name, text))
    return html.definitions(pairs)
