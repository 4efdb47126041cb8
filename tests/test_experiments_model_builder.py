"""What a model that a function builds is identified by."""

import keras
import numpy as np
import pytest

import keras_lottery
from keras_lottery.experiments.model_builder import fingerprint
from keras_lottery.keras_internals import names_from_the_first


def network(units=8, rate=0.1, loss="mse", seed=0):
    keras.utils.set_random_seed(seed)
    with names_from_the_first():
        layers = [keras.layers.Dense(units, "relu"), keras.layers.Dense(3)]
        model = keras.Sequential([keras.Input((6,)), *layers])
        model.compile(keras.optimizers.SGD(rate), loss)
    return model


def test_a_fingerprint_is_the_same_for_other_weights():
    found, other = network(seed=0), network(seed=1)
    assert not np.array_equal(found.get_weights()[0], other.get_weights()[0])
    assert len(fingerprint(found)) == 32
    assert fingerprint(found) == fingerprint(other)


@pytest.mark.parametrize(
    "change", [{"units": 9}, {"rate": 0.2}, {"loss": "mae"}], ids=str
)
def test_a_fingerprint_is_of_layers_optimizer_and_loss(change):
    assert fingerprint(network()) != fingerprint(network(**change))


def test_how_a_model_is_pruned_is_not_in_its_fingerprint():
    found = keras_lottery.wrap(network(), rate=0.2)
    other = keras_lottery.wrap(network(), rate=0.5, criterion="movement")
    assert fingerprint(found) == fingerprint(other)
    faster = keras_lottery.wrap(network(rate=0.2), rate=0.2)
    assert fingerprint(found) != fingerprint(faster)


def doubled():
    class Own(keras.Model):
        def call(self, x):
            return 2 * x

    with names_from_the_first():
        return Own()


def tripled():
    class Own(keras.Model):
        def call(self, x):
            return 3 * x

    with names_from_the_first():
        return Own()


def test_a_class_of_one_s_own_is_identified_by_its_source():
    assert fingerprint(doubled()) == fingerprint(doubled())
    assert fingerprint(doubled()) != fingerprint(tripled())
