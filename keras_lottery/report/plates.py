"""Plates: which figures a report has, with their titles and captions."""

import dataclasses
import functools

from keras_lottery.report import figures, pictures, svg
from keras_lottery.report.series import few, gap, series
from keras_lottery.report.wording import percent, plural, whole

# The density at which the paper compares arms (figure 3, right).
_COMPARED_AT = 0.211
_BARS = "Points: means over trials; bars: minimum to maximum."
_ASIDE = " Arms are drawn side by side."


@dataclasses.dataclass(frozen=True)
class Plate:
    """A figure of the page and of the directory `figures`.

    Args:
        name: str, of its files.
        title: str.
        caption: str.
        alt: str, what it shows, for who cannot see it.
        figure: `matplotlib.figure.Figure`.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: object

    @functools.cached_property
    def files(self):
        """Dict, name of a file -> bytes."""
        return {
            f"{self.name}.{kind}": svg.render(self.figure, kind)
            for kind in ("png", "svg")
        }

    def inline(self):
        """The `<svg>` for the page."""
        text = self.files[f"{self.name}.svg"].decode()
        return svg.inline(text, self.name, self.alt)


def against_density(run):
    """Accuracy, early stopping and the gap of every arm: a list of `Plate`."""
    bars = _BARS if run.trials > 1 else "One trial."
    if run.trials > 1 and len(run.arms) > 1:
        bars += _ASIDE
    kinds = (
        (
            "accuracy_at_early_stop",
            "Test accuracy at early stop",
            "early_stop_test_accuracy",
            "test accuracy (%)",
            100.0,
        ),
        (
            "early_stop_iteration",
            "Early-stop iteration",
            "early_stop_iteration",
            "iteration",
            1.0,
        ),
        (
            "accuracy_at_the_end",
            "Test accuracy at the end of training",
            "final_test_accuracy",
            "test accuracy (%)",
            100.0,
        ),
        (
            "gap",
            "Training accuracy minus test accuracy, at the end",
            gap,
            "difference (points)",
            100.0,
        ),
    )
    return [
        Plate(
            name,
            title,
            bars,
            _alt_of_series(title, run.results, column, scale),
            figures.over_density(
                run.results, column, label, scale, name.startswith("early")
            ),
        )
        for name, title, column, label, scale in kinds
    ]


def learning_curves(run):
    """Curves of the ticket by density, and of all arms at one density."""
    plates = []
    levels = run.levels("ticket")
    by_level = {
        percent(levels[level]): run.learning("ticket", level)
        for level in few(levels)
    }
    plates += _curves(run, by_level, "by_density", "ticket, by density")
    pruned = [level for level in levels if level]
    if len(run.arms) > 1 and pruned:
        level = min(pruned, key=lambda k: abs(levels[k] - _COMPARED_AT))
        by_arm = {arm: run.learning(arm, level) for arm in run.arms}
        at = f"arms at {percent(levels[level])}"
        if sum(one is not None for one in by_arm.values()) > 1:
            plates += _curves(run, by_arm, "by_arm", at)
    return plates


def layer_densities(run):
    """Density of each layer at a few levels: a list of one `Plate`."""
    tickets, levels = run.tickets, run.levels("ticket")
    shown = {
        percent(levels[level]): [
            tickets.densities[level, layer] for layer in tickets.layers
        ]
        for level in few(levels)
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
        Plate(
            "layer_densities",
            "Density of each layer",
            "A line for each density of the network."
            + (f" {_BARS}" if run.trials > 1 else ""),
            alt,
            figures.layer_densities(tickets.layers, shown),
        )
    ]


def first_layer(run):
    """The first layer's masks: a list of at most one `Plate`."""
    tickets, levels = run.tickets, run.levels("ticket")
    figure = pictures.first_layer(tickets.masks, levels)
    if figure is None:
        return []
    mask = next(iter(tickets.masks.values()))
    if mask.ndim == 4:
        what = (
            f"The {mask.shape[3]} filters as tiles: live connections of each "
            f"place to the {plural(mask.shape[2], 'channel')}"
        )
    else:
        what = (
            "Live connections of each input pixel to the "
            f"{mask.shape[1]:,} units"
        )
    alt = f"Images, one a level. {what}. " + ", ".join(
        f"{percent(levels[level])}: up to {whole(pictures.picture(one).max())}"
        if one.ndim == 2
        else percent(levels[level])
        for level, one in tickets.masks.items()
    )
    return [
        Plate(
            "first_layer",
            f"Masks of the first layer, {tickets.layers[0]}",
            f"{what}; the fuller the colour the more, up to the number above "
            f"each image. Trial {tickets.trial}.",
            alt,
            figure,
        )
    ]


def weights(run):
    """Histograms of the weights that survived, one `Plate` a layer."""
    tickets, levels = run.tickets, run.levels("ticket")
    survivors = {
        percent(levels[level]): found
        for level, found in tickets.survivors.items()
    }
    if not survivors:
        return []
    return [
        Plate(
            f"weights_{layer.replace('/', '_')}",
            f"Trained weights that survived, {layer}",
            f"A line for each density of the network. Trial {tickets.trial}.",
            f"Histograms of the trained weights of {layer} that were not "
            f"pruned, at {', '.join(survivors)}.",
            pictures.weights(survivors, layer),
        )
        for layer in few(tickets.layers, 6)
    ]


def _curves(run, learning, name, what):
    learning = {k: one for k, one in learning.items() if one is not None}
    if not learning:
        return []
    caption = "Markers: early stop."
    if run.trials > 1:
        caption = (
            "Lines: means over trials; bars: minimum to maximum; markers: "
            "mean early-stop iteration."
        )
    kinds = (
        ("val_accuracy", "Validation accuracy", "accuracy (%)", 100.0, False),
        ("val_loss", "Validation loss", "loss", 1.0, True),
    )
    return [
        Plate(
            f"{column}_{name}",
            f"{title}: {what}",
            caption,
            f"Line chart, {title.lower()} against iteration: {what}. At the "
            "end: "
            + ", ".join(
                f"{line} {scale * _last(one.values[column]):.3g}"
                for line, one in learning.items()
            ),
            figures.curves(learning, label, column, scale, falling),
        )
        for column, title, label, scale, falling in kinds
    ]


def _last(values):
    return sum(float(curve[-1]) for curve in values) / len(values)


def _alt_of_series(title, results, column, scale):
    parts = []
    for arm, found in series(results, column).items():
        ends = ", ".join(
            f"{scale * p.mean:.4g} at {percent(p.density)}"
            for p in few(found, 4)
        )
        parts.append(f"{arm}: {ends}.")
    return f"Line chart, {title.lower()} against density. {' '.join(parts)}"
