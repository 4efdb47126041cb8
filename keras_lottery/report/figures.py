"""Figures of a run: which there are, their captions, and their files.

A figure is drawn once, in the colours of the light page. In its files they
stay as they are; in the page each becomes a CSS variable, so that the same
drawing is right on a light and on a dark ground.
"""

import collections
import dataclasses
import functools
import html
import io
import re

from keras_lottery import files
from keras_lottery.experiments.barriers import STABLE_BELOW
from keras_lottery.report import charts
from keras_lottery.report.geometry import ALL_LAYERS
from keras_lottery.report.statistics import (
    evenly_spaced,
    generalisation_gap,
    series,
)
from keras_lottery.report.tables import percent, plural, whole

# The density at which the paper compares arms (figure 3, right).
_COMPARED_AT = 0.211
_BARS = "Points: means over trials; bars: minimum to maximum."
_ASIDE = " Arms are drawn side by side."
# Name, title, column, label of the y axis, scale, whether from zero.
_AGAINST_DENSITY = (
    (
        "accuracy_at_early_stop",
        "Test accuracy at early stop",
        "early_stop_test_accuracy",
        "test accuracy (%)",
        100.0,
        False,
    ),
    (
        "early_stop_iteration",
        "Early-stop iteration",
        "early_stop_iteration",
        "iteration",
        1.0,
        True,
    ),
    (
        "accuracy_at_the_end",
        "Test accuracy at the end of training",
        "final_test_accuracy",
        "test accuracy (%)",
        100.0,
        False,
    ),
    (
        "gap",
        "Training accuracy minus test accuracy, at the end",
        generalisation_gap,
        "difference (points)",
        100.0,
        False,
    ),
)
_VARIABLES = {
    charts.INK: "ink",
    charts.MUTED: "muted",
    charts.GRID: "grid",
    charts.PAPER: "card",
    **{colour: f"series-{i}" for i, colour in enumerate(charts.SERIES)},
}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of the page and of the directory `figures`.

    Args:
        name: str, of its files.
        title: str.
        caption: str.
        alt: str, what it shows, for readers who cannot see it.
        chart: `matplotlib.figure.Figure`.
    """

    name: str
    title: str
    caption: str
    alt: str
    chart: object

    @functools.cached_property
    def files(self):
        """Dict, name of a file -> bytes."""
        return {
            f"{self.name}.{kind}": render(self.chart, kind)
            for kind in ("png", "svg")
        }

    def inline(self):
        """The `<svg>` for the page."""
        text = self.files[f"{self.name}.svg"].decode()
        return _inline(text, self.name, self.alt)


def against_density(results, path, title=None):
    """Accuracy and early-stop iteration against density, side by side.

    Points are means over trials; bars reach from the minimum to the maximum.

    Args:
        results: list of `experiments.Result`.
        path: str or path-like of the file to write; the suffix, `.png` or
            `.svg`, tells the format.
        title: optional str.

    Example:

    ```python
    from keras_lottery import report
    from keras_lottery.experiments import Experiment

    results = Experiment(rounds=3, iterations=200).run("runs/digits")
    report.against_density(results, "digits.svg", "LeNet on digits")
    ```

    Source: Frankle & Carbin, 1803.03635, figures 4 and 5.
    """
    chart = charts.accuracy_and_early_stop(results, title)
    with files.atomic_file(path) as file:
        file.write(render(chart, str(path).rpartition(".")[2]))


def figures_of_run(measurements):
    """All figures of a run.

    Args:
        measurements: `statistics.Measurements`.

    Returns:
        A dict of lists of `Figure`: `"results"`, `"learning_curves"`,
        `"masks"` and `"weights"`.
    """
    return {
        "results": _over_density(measurements),
        "learning_curves": _learning_curves(measurements),
        "masks": _layer_densities(measurements)
        + _first_layer_masks(measurements),
        "weights": _weight_histograms(measurements),
    }


def tradeoff(frame):
    """The `Figure` of accuracy against latency and size.

    Args:
        frame: `pandas.DataFrame` of `export.Tradeoff`.
    """
    column = next(c for c in frame if c.startswith("milliseconds_at_"))
    ends = ", ".join(
        f"{row.block_size} {row.form} {row.arm} {100 * row.accuracy:.4g} % "
        f"at {getattr(row, column):.3g} ms and {row.bytes / 1e3:.3g} kB"
        for _, line in frame.groupby(["run", "form", "arm"], sort=False)
        for row in line.sort_values("level").tail(1).itertuples()
    )
    return Figure(
        "tradeoff",
        "Accuracy against latency and size",
        "Each level as a LiteRT file, compacted or with sparse kernels, "
        "whichever is faster; one thread. Stars: the dense network. Points: "
        "means over trials at the end of training; bars: minimum to maximum.",
        f"Line charts, test accuracy against latency and size. Last levels: "
        f"{ends}.",
        charts.tradeoff(frame, int(column.rsplit("_", 1)[1])),
    )


def geometry_of_run(instability, connectivity, distances):
    """The figures of barriers between networks, distances between masks.

    Args:
        instability: list of `Barrier`, between two trainings of one start.
        connectivity: list of `Barrier`, between successive levels.
        distances: list of `MaskDistance`.

    Returns:
        A list of `Figure`.
    """
    figures = [
        _barriers(
            "instability",
            "Instability: two trainings of the same start",
            "that differ in the order of the examples",
            instability,
        ),
        _barriers(
            "connectivity",
            "Connectivity of successive levels",
            "of a level and of the one before it",
            connectivity,
        ),
        _overlap_of_trials(distances),
        _overlap_by_layer(distances),
        _overlap_of_levels(distances),
    ]
    return [figure for figure in figures if figure]


def _barriers(name, title, of_what, measured):
    if not measured:
        return None
    caption = (
        "Error barrier: the highest test error on the line between the weights "
        f"of two trainings {of_what}, minus the mean of theirs. Dashed: "
        f"{percent(STABLE_BELOW)}, below which a network counts as stable."
    )
    return Figure(
        name,
        title,
        caption,
        _alt_of_series(title, measured, "barrier", 100.0),
        charts.over_density(
            measured,
            "barrier",
            "error barrier (points)",
            100.0,
            limit=STABLE_BELOW,
        ),
    )


def _overlap_of_trials(distances):
    """Jaccard index of the masks of two trials over that of chance."""
    return _overlap_over_chance(
        "mask_overlap_of_trials",
        "Overlap of the masks of two trials",
        [one for one in _pairs(distances) if one.layer == ALL_LAYERS],
    )


def _overlap_by_layer(distances):
    """Jaccard index of the ticket's masks over that of chance, by layer."""
    pairs = [
        dataclasses.replace(one, arm=one.layer)
        for one in _pairs(distances)
        if one.arm == "ticket"
    ]
    layers = list(dict.fromkeys(one.layer for one in pairs))
    shown = evenly_spaced(layers, 6)
    return _overlap_over_chance(
        "mask_overlap_by_layer",
        "Overlap of the masks of two trials by layer, ticket",
        [one for one in pairs if one.layer in shown],
    )


