import os
import types

import keras
import numpy as np
import pytest
from small import arrays, compiled, data, mlp, same

import keras_lottery
from keras_lottery import datasets, models
from keras_lottery.export import interpreting, legacy, litert, tfmot_training
from keras_lottery.export.legacy_process import call
from keras_lottery.export.tfmot import (
    check_layers,
    from_tfmot,
    to_tfmot_litert,
)

layers = keras.layers


def sparse(model, density=0.3, dense=()):
    """The model with random weights, few of them not zero."""
    draw = np.random.default_rng(0)
    for layer in model.layers:
        for weight in layer.weights:
            values = draw.uniform(0.1, 0.5, weight.shape)
            if len(weight.shape) > 1:
                values *= draw.choice([-1, 1], weight.shape)
                if layer.name not in dense:
                    values *= draw.random(weight.shape) < density
            weight.assign(values)
    return model


def residual():
    """Convolutions, normalised and not, an addition; its head is dense."""
    inputs = keras.Input((6, 6, 2), name="pixels")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    x = short = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D()(layers.Add()([x, short]))
    x = layers.Flatten()(layers.Dropout(0.2)(x))
    x = layers.Dense(12, "relu")(x)
    outputs = layers.Dense(3, name="head")(x)
    return sparse(keras.Model(inputs, outputs), dense=["head"])


def images(*between):
    return sparse(
        keras.Sequential(
            [
                keras.Input((8, 8, 2)),
                *between,
                layers.Flatten(),
                layers.Dense(3, "softmax"),
            ]
        )
    )


def sequence(*between):
    return sparse(
        keras.Sequential([keras.Input((5, 4)), *between, layers.Dense(3)])
    )


def shared():
    twice = layers.Dense(4, "tanh")
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(3)(twice(twice(inputs))))


def two_ends():
    one, other = keras.Input((4,)), keras.Input((4,))
    parts = [
        merge()([one, other])
        for merge in (
            layers.Subtract,
            layers.Multiply,
            layers.Average,
            layers.Maximum,
            layers.Minimum,
            layers.Concatenate,
        )
    ]
    both = layers.Concatenate()(parts)
    return sparse(
        keras.Model([one, other], [layers.Dense(3)(both), layers.Dense(2)(one)])
    )


def tokens():
    ids = keras.Input((5,), dtype="int32")
    return sparse(
        keras.Model(ids, layers.Flatten()(layers.Embedding(7, 4)(ids)))
    )


TWINS = {
    "mlp": mlp,
    "residual": residual,
    "shared": shared,
    "two_ends": two_ends,
    "tokens": tokens,
    "images": lambda: images(
        layers.Rescaling(0.5, 0.1),
        layers.ZeroPadding2D(1),
        layers.DepthwiseConv2D(2, activation="elu"),
        layers.SeparableConv2D(4, 2, depthwise_initializer="he_normal"),
        layers.LeakyReLU(0.2),
        layers.Conv2DTranspose(3, 2, strides=2),
        layers.AveragePooling2D(2),
        layers.UpSampling2D(2),
        layers.Cropping2D(1),
        layers.LayerNormalization(),
        layers.SpatialDropout2D(0.1),
        layers.Activation("gelu"),
        layers.Permute((2, 1, 3)),
    ),
    "volumes": lambda: images(
        layers.Reshape((4, 4, 4, 2)),
        layers.Conv3D(2, 2, activation="selu"),
        layers.ELU(),
    ),
    "pooled": lambda: keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.GlobalAveragePooling2D(keepdims=True),
            layers.GlobalMaxPooling2D(),
            layers.Softmax(),
        ]
    ),
    "recurrent": lambda: sequence(
        layers.Conv1D(4, 2, kernel_regularizer="l2"),
        layers.AveragePooling1D(1),
        layers.MaxPooling1D(1),
        layers.LSTM(4, return_sequences=True),
        layers.GRU(4, return_sequences=True, kernel_constraint="max_norm"),
        layers.SimpleRNN(3, return_sequences=True),
        layers.GlobalMaxPooling1D(),
    ),
    "averaged": lambda: sequence(layers.GlobalAveragePooling1D()),
}


def inputs_of(model, count=4):
    draw = np.random.default_rng(0)
    return [
        draw.integers(0, 7, (count, *tensor.shape[1:])).astype(tensor.dtype)
        for tensor in model.inputs
    ]


def flat(outputs):
    return [np.asarray(part) for part in keras.tree.flatten(outputs)]


