"""Runs the guides and writes them for the site, with what they printed.

    python docs/render.py                # all
    python docs/render.py first_ticket   # some

Each `docs/guides/NAME.py`, a script with text cells, is run in a process and
in a directory of its own. It becomes `NAME.md`, with its figures beside it, and
the notebook `NAME.ipynb`. A guide that fails ends the script.
"""

import base64
import itertools
import pathlib
import re
import sys
import tempfile
import time

import jupytext
import nbclient
import nbformat

GUIDES = pathlib.Path(__file__).parent / "guides"
REPOSITORY = "https://github.com/keras-lottery/keras-lottery/blob/main"
INSTALL = (
    '%pip install --quiet "keras-lottery[dask] @ '
    'git+https://github.com/keras-lottery/keras-lottery" keras-hub'
)
HOME = "/home/you/"
# TensorFlow's announcements, of which a reader learns nothing.
NOISE = re.compile(
    r"^(WARNING: All log messages|[IWE]0000|\d{4}-\d\d-\d\d .*(tensorflow|xla)"
    r"|(INFO|WARNING):tensorflow|INFO: Created|Instructions for updating"
    r"|This API was designed"
    r"|.*(cuda|CUDA|oneDNN|absl::InitializeLog|TF_CPP)).*\n?",
    re.MULTILINE,
)
WARNING = re.compile(r"^\S+\.py:\d+: (\w+Warning: .*\n)  .*\n", re.MULTILINE)


def render(path):
    """Runs one guide and writes its files.

    Args:
        path: `pathlib.Path` of the script.
    """
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    with tempfile.TemporaryDirectory() as directory:
        nbclient.NotebookClient(
            notebook,
            timeout=300,
            resources={"metadata": {"path": directory}},
        ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = list(clean(cell.outputs, f"{directory}/"))
    write_page(path, notebook)
    write_notebook(path, notebook)


def clean(outputs, directory):
    """Yields outputs without TensorFlow's noise, text that follows on text
    as one, and with paths of nobody's machine."""
    text = ""
    for output in outputs:
        if output.output_type == "stream":
            text += output.text.replace(directory, HOME)
            continue
        yield from stream(text)
        text = ""
        yield output
    yield from stream(text)


def stream(text):
    """Yields an output of text, if anything is left of it."""
    # Of a warning, what it says without where it was given.
    text = WARNING.sub(r"\1", text)
    # A bar is drawn over itself: what was drawn last is kept.
    text = re.sub(r"[^\n]*\r", "", NOISE.sub("", text))
    if text.strip():
        yield nbformat.v4.new_output("stream", text=text)


def write_page(path, notebook):
    """Writes `NAME.md`, with its figures in `NAME_files`."""
    title, *cells = notebook.cells
    heading, _, text = title.source.partition("\n")
    links = (
        f"[Notebook]({path.stem}.ipynb) · "
        f"[Script]({REPOSITORY}/docs/guides/{path.name})"
    )
    parts = [heading, links, text.strip()]
    figures = itertools.count()
    for cell in cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        else:
            parts.append(f"```python\n{cell.source}\n```")
            parts += [shown(o, path, figures) for o in cell.outputs]
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n")


def shown(output, path, figures):
    """An output as Markdown; a figure is written to a file."""
    if output.output_type == "stream":
        return fenced(output.text)
    data = output.data
    if "application/vnd.jupyter.widget-view+json" in data:
        return ""  # A progress bar, which is gone in the end.
    if "image/png" in data:
        name = f"{path.stem}_files/{next(figures)}.png"
        file = path.parent / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(base64.b64decode(data["image/png"]))
        return f"![What the cell above draws]({name})"
    if "text/html" in data:
        return f'<div class="output">{data["text/html"]}</div>'
    return fenced(data["text/plain"])


def fenced(text):
    """Text as a block that is told apart from code."""
    return f"``` {{ .text .output .no-copy }}\n{text.rstrip()}\n```"


def write_notebook(path, notebook):
    """Writes `NAME.ipynb`, which begins with the installation."""
    install = nbformat.v4.new_code_cell(INSTALL)
    notebook.cells.insert(1, install)
    for number, cell in enumerate(notebook.cells):
        # The same guide is the same file.
        cell["id"] = f"cell-{number}"
    nbformat.write(notebook, path.with_suffix(".ipynb"))


def main(names):
    paths = [GUIDES / f"{name}.py" for name in names]
    began = time.monotonic()
    for path in paths or sorted(GUIDES.glob("*.py")):
        start = time.monotonic()
        render(path)
        print(f"{path.name:20} {time.monotonic() - start:6.1f} s", flush=True)
    print(f"{'all':20} {time.monotonic() - began:6.1f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
