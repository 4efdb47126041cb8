"""Runs the guides and writes them for the site, with what they printed.

    python docs/render.py                # all
    python docs/render.py first_ticket   # some

Each `docs/guides/NAME.py`, a script with text cells, is run in a process and
in a directory of its own. It becomes `NAME.md`, with its figures beside it, and
the notebook `NAME.ipynb`. A guide that fails ends the script.
"""

import pathlib
import re
import sys
import tempfile
import time

import jupytext
import nbclient
import nbconvert
import nbformat

GUIDES = pathlib.Path(__file__).parent / "guides"
REPOSITORY = "https://github.com/keras-lottery/keras-lottery/blob/main"
INSTALL = "%pip install --quiet keras-lottery keras-hub"
# TensorFlow's announcements, of which a reader learns nothing.
NOISE = re.compile(
    r"^(WARNING: All log messages|[IWE]0000|\d{4}-\d\d-\d\d .*(tensorflow|xla)"
    r"|.*(cuda|CUDA|oneDNN|absl::InitializeLog|TF_CPP)).*\n?",
    re.MULTILINE,
)


def render(path):
    """Runs one guide and writes its files.

    Args:
        path: `pathlib.Path` of the script.
    """
    notebook = jupytext.read(path, fmt="py:percent")
    # Cells of text alone say in which language the code is.
    notebook.metadata["kernelspec"] = {
        "name": "python3", "display_name": "Python 3", "language": "python",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        client = nbclient.NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            resources={"metadata": {"path": directory}},
        )
        client.execute()
    for cell in notebook.cells:
        clean(cell)
    write_page(path, notebook)
    write_notebook(path, notebook)


def clean(cell):
    """Takes TensorFlow's noise out of a cell's outputs."""
    kept = []
    for output in cell.get("outputs", ()):
        if output.output_type == "stream":
            output.text = NOISE.sub("", output.text)
            if not output.text.strip():
                continue
        kept.append(output)
    if cell.cell_type == "code":
        cell.outputs = kept


def write_page(path, notebook):
    """Writes `NAME.md` and the figures in `NAME_files`."""
    exporter = nbconvert.MarkdownExporter()
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    text, resources = exporter.from_notebook_node(
        notebook,
        {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"},
    )
    for name, content in resources["outputs"].items():
        file = path.parent / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    heading, _, rest = text.lstrip().partition("\n")
    links = (
        f"[Notebook]({path.stem}.ipynb){{ download }} · "
        f"[Script]({REPOSITORY}/docs/guides/{path.name})"
    )
    page = f"{heading}\n\n{links}\n{rest}"
    path.with_suffix(".md").write_text(page)


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