def _overlap_over_chance(name, title, pairs):
    return _overlap(
        name,
        title,
        "Jaccard index, weights that both keep of those that one of them "
        "keeps, divided by that of independent masks that keep as many weights "
        "of each layer. Points: means over pairs of trials; bars: minimum to "
        "maximum. Dashed: chance.",
        [
            dataclasses.replace(
                one, jaccard=one.jaccard / one.jaccard_by_chance
            )
            for one in pairs
            if one.jaccard_by_chance
        ],
        "times chance",
        1.0,
    )


def _pairs(distances):
    """Distances between trials, from level 1: dense masks are all equal."""
    return [one for one in distances if one.between == "trials" and one.level]


def _overlap_of_levels(distances):
    """Jaccard index of the ticket's mask and the one before, by layer."""
    pairs = [
        dataclasses.replace(one, arm=one.layer)
        for one in distances
        if one.between == "levels" and one.arm == "ticket"
    ]
    layers = list(dict.fromkeys(one.layer for one in pairs))
    if not any(_moves(pairs, layer) for layer in layers):
        # Each layer loses the same share in every round.
        return None
    shown = evenly_spaced(layers, 6)
    return _overlap(
        "mask_overlap_of_levels",
        "Overlap of a mask with that of the level before, ticket",
        "Jaccard index: the share of a layer's weights that survived the "
        "round.",
        [one for one in pairs if one.layer in shown],
    )


