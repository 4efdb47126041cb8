"""Error barriers: on lines of numbers that can be followed by hand."""

import numpy as np
import pytest

from keras_lottery.experiments.barriers import (
    Barrier,
    barrier,
    errors_between,
    from_csv,
    to_csv,
)


def test_the_line_goes_from_the_first_network_to_the_second():
    first = [np.array([0.1, 0.3], "float32"), np.array([[1.0]], "float32")]
    second = [np.array([0.7, 0.3], "float32"), np.array([[3.0]], "float32")]
    seen = []

    def error(weights):
        seen.append(weights)
        return weights[0][0]

    errors = errors_between(first, second, error, points=5)
    assert all(a.dtype == np.float32 for weights in seen for a in weights)
    for end, weights in ((0, first), (-1, second)):
        assert all(map(np.array_equal, seen[end], weights))
    assert seen[2][1] == 2.0
    assert errors == pytest.approx([0.1, 0.25, 0.4, 0.55, 0.7])


@pytest.mark.parametrize(
    "errors, expected",
    [
        ([0.1, 0.1, 0.1], 0.0),
        ([0.02, 0.5, 0.04], 0.47),
        ([0.1, 0.0, 0.2], 0.05),
    ],
)
def test_the_barrier_is_the_highest_error_above_the_mean_of_the_ends(
    errors, expected
):
    assert barrier(np.array(errors)) == pytest.approx(expected)


def test_barriers_are_read_as_they_were_written():
    measured = [Barrier(0, "ticket", 1, 0.8, 0.1, 0.2, 0.5, 0.35)]
    assert from_csv(to_csv(measured)) == measured
    assert from_csv(to_csv([])) == []
