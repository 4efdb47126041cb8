"""How objects show themselves: lines for a terminal, HTML for a notebook.

The HTML is a few tables, bars and lines with colours of their own, readable on
a light and on a dark ground. It needs no script, no style sheet and no file.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from keras_lottery import masks as masks_lib

_BLUE, _GREY = "#2b86d9", "rgba(127, 127, 127, 0.25)"
_COLOURS = (
    _BLUE, "#e0742a", "#1f9e78", "#b765a0", "#a98600", "#3fa7bf", "#808b96",
)  # fmt: skip
# What is drawn of a level's logs: the first of these that there is.
_DRAWN = ("val_accuracy", "accuracy", "val_loss", "loss")
# Lines of a repr, so that it fits a terminal.
_ROWS = 40

Lines = dict[str, list[tuple[float, float]]]


def percent(fraction: float, unit: str = " %") -> str:
    """A fraction with three digits: `"3.58 %"`, `"51.0 %"`, `"100 %"`."""
    number = 100 * fraction
    return f"{number:#.3g}{unit}" if number < 99.95 else f"{number:.0f}{unit}"


# A search.


def search_text(pruner: Any) -> str:
    """A `LotteryTicketPruner` in one line."""
    facts = {"model": repr(pruner.model.name), "level": pruner.level}
    if pruner.attached:
        facts["density"] = percent(pruner.density)
    facts["state"] = pruner.state.phase
    return _line("LotteryTicketPruner", facts)


def search_html(pruner: Any) -> str:
    """A `LotteryTicketPruner`: its state, density by weight, its levels."""
    parts = [_paragraph(search_text(pruner))]
    if pruner.attached:
        parts.append(masks_html(pruner.masks))
    if pruner.levels:
        parts.append(levels_html(pruner.levels))
    return _block(parts)


# Levels.


def levels_text(levels: Sequence[Any]) -> str:
    """`Levels` as a table: density, early stop, and the last epoch's logs."""
    if not levels:
        return "Levels: none was trained."
    return _text_table(*_levels_table(levels))


def levels_html(levels: Sequence[Any]) -> str:
    """`Levels`: the table, and a metric over density."""
    if not levels:
        return _paragraph(levels_text(levels))
    name = _drawn_metric(levels)
    points = [(r.density, r.metrics[name]) for r in levels if name in r.metrics]
    return _block(
        [_table(*_levels_table(levels)), chart({name: points}, name)]
        if len(points) > 1
        else [_table(*_levels_table(levels))]
    )


def _levels_table(levels):
    first = _scalars(levels[0])
    names = [n for n in _DRAWN if n in first]
    names += [n for n in first if n not in names and n != "learning_rate"]
    # Three metrics fit a terminal.
    names = names[:3]
    head = ["level", "density", "early stop at", *names]
    rows = [
        [
            str(level.index),
            percent(level.density),
            _or_dash(level.early_stop_iteration, "{:,}"),
            *(_or_dash(level.metrics.get(n), "{:.4f}") for n in names),
        ]
        for level in levels
    ]
    return head, rows


def _scalars(level):
    """The metrics that are one number, not one for each class."""
    return {n: v for n, v in level.metrics.items() if np.ndim(v) == 0}


def _drawn_metric(levels):
    there = _scalars(levels[0])
    return next((n for n in _DRAWN if n in there), next(iter(there), ""))


# A ticket.


def ticket_text(ticket: Any) -> str:
    """A `Ticket` in one line."""
    kept = sum(int(mask.sum()) for mask in ticket.masks.values())
    total = sum(mask.size for mask in ticket.masks.values())
    facts = {
        "level": ticket.level,
        "density": percent(ticket.density) if total else "none",
        "kept": f"{kept:,} of {total:,}",
        "rewind_step": ticket.rewind_point.step,
    }
    if ticket.trained is not None:
        facts["trained"] = True
    return _line("Ticket", facts)


def ticket_html(ticket: Any) -> str:
    """A `Ticket`: the line, and density by weight."""
    return _block([_paragraph(ticket_text(ticket)), masks_html(ticket.masks)])


def masks_html(masks: masks_lib.Masks) -> str:
    """Density of each weight as a table with bars."""
    rows = [
        [
            path,
            " × ".join(map(str, mask.shape)),
            f"{int(mask.sum()):,}",
            percent(masks_lib.density({path: mask})),
            _bar(masks_lib.density({path: mask})),
        ]
        for path, mask in masks.items()
    ]
    return _table(["weight", "shape", "kept", "density", ""], rows)


# Results of an experiment.


def results_text(results: Sequence[Any]) -> str:
    """`Results` as a table: mean test accuracy of each arm at each level."""
    if not results:
        return "Results: no training."
    return f"{_results_line(results)}\n{_text_table(*_results_table(results))}"


