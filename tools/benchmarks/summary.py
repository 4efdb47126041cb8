"""Medians, spreads and ratios of rows; as a table, CSV and JSON."""

import collections
import csv
import dataclasses
import statistics

from benchmarks.subjects import LOOP, SUBJECTS, main_metric, reference

_FIELDS = ("subject", "network", "metric", "repetition", "value")
_PRODUCTS = "matrix products alone"


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum over repetitions."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values):
        """The spread of an iterable of numbers."""
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))


def by_metric(rows, network):
    """What was measured on a network.

    Args:
        rows: list of `Row`.
        network: str.

    Returns:
        A dict, subject -> metric -> repetition -> value.
    """
    values = collections.defaultdict(lambda: collections.defaultdict(dict))
    for row in rows:
        if row.network == network:
            values[row.subject][row.metric][row.repetition] = row.value
    return values


def ratios(values, others):
    """Spread of value / other, each within one repetition.

    Args:
        values: dict, repetition -> number.
        others: dict, repetition -> number.

    Returns:
        A `Spread`, or `None` if they have no repetition in common.
    """
    common = [r for r in values if r in others and r is not None]
    if not common:
        return None
    return Spread.of(values[r] / others[r] for r in common)


def summarise(rows, network):
    """Spreads and ratios of every subject.

    Args:
        rows: list of `Row`.
        network: str.

    Returns:
        A dict, subject -> metric -> dict with `median`, `low`, `high`; for
        the main metric also `ratio`, the same of the ratio to this package's
        subject: above 1 is slower.
    """
    values, main = by_metric(rows, network), main_metric(network)
    base = values.get(reference(network), {}).get(main, {})
    summary = {}
    for subject, metrics in values.items():
        summary[subject] = {
            metric: dataclasses.asdict(Spread.of(numbers.values()))
            for metric, numbers in metrics.items()
        }
        ratio = ratios(metrics[main], base)
        if ratio:
            summary[subject][main]["ratio"] = dataclasses.asdict(ratio)
    return summary


def table(summary, network, about=None):
    """The table of one network, as aligned text.

    Args:
        summary: dict, as `summarise` returns.
        network: str.
        about: optional dict, subject -> dict of what to know about it.

    Returns:
        A str of lines.
    """
    main = main_metric(network)
    memory = "extra_mb" if main == "prune_ms" else "peak_rss_mb"
    lines = [
        f"{'':<32}{main.replace('_', ' '):>10}{'min - max':>19}"
        f"{'ratio':>8}{'min - max':>15}"
        f"{'extra MB' if memory == 'extra_mb' else 'peak MB':>10}"
        f"{'density':>9}{'warm-up s':>11}"
    ]
    for subject in SUBJECTS:
        if subject in summary:
            lines.append(_line(subject, summary[subject], main, memory))
    return "\n".join([*lines, *_notes(summary, main, about or {})])


def _line(subject, metrics, main, memory):
    spread = metrics[main]
    ratio = spread.get("ratio")
    text = f"{subject:<32}{number(spread['median']):>10}"
    text += f"{number(spread['low']) + ' - ' + number(spread['high']):>19}"
    if ratio:
        between = f"{ratio['low']:.2f} - {ratio['high']:.2f}"
        text += f"{ratio['median']:>8.2f}{between:>15}"
    else:
        text += " " * 23
    for metric, width, form in (
        (memory, 10, ",.0f"),
        ("density", 9, ".1%"),
        ("warm_up_seconds", 11, ".1f"),
    ):
        known = metric in metrics
        cell = format(metrics[metric]["median"], form) if known else ""
        text += f"{cell:>{width}}"
    return text.rstrip()


def number(value):
    """A number as text, of at least three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _notes(summary, main, about):
    notes = []
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
            f"({ratio['low']:.0%} - {ratio['high']:.0%}) of the Loop's step."
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


def write_csv(rows, path):
    """One line for each number.

    Args:
        rows: list of `Row`.
        path: str.
    """
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_FIELDS)
        writer.writerows(dataclasses.astuple(row) for row in rows)
