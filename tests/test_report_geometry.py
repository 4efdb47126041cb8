"""Distances between masks: of masks that can be counted by hand."""

import dataclasses

import numpy as np
import pytest
from test_experiments_results import result

from keras_lottery import RewindPoint, Ticket
from keras_lottery.experiments.barriers import Barrier
from keras_lottery.experiments.results import Results
from keras_lottery.experiments.run import Run
from keras_lottery.report.figures import geometry_of_run
from keras_lottery.report.geometry import (
    _counts,
    _indices,
    mask_distances,
    to_csv,
)

A = np.array([[1, 1], [1, 1]], bool), np.array([1, 1, 1, 1], bool)
B = np.array([[1, 1], [0, 0]], bool), np.array([1, 1, 1, 0], bool)
C = np.array([[1, 0], [1, 0]], bool), np.array([0, 1, 1, 1], bool)


@pytest.fixture
def run(tmp_path):
    """Two trials of two levels; another arm has no tickets."""
    run, results = Run(tmp_path), []
    for trial, masks in enumerate(((A, B), (A, C))):
        for level, (one, two) in enumerate(masks):
            named = {"net/one/kernel": one, "net/two/kernel": two}
            run.save_ticket(
                trial, "ticket", Ticket(named, RewindPoint(0, {}, {}), level)
            )
            results.append(result(trial=trial, arm="ticket", level=level))
            results.append(result(trial=trial, arm="reinit", level=level))
    run.write_results(Results(results))
    return run


def found(run, between, layer, **where):
    return [
        one
        for one in mask_distances(run)
        if (one.between, one.layer) == (between, layer)
        and all(getattr(one, name) == value for name, value in where.items())
    ]


def test_a_level_and_the_one_before(run):
    (one,) = found(run, "levels", "one", trial=0)
    assert (one.level, one.other_level, one.arm) == (1, 0, "ticket")
    assert (one.jaccard, one.hamming) == (0.5, 0.5)
    (whole,) = found(run, "levels", "all", trial=0)
    assert (whole.jaccard, whole.hamming) == (5 / 8, 3 / 8)
    assert whole.density == 5 / 8


def test_two_trials_and_what_chance_would_give(run):
    (one,) = found(run, "trials", "one", level=1)
    assert (one.trial, one.other_trial) == (0, 1)
    assert (one.jaccard, one.hamming) == (1 / 3, 1 / 2)
    # Two of four and two of four: one in common.
    assert (one.jaccard_by_chance, one.hamming_by_chance) == (1 / 3, 1 / 2)
    (two,) = found(run, "trials", "two", level=1)
    assert (two.jaccard, two.hamming) == (2 / 4, 2 / 4)
    assert two.jaccard_by_chance == pytest.approx(2.25 / 3.75)
    (whole,) = found(run, "trials", "all", level=1)
    assert (whole.jaccard, whole.hamming) == (3 / 7, 4 / 8)
    assert whole.jaccard_by_chance == pytest.approx(3.25 / 6.75)
    (dense,) = found(run, "trials", "all", level=0)
    assert (dense.jaccard, dense.hamming) == (1, 0)


def test_they_are_written_as_rows(run):
    lines = to_csv(mask_distances(run)).splitlines()
    assert lines[0].startswith("between,arm,layer,trial,level,density,other_")
    # Two trials of a round, and a pair of trials at two levels; two layers
    # and all.
    assert len(lines) == 1 + (2 + 2) * 3


def test_figures_are_drawn_of_what_there_is(run):
    distances = mask_distances(run)
    barriers = [
        Barrier(trial, "ticket", level, 0.8**level, 0.1, 0.1, 0.2, 0.1)
        for trial in (0, 1)
        for level in (0, 1)
    ]
    figures = geometry_of_run(barriers, barriers, distances)
    assert [figure.name for figure in figures] == [
        "instability",
        "connectivity",
        "mask_overlap_of_trials",
        "mask_overlap_by_layer",
    ]
    lines = [
        figure.chart.axes[0].get_legend_handles_labels()[1]
        for figure in figures[2:]
    ]
    assert lines == [["ticket"], ["one", "two", "all"]]
    assert "10 at 80.0 %" in figures[0].alt
    assert geometry_of_run([], [], []) == []


def test_rounds_that_take_another_share_of_a_layer_are_drawn(run):
    distances = [one for one in mask_distances(run) if one.between == "levels"]
    assert geometry_of_run([], [], distances) == []
    later = [
        dataclasses.replace(one, level=2, density=0.3, jaccard=0.4)
        for one in distances
    ]
    (only,) = geometry_of_run([], [], distances + later)
    assert only.name == "mask_overlap_of_levels"


def test_chance_is_what_random_masks_have():
    generator = np.random.default_rng(0)
    one, other = (generator.random(100_000) < p for p in (0.2, 0.4))
    jaccard, hamming, by_chance, apart = _indices(*_counts(one, other))
    assert jaccard == pytest.approx(by_chance, abs=0.005)
    assert hamming == pytest.approx(apart, abs=0.005)


def test_a_level_that_is_missing_is_not_named(run):
    later = run.load_ticket(0, "ticket", 1)
    later.level = 2
    run.save_ticket(0, "ticket", later)
    rows = [result(trial=0, arm="ticket", level=level) for level in (0, 2)]
    run.write_results(Results(rows))
    (one,) = found(run, "levels", "one", trial=0)
    assert (one.level, one.other_level) == (2, 0)
