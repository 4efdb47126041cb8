"""Medians, ranges and ratios of what was measured: table, CSV and figure."""

import dataclasses

import pandas as pd

from benchmarks.measurement import Row
from benchmarks.subjects import (
    EXPERIMENT,
    LOOP,
    PARTS,
    SUBJECTS,
    main_metric,
    reference,
)

_FIELDS = [field.name for field in dataclasses.fields(Row)]
_PRODUCTS = "matrix products alone"
_OWN, _OTHERS, _BOUND = "#0072B2", "#999999", "#E69F00"
# The parts of an experiment.
_SHADES = dict(zip(PARTS, (_OWN, "#56B4E9", "#BFE1F6")))


def summarise(rows, network):
    """Medians, ranges and ratios of every subject.

    Args:
        rows: list of `Row`.
        network: str.

    Returns:
        A dict, subject -> metric -> dict with `median`, `low`, `high`; for
        the main metric also `ratio`, the same of the ratio to this package's
        subject in the same repetition: above 1 is slower.
    """
    data = _frame(row for row in rows if row.network == network)
    summary = {}
    for (subject, metric), values in data.groupby(["subject", "metric"]):
        summary.setdefault(subject, {})[metric] = _spread(values["value"])
    main = main_metric(network)
    turns = data[data["metric"] == main].pivot(
        index="repetition", columns="subject", values="value"
    )
    if reference(network) in turns:
        ratios = turns.div(turns[reference(network)], axis="index")
        for subject, values in ratios.items():
            summary[subject][main]["ratio"] = _spread(values.dropna())
    return summary


def _frame(rows):
    frame = pd.DataFrame(map(dataclasses.asdict, rows), columns=_FIELDS)
    return frame.astype({"repetition": "Int64"})


def _spread(values):
    return {
        "median": float(values.median()),
        "low": float(values.min()),
        "high": float(values.max()),
    }


def write_csv(rows, path):
    """One line for each number.

    Args:
        rows: list of `Row`.
        path: str.
    """
    _frame(rows).to_csv(path, index=False)


# Text.


def table(summary, network, about=None):
    """The table of one network, and what it says in sentences.

    Args:
        summary: dict, as `summarise` returns.
        network: str.
        about: optional dict, subject -> dict of what to know about it.

    Returns:
        A str of lines.
    """
    main = main_metric(network)
    cells = {
        subject: _cells(summary[subject], main)
        for subject in SUBJECTS
        if subject in summary
    }
    frame = pd.DataFrame.from_dict(cells, orient="index").fillna("")
    return "\n".join([frame.to_string(), *_notes(summary, main, about or {})])


def _cells(metrics, main):
    """Dict, column -> text."""
    spread, ratio = metrics[main], metrics[main].get("ratio")
    memory = {"extra_mb": "extra MB", "peak_rss_mb": "peak MB"}
    shown = "extra_mb" if main == "prune_ms" else "peak_rss_mb"

    def cell(metric, form):
        known = metrics.get(metric)
        return format(known["median"], form) if known else ""

    return {
        main.replace("_", " "): number(spread["median"]),
        "min - max": f"{number(spread['low'])} - {number(spread['high'])}",
        "ratio": f"{ratio['median']:.2f}" if ratio else "",
        # A column of another name, which looks the same.
        "min - max ": _range(ratio, ".2f") if ratio else "",
        memory[shown]: cell(shown, ",.0f"),
        "density": cell("density", ".1%"),
        "warm-up s": cell("warm_up_seconds", ".1f"),
    }


def _range(spread, form):
    return f"{spread['low']:{form}} - {spread['high']:{form}}"


def number(value):
    """A number as text, of at least three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _notes(summary, main, about):
    notes = []
    if EXPERIMENT in summary:
        notes.append(_experiment(summary[EXPERIMENT], about.get(EXPERIMENT)))
    loop = summary.get(LOOP, {})
    if "evaluated_step_ms" in loop:
        step = number(loop["evaluated_step_ms"]["median"])
        backend = about.get(LOOP, {}).get("backend", "unknown")
        notes.append(
            f"The Loop, on the backend {backend}, takes {step} ms a step when "
            "it evaluates 5,000 examples every 100 steps."
        )
    ratio = summary.get(_PRODUCTS, {}).get(main, {}).get("ratio")
    if ratio:
        notes.append(
            f"The matrix products alone are {ratio['median']:.0%} "
            f"({_range(ratio, '.0%')}) of the Loop's step."
        )
    for subject, metrics in summary.items():
        if "extra_mb" in metrics and "model_mb" in metrics:
            extra = metrics["extra_mb"]["median"]
            size = metrics["model_mb"]["median"]
            notes.append(
                f"{subject}: at its peak {extra / size:.2f} times the "
                f"model's {size:,.0f} MB more than before."
            )
    return notes


def _experiment(metrics, about):
    size = ""
    if about:
        size = (
            f", {about['trainings']} trainings of {about['iterations']:,} "
            f"steps on {about['dataset']},"
        )
    parts = ", ".join(
        f"{part} {number(metrics[f'{part}_ms']['median'])}" for part in PARTS
    )
    return (
        f"The whole Experiment{size} takes "
        f"{number(metrics['step_ms']['median'])} ms a step, all included: "
        f"{parts}."
    )


# The figure.


def draw(summaries, path):
    """Draws medians, with lines from the minimum to the maximum.

    Args:
        summaries: dict, network -> what `summarise` returns.
        path: str; the suffix tells the format.
    """
    # The object interface: drawing must not depend on a display.
    from matplotlib.figure import Figure

    heights = [len(summary) + 1.5 for summary in summaries.values()]
    figure = Figure(
        figsize=(8, 0.4 * sum(heights)), dpi=120, layout="constrained"
    )
    panels = figure.subplots(
        len(summaries), 1, squeeze=False, height_ratios=heights
    )
    for axes, (network, summary) in zip(panels[:, 0], summaries.items()):
        _bars(axes, summary, network)
    figure.savefig(path)


def _bars(axes, summary, network):
    main = main_metric(network)
    subjects = [subject for subject in SUBJECTS if subject in summary]
    for row, subject in enumerate(subjects):
        _bar(axes, row, subject, summary[subject], main)
    axes.set_yticks(range(len(subjects)), subjects)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
    if EXPERIMENT in summary:
        axes.legend(fontsize=8, title=EXPERIMENT, title_fontsize=8)
    unit = "ms a step" if main == "step_ms" else "ms a pruning"
    axes.set_title(f"{network}, {unit}", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _bar(axes, row, subject, metrics, main):
    spread = metrics[main]
    parts = [part for part in PARTS if f"{part}_ms" in metrics]
    left = 0.0
    for part in parts:
        width = metrics[f"{part}_ms"]["median"]
        axes.barh(
            row, width, 0.7, left, color=_SHADES[part], label=part, zorder=1
        )
        left += width
    if not parts:
        axes.barh(row, spread["median"], 0.7, color=_colour(subject), zorder=1)
    median = spread["median"]
    reach = [[median - spread["low"]], [spread["high"] - median]]
    axes.errorbar(median, row, xerr=reach, color="black", capsize=2)
    ratio = spread.get("ratio")
    times = f"  ({ratio['median']:.2f}x)" if ratio else ""
    axes.annotate(
        f"{number(median)} ms{times}",
        (spread["high"], row),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
    )


def _colour(subject):
    if subject.startswith("keras_lottery"):
        return _OWN
    return _BOUND if subject.startswith("matrix") else _OTHERS
