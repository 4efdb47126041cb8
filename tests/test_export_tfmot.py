"""A ticket in tfmot, and a pruned model of tfmot as a ticket."""

import os
import types

import keras
import numpy as np
import pytest
from small import arrays, compiled, data, mlp, same
from twin_models import (
    images,
    inputs_of,
    residual,
    sequence,
    shared,
    sparse,
    two_ends,
)

import keras_lottery
from keras_lottery import datasets, models, processes
from keras_lottery.export import litert, tfmot_training
from keras_lottery.export.endpoint import Endpoint
from keras_lottery.export.litert import count_weights, dense_kernels
from keras_lottery.export.tfmot import (
    check_layers,
    from_tfmot,
    to_tfmot_litert,
)
from keras_lottery.tf_keras import ENVIRONMENT, build_model, describe_model

layers = keras.layers


def in_tf_keras(jobs, directory):
    """All that the tests want to know from over there, in one process."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    k = tf_keras.layers
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
    there = types.SimpleNamespace(weights=model.get_weights())
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
            "description": describe_model(model, keras),
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
def model():
    keras.utils.set_random_seed(0)
    return residual()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tf_keras"))


@pytest.fixture(scope="module")
def there(model, directory):
    jobs = [job(model), job(model, clusters=4)]
    return processes.call(in_tf_keras, jobs, directory, env=ENVIRONMENT)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["m.h5", "m.keras", "saved"])
def test_what_tf_keras_saved_becomes_keras_3(there, file):
    model = build_model(there.described[file], keras)
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
def test_every_zero_is_in_the_file_and_clusters_stay(model, there):
    pruned = sum((w == 0).sum() for w in arrays(model) if w.ndim > 1)
    for content in there.files:
        weights, zeros = count_weights(content)
        assert weights == sum(w.size for w in arrays(model) if w.ndim > 1)
        assert pruned <= zeros < pruned + 0.2 * weights
        assert all(k.dtype == np.int8 for k in dense_kernels(content))
    free, clustered = map(dense_kernels, there.files)
    distinct = [len(np.unique(k)) for k in clustered if k.ndim == 2]
    assert len(distinct) == 2 and max(distinct) <= 4
    assert max(len(np.unique(k)) for k in free if k.ndim == 2) > 8


def test_a_zero_that_was_lost_is_noticed():
    model = sparse(mlp())
    spec = describe_model(model, keras)
    content = litert.convert(Endpoint(model).trace())
    tfmot_training.check_zeros(content, spec)
    kernel = spec.weights["hidden"][0]
    kernel[tuple(np.argwhere(kernel != 0)[0])] = 0
    with pytest.raises(RuntimeError, match="some of layer 'hidden' are not"):
        tfmot_training.check_zeros(content, spec)


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
        check_layers(describe_model(build(), keras))


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
    plain = litert.to_litert(model, tmp_path / "plain", sparse=False)
    assert file.bytes < plain.bytes / 3
    assert file.compressed_bytes < plain.compressed_bytes / 3
