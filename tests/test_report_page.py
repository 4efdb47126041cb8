"""The report of a run: what is in it, and that it needs nothing else."""

import dataclasses
import html.parser
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from test_report_winning import rows

from keras_lottery import report
from keras_lottery.experiments import Experiment
from keras_lottery.experiments.results import to_csv
from keras_lottery.experiments.run import Run
from keras_lottery.report.statistics import Measurements

ROOT = pathlib.Path(__file__).parents[1]
# Elements that HTML closes by itself.
VOID = {"meta", "br", "img", "link", "hr"}


class Page(html.parser.HTMLParser):
    """Elements, ids, links and loaded things of a page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.elements = [], [], [], []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        self._take(attributes)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._take(attributes)

    def _take(self, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href", "src"):
                self.links.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A small real run and its report."""
    directory = tmp_path_factory.mktemp("run")
    experiment = Experiment(
        rounds=2, iterations=30, eval_every=10, trials=2, backend="graph"
    )
    experiment.run(directory)
    report.write(directory)
    return directory


@pytest.fixture(scope="module")
def page(run_dir):
    return Page((run_dir / "report.html").read_text())


def test_it_has_every_part(run_dir, page):
    sections = [section["id"] for section in page.all("section")]
    assert sections == [
        "results",
        "curves",
        "left",
        "geometry",
        "between",
        "claims",
        "all",
        "how",
    ]
    # 4 against density, 2 by level, 2 by arm, layers, masks, 3 layers, and
    # the overlap of the masks of two trials, of arms and of layers.
    assert len(page.all("svg")) == 15
    written = {path.name for path in (run_dir / "figures").iterdir()}
    assert len(written) == 30 and "first_layer.png" in written
    assert all(path.stat().st_size for path in (run_dir / "figures").iterdir())
    assert (run_dir / "figure.png").stat().st_size > 10_000


def test_it_needs_no_network_and_no_script(run_dir, page):
    text = (run_dir / "report.html").read_text()
    assert not page.all("script") and not page.all("link")
    assert not page.all("img") and "@import" not in text
    outside = [
        link for link in page.links if not link.startswith(("#", "data:"))
    ]
    assert outside == ["https://arxiv.org/abs/1803.03635"]
    assert not re.search(r"url\((?!#)", text)


def test_ids_are_unique_and_links_lead_somewhere(run_dir, page):
    assert len(set(page.ids)) == len(page.ids)
    inner = {link[1:] for link in page.links if link.startswith("#")}
    assert inner and inner <= set(page.ids)
    used = re.findall(r"url\(#([^)]*)\)", (run_dir / "report.html").read_text())
    assert used and set(used) <= set(page.ids)


def test_figures_and_tables_speak_to_those_who_cannot_see_them(page):
    for svg in page.all("svg"):
        assert svg["role"] == "img" and len(svg["aria-label"]) > 40
    assert len(page.all("caption")) == len(page.all("table")) >= 4
    assert all("scope" in cell for cell in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"


def test_figures_take_their_colours_from_the_page(run_dir):
    text = (run_dir / "report.html").read_text()
    style, body = text.split("</style>", 1)
    # What no variable names would be wrong on one of the two grounds.
    assert not re.findall(r"(?:fill|stroke|color): ?#\w+", body)
    variables = set(re.findall(r"var\(--([\w-]+)\)", text))
    light, dark = style.split("prefers-color-scheme: dark")
    assert "series-0" in variables
    for name in variables:
        assert f"--{name}:" in light and f"--{name}:" in dark, name


def test_the_same_run_gives_the_same_report(run_dir):
    before = (run_dir / "report.html").read_bytes()
    report.write(run_dir)
    assert (run_dir / "report.html").read_bytes() == before


def test_command_versions_and_hardware_are_told(run_dir, page):
    (entry,) = json.loads((run_dir / "environment.json").read_text())
    text = (run_dir / "report.html").read_text()
    for name in ("started", "command", "cpu", "platform"):
        assert html.escape(str(entry[name])) in text, name
    assert f"tensorflow {entry['versions']['tensorflow']}" in text


def test_an_older_run_is_reported_as_far_as_it_goes(run_dir, tmp_path):
    """No places, no environment; the reinit curves cannot be found."""
    shutil.copytree(run_dir, tmp_path, dirs_exist_ok=True)
    for name in ("places.jsonl", "environment.json", "report.html"):
        (tmp_path / name).unlink()
    report.write(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert len(page.all("svg")) == 13
    assert "were not recorded" in (tmp_path / "report.html").read_text()


def bare(directory, results, **settings):
    """A run directory of which only settings and results are left."""
    known = {
        "model": "lenet_300_100",
        "dataset": "mnist",
        "iterations": 50_000,
        "batch_size": 60,
        "rounds": 2,
        "trials": 1,
        "arms": ["ticket", "reinit"],
        "dropout": 0.0,
    }
    directory.mkdir(exist_ok=True)
    text = json.dumps({**known, **settings})
    (directory / "experiment.json").write_text(text)
    (directory / "results.csv").write_text(to_csv(results))
    return Measurements(Run.open(directory))


def test_results_alone_make_a_report_that_says_what_is_missing(tmp_path):
    bare(tmp_path, rows([0.9, 0.91], [50, 40]))
    text = pathlib.Path(report.write(tmp_path)).read_text()
    page = Page(text)
    assert "not finished: 2 of 6 results" in text
    assert [s["id"] for s in page.all("section")] == [
        "results",
        "claims",
        "all",
        "how",
    ]


def test_names_are_escaped(tmp_path):
    results = rows([0.9, 0.91], [50, 40], arm="<b>&")
    bare(tmp_path, results, arms=["<b>&"], dataset="<script>x</script>")
    page = Page(pathlib.Path(report.write(tmp_path)).read_text())
    assert not page.all("b") and not page.all("script")


def test_a_run_that_is_not_the_papers_says_so(tmp_path):
    bare(tmp_path, rows([0.9, 0.91], [50, 40]), dataset="digits")
    text = pathlib.Path(report.write(tmp_path)).read_text()
    assert "the run is of digits, not mnist" in text


@pytest.mark.parametrize("arms", [["ticket"], [f"arm_{i}" for i in range(16)]])
def test_any_number_of_arms_is_drawn(tmp_path, arms):
    results = [r for arm in arms for r in rows([0.9, 0.91], [50, 40], arm)]
    bare(tmp_path, results, arms=arms)
    assert len(Page(pathlib.Path(report.write(tmp_path)).read_text()).ids) > 9


def test_what_is_no_run_is_refused_and_left_alone(tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(ValueError, match="must be the directory of a run"):
        report.write(missing)
    assert not missing.exists()
    with pytest.raises(ValueError, match="at least one trained level"):
        bare(tmp_path / "empty", [])


@pytest.mark.slow
def test_the_tool_writes_it_anew(tmp_path):
    bare(tmp_path, rows([0.9, 0.91], [50, 40]))
    done = subprocess.run(
        [sys.executable, "tools/report.py", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "report.html")


def test_a_training_that_diverged_does_not_stop_the_report(tmp_path):
    nan = float("nan")
    results = [
        dataclasses.replace(r, early_stop_val_loss=nan)
        for trial in (0, 1)
        for arm in ("ticket", "reinit")
        for r in rows([0.9, nan if trial else 0.91], [50, 40], arm, trial)
    ]
    bare(tmp_path, results, trials=2)
    text = pathlib.Path(report.write(tmp_path)).read_text()
    assert "No training has measured" in text and "nan [nan, nan]" in text
