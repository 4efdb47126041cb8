"""The figures of the paper, drawn from results."""

from keras_lottery.report.series import series

# Okabe & Ito's colours, told apart by colour-blind readers too.
_COLOURS = {
    "ticket": "#0072B2",
    "reinit": "#D55E00",
}
_MORE = ["#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666"]


def against_density(results, path, title=None):
    """Accuracy and early-stop iteration against density.

    Points are means over trials; bars reach from the minimum to the maximum.

    Args:
        results: list of `experiments.Result`.
        path: str or path-like; the suffix tells the format (PNG, SVG).
        title: optional str.

    Source: Frankle & Carbin, 1803.03635, figures 4 and 5.
    """
    # The object interface: drawing must not depend on a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, results, "early_stop_test_accuracy", 100)
    left.set_ylabel("test accuracy at early stop (%)")
    _draw(right, results, "early_stop_iteration", 1)
    right.set_ylabel("early-stop iteration")
    right.set_ylim(bottom=0)
    left.legend(frameon=False)
    if title:
        figure.suptitle(title, fontsize=10)
    figure.savefig(path)


def colours(arms):
    """Dict, arm -> colour; an arm keeps its colour from figure to figure."""
    more = iter(_MORE * len(arms))
    return {arm: _COLOURS.get(arm) or next(more) for arm in arms}


def _draw(axes, results, column, scale):
    arms = series(results, column)
    palette = colours(list(arms))
    for arm, points in arms.items():
        means = [scale * p.mean for p in points]
        errors = [
            [scale * (p.mean - p.low) for p in points],
            [scale * (p.high - p.mean) for p in points],
        ]
        axes.errorbar(
            [100 * p.density for p in points],
            means,
            yerr=errors if max(p.trials for p in points) > 1 else None,
            label=arm,
            color=palette[arm],
            marker="o",
            markersize=3,
            linewidth=1.2,
            capsize=2,
        )
    axes.set_xscale("log")
    axes.invert_xaxis()
    ticks = _ticks(arms)
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("density: weights left (%)")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _ticks(arms):
    """A few of the densities, as the paper labels its axes."""
    densities = sorted(
        {round(100 * p.density, 2) for ps in arms.values() for p in ps},
        reverse=True,
    )
    step = -(-len(densities) // 7)
    return densities[::step]
