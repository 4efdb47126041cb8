"""Checks of arguments: what is refused, in which words."""

import numpy as np
import pytest

from keras_lottery import checks


@pytest.mark.parametrize("value", [1.0, -1, True, None, "3", np.float32(2)])
def test_check_integer_refuses(value):
    with pytest.raises(
        ValueError, match="`n` must be an integer.*Received: n="
    ):
        checks.check_integer("n", value, minimum=0)


def test_check_integer_gives_an_int():
    value = checks.check_integer("n", np.int64(3), minimum=0)
    assert type(value) is int and value == 3


@pytest.mark.parametrize("value", [-0.1, 1.0, True, None, "0.2", float("nan")])
def test_check_rate_refuses(value):
    with pytest.raises(ValueError, match=r"`rate` must be in \[0, 1\)"):
        checks.check_rate("rate", value)


@pytest.mark.parametrize("value", [0, -1.0, True, None, float("inf")])
def test_check_positive_refuses(value):
    with pytest.raises(ValueError, match="greater than 0. Received: x="):
        checks.check_positive("x", value)


def test_check_choice_names_the_choices():
    with pytest.raises(ValueError, match=r"one of \['a', 'b'\].*'c'"):
        checks.check_choice("x", "c", ("a", "b"))
