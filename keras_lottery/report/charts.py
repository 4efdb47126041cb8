"""Charts of a run, drawn with matplotlib in the colours of the page."""

import contextlib
import itertools
import math

import numpy as np

from keras_lottery.report.statistics import series
from keras_lottery.report.tables import percent, whole

INK = "#1d2329"
MUTED = "#5c6773"
GRID = "#d9dee4"
PAPER = "#fefefe"
# Told apart by colour-blind readers (after Okabe & Ito), and dark enough for
# lines on white.
SERIES = (
    "#0b6fb3",
    "#cf5200",
    "#0a8060",
    "#a6478a",
    "#8a6a00",
    "#2b8fa8",
    "#66707c",
)
_MARKERS = "osD^vPX<>*hdp"
_DASHES = (
    "-",
    (0, (5, 1.5)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (1, 1.2)),
    (0, (2.5, 1.5)),
)
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "keras_lottery",
    "font.size": 10,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.handlelength": 2.3,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.0,
    "savefig.dpi": 200,
}


def accuracy_and_early_stop(results, title=None):
    """Test accuracy and early-stop iteration against density, side by side.

    Args:
        results: list of `experiments.Result`.
        title: optional str.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    with _canvas(10, 4.3) as figure:
        left, right = figure.subplots(1, 2)
        _draw_over_density(left, results, "early_stop_test_accuracy", 100)
        left.set_ylabel("test accuracy at early stop (%)")
        _draw_over_density(right, results, "early_stop_iteration", 1)
        right.set_ylabel("early-stop iteration")
        right.set_ylim(bottom=0)
        _legend(figure, left, "outside lower left")
        if title:
            figure.suptitle(title, fontsize=10)
    return figure


def over_density(
    results, column, label, scale=1.0, from_zero=False, limit=None
):
    """One measurement of every arm against density.

    Args:
        results: list of `experiments.Result`, or of what else has an arm, a
            level and a density.
        column: str, a column of it, or a function of a result.
        label: str, of the y axis.
        scale: float, by which values are multiplied.
        from_zero: bool, whether the y axis starts at 0.
        limit: optional float, a value to draw a dashed line at.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    with _canvas() as figure:
        axes = figure.subplots()
        _draw_over_density(axes, results, column, scale)
        axes.set_ylabel(label)
        if limit is not None:
            axes.axhline(scale * limit, color=MUTED, dashes=(4, 3), lw=0.9)
        if from_zero:
            axes.set_ylim(bottom=0)
        _legend(figure, axes)
    return figure