def _moves(pairs, layer):
    found = [one.jaccard for one in pairs if one.layer == layer]
    return layer != ALL_LAYERS and max(found) - min(found) > 0.02


def _overlap(
    name, title, caption, distances, label="Jaccard index", limit=None
):
    if not distances:
        return None
    return Figure(
        name,
        title,
        caption,
        _alt_of_series(title, distances, "jaccard", 1.0),
        charts.over_density(distances, "jaccard", label, limit=limit),
    )


def _over_density(measurements):
    """Accuracy, early stopping and the gap of every arm."""
    results = measurements.results
    caption = _BARS if measurements.trials > 1 else "One trial."
    if measurements.trials > 1 and len(measurements.arms) > 1:
        caption += _ASIDE
    return [
        Figure(
            name,
            title,
            caption,
            _alt_of_series(title, results, column, scale),
            charts.over_density(results, column, label, scale, from_zero),
        )
        for name, title, column, label, scale, from_zero in _AGAINST_DENSITY
    ]


def _learning_curves(measurements):
    """Curves of the ticket by density, and of all arms at one density."""
    arms, levels = measurements.arms, measurements.levels("ticket")
    labels = _labels(levels)
    curves = _known_curves(
        measurements,
        {labels[k]: ("ticket", k) for k in evenly_spaced(levels)},
    )
    figures = _of_curves(curves, "by_density", "ticket, by density")
    pruned = [level for level in levels if level]
    if pruned:
        level = min(pruned, key=lambda k: abs(levels[k] - _COMPARED_AT))
        curves = _known_curves(
            measurements, {arm: (arm, level) for arm in arms}
        )
        if len(curves) > 1:
            what = f"arms at {percent(levels[level])}"
            figures += _of_curves(curves, "by_arm", what)
    return figures


def _labels(levels):
    """Dict, level -> its density, and its number where others read the same.

    Args:
        levels: dict, level -> density.
    """
    texts = {level: percent(density) for level, density in levels.items()}
    count = collections.Counter(texts.values())
    return {
        level: text if count[text] == 1 else f"{text} (level {level})"
        for level, text in texts.items()
    }


def _known_curves(measurements, lines):
    """Dict, label -> `LearningCurves`, where there are any."""
    curves = {
        label: measurements.learning_curves(arm, level)
        for label, (arm, level) in lines.items()
    }
    return {label: found for label, found in curves.items() if found}


def _of_curves(curves, name, what):
    """The figures of validation accuracy and loss."""
    if not curves:
        return []
    caption = "Markers: early stop."
    if any(len(one.early_stops) > 1 for one in curves.values()):
        caption = (
            "Lines: means over trials; bars: minimum to maximum; markers: "
            "mean early-stop iteration."
        )
    diverged = sum(one.diverged for one in curves.values())
    if diverged:
        caption += (
            f" {plural(diverged, 'training')} that ended early, since the "
            f"loss was no number, {'is' if diverged == 1 else 'are'} left out."
        )
    kinds = (
        ("val_accuracy", "Validation accuracy", "accuracy (%)", 100.0, False),
        ("val_loss", "Validation loss", "loss", 1.0, True),
    )
    return [
        Figure(
            f"{column}_{name}",
            f"{title}: {what}",
            caption,
            _alt_of_curves(
                f"{title.lower()} against iteration: {what}",
                curves,
                column,
                scale,
            ),
            charts.learning_curves(curves, label, column, scale, falling),
        )
        for column, title, label, scale, falling in kinds
    ]


def _layer_densities(measurements):
    """Density of each layer at a few levels: a list of at most one `Figure`."""
    tickets, levels = measurements.tickets, measurements.levels("ticket")
    labels = _labels(levels)
    shown = {
        labels[level]: [
            tickets.densities[level, layer] for layer in tickets.layers
        ]
        for level in evenly_spaced(levels)
        if level in tickets.masks
    }
    if not shown:
        return []
    alt = "Line chart, density of each layer. " + " ".join(
        f"Network at {name}: "
        + ", ".join(
            f"{layer} {percent(sum(row) / len(row))}"
            for layer, row in zip(tickets.layers, rows)
        )
        + "."
        for name, rows in shown.items()
    )
    return [
        Figure(
            "layer_densities",
            "Density of each layer",
            "A line for each density of the network."
            + (f" {_BARS}" if measurements.trials > 1 else ""),
            alt,
            charts.layer_densities(tickets.layers, shown),
        )
    ]


