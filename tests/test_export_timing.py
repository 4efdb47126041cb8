"""Latency is measured in turns, without the first call of each."""

import itertools

import numpy as np
import pytest

from keras_lottery.export import timing


class Clock:
    """A clock of which calls of functions are the only cause to go on."""

    def __init__(self):
        self.now = 0.0
        self.called = []

    def function(self, name, seconds, first=None):
        """One that takes so long, and after another one's turn `first`."""

        def call(x):
            cold = not self.called or self.called[-1] != name
            self.now += first if cold and first else seconds
            self.called.append(name)
            return x

        return call

    def turns(self):
        """(name, number of calls) of each turn."""
        return [
            (name, len(list(calls)))
            for name, calls in itertools.groupby(self.called)
        ]


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: made.now)
    return made


def test_each_has_turns_of_the_same_length(clock):
    functions = [clock.function("a", 0.001), clock.function("b", 0.004)]
    a, b = timing.median_seconds(functions, np.ones(3), 2)
    assert (a, b) == pytest.approx((0.001, 0.004))
    assert [name for name, _ in clock.turns()] == ["a", "b", "a", "b"]
    (_, of_a), (_, of_b) = clock.turns()[:2]
    assert of_a == pytest.approx(4 * of_b, abs=4)


def test_the_first_call_of_a_turn_is_not_counted(clock):
    functions = [clock.function("a", 0.015, first=0.9), clock.function("b", 1)]
    a, _ = timing.median_seconds(functions, np.ones(3), 1)
    assert a == pytest.approx(0.015)


def test_slow_functions_are_timed_once_a_turn(clock):
    functions = [clock.function("a", 5.0), clock.function("b", 7.0)]
    assert timing.median_seconds(functions, np.ones(3), 3) == [5.0, 7.0]
    assert clock.turns() == [("a", 2), ("b", 2)] * 3


def test_examples_are_repeated_to_fill_a_batch(clock):
    shapes = []

    def function(x):
        shapes.append(x.shape)
        clock.now += 1
        return x

    (found,) = timing.latencies([function], np.ones((2, 5)), (1, 32))
    assert set(shapes) == {(1, 5), (32, 5)}
    assert found == {1: 1.0, 32: 1.0}


@pytest.mark.parametrize("sizes", [(0,), ("x",), (1.5,)])
def test_batch_sizes_are_whole_numbers(sizes):
    with pytest.raises(ValueError, match="must be an integer, at least 1"):
        timing.check_batch_sizes(sizes)
    assert timing.check_batch_sizes(("1", 32)) == (1, 32)
