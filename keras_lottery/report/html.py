"""Elements of the page as HTML: its frame, paragraphs, tables, figures."""

import dataclasses
import importlib.resources
from html import escape


class Markup(str):
    """Text that is HTML already; all other text is escaped."""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        id: str, the target of its link.
        title: str.
        body: str, HTML.
    """

    id: str
    title: str
    body: str


def page(title, head, sections):
    """The whole page, which needs no other file, no script and no network.

    Args:
        title: str.
        head: str, HTML below the title.
        sections: list of `Section`; empty ones are left out.

    Returns:
        A str.
    """
    sections = [section for section in sections if section.body]
    links = "".join(
        f'<li><a href="#{s.id}">{escape(s.title)}</a></li>' for s in sections
    )
    parts = "".join(
        f'<section id="{s.id}" aria-labelledby="{s.id}-title">\n'
        f'<h2 id="{s.id}-title">{escape(s.title)}</h2>\n{s.body}\n</section>\n'
        for s in sections
    )
    style = importlib.resources.files(__package__).joinpath("page.css")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, '
        'initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n"
        f"<style>\n{style.read_text('utf-8')}</style>\n</head>\n"
        f"<body>\n<header>\n<h1>{escape(title)}</h1>\n{head}\n"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n</header>\n'
        f"<main>\n{parts}</main>\n</body>\n</html>\n"
    )


def paragraph(text, kind=""):
    """A paragraph; `kind` is its class."""
    return f"<p{_class(kind)}>{_text(text)}</p>\n"


def table(caption, columns, rows, kind=""):
    """A table in a box that scrolls where the page is narrow.

    Args:
        caption: str.
        columns: list of str, the head.
        rows: list of lists; the first cell names the row.
        kind: str, class of the table; `"text"` aligns its cells left.

    Returns:
        A str of HTML.
    """
    head = "".join(f'<th scope="col">{_text(c)}</th>' for c in columns)
    lines = "".join(
        f'<tr><th scope="row">{_text(row[0])}</th>'
        + "".join(f"<td>{_text(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in rows
    )
    # Reached by keyboard, so that it can be scrolled without a mouse.
    return (
        f'<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(caption)}">\n'
        f"<table{_class(kind)}>\n<caption>{escape(caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody>\n"
        "</table>\n</div>\n"
    )


def figure(picture, title, caption=""):
    """A figure: an `<svg>` with its title and caption."""
    caption = f"<p>{_text(caption)}</p>" if caption else ""
    return (
        f"<figure>\n<figcaption><h3>{escape(title)}</h3>{caption}"
        f"</figcaption>\n{picture}</figure>\n"
    )


def grid(figures):
    """Figures side by side, as many as there is room for."""
    return f'<div class="grid">\n{"".join(figures)}</div>\n' if figures else ""


def definitions(pairs):
    """Names and what they are: a list of pairs."""
    rows = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>\n"
        for name, value in pairs
    )
    return f"<dl>\n{rows}</dl>\n"


def chips(texts):
    """Short facts in a row."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="chips">{items}</ul>\n'


def command(text):
    """A command line."""
    return f"<pre><code>{escape(text)}</code></pre>\n"


def marked(text):
    """Text in a class of its own name, such as `not-reproduced`."""
    kind = text.replace(" ", "-")
    return Markup(f'<span class="{escape(kind)}">{escape(text)}</span>')


def details(summary, body):
    """A body that opens by a click on its summary."""
    return (
        f"<details>\n<summary>{escape(summary)}</summary>\n{body}</details>\n"
    )


def _class(kind):
    return f' class="{kind}"' if kind else ""


def _text(text):
    if isinstance(text, Markup):
        return text
    # A number and its unit stay on one line.
    return escape(str(text)).replace(" %", "&nbsp;%")
