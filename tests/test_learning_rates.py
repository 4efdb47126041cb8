"""The learning-rate schedule of the paper's deep networks."""

import keras
import pytest

from keras_lottery.learning_rates import WarmupAndDrops


def rates(schedule, *steps):
    return [float(schedule(step)) for step in steps]


def test_rises_and_drops():
    schedule = WarmupAndDrops(0.03, warmup=20, drops=(20, 25))
    assert rates(schedule, 0, 10, 19, 20, 24, 25) == pytest.approx(
        [0.0, 0.015, 0.0285, 0.003, 0.003, 0.0003]
    )
    assert rates(WarmupAndDrops(0.1), 0, 10**6) == pytest.approx([0.1, 0.1])


def test_comes_back_from_its_configuration():
    schedule = WarmupAndDrops(0.03, warmup=20, drops=(20, 25))
    made = keras.saving.serialize_keras_object(schedule)
    assert made["registered_name"] == "keras_lottery>WarmupAndDrops"
    again = keras.saving.deserialize_keras_object(made)
    assert rates(again, 3, 21, 30) == rates(schedule, 3, 21, 30)
