"""Finds dead links in the built site and in the README.

    python docs/check_links.py site

Each link to a page, a place on a page, a figure or a file of the repository
must have its target. Links to other sites are not followed.
"""

import html.parser
import pathlib
import re
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).parents[1]
OWN = re.compile(
    r"https://github\.com/keras-lottery/keras-lottery/"
    r"(?:blob|tree|edit|raw)/main/(?P<path>[^#?]*)"
)


class Page(html.parser.HTMLParser):
    """The links and the places of one page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.places = [], {""}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places |= {found[n] for n in ("id", "name") if found.get(n)}
        for name in ("href", "src"):
            if found.get(name) and tag != "base":
                self.links.append(found[name])


def dead_links(site):
    """List of (page, link) without a target."""
    site = site.resolve()
    pages = {
        path: Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
    }
    dead = []
    for path, page in pages.items():
        for link in page.links:
            if not _lives(link, path, site, pages):
                dead.append((path.relative_to(site).as_posix(), link))
    return dead


def _lives(link, path, site, pages):
    own = OWN.match(link)
    if own:
        return (ROOT / urllib.parse.unquote(own["path"])).exists()
    parts = urllib.parse.urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    name = urllib.parse.unquote(parts.path)
    # What is said of a missing page has links from the site's root.
    target = site / name[1:] if name.startswith("/") else path.parent / name
    target = path if not name else target.resolve()
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file():
        return False
    place = urllib.parse.unquote(parts.fragment)
    return target not in pages or place in pages[target].places


def dead_in_readme():
    """List of (page, link): relative links of pages that GitHub shows."""
    dead = []
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            path = link.partition("#")[0]
            if "://" not in link and path and not (ROOT / path).exists():
                dead.append((name, link))
    return dead


def main(site):
    dead = dead_links(pathlib.Path(site)) + dead_in_readme()
    for page, link in dead:
        print(f"{page}: {link}")
    print(f"{len(dead)} dead links")
    return bool(dead)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
