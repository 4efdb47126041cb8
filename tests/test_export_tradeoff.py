"""Accuracy against latency: every level is written, run and measured."""

import numpy as np
import pytest

from keras_lottery import report
from keras_lottery.experiments import Experiment, Run
from keras_lottery.export import measure_tradeoff


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of one network: single weights, and blocks."""
    directory = tmp_path_factory.mktemp("runs")
    paths = []
    for size in ("1x1", "4x1"):
        paths.append(str(directory / size))
        Experiment(
            rounds=1,
            iterations=40,
            rate=0.5,
            block_size=size,
            backend="graph",
        ).run(paths[-1])
    return paths


@pytest.mark.slow
def test_every_level_of_both_arms_is_measured(runs, tmp_path):
    points = measure_tradeoff(tuple(runs), batch_sizes=(1, 8))
    assert [(p.block_size, p.arm, p.level) for p in points] == [
        (size, arm, level)
        for size in ("1x1", "4x1")
        for level in (0, 1)
        for arm in ("ticket", "reinit")
    ]
    results = Run.open(runs[1]).results
    expected = {(r.arm, r.level): r.final_test_accuracy for r in results}
    for point in points[4:]:
        assert point.accuracy == expected[point.arm, point.level]
        assert set(point.seconds) == {1, 8}
        # The file is that of the ticket.
        found = expected["ticket", point.level]
        assert point.file_accuracy == pytest.approx(found, abs=1e-3)
    dense, _, pruned, _ = points[4:]
    # Which encoding is faster is measured.
    assert pruned.bytes <= dense.bytes
    assert dense.kernels == "3 dense" and pruned.kernels
    assert "ticket" not in points.table() and "4x1" in points.table()

    points.to_csv(Run.open(runs[0]).path("tradeoff.csv"))
    frame = Run.open(runs[0]).tradeoff
    np.testing.assert_allclose(
        frame["accuracy"], [p.accuracy for p in points], rtol=1e-5
    )
    figure = report.tradeoff(frame)
    assert "4x1 float32 ticket" in figure.alt
    assert len(figure.chart.axes) == 2
    page = open(report.write(runs[0])).read()
    assert "Where it is served" in page and "Levels where they" in page


def test_a_form_that_there_is_not():
    with pytest.raises(ValueError, match="`forms` must be"):
        measure_tradeoff(("nowhere",), forms=("int4",))


def test_a_trial_that_there_is_not(runs):
    with pytest.raises(ValueError, match="`trial` must be.*trial=5"):
        measure_tradeoff(tuple(runs), trial=5)