def results_html(results: Sequence[Any]) -> str:
    """`Results`: the table, and test accuracy over density."""
    if not results:
        return _paragraph(results_text(results))
    lines: Lines = {
        arm: [
            (cell[0], cell[1])
            for cell in (cells[arm] for cells in _cells(results).values())
            if cell
        ]
        for arm in _arms(results)
    }
    return _block(
        [
            _paragraph(_results_line(results)),
            _table(*_results_table(results)),
            chart(lines, "test accuracy at early stop"),
        ]
    )


def _results_line(results):
    trials = len({r.trial for r in results})
    return (
        f"Results: {len(results)} trainings, {trials} trial"
        f"{'' if trials == 1 else 's'}; test accuracy at early stop, %"
        + (", mean over trials" if trials > 1 else "")
    )


def _results_table(results):
    arms = _arms(results)
    rows = []
    for level, cells in _cells(results).items():
        density = next(cell[0] for cell in cells.values() if cell)
        values = [
            f"{100 * cell[1]:.2f}" if (cell := cells[arm]) else "-"
            for arm in arms
        ]
        rows.append([str(level), percent(density), *values])
    return ["level", "density", *arms], rows


def _arms(results):
    return list(dict.fromkeys(r.arm for r in results))


def _cells(results):
    """Dict, level -> dict, arm -> means of density and accuracy."""
    cells = {}
    for level in sorted({r.level for r in results}):
        cells[level] = {}
        for arm in _arms(results):
            rows = [r for r in results if (r.level, r.arm) == (level, arm)]
            cells[level][arm] = rows and (
                _mean(r.density for r in rows),
                _mean(r.early_stop_test_accuracy for r in rows),
            )
    return cells


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


# Text.


def _line(name, facts):
    return f"{name}({', '.join(f'{k}={v}' for k, v in facts.items())})"


def _or_dash(value, form):
    return "-" if value is None else form.format(value)


def _text_table(head, rows):
    """Columns aligned to the right; the middle rows of many are left out."""
    if len(rows) > _ROWS:
        half = _ROWS // 2
        rows = [*rows[:half], ["..."] * len(head), *rows[-half:]]
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths))
        for row in [head, *rows]
    )


# HTML.


class _Markup(str):
    """Text that is HTML already; all other text is escaped."""


def _block(parts):
    return f"<div>{''.join(parts)}</div>"


def _paragraph(text):
    return f"<p>{escape(text)}</p>"


def _table(head, rows):
    style = ' style="text-align: right; padding: 0.1em 0.6em"'
    names = "".join(f"<th{style}>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td{style}>{_cell(c)}</td>" for c in row) + "</tr>"
        for row in rows
    )
    return (
        f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cell(text):
    return text if isinstance(text, _Markup) else escape(text)


def _bar(share):
    return _Markup(
        f'<div style="width: 8em; height: 0.7em; background: {_GREY}">'
        f'<div style="width: {100 * share:.1f}%; height: 100%; '
        f'background: {_BLUE}"></div></div>'
    )


def chart(lines: Lines, label: str) -> str:
    """Values over density as an `<svg>`; the density falls to the right.

    Args:
        lines: dict, name of a line -> list of (density, value).
        label: str, of the values.

    Returns:
        A str, empty if there is nothing to draw a line between.
    """
    points = [
        (x, y)
        for line in lines.values()
        for x, y in line
        if x > 0 and math.isfinite(y)
    ]
    xs = [-math.log(x) for x, _ in points]
    if not points or min(xs) == max(xs):
        return ""
    low, high = min(y for _, y in points), max(y for _, y in points)
    span = (high - low) or 1.0

    def place(x, y):
        across = (-math.log(x) - min(xs)) / (max(xs) - min(xs))
        return 60 + 320 * across, 20 + 100 * (high - y) / span

    # The legend has a line for each.
    height = max(146, 30 + 16 * len(lines))
    drawn = []
    for i, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        found = [place(x, y) for x, y in line if x > 0 and math.isfinite(y)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in found)
        drawn.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" '
            'stroke-width="1.8"/>'
        )
        drawn += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>'
            for x, y in found
        ]
        if len(lines) > 1:
            drawn.append(
                _svg_text(390, 24 + 16 * i, name, "start", f'fill="{colour}"')
            )
    densities = [x for x, _ in points]
    drawn += [
        _svg_text(55, 24, f"{high:.4g}", "end"),
        _svg_text(55, 124, f"{low:.4g}", "end"),
        _svg_text(60, 140, percent(max(densities)), "start"),
        _svg_text(380, 140, percent(min(densities)), "end"),
        _svg_text(220, 140, "density", "middle"),
        _svg_text(60, 11, label, "start"),
    ]
    frame = f'<path d="M60 20V125H380" fill="none" stroke="{_GREY}"/>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 500 {height}" '
        'width="500" style="max-width: 100%; height: auto" role="img" '
        f'aria-label="{escape(label)} over density" font-size="11" '
        f'font-family="sans-serif">{frame}{"".join(drawn)}</svg>'
    )


def _svg_text(x, y, text, anchor, colour='fill="currentColor"'):
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" {colour}>'
        f"{escape(text)}</text>"
    )