def in_tf_keras(twins, jobs, directory):
    """All that the tests want to know from over there, in one process."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    k = tf_keras.layers
    outputs = {}
    for name, (description, x) in twins.items():
        model = legacy.build(description, tf_keras)
        outputs[name] = flat(model.predict(x, verbose=0))
    model = tf_keras.Sequential(
        [
            k.Conv2D(4, 3, input_shape=(6, 6, 2), use_bias=False),
            k.BatchNormalization(),
            k.LeakyReLU(0.2),
            k.Flatten(),
            k.Dense(3, kernel_regularizer="l2"),
        ]
    )
    draw = np.random.default_rng(0)
    model.set_weights(
        [
            draw.uniform(0.1, 1, w.shape) * (draw.random(w.shape) < 0.5)
            for w in model.get_weights()
        ]
    )
    there = types.SimpleNamespace(outputs=outputs, weights=model.get_weights())
    x = draw.normal(size=(4, 6, 6, 2))
    there.x, there.y = x, model.predict(x, verbose=0)
    for name in ("m.h5", "m.keras", "saved"):
        model.save(os.path.join(directory, name))
    pruned = tfmot.sparsity.keras.prune_low_magnitude(model)
    pruned.save(os.path.join(directory, "wrapped.h5"))
    there.described = {
        name: tfmot_training.describe_file(os.path.join(directory, name))
        for name in ("m.h5", "m.keras", "saved")
    }
    there.refused = [
        refusal(tfmot_training.describe_stripped, pruned),
        refusal(
            tfmot_training.describe_file, os.path.join(directory, "wrapped.h5")
        ),
        refusal(from_tfmot, pruned),
    ]
    there.passed = from_tfmot(model).lottery.masks
    there.files = [tfmot_training.optimize(job)[0] for job in jobs]
    return there


def refusal(function, *args):
    try:
        function(*args)
    except ValueError as error:
        return str(error)


def job(model, **settings):
    (x,) = inputs_of(model, 32)
    x = x / 7
    return tfmot_training.Job(
        **{
            "description": legacy.describe(model, keras),
            "outputs": model.predict(x, verbose=0),
            "train": (x, np.arange(32) % 3),
            "test": (x, np.arange(32) % 3),
            "from_logits": True,
            "clusters": None,
            "quantize_aware": True,
            "epochs": 2,
            "batch_size": 8,
            "learning_rate": 0.02,
            "seed": 0,
            **settings,
        }
    )


@pytest.fixture(scope="module")
def twins():
    keras.utils.set_random_seed(0)
    return {name: build() for name, build in TWINS.items()}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tf_keras"))


@pytest.fixture(scope="module")
def there(twins, directory):
    described = {
        name: (legacy.describe(model, keras), inputs_of(model))
        for name, model in twins.items()
    }
    jobs = [job(twins["residual"]), job(twins["residual"], clusters=4)]
    return call(in_tf_keras, described, jobs, directory)


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_a_twin_in_tf_keras_answers_the_same(twins, there, name):
    x = inputs_of(twins[name])
    expected = flat(twins[name].predict(x if len(x) > 1 else x[0], verbose=0))
    assert len(expected) == len(there.outputs[name])
    for ours, theirs in zip(expected, there.outputs[name]):
        assert np.ptp(ours) > 0
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_in_keras_has_the_same_configuration(twins, name):
    model = twins[name]
    twin = legacy.build(legacy.describe(model, keras), keras)
    for layer in model.layers:
        if not isinstance(layer, layers.InputLayer):
            ours = twin.get_layer(layer.name)
            assert ours.get_config() == layer.get_config()
    assert same(arrays(model), arrays(twin))


@pytest.mark.slow
@pytest.mark.parametrize("file", ["m.h5", "m.keras", "saved"])
def test_what_tf_keras_saved_becomes_keras_3(there, file):
    model = legacy.build(there.described[file], keras)
    assert same(arrays(model), there.weights)
    found = model.predict(there.x, verbose=0)
    np.testing.assert_allclose(found, there.y, rtol=1e-4, atol=1e-5)
    assert model.layers[-1].kernel_regularizer is not None


@pytest.mark.slow
def test_a_pruned_model_of_tfmot_goes_on_as_a_ticket(there, directory):
    model = from_tfmot(os.path.join(directory, "m.h5"), rate=0.5)
    masks = list(model.lottery.masks.values())
    kernels = [w for w in there.weights if w.ndim > 1]
    assert same(masks, [kernel != 0 for kernel in kernels])
    assert same(masks, there.passed.values())
    assert 0.3 < model.lottery.density < 0.7
    assert same(arrays(model), there.weights)
    compiled(model)
    model.fit(there.x, np.arange(4) % 3, verbose=0)
    for mask, before in zip(model.lottery.masks.values(), masks):
        assert mask.sum() < before.sum() and not (mask & ~before).any()


@pytest.mark.slow
def test_what_is_still_wrapped_is_to_be_stripped_first(there):
    assert len(there.refused) == 3
    for told in there.refused:
        assert "strip_pruning" in told


@pytest.mark.slow
def test_every_zero_is_in_the_file_and_clusters_stay(twins, there):
    pruned = sum(
        (w == 0).sum() for w in arrays(twins["residual"]) if w.ndim > 1
    )
    for content in there.files:
        weights, zeros = interpreting.count(content)
        assert weights == sum(
            w.size for w in arrays(twins["residual"]) if w.ndim > 1
        )
        assert pruned <= zeros < pruned + 0.2 * weights
        assert all(k.dtype == np.int8 for k in interpreting.kernels(content))
    free, clustered = map(interpreting.kernels, there.files)
    distinct = [len(np.unique(k)) for k in clustered if k.ndim == 2]
    assert len(distinct) == 2 and max(distinct) <= 4
    assert max(len(np.unique(k)) for k in free if k.ndim == 2) > 8


def test_a_zero_that_was_lost_is_noticed():
    model = sparse(mlp())
    spec = legacy.describe(model, keras)
    from keras_lottery.export.endpoint import Endpoint

    content = litert.convert(Endpoint(model).trace())
    tfmot_training.check_zeros(content, spec)
    kernel = spec.weights["hidden"][0]
    kernel[tuple(np.argwhere(kernel != 0)[0])] = 0
    with pytest.raises(RuntimeError, match="some of layer 'hidden' are not"):
        tfmot_training.check_zeros(content, spec)


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
        legacy.describe(build(), keras)


@pytest.mark.parametrize(
    "build, told",
    [
        (shared, "shared layers.*used twice"),
        (two_ends, "tfmot takes .*a Subtract"),
        (lambda: sequence(layers.GRU(3)), "'gru.*', a GRU"),
        (
            lambda: images(
                layers.Conv2D(2, 2, activation="relu", name="c"),
                layers.BatchNormalization(),
            ),
            "must directly follow.*after 'c'",
        ),
        (lambda: images(layers.DepthwiseConv2D(2)), "with zeros"),
        (lambda: images(layers.Conv2D(2, 2, activation="elu")), "'elu'"),
    ],
)
def test_what_tfmot_cannot_take_is_refused_by_name(build, told):
    with pytest.raises(ValueError, match=told):
        check_layers(legacy.describe(build(), keras))


def test_wrong_arguments_are_refused_before_anything_starts(tmp_path):
    x, y = data()
    for given, told in (
        ({"clusters": 2}, "`clusters` must be an integer, at least 3"),
        ({"quantize_aware": False}, "nothing is left to do"),
        ({"epochs": 0}, "`epochs` must be an integer, at least 1"),
        ({"y": y[:-1]}, "`x` must be examples with one integer label each"),
        ({"y": y + 1}, "an output for each class"),
        ({"test": (x, x)}, "`test` must be examples with one integer"),
        ({"level": 0}, "`level` must be None"),
    ):
        given = {"x": x, "y": y, "test": (x, y), **given}
        with pytest.raises(ValueError, match=told):
            to_tfmot_litert(mlp(), tmp_path / "m", **given)
    assert not os.listdir(tmp_path)
    with pytest.raises(ValueError, match="must be a tf_keras model, or the"):
        from_tfmot(mlp())
    with pytest.raises(FileNotFoundError, match="There is no"):
        from_tfmot(tmp_path / "none.h5")


def test_an_error_comes_back_from_the_process():
    assert call(int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal.*'seven'"):
        call(int, "seven")
    with pytest.raises(RuntimeError, match="ended with code 3"):
        call(os._exit, 3)


@pytest.mark.slow
def test_a_ticket_of_digits_in_clusters_of_8_bits(tmp_path):
    digits = datasets.load("digits")
    model = models.lenet_300_100(digits.input_shape, seed=0)
    model = keras_lottery.wrap(compiled(model, metrics=["accuracy"]))
    model.lottery.find(*digits.train, rounds=6, epochs=8, verbose=0)
    masks = model.lottery.masks.values()
    file = to_tfmot_litert(
        model, tmp_path / "m", *digits.train, digits.test, clusters=16
    )
    assert file.zeros >= sum((~mask).sum() for mask in masks)
    assert file.accuracy_before > 0.9
    assert file.accuracy > file.accuracy_before - 0.03
    plain = litert.to_litert(model, tmp_path / "plain")
    assert file.bytes < plain.bytes / 3
    assert file.compressed_bytes < plain.compressed_bytes / 3
