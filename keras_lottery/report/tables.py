"""Tables: as text for the terminal, as HTML for the page, as Markdown.

Figures and the page write numbers as tables do, by the same functions.
"""

import functools
import inspect
import math

import pandas

from keras_lottery.display import percent
from keras_lottery.report import html
from keras_lottery.report.statistics import differences, is_near, series

# Numbers as text.


def spread(values, form):
    """Mean [minimum, maximum]; the value alone if there is only one.

    Args:
        values: list of numbers.
        form: function, number -> str.
    """
    mean = form(sum(values) / len(values))
    if len(values) < 2:
        return mean
    return f"{mean} [{form(min(values))}, {form(max(values))}]"


def accuracy(fraction):
    """`"98.31"`: percent, without the sign."""
    return f"{100 * fraction:.2f}"


def points(fraction):
    """`"+0.31"`: percentage points, with their sign."""
    return _sign(f"{100 * fraction:+.2f}")


def whole(number):
    """`"2,400"`."""
    return f"{number:,.0f}"


def signed(number):
    """`"+2,400"`."""
    return _sign(f"{number:+,.0f}")


def _sign(text):
    """A minus as wide as the plus; no sign before a zero."""
    if not text.strip("+-0."):
        return text[1:]
    return text.replace("-", "\N{MINUS SIGN}")


def duration(seconds):
    """`"1 h 03 min"`, `"2 min 05 s"`, `"7 s"`."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {left:02d} s" if minutes else f"{left} s"


def plural(number, noun):
    """`"1 trial"`, `"3 trials"`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# Title of a column, column of `Result`, format of a number.
_SUMMARY = (
    ("stop at", "early_stop_iteration", "{:,.0f}".format),
    ("test acc.", "early_stop_test_accuracy", "{:.2%}".format),
    ("at end", "final_test_accuracy", "{:.2%}".format),
)
_ALL_COLUMNS = (
    ("early-stop iteration", "early_stop_iteration", whole),
    ("validation loss there", "early_stop_val_loss", "{:.4f}".format),
    ("validation accuracy there (%)", "early_stop_val_accuracy", accuracy),
    ("test accuracy there (%)", "early_stop_test_accuracy", accuracy),
    ("training accuracy at the end (%)", "final_train_accuracy", accuracy),
    ("validation accuracy at the end (%)", "final_val_accuracy", accuracy),
    ("test accuracy at the end (%)", "final_test_accuracy", accuracy),
    ("seconds", "seconds", "{:.1f}".format),
)
_DASH = "\N{EN DASH}"


def of_all_weights(density, share):
    """The density over the weights of all kernels.

    Args:
        density: float, over those that are pruned.
        share: float, `Run.prunable_share`.
    """
    return 1 - share * (1 - density)


def summary(results, share=None):
    """Early stopping and accuracy of each arm at each level, as text.

    Args:
        results: list of `experiments.Result`.
        share: optional float, `Run.prunable_share`: where some kernels are
            not pruned, a column has the density over all of them.

    Returns:
        A str of lines: density, then for each arm the early-stop iteration,
        the test accuracy there and at the end (means over trials).

    Example:

    ```python
    from keras_lottery import report
    from keras_lottery.experiments import Experiment

    print(report.summary(Experiment(rounds=3, iterations=200).run("runs/a")))
    ```
    """
    measured = [
        (title, form, series(results, column))
        for title, column, form in _SUMMARY
    ]
    arms = measured[0][-1]
    # Those of the first arm that has the level.
    densities = {
        p.level: p.density for found in reversed(arms.values()) for p in found
    }
    levels = sorted(densities)
    table = {
        ("", "level"): levels,
        ("", "density"): [f"{densities[level]:.2%}" for level in levels],
    }
    if share not in (None, 1.0):
        table["", "of all"] = [
            f"{of_all_weights(densities[level], share):.2%}" for level in levels
        ]
    for arm, points in arms.items():
        # Such as one that takes the tickets of another run.
        if not all(is_near(p.density, densities[p.level]) for p in points):
            own = {p.level: f"{p.density:.2%}" for p in points}
            table[arm, "density"] = [own.get(level, "") for level in levels]
        for title, form, by_arm in measured:
            means = {p.level: form(p.mean) for p in by_arm[arm]}
            table[arm, title] = [means.get(level, "") for level in levels]
    # A wider first column tells the arms apart.
    space = {column: 11 for column in table if column[1] == _SUMMARY[0][0]}
    text = pandas.DataFrame(table).to_string(
        index=False, justify="right", col_space=space
    )
    return _without_trailing_spaces(text)


_CLAIM_COLUMNS = (
    "claim",
    "in the paper",
    "counts",
    "measured here",
    "scale",
    "verdict",
)


def verdicts_text(verdicts):
    """The verdicts on claims, what each says, and why one is open, as text.

    Args:
        verdicts: list of `claims.Verdict`.
    """
    table = pandas.DataFrame(
        [_claim_cells(v) for v in verdicts], columns=_CLAIM_COLUMNS
    )
    says = {v.claim.id: v.claim.text for v in verdicts}
    texts = pandas.DataFrame(says.items(), columns=["claim", "says"])
    whys = [(v.claim.id, v.scale, v.why) for v in verdicts if v.why]
    parts = [_left_aligned(table), _left_aligned(texts)]
    if whys:
        frame = pandas.DataFrame(
            whys, columns=["claim", "scale", "why it is open"]
        )
        parts.append(_left_aligned(frame))
    return "\n\n".join(parts)


