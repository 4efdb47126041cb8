"""Schedules: rates of rounds, checked against powers done by hand."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lottery import schedules
from keras_lottery.schedules import (
    Constant,
    FromSparsity,
    Scaled,
    ToDensity,
    one_shot,
)


def density_after(schedule, rounds):
    density = 1.0
    for index in range(rounds):
        density *= 1 - schedules.rate_at(schedule, index, "w")
    return density


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 20))
def test_constant(rate, rounds):
    assert density_after(Constant(rate), rounds) == pytest.approx(
        (1 - rate) ** rounds, abs=1e-12
    )


@given(st.floats(1e-6, 1), st.integers(1, 30))
def test_to_density_reaches_it_in_time_and_stays(density, rounds):
    schedule = ToDensity(density, rounds)
    assert density_after(schedule, rounds) == pytest.approx(density)
    assert density_after(schedule, rounds + 5) == pytest.approx(density)
    rates = {schedule(r) for r in range(rounds)}
    assert len(rates) == 1


def test_the_rate_is_not_the_root_of_the_sparsity():
    assert ToDensity(0.8**7, 7)(0) == pytest.approx(0.2)


def test_one_shot():
    schedule = one_shot(0.1)
    assert schedule(0) == pytest.approx(0.9)
    assert schedule(1) == 0.0


def test_scaled():
    assert Scaled(Constant(0.2), 0.5)(3) == pytest.approx(0.1)


class PolynomialLike:
    """Pruning sparsity 0.5 from step 2, on even steps only."""

    def __call__(self, step):
        return step >= 2 and step % 2 == 0, {2: 0.5, 4: 0.75}.get(step, 0.6)


def test_from_sparsity_counts_steps_in_rounds():
    schedule = FromSparsity(PolynomialLike())
    # Step 6 asks for 0.6 again: what is pruned stays pruned.
    rates = [schedule(r) for r in range(6)]
    assert rates == pytest.approx([0, 0.5, 0, 0.5, 0, 0])


TFMOT = """
import json, sys
import tensorflow_model_optimization as tfmot
sys.modules.pop("keras_lottery", None)
from keras_lottery import schedules
sparsity = tfmot.sparsity.keras
table = {
    "polynomial": sparsity.PolynomialDecay(0.0, 0.9, 0, 5, frequency=1),
    "linear": sparsity.PolynomialDecay(0.2, 0.8, 1, 4, power=1, frequency=1),
    "constant": sparsity.ConstantSparsity(0.5, 3, frequency=1),
    "every_other": sparsity.ConstantSparsity(0.5, 0, frequency=2),
}
out = {}
for name, schedule in table.items():
    got = schedules.get(schedule)
    assert type(got).__name__ == "FromSparsity", got
    rates = [schedules.rate_at(got, r, "w") for r in range(8)]
    targets = [
        float(schedule(r + 1)[1]) if schedule(r + 1)[0] else None
        for r in range(8)
    ]
    out[name] = rates, targets
print("RESULT" + json.dumps(out))
"""


@pytest.mark.slow
def test_schedules_of_tfmot():
    # In a process of its own: importing tfmot turns Keras 3 off.
    done = subprocess.run(
        [sys.executable, "-c", TFMOT], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout.split("RESULT")[1])
    for rates, targets in table.values():
        density, sparsity = 1.0, 0.0
        for rate, target in zip(rates, targets):
            assert 0 <= rate < 1
            density *= 1 - rate
            sparsity = max(sparsity, target or 0.0)
            assert 1 - density == pytest.approx(sparsity, abs=1e-6)
    rates, _ = table["constant"]
    assert rates == pytest.approx([0, 0, 0.5, 0, 0, 0, 0, 0])
    rates, _ = table["every_other"]
    assert rates == pytest.approx([0, 0.5, 0, 0, 0, 0, 0, 0])
    rates, targets = table["polynomial"]
    assert targets[4] == pytest.approx(0.9) and targets[5] is None
    assert all(rate > 0 for rate in rates[:5]) and not any(rates[5:])


@pytest.mark.parametrize(
    "rate", [0, 0.2, np.float32(0.25), np.float64(0.25), np.int64(0)]
)
def test_get_takes_numbers(rate):
    schedule = schedules.get(rate)
    assert schedule == Constant(float(rate))
    assert type(schedule.rate) is float


def test_get_takes_callables_as_they_are():
    def halving(round):
        return 0.5 / (round + 1)

    half = FromSparsity(lambda step: (True, 0.5))
    for schedule in (halving, ToDensity(0.1, 3), half):
        assert schedules.get(schedule) is schedule


def test_get_tries_a_callable_before_a_level_is_trained():
    with pytest.raises(ValueError, match="`rate of rate in round 0` must be"):
        schedules.get(lambda round: 1.5)
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    with pytest.raises(ValueError, match="learning-rate schedule.*Received"):
        schedules.get(rate)


@pytest.mark.parametrize(
    "rate",
    [1, 1.0, 1.2, -0.1, np.nan, np.inf, True, "0.2", None, [0.2], float, {}],
)
def test_get_refuses(rate):
    with pytest.raises(ValueError, match=r"`speed` must be .*Received: speed="):
        schedules.get(rate, "speed")


@pytest.mark.parametrize("rate", [1.0, -0.5, np.nan, None, "x", True])
def test_a_callable_that_returns_no_rate(rate):
    with pytest.raises(ValueError, match="rate of w in round 3.*Received"):
        schedules.rate_at(lambda round: rate, 3, "w")


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(0.2),
        Constant(np.float32(0.25)),
        ToDensity(0.1, 4),
        ToDensity(np.float32(0.5), np.int64(4)),
        Scaled(Constant(0.2), 0.5),
        Scaled(ToDensity(0.1, 4), 0.5),
        Scaled(Scaled(Constant(0.2), 0.5), 0.5),
        Scaled(Constant(0.0), 0.5),
    ],
)
def test_config_round_trip_through_json(schedule):
    config = json.loads(json.dumps(schedules.to_config(schedule)))
    back = schedules.from_config(config)
    assert [back(r) for r in range(6)] == [schedule(r) for r in range(6)]


@pytest.mark.parametrize(
    "schedule", [lambda r: 0.1, Scaled(abs, 0.5), FromSparsity(abs)]
)
def test_a_callable_is_not_kept_by_a_file_and_says_so(schedule):
    assert schedules.to_config(schedule) is None
    with pytest.raises(ValueError, match="Give `rate`"):
        schedules.from_config(None)(0)
