"""How objects show themselves, in a terminal and in a notebook."""

import io
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
import tqdm.auto
import tqdm.autonotebook
from small import compiled, data, mlp

import keras_lottery
from keras_lottery import display
from keras_lottery.experiments.progress import Progress
from keras_lottery.experiments.results import Result, Results


def searched(rounds=2):
    model = keras_lottery.wrap(compiled(mlp(), metrics=["accuracy"]), rate=0.5)
    model.lottery.find(
        *data(), rounds=rounds, verbose=0, validation_data=data()
    )
    return model


@pytest.fixture(scope="module")
def lottery():
    return searched().lottery


def result(arm, level, accuracy, trial=0):
    density = 0.8**level
    return Result(
        trial, arm, level, density, 100, 50, 0.1, 0.9, accuracy, 1.0, 0.9, 0.9,
        1.0,
    )  # fmt: skip


RESULTS = Results(
    [
        result("ticket", 0, 0.90),
        result("ticket", 1, 0.92),
        result("ticket", 0, 0.92, trial=1),
        result("ticket", 1, 0.94, trial=1),
        result("reinit", 1, 0.5),
    ]
)


def parsed(html):
    """It is well-formed, so that it breaks no notebook."""
    return ElementTree.fromstring(html)


def cells(html):
    return [
        ["".join(cell.itertext()) for cell in row]
        for row in parsed(html).iter("tr")
    ]


def test_a_search_in_a_line(lottery):
    text = repr(lottery)
    # Keras numbers the names of models that are given none.
    named = text.replace(lottery.model.name, "model")
    assert len(named) < 80 and "\n" not in text
    assert "level=2" in text and "state=trained" in text
    assert f"density={display.percent(lottery.density)}" in text


def test_a_search_that_is_not_built_yet():
    model = keras.Sequential([keras.layers.Dense(2)])
    lottery = keras_lottery.wrap(model).lottery
    assert "state=unbuilt" in repr(lottery)
    assert "density" not in lottery._repr_html_()


def test_a_search_in_a_notebook(lottery):
    html = lottery._repr_html_()
    masks = lottery.masks
    rows = {row[0]: row for row in cells(html)}
    for path, mask in masks.items():
        assert rows[path][2] == str(mask.sum())
    bars = [
        float(div.get("style").split("width: ")[1].split("%")[0])
        for div in parsed(html).iter("div")
        if "%" in (div.get("style") or "")
        and "height: 100%" in div.get("style")
    ]
    assert bars == [round(100 * mask.mean(), 1) for mask in masks.values()]


def test_levels(lottery):
    lines = repr(lottery.levels).splitlines()
    assert lines[0].split()[:2] == ["level", "density"]
    assert [line.split()[0] for line in lines[1:]] == ["0", "1", "2"]
    assert max(map(len, lines)) < 80
    html = lottery.levels._repr_html_()
    assert [row[0] for row in cells(html)] == ["level", "0", "1", "2"]
    line = next(e for e in parsed(html).iter() if e.tag.endswith("polyline"))
    assert len(line.get("points").split()) == 3
    assert repr(keras_lottery.levels.Levels()).startswith("Levels: none")
    assert len(repr(lottery.levels[0])) < 500  # without arrays


def test_a_ticket(lottery):
    ticket = lottery.ticket(-1)
    text = repr(ticket)
    kept = sum(mask.sum() for mask in ticket.masks.values())
    assert f"kept={kept} of 42" in text and "trained=True" in text
    assert len(text) < 120
    assert len(cells(ticket._repr_html_())) == 1 + len(ticket.masks)
    assert "array" not in repr(ticket.rewind_point)


def test_names_are_escaped():
    html = display.masks_html({"a<b>&": np.ones((2, 2), bool)})
    assert "a&lt;b&gt;&amp;" in html
    assert cells(html)[1][0] == "a<b>&"


def test_results():
    lines = repr(RESULTS).splitlines()
    assert "5 trainings, 2 trials" in lines[0]
    assert lines[1].split() == ["level", "density", "ticket", "reinit"]
    assert lines[2].split() == ["0", "100", "%", "91.00", "-"]
    assert lines[3].split() == ["1", "80.0", "%", "93.00", "50.00"]
    assert cells(RESULTS._repr_html_())[2] == ["1", "80.0 %", "93.00", "50.00"]
    assert repr(Results()) == "Results: no training."
    assert "no training" in Results()._repr_html_()


def test_many_levels_fit_a_terminal():
    results = Results(result("ticket", level, 0.9) for level in range(100))
    lines = repr(results).splitlines()
    assert len(lines) < 50
    assert lines[-1].split()[0] == "99"


def test_results_plot():
    figure = RESULTS.plot("LeNet")
    left, right = figure.axes
    heights = [
        line.get_ydata().tolist()
        for line in left.lines
        if line.get_linestyle() != "None" and len(line.get_ydata()) > 1
    ]
    assert pytest.approx([91.0, 93.0]) in heights
    assert figure._repr_png_()[:4] == b"\x89PNG"
    file = io.BytesIO()
    figure.savefig(file)
    with pytest.raises(ValueError, match="results to plot"):
        Results().plot()


def test_a_chart_needs_two_densities():
    assert display.chart({"a": [(1.0, 0.5)]}, "x") == ""
    assert display.chart({"a": [(1.0, 0.5), (0.5, float("nan"))]}, "x") == ""
    assert "<svg" in display.chart({"a": [(1.0, 0.5), (0.5, 0.5)]}, "x")


class Bar:
    """Stands for tqdm's widget."""

    made = []

    def __init__(self, **arguments):
        self.made.append(arguments)


def test_progress_is_a_widget_in_a_notebook(monkeypatch):
    # What tqdm takes there, since a notebook's stream is no terminal.
    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    monkeypatch.setattr(tqdm.autonotebook, "tqdm", Bar)
    Progress().begin(2, 100)
    (arguments,) = Bar.made
    assert arguments["total"] == 200 and arguments["disable"] is False


def test_progress_needs_a_terminal_elsewhere():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.begin(2, 100)
    assert progress._bar.disable


def test_a_metric_of_each_class_is_left_out():
    model = compiled(mlp(), metrics=["accuracy"])
    model.compile(
        "adam",
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.F1Score()],
    )
    x, y = data()
    model = keras_lottery.wrap(model, rate=0.5)
    model.lottery.find(x, np.eye(3)[y], rounds=1, verbose=0)
    levels = model.lottery.levels
    assert np.ndim(levels[0].metrics["f1_score"]) == 1
    assert "loss" in repr(levels) and "f1_score" not in repr(levels)
    parsed(levels._repr_html_())


def test_a_chart_has_room_for_its_legend():
    lines = {str(i): [(1.0, 0.5), (0.5, i)] for i in range(12)}
    svg = parsed(display.chart(lines, "x"))
    height = float(svg.attrib["viewBox"].split()[-1])
    rows = svg.iter("{http://www.w3.org/2000/svg}text")
    assert all(float(row.attrib["y"]) < height for row in rows)
