"""Batch normalisation: Keras' layer in fewer operations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lottery
from keras_lottery import models
from keras_lottery.export import compact, to_litert, to_serving
from keras_lottery.export.litert import _interpreter
from keras_lottery.normalization import BatchNormalization
from keras_lottery.tf_keras import describe_model
from keras_lottery.tracing import operations


def both(shape=(4, 4, 3), **config):
    """Keras' layer and this one, built, with the same weights."""
    kinds = keras.layers.BatchNormalization, BatchNormalization
    layers = [kind(**config) for kind in kinds]
    generator = np.random.default_rng(1)
    values = None
    for layer in layers:
        layer.build((None, *shape))
        values = values or [
            generator.uniform(0.5, 2, w.shape) for w in layer.weights
        ]
        layer.set_weights(values)
    return layers


def images(shape=(5, 4, 4, 3), dtype="float32"):
    x = np.random.default_rng(0).normal(1, 3, shape)
    return tf.cast(x, dtype)


def computed(layer, x, training):
    """Outputs, gradients and weights after a call."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training)
        loss = tf.reduce_sum(tf.cast(y, "float32") ** 3)
    sources = [x, *(v.value for v in layer.trainable_variables)]
    return [y, *tape.gradient(loss, sources), *layer.weights]


def agree(layers, x, training, rtol=2e-4):
    for keras_s, own in zip(
        *(computed(layer, x, training) for layer in layers)
    ):
        assert keras_s.dtype == own.dtype
        expected = np.asarray(keras.ops.cast(keras_s, "float32"))
        found = np.asarray(keras.ops.cast(own, "float32"))
        scale = float(np.abs(expected).max())
        assert found == pytest.approx(expected, abs=rtol * scale)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("epsilon", [1e-3, 1e-5])
def test_numbers_gradients_and_averages_are_those_of_keras(training, epsilon):
    agree(both(epsilon=epsilon, momentum=0.9), images(), training)


def test_a_batch_of_one_position_has_no_variance():
    layers = both((1, 1, 3))
    agree(layers, images((1, 1, 1, 3)), training=True)
    assert np.isfinite(layers[1].moving_variance.numpy()).all()


def test_a_frozen_layer_keeps_its_averages():
    layers = both(trainable=False)
    before = layers[1].get_weights()
    agree(layers, images(), training=True)
    assert all(map(np.array_equal, before, layers[1].get_weights()))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_in_mixed_precision(policy):
    agree(both(dtype=policy), images(), training=True, rtol=0.02)


@pytest.mark.parametrize(
    "shape, config",
    [((6,), {}), ((4, 4, 3), {"axis": 1}), ((4, 4, 3), {"scale": False})],
)
def test_what_the_operation_does_not_do_keras_does(shape, config):
    layers = both(shape, **config)
    x = images((5, *shape))
    one, other = (layer(x, training=True) for layer in layers)
    assert np.array_equal(one, other)


def test_masked_inputs_are_left_out_as_by_keras():
    layers, x = both(), images()
    mask = tf.constant(np.random.default_rng(2).random((5, 4, 4)) < 0.5)
    one, other = (layer(x, training=True, mask=mask) for layer in layers)
    assert np.array_equal(one, other)


def small():
    return models.resnet_18((8, 8, 1), classes=3, seed=0)


def test_the_paper_s_networks_have_it_under_the_names_of_keras():
    model = small()
    layer = model.get_layer("conv1_bn")
    names = [w.path for w in layer.weights]
    assert type(layer) is BatchNormalization
    assert names == [
        f"conv1_bn/{name}"
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
    ]
    spec = tf.TensorSpec((None, 8, 8, 1), "float32")
    assert "FusedBatchNormV3" in operations(model, spec)


@pytest.mark.slow
def test_it_is_saved_and_loaded_as_such(tmp_path):
    model = small()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("conv1_bn")) is BatchNormalization
    x = images((2, 8, 8, 1))
    assert np.array_equal(model(x), loaded(x))


def normalised(kind):
    """A convolution that is normalised by a layer of this kind."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="images")
    x = keras.layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    x = keras.layers.ReLU(name="relu")(kind(name="bn")(x))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = keras.layers.Dense(2, name="out")(x)
    model = keras.Model(inputs, outputs, name="normalised")
    generator = np.random.default_rng(3)
    layer = model.get_layer("bn")
    layer.set_weights([generator.uniform(0.5, 2, 4) for _ in layer.weights])
    return model


@pytest.fixture(scope="module")
def pair():
    kinds = keras.layers.BatchNormalization, BatchNormalization
    return [normalised(kind) for kind in kinds]


def kinds_of_operations(content):
    return [one["op_name"] for one in _interpreter(content)._get_ops_details()]


def test_its_litert_file_is_that_of_keras_layer(pair, tmp_path):
    x = np.array(images((6, 8, 8, 1)))
    contents, answers = [], []
    for i, model in enumerate(pair):
        path = tmp_path / f"{i}.tflite"
        file = to_litert(model, path)
        contents.append(path.read_bytes())
        answers.append(file.load()(x))
    # Folded into the convolution, as Keras' is.
    one, other = map(kinds_of_operations, contents)
    assert one == other and len(one) <= 5
    assert answers[1] == pytest.approx(answers[0], abs=1e-5)


def test_a_ticket_through_it_is_compacted_exactly(pair):
    model = normalised(BatchNormalization)
    conv, layer = model.get_layer("conv"), model.get_layer("bn")
    conv.kernel.assign(conv.kernel * np.array([1, 0, 1, 1]))
    smaller = compact(model)
    assert smaller.model.get_layer("conv").filters == 3
    assert type(smaller.model.get_layer("bn")) is type(layer)
    x = images((6, 8, 8, 1))
    assert np.array(smaller.model(x)) == pytest.approx(
        np.array(model(x)), abs=1e-5
    )


@pytest.mark.slow
def test_its_saved_model_answers_as_that_of_keras_layer(pair, tmp_path):
    x = np.array(images((6, 8, 8, 1)))
    answers = []
    for i, model in enumerate(pair):
        served = to_serving(model, tmp_path / str(i), examples=x)
        loaded = tf.saved_model.load(served.path)
        found = loaded.signatures["serving_default"](images=tf.constant(x))
        answers.append(next(iter(found.values())).numpy())
    assert answers[1] == pytest.approx(answers[0], abs=1e-5)


def test_its_twin_in_tf_keras_is_tf_keras_layer():
    description = describe_model(normalised(BatchNormalization), keras)
    assert description.layers["bn"][0] == "BatchNormalization"


def test_a_wrapped_network_prunes_no_normalisation():
    model = keras_lottery.wrap(normalised(BatchNormalization))
    assert list(model.lottery.masks) == ["conv/kernel", "out/kernel"]
