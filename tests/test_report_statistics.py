"""Means over trials, differences between arms, and the test of them."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_experiments_results import result

from keras_lottery.experiments.plan import Place
from keras_lottery.report.statistics import (
    Measurements,
    differences,
    layer_names,
    series,
    sign_flip,
)

VALUES = st.lists(
    st.integers(-50, 50).map(lambda n: n / 100), min_size=1, max_size=9
)


def by_enumeration(values):
    """Every choice of signs, one after the other, in whole numbers."""
    whole = [round(100 * value) for value in values]
    reach = abs(sum(whole))
    signs = list(itertools.product((1, -1), repeat=len(whole)))
    far = sum(
        abs(sum(s * n for s, n in zip(choice, whole))) >= reach
        for choice in signs
    )
    return far / len(signs)


def test_points_are_mean_minimum_and_maximum_over_trials():
    results = [
        result(
            trial=trial,
            arm=arm,
            level=level,
            density=0.8**level,
            early_stop_iteration=100 * (trial + 1),
        )
        for trial in (0, 1)
        for arm in ("ticket", "reinit")
        for level in (0, 1, 2)
    ]
    points = series(results, "early_stop_iteration")["ticket"]
    assert [p.level for p in points] == [0, 1, 2]
    first = points[0]
    assert (first.mean, first.low, first.high) == (150, 100, 200)
    assert first.trials == 2
    assert points[2].density == pytest.approx(0.64)


@given(VALUES)
def test_p_is_that_of_all_choices_of_signs(values):
    assert sign_flip(values) == by_enumeration(values)


@pytest.mark.parametrize("trials", [2, 3, 5, 8])
def test_the_least_p_is_two_in_all_choices(trials):
    values = np.linspace(0.1, 0.2, trials)
    assert sign_flip(values) == sign_flip(-values) == 2 / 2**trials


def test_no_difference_is_no_evidence():
    assert sign_flip([0.0, 0.0, 0.0]) == 1.0
    assert sign_flip([0.1, -0.1]) == 1.0
    assert sign_flip([0.3]) == 1.0


def test_many_trials_are_exact_too():
    assert sign_flip([1.0] * 30) == 2 / 2**30


def test_of_more_trials_the_choices_are_drawn():
    values = np.random.default_rng(0).normal(0.35, 1.0, 30)
    exact, drawn = sign_flip(values), sign_flip([*values, 1e-9])
    assert drawn == sign_flip([*values, 1e-9])
    assert drawn == pytest.approx(exact, rel=0.05)
    assert 0 < sign_flip([1.0] * 200) < 2e-5


def test_what_is_no_number_gives_no_p():
    assert math.isnan(sign_flip([0.1, float("nan")]))


def made(arm, trial, level, accuracy):
    return result(
        arm=arm,
        trial=trial,
        level=level,
        density=0.8**level,
        early_stop_test_accuracy=accuracy,
    )


def test_arms_are_paired_by_trial_and_level():
    results = [
        made(arm, trial, level, 0.9 + 0.01 * trial + (arm == "ticket") * lead)
        for arm in ("reinit", "ticket")
        for trial in range(3)
        for level, lead in enumerate((0.0, 0.002, 0.004))
    ]
    # A trial that only one arm has is left out.
    results.append(made("ticket", 3, 1, 0.5))
    rows = differences(results, "ticket", "reinit", "early_stop_test_accuracy")
    assert [row.level for row in rows] == [0, 1, 2, None]
    assert [row.density for row in rows] == [1.0, 0.8, 0.8**2, None]
    for row, lead in zip(rows, (0.0, 0.002, 0.004, 0.003)):
        assert row.values == pytest.approx([lead] * 3, abs=1e-9)
    assert rows[-1].p == 0.25


def test_one_trial_gives_a_difference_and_no_p():
    results = [made("ticket", 0, 1, 0.9), made("reinit", 0, 1, 0.8)]
    (row,) = differences(
        results, "ticket", "reinit", "early_stop_test_accuracy"
    )
    assert row.values == pytest.approx([0.1]) and row.p is None


def test_a_trial_without_all_levels_is_not_in_the_mean_over_levels():
    results = [
        made(arm, trial, level, 0.9)
        for arm in ("ticket", "reinit")
        for trial in (0, 1)
        for level in (1, 2)
        if (arm, trial, level) != ("reinit", 1, 2)
    ]
    rows = differences(results, "ticket", "reinit", "early_stop_test_accuracy")
    assert [(row.level, len(row.values)) for row in rows] == [
        (1, 2),
        (2, 1),
        (None, 1),
    ]


def test_layers_are_named_without_model_and_kernel():
    for paths, names in (
        (["lenet/fc1/kernel", "lenet/fc2/kernel"], ["fc1", "fc2"]),
        (["fc1/kernel"], ["fc1"]),
        (["net/block/conv/kernel", "net/a/b"], ["block/conv", "a/b"]),
        # Layers of the same name in two others.
        (
            ["attention/query/kernel", "attention_1/query/kernel"],
            ["attention/query", "attention_1/query"],
        ),
        (["attention/query/kernel", "fc/kernel"], ["attention/query", "fc"]),
        ([], []),
    ):
        assert layer_names(paths) == dict(zip(paths, names))


def test_levels_of_other_densities_are_not_compared():
    rows = [made("ticket", 0, level, 0.9) for level in range(3)]
    other = [made("reinit", 0, level, 0.8) for level in range(3)]
    other[1] = dataclasses.replace(other[1], density=0.4)
    found = differences(
        rows + other, "ticket", "reinit", "early_stop_test_accuracy"
    )
    assert [row.level for row in found] == [0, 2]


class RunOf:
    """A run of one level, of which the trainings ended at these iterations."""

    def __init__(self, *ends):
        self.experiment = {}
        self.results = [made("ticket", t, 0, 0.9) for t in range(len(ends))]
        self.ends = ends

    def load_places(self):
        return {Place(t, 0, "ticket"): str(t) for t in range(len(self.ends))}

    def load_ticket(self, *place):
        return None

    def load_curves(self, key):
        iterations = np.arange(100, self.ends[int(key)] + 1, 100)
        values = np.full(len(iterations), float(key))
        return {
            "iterations": iterations,
            "val_loss": values,
            "val_accuracy": values,
        }


@pytest.mark.parametrize(
    "ends, kept, diverged",
    [
        ((300, 300), [0, 1], 0),
        ((100, 300, 300), [1, 2], 1),
        ((200,), [0], 0),
    ],
)
def test_a_training_that_ended_early_is_in_no_mean_curve(ends, kept, diverged):
    curves = Measurements(RunOf(*ends)).learning_curves("ticket", 0)
    assert curves.iterations.tolist() == list(range(100, max(ends) + 1, 100))
    assert curves.values["val_loss"][:, 0].tolist() == kept
    assert len(curves.early_stops) == len(kept)
    assert curves.diverged == diverged
