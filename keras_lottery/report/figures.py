"""The figures of the paper, drawn from results."""

import itertools

from keras_lottery.report import svg
from keras_lottery.report.series import series
from keras_lottery.report.wording import percent

_MARKERS = "osD^vPX<>*hdp"
_BAR = {"capsize": 1.5, "elinewidth": 0.9}
_DASHES = (
    "-",
    (0, (5, 1.5)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (1, 1.2)),
    (0, (2.5, 1.5)),
)


def against_density(results, path, title=None):
    """Accuracy and early-stop iteration against density, side by side.

    Points are means over trials; bars reach from the minimum to the maximum.

    Args:
        results: list of `experiments.Result`.
        path: str or path-like; the suffix tells the format (PNG, SVG).
        title: optional str.

    Source: Frankle & Carbin, 1803.03635, figures 4 and 5.
    """
    with svg.canvas(10, 4.3) as figure:
        left, right = figure.subplots(1, 2)
        _over_density(left, results, "early_stop_test_accuracy", 100)
        left.set_ylabel("test accuracy at early stop (%)")
        _over_density(right, results, "early_stop_iteration", 1)
        right.set_ylabel("early-stop iteration")
        right.set_ylim(bottom=0)
        legend(figure, left, "outside lower left")
        if title:
            figure.suptitle(title, fontsize=10)
        svg.write(figure, path)