def _first_layer_masks(measurements):
    """The first layer's masks: a list of at most one `Figure`."""
    tickets, levels = measurements.tickets, measurements.levels("ticket")
    figure = charts.first_layer_masks(tickets.masks, levels)
    if figure is None:
        return []
    mask = next(iter(tickets.masks.values()))
    if mask.ndim == 4:
        what = (
            f"The {mask.shape[3]} filters as tiles: live connections of each "
            f"position to the {plural(mask.shape[2], 'channel')}"
        )
    else:
        what = (
            "Live connections of each input pixel to the "
            f"{mask.shape[1]:,} units"
        )
    alt = f"Images, one per level. {what}. " + ", ".join(
        f"{percent(levels[level])}: up to {whole(charts.mask_image(one).max())}"
        if one.ndim == 2
        else percent(levels[level])
        for level, one in tickets.masks.items()
    )
    return [
        Figure(
            "first_layer",
            f"Masks of the first layer, {tickets.layers[0]}",
            f"{what}; the stronger the colour, the more, up to the number "
            f"above each image. Trial {tickets.trial}.",
            alt,
            figure,
        )
    ]


def _weight_histograms(measurements):
    """Histograms of the weights that survived, one `Figure` per layer."""
    tickets = measurements.tickets
    labels = _labels(measurements.levels("ticket"))
    survivors = {
        labels[level]: found for level, found in tickets.survivors.items()
    }
    if not survivors:
        return []
    return [
        Figure(
            f"weights_{layer.replace('/', '_')}",
            f"Trained weights that survived, {layer}",
            f"A line for each density of the network. Trial {tickets.trial}.",
            f"Histograms of the trained weights of {layer} that were not "
            f"pruned, at {', '.join(survivors)}.",
            charts.weight_histograms(survivors, layer),
        )
        for layer in evenly_spaced(tickets.layers, 6)
    ]


def _alt_of_curves(what, curves, column, scale):
    ends = ", ".join(
        f"{label} {scale * one.values[column][:, -1].mean():.3g}"
        for label, one in curves.items()
    )
    return f"Line chart, {what}. At the end: {ends}"


def _alt_of_series(title, results, column, scale):
    parts = []
    for arm, found in series(results, column).items():
        ends = ", ".join(
            f"{scale * p.mean:.4g} at {percent(p.density)}"
            for p in evenly_spaced(found, 4)
        )
        parts.append(f"{arm}: {ends}.")
    return f"Line chart, {title.lower()} against density. {' '.join(parts)}"


def render(chart, kind):
    """A `matplotlib.figure.Figure` as the bytes of a `"png"` or an `"svg"`."""
    import matplotlib

    content = io.BytesIO()
    with matplotlib.rc_context(charts.STYLE):
        # Without the date, the same figure is the same file.
        metadata = {"Date": None} if kind == "svg" else None
        chart.savefig(content, format=kind, metadata=metadata)
    return content.getvalue()


def _inline(text, name, alt):
    """A figure as an `<svg>` element for the page.

    Args:
        text: str, the figure as a file of SVG.
        name: str, of which its ids are made: unique in the page.
        alt: str, what it shows, for readers who cannot see it.

    Returns:
        A str of HTML.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.S)
    # Ids are made from what is drawn: equal in two figures.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    text = _without_font_family(text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    view = re.search(r'viewBox="[^"]*"', text).group()
    head = (
        f'<svg {view} xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'role="img" aria-label="{html.escape(alt, quote=True)}">'
    )
    return head + text[text.index(">") + 1 :]


def _without_font_family(text):
    """Takes the family out of text styles, for the page's font to apply."""
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    return re.sub(
        r"font: (\d+) ([\d.]+px) [^;\"]*",
        r"font-weight: \1; font-size: \2",
        text,
    )