def learning_curves(curves, label, column, scale=1.0, falling=False):
    """Learning curves: means over trials, bars from minimum to maximum.

    The marker is at the mean early-stop iteration. What lies far above (or
    below) most of the curves, as the first iterations do, is off the scale.

    Args:
        curves: dict, label of a line -> `statistics.LearningCurves`.
        label: str, of the y axis.
        column: str, `"val_accuracy"` or `"val_loss"`.
        scale: float, by which values are multiplied.
        falling: bool, whether they start high.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    with _canvas() as figure:
        axes = figure.subplots()
        extremes = []
        lines = zip(_styles(), curves.items())
        for i, (style, (name, one)) in enumerate(lines):
            mean, low, high = _over_trials(scale * one.values[column])
            extremes += [low, high]
            stop = np.abs(one.iterations - np.mean(one.early_stops)).argmin()
            # The bars of the lines take turns, so that none hides another.
            step = max(1, len(one.iterations) // 5)
            _draw_line(
                axes,
                one.iterations,
                (mean, low, high),
                len(one.early_stops),
                label=name,
                errorevery=(i * step // len(curves), step),
                markevery=[stop],
                **{**style, "markersize": 7},
            )
        _leave_out_the_start(axes, np.concatenate(extremes), falling)
        axes.set_xlabel("iteration")
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        _legend(figure, axes)
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
    with _canvas() as figure:
        axes = figure.subplots()
        positions = np.arange(len(layers))
        for style, (name, rows) in zip(_styles(), densities.items()):
            values = 100 * np.array(rows).T
            points = _over_trials(values)
            _draw_line(
                axes, positions, points, len(values), label=name, **style
            )
        axes.set_yscale("log")
        _ticks_without_powers(axes.yaxis)
        long = max(map(len, layers)) * len(layers) > 45
        axes.set_xticks(
            positions,
            layers,
            rotation=90 if long else 0,
            fontsize=8 if len(layers) > 12 else 10,
        )
        axes.margins(x=0.08)
        axes.set_ylabel("density of the layer (%)")
        _legend(figure, axes)
    return figure


def first_layer_masks(masks, densities):
    """The first layer's masks at a few levels, as images.

    Args:
        masks: dict, level -> mask.
        densities: dict, level -> density of the whole network.

    Returns:
        A `matplotlib.figure.Figure`, or `None` if the layer does not take an
        image.
    """
    images = {level: mask_image(mask) for level, mask in masks.items()}
    if not images or any(image is None for image in images.values()):
        return None
    columns = min(3, len(images))
    rows = -(-len(images) // columns)
    height, width = next(iter(images.values())).shape
    aspect = min(2.0, max(0.6, height / width))
    with _canvas(4.8, rows * (4.8 / columns * aspect + 0.3)) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid[len(images) :]:
            axes.set_axis_off()
        for axes, (level, image) in zip(grid, images.items()):
            highest = np.nanmax(image)
            axes.imshow(
                _shades_of_blue(np.nan_to_num(image / max(highest, 1))),
                interpolation="none",
            )
            axes.set_title(
                f"{percent(densities[level])}: up to {whole(highest)}",
                fontsize=9,
            )
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(False)
            axes.spines[:].set_visible(True)
            axes.spines[:].set_color(GRID)
    return figure


def mask_image(mask):
    """A first layer's live connections as an image.

    Args:
        mask: boolean array: of a dense layer, (inputs, units); of a
            convolution, (height, width, channels, filters).

    Returns:
        A 2D array of counts. Of a dense layer, each input pixel has the number
        of its live connections to the units. Of a convolution, the filters
        are tiles, with NaN between them, and each position of a filter has
        the number of its live connections to the channels. `None` if the
        inputs are no square image in grey or colour.
    """
    if mask.ndim == 4:
        return _tiles(mask.sum(2).transpose(2, 0, 1))
    if mask.ndim != 2:
        return None
    counts = mask.sum(1)
    for channels in (1, 3):
        side = math.isqrt(len(counts) // channels)
        if side > 1 and side * side * channels == len(counts):
            image = counts.reshape(side, side, channels)
            return image.sum(2).astype(np.float64)
    return None


def _tiles(filters):
    """Filters side by side, NaN between them."""
    count, height, width = filters.shape
    across = math.ceil(math.sqrt(count))
    down = -(-count // across)
    image = np.full((down * (height + 1) - 1, across * (width + 1) - 1), np.nan)
    for i, one in enumerate(filters):
        y, x = i // across * (height + 1), i % across * (width + 1)
        image[y : y + height, x : x + width] = one
    return image


def _shades_of_blue(shares):
    """RGBA of shares in [0, 1]: one blue, the more opaque the higher.

    What shines through is the page, light or dark.
    """
    image = np.empty((*shares.shape, 4))
    image[..., :3] = (0x2B / 255, 0x86 / 255, 0xD9 / 255)
    image[..., 3] = shares
    return image


def weight_histograms(survivors, layer):
    """Histograms of one layer's trained weights at a few levels.

    Args:
        survivors: dict, label of a line -> dict, layer -> array.
        layer: str.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    # A training that diverged leaves weights that are no numbers.
    arrays = {
        name: found[layer][np.isfinite(found[layer])]
        for name, found in survivors.items()
    }
    widest = max(
        np.quantile(np.abs(array), 0.999) if array.size else 0.0
        for array in arrays.values()
    )
    # Rice's rule, for the line of the fewest weights.
    fewest = min(array.size for array in arrays.values())
    bins = round(np.clip(2 * fewest ** (1 / 3), 20, 60))
    edges = np.linspace(-1, 1, bins + 1) * (float(widest) or 1.0)
    with _canvas(height=3.1) as figure:
        axes = figure.subplots()
        for style, (name, array) in zip(_styles(), arrays.items()):
            if not array.size:
                continue
            counts, _ = np.histogram(array, edges)
            axes.stairs(
                100 * counts / array.size,
                edges,
                label=name,
                color=style["color"],
                linestyle=style["linestyle"],
                linewidth=1.4,
            )
        axes.set_xlabel(f"trained weight, layer {layer}")
        axes.set_ylabel("share of survivors (%)")
        axes.set_ylim(bottom=0)
        _legend(figure, axes)
    return figure