def _claim_cells(v):
    return [
        v.claim.id,
        v.claim.paper,
        _counts(v.claim),
        _measured(v),
        v.scale,
        v.verdict,
    ]


def _counts(claim):
    """The range in which the quantity counts as what is claimed."""
    low, high = (
        None if math.isinf(end) else f"{claim.shown(end):.3g}"
        for end in claim.holds
    )
    if low is None or high is None:
        return f"> {low}" if high is None else f"< {high}"
    return f"{low} to {high}"


def _left_aligned(table):
    widths = table.map(len).max()
    text = table.to_string(
        index=False,
        justify="left",
        formatters={
            name: f"{{:<{width}}}".format for name, width in widths.items()
        },
    )
    return _without_trailing_spaces(text)


def _without_trailing_spaces(text):
    return "\n".join(line.rstrip() for line in text.splitlines())


def all_results(measurements):
    """A table for each arm, as HTML: every column at every level."""
    return "".join(
        _results_of_an_arm(measurements, arm) for arm in measurements.arms
    )


def _results_of_an_arm(measurements, arm):
    rows = []
    for level, density in measurements.levels(arm).items():
        results = measurements.of(arm, level)
        cells = [
            spread([getattr(r, column) for r in results], form)
            for _, column, form in _ALL_COLUMNS
        ]
        rows.append([level, percent(density), len(results), *cells])
    names = ["level", "density", "trials", *(name for name, *_ in _ALL_COLUMNS)]
    return html.table(f"Arm {arm}", names, rows)


def between_arms(measurements, arm="ticket"):
    """A table for each other arm, as HTML: its distance at every level."""
    if arm not in measurements.arms:
        return ""
    return "".join(
        _between(measurements.results, arm, other)
        for other in measurements.arms
        if other != arm
    )


def _between(results, arm, other):
    pairs = zip(
        differences(results, arm, other, "early_stop_test_accuracy"),
        differences(results, arm, other, "early_stop_iteration"),
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
    return _DASH if p is None else f"{p:.3g}"


def layer_densities(tickets, levels, share):
    """Density of each layer at each level, as HTML.

    Args:
        tickets: `statistics.TicketStatistics`.
        levels: dict, level -> density of the network.
        share: float, `Run.prunable_share`.
    """
    rows = [
        [
            percent(density),
            percent(of_all_weights(density, share)),
            *(_share(tickets.densities[level, one]) for one in tickets.layers),
        ]
        for level, density in levels.items()
        if (level, tickets.layers[0]) in tickets.densities
    ]
    return html.table(
        "Density of each layer (%)",
        ["prunable", "all kernels", *tickets.layers],
        rows,
    )


def _share(densities):
    """Mean [minimum, maximum] in percent; layerwise they are the same."""
    if len(set(densities)) == 1:
        densities = densities[:1]
    return spread(densities, functools.partial(percent, unit=""))


def verdicts(found):
    """The claims with their verdicts, as HTML.

    Args:
        found: list of `claims.Verdict`.
    """
    rows = []
    for v in found:
        id, *cells, verdict = _claim_cells(v)
        cells = [c.replace("-", "\N{MINUS SIGN}") or _DASH for c in cells]
        marked = html.marked(verdict)
        rows.append([id, v.claim.text, *cells, marked, v.why or _DASH])
    names = ["claim", "says", *_CLAIM_COLUMNS[1:], "why it is open"]
    return html.table("Claims", names, rows, kind="text")


def verdicts_markdown(found):
    """The claims with their verdicts, as a Markdown table.

    Args:
        found: list of `claims.Verdict`.
    """
    rows = [["claim", "says", *_CLAIM_COLUMNS[1:]]]
    rows.append(["---"] * len(rows[0]))
    for v in found:
        id, *cells, verdict = _claim_cells(v)
        missing = f": {v.why}" if v.mean is None else ""
        rows.append([id, v.claim.text, *cells, verdict + missing])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _measured(v):
    if v.mean is None:
        return ""
    numbers = f"{v.mean:.2f}"
    if v.low is not None:
        numbers += f" [{v.low:.2f}, {v.high:.2f}]"
    return f"{numbers} {v.claim.unit}, {plural(v.trials, 'trial')}"


def tradeoff(frame):
    """Accuracy, latency and size of each level where it is served, as HTML.

    Args:
        frame: `pandas.DataFrame` of `export.Tradeoff`.
    """
    latencies = [c for c in frame if c.startswith("milliseconds_at_")]
    rows = [
        [
            row["block_size"],
            row["form"],
            row["arm"],
            percent(row["density"]),
            accuracy(row["accuracy"]),
            accuracy(row["file_accuracy"]),
            *(f"{row[column]:.3g}" for column in latencies),
            f"{row['bytes'] / 1e3:,.1f}",
            whole(row["parameters"]),
            row["kernels"],
        ]
        for _, row in frame.iterrows()
    ]
    names = [
        "pruned as one",
        "form",
        "arm",
        "density",
        "test accuracy (%)",
        "of the file (%)",
        *(f"ms, batch {c.rsplit('_', 1)[1]}" for c in latencies),
        "kB",
        "parameters",
        "kernels",
    ]
    return html.table("Levels where they are served", names, rows)


def arms(names):
    """What each arm is, as HTML: the text of its own documentation.

    Args:
        names: dict, arm -> the function it was registered with.
    """
    pairs = []
    for name, function in names.items():
        text = " ".join((inspect.getdoc(function) or "").split())
        pairs.append((name, text))
    return html.definitions(pairs)
