"""Figures as files, and as SVG that takes its colours from the page.

A figure is drawn once, in the colours of the light page. In the file they stay
as they are; in the page each becomes a CSS variable, so that the same drawing
is right on a light and on a dark ground.
"""

import contextlib
import html
import io
import re

from keras_lottery import files

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
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "card",
    **{colour: f"series-{i}" for i, colour in enumerate(SERIES)},
}
_STYLE = {
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


@contextlib.contextmanager
def canvas(width=4.8, height=3.4):
    """Context manager: an empty figure in the report's style.

    Args:
        width: float, inches.
        height: float, inches.

    Returns:
        A `matplotlib.figure.Figure` that belongs to no display.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def write(figure, path):
    """Writes a figure to a file; the suffix tells the format.

    Args:
        figure: `matplotlib.figure.Figure`.
        path: str or path-like, ending in `.png` or `.svg`.
    """
    content = render(figure, str(path).rpartition(".")[2])
    with files.atomic_file(path) as file:
        file.write(content)


def inline(text, name, alt):
    """A figure as an `<svg>` element for the page.

    Args:
        text: str, the figure as a file of SVG.
        name: str, of which its ids are made: unique in the page.
        alt: str, what a reader who cannot see it should know.

    Returns:
        A str of HTML.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.S)
    # Ids are made from what is drawn: equal in two figures.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    text = _in_the_pages_font(text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    view = re.search(r'viewBox="[^"]*"', text).group()
    head = (
        f'<svg {view} xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'role="img" aria-label="{html.escape(alt, quote=True)}">'
    )
    return head + text[text.index(">") + 1 :]


def _in_the_pages_font(text):
    """Takes the family out of text styles, with or without a weight."""
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    return re.sub(
        r"font: (\d+) ([\d.]+px) [^;\"]*",
        r"font-weight: \1; font-size: \2",
        text,
    )


def render(figure, kind):
    """A figure as the bytes of a file.

    Args:
        figure: `matplotlib.figure.Figure`.
        kind: `"png"` or `"svg"`.
    """
    import matplotlib

    content = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        # Without the date, the same figure is the same file.
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(content, format=kind, metadata=metadata)
    return content.getvalue()