def tradeoff(frame, batch_size):
    """Accuracy against latency and against size, side by side.

    One point a level; the dense network's is a star. Arms with the same masks
    have one colour, and each form of the files has a row of its own.

    Args:
        frame: `pandas.DataFrame` of `export.Tradeoff`.
        batch_size: int, of which the latency is drawn.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    columns = (
        (f"milliseconds_at_{batch_size}", f"milliseconds, batch {batch_size}"),
        ("kilobytes", "kilobytes of the file"),
    )
    frame = frame.assign(kilobytes=frame["bytes"] / 1e3)
    styles = dict(zip(frame["run"].unique(), _styles()))
    forms = frame.groupby("form", sort=False)
    with _canvas(10, 0.8 + 3.5 * len(forms)) as figure:
        rows = figure.subplots(
            len(forms), 2, sharey=True, sharex="col", squeeze=False
        )
        for both, (form, files) in zip(rows, forms):
            for axes, (column, _) in zip(both, columns):
                lines = files.groupby(["run", "arm"], sort=False)
                for (run, arm), line in lines:
                    _draw_tradeoff(axes, line, column, arm, styles[run])
                axes.set_xscale("log")
                axes.set_title(form, loc="left", fontsize=10)
                _ticks_without_powers(axes.xaxis)
            both[0].set_ylabel("test accuracy (%)")
        for axes, (_, label) in zip(rows[-1], columns):
            axes.set_xlabel(label)
        _legend(figure, rows[0][0], "outside lower left")
    return figure


def _draw_tradeoff(axes, line, column, arm, style):
    line = line.sort_values("level")
    first = line.iloc[0]
    name = first["block_size"].replace("1x1", "single weights")
    points = 100 * line[["accuracy", "lowest", "highest"]].to_numpy().T
    own = (
        {"linestyle": "-"}
        if arm == "ticket"
        else {"linestyle": ":", "alpha": 0.6}
    )
    _draw_line(
        axes,
        line[column],
        points,
        first["trials"],
        label=f"{name}, {arm}",
        **{**style, **own},
    )
    if arm == "ticket" and first["level"] == 0:
        axes.plot(first[column], points[0][0], "*", color=style["color"], ms=13)


@contextlib.contextmanager
def _canvas(width=4.8, height=3.4):
    """An empty figure in the report's style; sizes are in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def _styles():
    """Styles without end, told apart by marker and dashes too."""
    for i, colour in enumerate(itertools.cycle(SERIES)):
        yield {
            "color": colour,
            "marker": _MARKERS[i % len(_MARKERS)],
            "linestyle": _DASHES[i % len(_DASHES)],
            "markersize": 4.5,
            "markeredgecolor": PAPER,
            "markeredgewidth": 0.5,
            "linewidth": 1.5,
        }


def _over_trials(values):
    """Means, minima and maxima over the first axis."""
    return values.mean(0), values.min(0), values.max(0)


def _draw_line(axes, x, points, trials, **options):
    """A line of means, with bars from minimum to maximum of several trials."""
    mean, low, high = points
    # The mean of equal numbers may differ from them in its last bit.
    errors = np.maximum(0.0, [mean - low, high - mean])
    axes.errorbar(
        x,
        mean,
        yerr=errors if trials > 1 else None,
        capsize=1.5,
        elinewidth=0.9,
        **options,
    )


def _draw_over_density(axes, results, column, scale):
    arms = series(results, column)
    lines = zip(_styles(), arms.items())
    for i, (style, (arm, points)) in enumerate(lines):
        trials = max(p.trials for p in points)
        # Side by side, since the bars of equal densities would overlap.
        aside = 0.95 ** (i / len(arms) - 0.5) if trials > 1 else 1.0
        _draw_line(
            axes,
            [100 * aside * p.density for p in points],
            scale * np.array([(p.mean, p.low, p.high) for p in points]).T,
            trials,
            label=arm,
            **style,
        )
    axes.set_xscale("log")
    axes.invert_xaxis()
    densities = {p.density for points in arms.values() for p in points}
    ticks = _ticks_apart(sorted(densities, reverse=True))
    ticks = ticks[:: -(-len(ticks) // 7)]
    axes.set_xticks([100 * d for d in ticks], [percent(d, "") for d in ticks])
    axes.minorticks_off()
    axes.set_xlabel("density: weights left (%)")


def _ticks_apart(densities):
    """Those that lie far enough from the one before to be labelled."""
    apart = densities[:1]
    for density in densities[1:]:
        if density < 0.85 * apart[-1]:
            apart.append(density)
    return apart


def _legend(figure, axes, loc="outside upper left"):
    """Puts the legend beside the axes, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    # Of a line with error bars, the line alone.
    handles = [h[0] if isinstance(h, tuple) else h for h in handles]
    columns = _legend_columns(labels, 72 * figure.get_figwidth())
    # matplotlib fills a legend by column; it is to be read by row.
    by_row = [i for k in range(columns) for i in range(k, len(labels), columns)]
    figure.legend(
        [handles[i] for i in by_row],
        [labels[i] for i in by_row],
        loc=loc,
        ncols=columns,
        fontsize=9,
        borderaxespad=0.2,
    )


def _legend_columns(labels, width):
    """As many columns as fit into a width, in points."""
    for columns in range(len(labels), 1, -1):
        rows = -(-len(labels) // columns)
        if -(-len(labels) // rows) < columns:
            continue  # a column would be empty
        widest = [max(map(len, labels[i::columns])) for i in range(columns)]
        if sum(34 + 5.3 * letters for letters in widest) <= width:
            return columns
    return 1


def _leave_out_the_start(axes, values, falling):
    values = values[np.isfinite(values)]
    if not len(values):
        return
    low, high = np.quantile(values, [0.0, 0.9] if falling else [0.1, 1.0])
    margin = 0.05 * (high - low) or 0.01
    axes.set_ylim(low - margin, high + margin)


def _ticks_without_powers(axis):
    """Labels such as 3 and 50 on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high > 10 * low else (1.0, 2.0, 3.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axis.set_minor_formatter(NullFormatter())