def over_density(results, column, label, scale=1.0, from_zero=False):
    """One measurement of every arm against density.

    Args:
        results: list of `experiments.Result`.
        column: str, a column of it, or a function of a result.
        label: str, of the y axis.
        scale: float, by which values are multiplied.
        from_zero: bool, whether the y axis starts at 0.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    with svg.canvas() as figure:
        axes = figure.subplots()
        _over_density(axes, results, column, scale)
        axes.set_ylabel(label)
        if from_zero:
            axes.set_ylim(bottom=0)
        legend(figure, axes)
    return figure


def curves(learning, label, column, scale=1.0, falling=False):
    """Learning curves: means over trials, bars from minimum to maximum.

    The marker is at the mean early-stop iteration. What lies far above (or
    below) most of the curves, as the first iterations do, is off the scale.

    Args:
        learning: dict, label of a line -> `reading.Learning`.
        label: str, of the y axis.
        column: str, `"val_accuracy"` or `"val_loss"`.
        scale: float, by which values are multiplied.
        falling: bool, whether they start high.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    import numpy as np

    with svg.canvas() as figure:
        axes = figure.subplots()
        everything = []
        lines = zip(_styles(), learning.items())
        for i, (style, (name, one)) in enumerate(lines):
            values = scale * np.stack(one.values[column])
            everything += [values.min(0), values.max(0)]
            stop = np.abs(one.iterations - np.mean(one.early_stops)).argmin()
            # Bars in turn, so that those of one line hide no other's.
            step = max(1, len(one.iterations) // 5)
            axes.errorbar(
                one.iterations,
                values.mean(0),
                yerr=_errors(values) if len(values) > 1 else None,
                errorevery=(i * step // len(learning), step),
                label=name,
                markevery=[stop],
                **_BAR,
                **{**style, "markersize": 7},
            )
        _leave_out_the_start(axes, np.concatenate(everything), falling)
        axes.set_xlabel("iteration")
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        legend(figure, axes)
    return figure


def layer_densities(layers, densities):
    """Density of each layer, a line for each of a few levels.

    Args:
        layers: list of str, the layers' names in order.
        densities: dict, label of a line -> list over layers of lists over
            trials.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    import numpy as np

    with svg.canvas() as figure:
        axes = figure.subplots()
        places = np.arange(len(layers))
        for style, (name, rows) in zip(_styles(), densities.items()):
            values = 100 * np.array(rows)
            axes.errorbar(
                places,
                values.mean(1),
                yerr=_errors(values.T) if values.shape[1] > 1 else None,
                label=name,
                **_BAR,
                **style,
            )
        axes.set_yscale("log")
        _ticks_without_powers(axes)
        long = max(map(len, layers)) * len(layers) > 45
        axes.set_xticks(
            places,
            layers,
            rotation=90 if long else 0,
            fontsize=8 if len(layers) > 12 else 10,
        )
        axes.margins(x=0.08)
        axes.set_ylabel("density of the layer (%)")
        legend(figure, axes)
    return figure


def arm_styles(arms):
    """Dict, arm -> line style; an arm keeps its own from figure to figure."""
    return dict(zip(arms, _styles()))


def _styles():
    """Styles without end, told apart by marker and dashes too."""
    for i, colour in enumerate(itertools.cycle(svg.SERIES)):
        yield {
            "color": colour,
            "marker": _MARKERS[i % len(_MARKERS)],
            "linestyle": _DASHES[i % len(_DASHES)],
            "markersize": 4.5,
            "markeredgecolor": svg.PAPER,
            "markeredgewidth": 0.5,
            "linewidth": 1.5,
        }


def _errors(values):
    """Lengths of the bars below and above the means over the first axis."""
    import numpy as np

    mean = values.mean(0)
    # The mean of equals may differ from them in its last bit.
    return np.maximum(0.0, [mean - values.min(0), values.max(0) - mean])


def _over_density(axes, results, column, scale):
    arms = series(results, column)
    styles = arm_styles(arms)
    for i, (arm, points) in enumerate(arms.items()):
        errors = [
            [scale * max(0.0, p.mean - p.low) for p in points],
            [scale * max(0.0, p.high - p.mean) for p in points],
        ]
        bars = max(p.trials for p in points) > 1
        # Side by side, since bars would hide each other.
        aside = 0.95 ** (i / len(arms) - 0.5) if bars else 1.0
        axes.errorbar(
            [100 * aside * p.density for p in points],
            [scale * p.mean for p in points],
            yerr=errors if bars else None,
            label=arm,
            **_BAR,
            **styles[arm],
        )
    axes.set_xscale("log")
    axes.invert_xaxis()
    densities = {p.density for points in arms.values() for p in points}
    ticks = _apart(sorted(densities, reverse=True))
    ticks = ticks[:: -(-len(ticks) // 7)]
    axes.set_xticks([100 * d for d in ticks], [percent(d, "") for d in ticks])
    axes.minorticks_off()
    axes.set_xlabel("density: weights left (%)")


def _apart(densities):
    """Those that lie far enough from the one before to be labelled."""
    apart = densities[:1]
    for density in densities[1:]:
        if density < 0.85 * apart[-1]:
            apart.append(density)
    return apart


def legend(figure, axes, loc="outside upper left"):
    """Puts the legend beside the axes, where it hides no data.

    Args:
        figure: `matplotlib.figure.Figure`.
        axes: the `Axes` of which the lines are named.
        loc: str, where, in matplotlib's words.
    """
    handles, labels = axes.get_legend_handles_labels()
    # The line alone, of those that have error bars.
    handles = [h[0] if isinstance(h, tuple) else h for h in handles]
    columns = _columns(labels, 72 * figure.get_figwidth())
    figure.legend(
        _by_row(handles, columns),
        _by_row(labels, columns),
        loc=loc,
        ncols=columns,
        fontsize=9,
        borderaxespad=0.2,
    )


def _columns(labels, width):
    """As many columns as fit into a width, in points."""
    for columns in range(len(labels), 1, -1):
        rows = -(-len(labels) // columns)
        if -(-len(labels) // rows) < columns:
            continue  # a column would be empty
        widest = [max(map(len, labels[i::columns])) for i in range(columns)]
        if sum(34 + 5.3 * letters for letters in widest) <= width:
            return columns
    return 1


def _by_row(items, columns):
    """In the order in which a legend, filled by column, reads by row."""
    return [item for i in range(columns) for item in items[i::columns]]


def _leave_out_the_start(axes, values, falling):
    import numpy as np

    values = values[np.isfinite(values)]
    if not len(values):
        return
    low, high = np.quantile(values, [0.0, 0.9] if falling else [0.1, 1.0])
    margin = 0.05 * (high - low) or 0.01
    axes.set_ylim(low - margin, high + margin)


def _ticks_without_powers(axes):
    """Labels such as 3 and 50 on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    subs = (1.0, 2.0, 5.0) if high > 10 * low else (1.0, 2.0, 3.0, 5.0, 7.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
