"""Twins: the same model in Keras 3 and in tf_keras."""

import keras
import numpy as np
import pytest
from small import arrays, mlp, same
from twin_models import TWINS, flat, images, inputs_of, sequence

from keras_lottery import processes
from keras_lottery.tf_keras import ENVIRONMENT, build_model, describe_model

layers = keras.layers


def predict_in_tf_keras(twins):
    import tf_keras

    return {
        name: flat(build_model(description, tf_keras).predict(x, verbose=0))
        for name, (description, x) in twins.items()
    }


@pytest.fixture(scope="module")
def twins():
    keras.utils.set_random_seed(0)
    return {name: build() for name, build in TWINS.items()}


@pytest.fixture(scope="module")
def outputs(twins):
    described = {
        name: (describe_model(model, keras), inputs_of(model))
        for name, model in twins.items()
    }
    return processes.call(predict_in_tf_keras, described, env=ENVIRONMENT)


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_a_twin_in_tf_keras_answers_the_same(twins, outputs, name):
    x = inputs_of(twins[name])
    expected = flat(twins[name].predict(x if len(x) > 1 else x[0], verbose=0))
    assert len(expected) == len(outputs[name])
    for ours, theirs in zip(expected, outputs[name]):
        assert np.ptp(ours) > 0
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_in_keras_has_the_same_configuration(twins, name):
    model = twins[name]
    twin = build_model(describe_model(model, keras), keras)
    for layer in model.layers:
        if not isinstance(layer, layers.InputLayer):
            ours = twin.get_layer(layer.name)
            assert ours.get_config() == layer.get_config()
    assert same(arrays(model), arrays(twin))


def test_layers_are_replaced_by_their_wrappers():
    built = []

    def wrapper(layer):
        built.append(layer.name)
        return keras.layers.TimeDistributed(layer, name=f"of_{layer.name}")

    model = sequence(layers.Dense(2, name="inner"))
    twin = build_model(describe_model(model, keras), keras, wrapper)
    assert built == [layer.name for layer in model.layers]
    assert [n.name for n in twin.layers[1:]] == [f"of_{n}" for n in built]
    assert same(arrays(model), arrays(twin))


@keras.saving.register_keras_serializable("tests")
class OwnLayer(layers.Dense):
    pass


def with_kwargs():
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dropout(0.5)(inputs, training=True))


@pytest.mark.parametrize(
    "build, told",
    [
        (lambda: keras.Sequential([layers.Dense(3)]), "must be a built"),
        (lambda: keras.Sequential([mlp()]), "built-in layers.*sequential"),
        (
            lambda: keras.Sequential(
                [keras.Input((4,)), OwnLayer(3, name="o")]
            ),
            "built-in layers that Keras 3 and tf_keras share.*'o'",
        ),
        (
            lambda: images(layers.Conv2D(2, 2, activation="hard_sigmoid")),
            "`activation` must be one of.*'hard_sigmoid'",
        ),
        (
            lambda: sequence(layers.Dropout(0.2, noise_shape=(1, 5, 4))),
            "as Keras 3 and tf_keras both have them.*noise_shape",
        ),
        (with_kwargs, "tensors alone.*called with training"),
    ],
)
def test_what_tf_keras_has_not_is_refused_by_name(build, told):
    with pytest.raises(ValueError, match=told):
        describe_model(build(), keras)
