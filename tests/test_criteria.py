"""Criteria: the scores, by hand."""

import numpy as np
import pytest

from keras_lottery import criteria

INITIAL = np.array([[1.0, -2.0], [0.5, 0.0]], np.float32)
TRAINED = np.array([[-3.0, 1.0], [0.5, 0.25]], np.float32)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("magnitude", [[3, 1], [0.5, 0.25]]),
        ("large_final", [[3, 1], [0.5, 0.25]]),
        ("small_final", [[-3, -1], [-0.5, -0.25]]),
        ("magnitude_increase", [[2, -1], [0, 0.25]]),
        ("movement", [[4, 3], [0, 0.25]]),
    ],
)
def test_scores_by_hand(name, expected):
    before = INITIAL.copy(), TRAINED.copy()
    got = criteria.scores(criteria.get(name), INITIAL, TRAINED, 0)
    np.testing.assert_array_equal(got, np.array(expected, np.float32))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(INITIAL, before[0])
    np.testing.assert_array_equal(TRAINED, before[1])


def test_random_depends_on_its_seed_alone():
    random = criteria.get("random")
    one = criteria.scores(random, INITIAL, TRAINED, [7, 0, 1])
    two = criteria.scores(random, TRAINED, INITIAL, [7, 0, 1])
    other = criteria.scores(random, INITIAL, TRAINED, [7, 1, 1])
    np.testing.assert_array_equal(one, two)
    assert one.shape == INITIAL.shape and len(np.unique(one)) == 4
    assert (one != other).any()
    assert criteria.random(INITIAL, TRAINED).shape == INITIAL.shape


def test_every_name_is_a_function_of_that_name():
    assert set(criteria.NAMES) >= {"magnitude", "movement", "random"}
    for name, function in criteria.NAMES.items():
        assert function.__name__ == name
        assert criteria.get(name) is function
        assert criteria.get(function) is function


def test_own_criterion():
    def nearest_to_one(initial, trained):
        return -np.abs(np.abs(trained) - 1)

    assert criteria.get(nearest_to_one) is nearest_to_one
    got = criteria.scores(nearest_to_one, INITIAL, TRAINED, 0)
    np.testing.assert_allclose(got, [[-2, 0], [-0.5, -0.75]])


def test_no_criterion_may_work_in_place():
    def careless(initial, trained):
        initial -= trained
        return initial

    before = INITIAL.copy()
    with pytest.raises(ValueError, match="read-only"):
        criteria.scores(careless, INITIAL, TRAINED, 0)
    np.testing.assert_array_equal(INITIAL, before)
    assert INITIAL.flags.writeable


def test_scores_of_a_list_are_an_array():
    got = criteria.scores(lambda i, t: t.tolist(), INITIAL, TRAINED, 0)
    assert isinstance(got, np.ndarray)


@pytest.mark.parametrize("criterion", ["Magnitude", "", None, 3, ["magnitude"]])
def test_get_refuses(criterion):
    with pytest.raises(ValueError, match="`criterion` must .*Received: crit"):
        criteria.get(criterion)


@pytest.mark.parametrize("scores", [1.0, np.ones(4), np.ones((2, 2, 1)), None])
def test_scores_of_another_shape(scores):
    with pytest.raises(ValueError, match=r"`criterion` must .*Received: shape"):
        criteria.scores(lambda i, t: scores, INITIAL, TRAINED, 0)
