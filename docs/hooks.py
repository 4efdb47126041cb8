"""What MkDocs does for this site: links to the files of the repository.

A page links to a file outside `docs` by its path in the repository, which
works where the page is read on GitHub. In the site an image is copied, and any
other link leads to GitHub. A path that does not exist ends the build.
"""

import pathlib
import re

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
REPOSITORY = "https://github.com/keras-lottery/keras-lottery"
# Code holds no links: it is matched first, and left as it is.
_LINK = re.compile(
    r"^ *```.*?^ *```|`[^`\n]*`|\]\((?P<path>[^)\s#:]+)(?P<place>#[^)\s]*)?\)",
    re.DOTALL | re.MULTILINE,
)
_IMAGES = (".png", ".svg")


def on_files(files, config):
    """Adds the figures of the experiments, under `assets`."""
    for path in sorted((ROOT / "configs/results").rglob("*.png")):
        files.append(
            File.generated(
                config,
                f"assets/{path.relative_to(ROOT).as_posix()}",
                abs_src_path=str(path),
            )
        )
    return files


def on_page_markdown(markdown, page, config, files):
    """Replaces links out of `docs`.

    A page with `include: NAME` in its head is that file of the repository.
    """
    name = page.meta.get("include")
    if name:
        markdown = (ROOT / name).read_text(encoding="utf-8")
        page.edit_url = f"{REPOSITORY}/edit/main/{name}"
    here = ROOT / (name or f"docs/{page.file.src_uri}")
    up = "../" * page.file.src_uri.count("/")

    def replaced(found):
        if found["path"] is None:
            return found[0]
        target = (here.parent / found["path"]).resolve()
        inside = target.is_relative_to(ROOT / "docs")
        if inside and not name:
            return found[0]
        if not target.is_relative_to(ROOT) or not target.exists():
            raise PluginError(f"{page.file.src_uri}: no {found['path']}")
        path = target.relative_to(ROOT).as_posix()
        place = found["place"] or ""
        if inside:
            return f"]({up}{path.removeprefix('docs/')}{place})"
        if target.suffix in _IMAGES:
            return f"]({up}assets/{path})"
        kind = "tree" if target.is_dir() else "blob"
        return f"]({REPOSITORY}/{kind}/main/{path}{place})"

    return _LINK.sub(replaced, markdown)
