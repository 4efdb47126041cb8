"""The figure: a bar for each subject, a panel for each network."""

from benchmarks.subjects import SUBJECTS, main_metric
from benchmarks.summary import number

_OWN, _OTHERS, _BOUND = "#0072B2", "#999999", "#E69F00"


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
    spreads = [summary[subject][main] for subject in subjects]
    medians = [spread["median"] for spread in spreads]
    reach = [
        [spread["median"] - spread["low"] for spread in spreads],
        [spread["high"] - spread["median"] for spread in spreads],
    ]
    axes.barh(
        subjects,
        medians,
        xerr=reach,
        color=[_colour(subject) for subject in subjects],
        capsize=2,
        height=0.7,
    )
    axes.invert_yaxis()
    for row, spread in enumerate(spreads):
        ratio = spread.get("ratio")
        times = f"  ({ratio['median']:.2f}x)" if ratio else ""
        axes.annotate(
            f"{number(spread['median'])} ms{times}",
            (spread["high"], row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
    unit = "ms a step" if main == "step_ms" else "ms a pruning"
    axes.set_title(f"{network}, {unit}", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _colour(subject):
    if subject.startswith("keras_lottery"):
        return _OWN
    return _BOUND if subject.startswith("matrix") else _OTHERS
