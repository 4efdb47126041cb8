"""Objectives of the tuner: one number for a whole search."""

import math

import keras_tuner
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lottery.experiments import Result
from keras_lottery.tuner import objectives

LADDER = [1.0, 0.8, 0.64, 0.512]


@pytest.mark.parametrize(
    "accuracies, margin, level",
    [
        ([0.9, 0.92, 0.89, 0.8], 0.01, 2),
        ([0.9, 0.8, 0.91, 0.8], 0.0, 2),
        ([0.9, 0.8, 0.8, 0.8], 0.05, 0),
        ([0.9, 0.9, 0.9, 0.9], 0.0, 3),
    ],
)
def test_the_smallest_density_within_the_margin(accuracies, margin, level):
    found = objectives.smallest_density(LADDER, accuracies, margin)
    assert found == (level, LADDER[level])


def test_accuracy_at_a_density_or_nothing():
    accuracies = [0.9, 0.8, 0.7, 0.6]
    assert objectives.accuracy_at(LADDER, accuracies, 0, 0.7) == (2, 0.7)
    assert objectives.accuracy_at(LADDER, accuracies, 0, 0.512) == (3, 0.6)
    assert objectives.accuracy_at(LADDER, accuracies, 0, 0.5) == (3, 0.0)


@given(
    st.lists(st.floats(0.05, 0.6), min_size=1, max_size=9),
    st.floats(0.02, 0.9),
    st.floats(0, 1),
)
def test_the_area_of_a_constant_accuracy(rates, density, accuracy):
    densities = list(np.cumprod([1.0] + [1 - rate for rate in rates]))
    _, area = objectives.area(
        densities, [accuracy] * len(densities), 0, density
    )
    reached = min(1.0, math.log(densities[-1]) / math.log(density))
    assert area == pytest.approx(accuracy * reached, abs=1e-9)


def test_the_area_is_one_of_trapezoids_over_the_logarithm():
    _, area = objectives.area([1.0, 0.5, 0.25], [1.0, 0.5, 0.0], 0, 0.25)
    assert area == pytest.approx((0.75 + 0.25) / 2)
    # Cut within a step: at half of its width, on the logarithmic axis.
    _, area = objectives.area([1.0, 0.25], [1.0, 0.0], 0, 0.5)
    assert area == pytest.approx(0.75)
    # Levels of the same density have no width.
    _, area = objectives.area([1.0, 1.0, 0.5], [1.0, 0.2, 0.2], 0, 0.5)
    assert area == pytest.approx(0.2)


def test_the_objective_stands_at_the_level_picked():
    kind = objectives.OBJECTIVES["density"]
    accuracies = [0.9, 0.9, 0.9, 0.5]
    values = kind.by_level(LADDER, accuracies, 0.0, 0.5)
    assert values == [1.0, 1.0, 0.64, 1.0]


def results(accuracies):
    """Results of a search, down the ladder."""
    rows = zip(LADDER, accuracies)
    return [
        Result(0, "ticket", level, density, 9, 5, 1.0, accuracy, *[0.5] * 5)
        for level, (density, accuracy) in enumerate(rows)
    ]


def test_a_search_that_diverged_is_the_worst_and_can_be_compared():
    levels = objectives.level_metrics(
        results([0.9, math.nan, 0.9, math.nan]), "density", 0.0, 0.5
    )
    assert [m["ticket_density"] for m in levels] == [1.0, 1.0, 0.64, 1.0]
    assert [m["val_accuracy"] for m in levels] == [0.9, 0.0, 0.9, 0.0]
    assert levels[2]["early_stop_iteration"] == 5.0
    row = Result(0, "ticket", 0, 1.0, 9, 0, *[math.nan] * 6, 0.5)
    (level,) = objectives.level_metrics([row], "accuracy", 0.0, 0.5)
    assert level["ticket_accuracy"] == 0.0 and "val_loss" not in level


def test_an_oracle_of_one_s_own_takes_the_objective():
    oracle = keras_tuner.oracles.RandomSearchOracle()
    assert objectives.make_oracle(oracle, "area") is oracle
    assert (oracle.objective.name, oracle.objective.direction) == (
        "area",
        "max",
    )


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_keras_tuner_s_objective_is_taken(name):
    known = objectives.OBJECTIVES[name]
    for word in (name, known.metric):
        objective = keras_tuner.Objective(word, known.direction)
        assert objectives.objective_name(objective) == name
    other = {"min": "max", "max": "min"}[known.direction]
    with pytest.raises(ValueError, match="and its direction.*'density': 'min'"):
        objectives.objective_name(keras_tuner.Objective(name, other))


@pytest.mark.parametrize(
    "objective",
    [
        "val_loss",
        None,
        ["density", "area"],
        keras_tuner.Objective("val_accuracy", "max"),
    ],
    ids=str,
)
def test_other_objectives_are_refused(objective):
    with pytest.raises(ValueError, match="`objective` must be one of"):
        objectives.objective_name(objective)


def test_bayesian_search_names_what_is_not_installed(monkeypatch):
    def missing(**arguments):
        raise ImportError("no scipy")

    monkeypatch.setitem(objectives.ORACLES, "bayesian", missing)
    with pytest.raises(RuntimeError, match="needs scikit-learn and scipy"):
        objectives.make_oracle("bayesian", "area")
