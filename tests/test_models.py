"""The paper's networks: counts, initialisation, names, training."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lottery import models

SMALL = {
    "lenet_300_100": (8, 8, 1),
    "conv_2": (8, 8, 3),
    "conv_4": (8, 8, 3),
    "conv_6": (8, 8, 3),
    "resnet_18": (8, 8, 3),
    "vgg_19": (16, 16, 3),
}


def kernels(model):
    return [v for v in model.trainable_variables if len(v.shape) > 1]


def size(variables):
    return sum(math.prod(v.shape) for v in variables)


@pytest.fixture(scope="module")
def built():
    """Every network at the paper's size, from seed 0."""
    return {name: models.get(name)(seed=0) for name in models.NETWORKS}


@pytest.mark.parametrize(
    "name, weights",
    [
        ("lenet_300_100", 266_200),
        ("conv_2", 4_300_992),
        ("conv_4", 2_425_024),
        ("conv_6", 2_261_184),
        ("resnet_18", 270_896),
        ("vgg_19", 20_024_000),
    ],
)
def test_kernel_weights_are_the_papers(built, name, weights):
    assert size(kernels(built[name])) == weights


def test_resnet_shortcuts_and_all_parameters(built):
    model = built["resnet_18"]
    # 16 x 32 and 32 x 64 in the shortcuts; the paper counts 274k in all.
    shortcuts = [v for v in kernels(model) if "shortcut" in v.path]
    assert [tuple(v.shape) for v in shortcuts] == [
        (1, 1, 16, 32),
        (1, 1, 32, 64),
    ]
    assert round(model.count_params() / 1000) == 274
    assert len(kernels(model)) == 19 + 2 + 1


def test_vgg_has_sixteen_convolutions(built):
    convolutions = [v for v in kernels(built["vgg_19"]) if len(v.shape) == 4]
    assert [v.shape[-1] for v in convolutions] == (
        [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    )
    assert built["vgg_19"].get_layer("pool").input.shape == (None, 2, 2, 512)


def test_kernels_are_glorots_and_biases_zero(built):
    for name, model in built.items():
        for variable in model.trainable_variables:
            if variable.path.endswith("bias"):
                assert not np.any(variable.numpy())
        for kernel in kernels(model):
            values = kernel.numpy()
            fan = values.shape[-2] + values.shape[-1]
            deviation = math.sqrt(2 / (fan * math.prod(values.shape[:-2])))
            error = 5 * deviation / math.sqrt(2 * values.size)
            assert values.std() == pytest.approx(deviation, abs=error), name


def test_gaussian_is_not_truncated(built):
    values = built["lenet_300_100"].get_layer("fc1").kernel.numpy()
    beyond = np.abs(values) > 3 * math.sqrt(2 / (784 + 300))
    # 0.27 % of a normal distribution; a truncated one ends before that.
    assert beyond.mean() == pytest.approx(0.0027, rel=0.2)


def test_same_seed_same_bits_and_stable_paths(built):
    for name in ("lenet_300_100", "conv_2", "resnet_18"):
        again = models.get(name)(seed=0)
        assert [v.path for v in again.variables] == [
            v.path for v in built[name].variables
        ]
        for first, second in zip(built[name].weights, again.weights):
            np.testing.assert_array_equal(first.numpy(), second.numpy())


def test_layers_differ_though_their_shapes_agree(built):
    seen = {}
    for kernel in kernels(built["resnet_18"]):
        for other in seen.setdefault(tuple(kernel.shape), []):
            assert not np.any(kernel.numpy() == other)
        seen[tuple(kernel.shape)].append(kernel.numpy())
    assert max(len(alike) for alike in seen.values()) > 2


def test_other_seeds_give_other_weights():
    shape = SMALL["lenet_300_100"]
    drawn = [
        models.lenet_300_100(shape, seed=seed).get_weights()[0]
        for seed in (0, 1, np.int64(2), None, None)
    ]
    for index, first in enumerate(drawn):
        for second in drawn[:index]:
            assert np.mean(first == second) < 0.01


def test_no_seed_follows_keras():
    drawn = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        drawn.append(models.lenet_300_100((8, 8, 1)).get_weights()[0])
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize("name", ["conv_2", "conv_4", "conv_6"])
def test_dropout_adds_seeded_layers_and_no_weights(name):
    plain = models.get(name)(SMALL[name], seed=0)
    dropped = models.get(name)(SMALL[name], dropout=0.5, seed=0)
    layers = [
        layer
        for layer in dropped.layers
        if isinstance(layer, keras.layers.Dropout)
    ]
    assert [layer.rate for layer in layers] == [0.5, 0.5]
    assert len({layer.seed for layer in layers} - {None}) == 2
    assert [v.path for v in plain.weights] == [v.path for v in dropped.weights]
    for first, second in zip(plain.weights, dropped.weights):
        np.testing.assert_array_equal(first.numpy(), second.numpy())
    again = models.get(name)(SMALL[name], dropout=0.5, seed=0)
    x = np.ones((2, *SMALL[name]), "float32")
    outputs = [model(x, training=True) for model in (plain, dropped, again)]
    assert np.any(outputs[0] != outputs[1])
    np.testing.assert_array_equal(outputs[1], outputs[2])


@pytest.mark.parametrize("name", models.NETWORKS)
def test_trains_on_logits(name):
    model = models.get(name)(SMALL[name], classes=4, seed=0)
    assert model.get_layer("output").activation is keras.activations.linear
    model.compile(
        optimizer=keras.optimizers.SGD(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,  # One step is not worth compiling for.
    )
    rng = np.random.default_rng(0)
    x = rng.random((4, *SMALL[name]), np.float32)
    before = kernels(model)[0].numpy()
    loss = model.train_on_batch(x, np.arange(4))
    assert np.isfinite(loss)
    assert all(np.all(np.isfinite(w)) for w in model.get_weights())
    assert np.any(kernels(model)[0].numpy() != before)
    assert model(x).shape == (4, 4)


@pytest.mark.parametrize("name", ["lenet_300_100", "conv_6", "resnet_18"])
def test_save_and_load_lose_no_bit(name, tmp_path):
    options = {
        "conv_6": {"dropout": 0.5},
        "resnet_18": {"augment": True},
    }.get(name, {})
    model = models.get(name)(SMALL[name], seed=0, **options)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).random((2, *SMALL[name]), np.float32)
    np.testing.assert_array_equal(model(x), loaded(x))
    np.testing.assert_array_equal(
        model(x, training=True), loaded(x, training=True)
    )
    for first, second in zip(model.weights, loaded.weights):
        assert first.path == second.path
        np.testing.assert_array_equal(first.numpy(), second.numpy())


def test_weight_decay_is_the_gradient_of_the_penalty():
    model = models.resnet_18((8, 8, 3), weight_decay=1e-2, seed=0)
    with tf.GradientTape() as tape:
        penalty = tf.add_n(model.losses)
    for kernel, gradient in zip(
        kernels(model),
        tape.gradient(penalty, [k.value for k in kernels(model)]),
    ):
        np.testing.assert_allclose(gradient, 1e-2 * kernel.numpy(), rtol=1e-6)
    assert not models.resnet_18((8, 8, 3), weight_decay=0.0).losses


def shifts(image, padding):
    """Every image that `FlipAndCrop` may make of one, by plain slicing."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[top : top + height, left : left + width]
            yield top, left, False, crop
            yield top, left, True, crop[:, ::-1]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_augmentation_flips_and_shifts_each_image(jit_compile):
    image = np.random.default_rng(0).random((6, 5, 3), np.float32)
    layer = models.FlipAndCrop(padding=2, seed=0)
    train = tf.function(
        lambda x: layer(x, training=True), jit_compile=jit_compile
    )
    outputs = train(tf.constant(np.stack([image] * 300))).numpy()
    found = []
    for output in outputs:
        match = [
            s[:3] for s in shifts(image, 2) if np.array_equal(s[3], output)
        ]
        assert len(match) == 1
        found += match
    for axis, values in enumerate((range(5), range(5), (False, True))):
        assert {shift[axis] for shift in found} == set(values)
    assert len(set(found)) > 40
    assert np.any(train(tf.constant(np.stack([image] * 300))) != outputs)


def test_augmentation_is_of_training_only_and_seeded():
    x = np.random.default_rng(0).random((8, 8, 8, 3), np.float32)
    layers = [models.FlipAndCrop(seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(layers[0](x), x)
    first, same, other = (layer(x, training=True).numpy() for layer in layers)
    np.testing.assert_array_equal(first, same)
    assert np.any(first != other)
    plain = models.resnet_18((8, 8, 3), seed=0)
    augmented = models.resnet_18((8, 8, 3), seed=0, augment=True)
    np.testing.assert_array_equal(plain(x), augmented(x))
    assert np.any(plain(x, training=True) != augmented(x, training=True))


STATISTICS = ((0.5, 0.25, 0.0), (0.25, 2.0, 0.1))


@pytest.mark.parametrize("name", models.NETWORKS)
def test_standardisation_is_part_of_the_network(name):
    shape = SMALL[name]
    mean, deviation = (part[: shape[-1]] for part in STATISTICS)
    plain = models.get(name)(shape, seed=0)
    model = models.get(name)(shape, seed=0, standardize=(mean, deviation))
    assert [v.path for v in model.variables] == [
        v.path for v in plain.variables
    ]
    for first, second in zip(plain.weights, model.weights):
        np.testing.assert_array_equal(first.numpy(), second.numpy())
    x = np.random.default_rng(0).random((3, *shape), np.float32)
    np.testing.assert_allclose(
        model(x), plain((x - mean) / deviation), rtol=1e-4, atol=1e-5
    )


def test_standardised_images_are_augmented():
    """So that what is padded by zeros is padded by the mean."""
    model = models.resnet_18(
        (8, 8, 3), augment=True, seed=0, standardize=STATISTICS
    )
    names = [layer.name for layer in model.layers]
    assert names[:4] == ["images", "standardize", "augment", "conv1"]


def test_a_standardising_network_comes_back_from_its_file(tmp_path):
    statistics = np.float32(STATISTICS)
    model = models.conv_2((8, 8, 3), seed=0, standardize=statistics)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    np.testing.assert_array_equal(model(x), loaded(x))


@pytest.mark.parametrize(
    "statistics",
    [
        True,
        0.5,
        (0.5, 0.5),
        ((0.5,) * 3,),
        ((0.5,) * 2, (0.5,) * 2),
        ((0.5,) * 3, (0.5,) * 2),
        ((0.5,) * 3, (0.5, 0.5, 0.0)),
        ((0.5,) * 3, (0.5, 0.5, -1)),
        ((0.5, 0.5, math.nan), (0.5,) * 3),
        (("a",) * 3, (0.5,) * 3),
    ],
)
def test_refuses_wrong_statistics(statistics):
    with pytest.raises(ValueError, match="`standardize` must be a pair"):
        models.conv_2((8, 8, 3), standardize=statistics)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: models.get("lenet"), "one of lenet_300_100, conv_2"),
        (lambda: models.lenet_300_100((28, 28)), "`input_shape`"),
        (lambda: models.conv_2((None, 32, 3)), "`input_shape`"),
        (lambda: models.conv_6((4, 8, 3)), "at least 8"),
        (lambda: models.vgg_19((15, 16, 3)), "at least 16"),
        (lambda: models.conv_2(classes=0), "`classes`"),
        (lambda: models.conv_2(dropout=1.0), "`dropout`.*dropout=1.0"),
        (lambda: models.resnet_18(weight_decay=-1), "`weight_decay`"),
        (lambda: models.lenet_300_100(seed=-1), "`seed`.*seed=-1"),
        (lambda: models.lenet_300_100(seed=0.5), "`seed`.*seed=0.5"),
    ],
)
def test_refuses_wrong_values(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_deep_networks_can_be_as_the_authors_have_them():
    usual = models.resnet_18(seed=0)
    authors = models.resnet_18(
        seed=0,
        norm_epsilon=1e-5,
        norm_momentum=0.9,
        padding="symmetric",
        decayed="all",
    )
    assert [v.path for v in usual.weights] == [v.path for v in authors.weights]
    for a, b in zip(usual.get_weights(), authors.get_weights()):
        np.testing.assert_array_equal(a, b)
    norm = authors.get_layer("conv1_bn")
    assert (norm.epsilon, norm.momentum) == (1e-5, 0.9)
    assert norm.gamma.regularizer is not None
    assert usual.get_layer("conv1_bn").gamma.regularizer is None
    output = authors.get_layer("output")
    assert output.bias.regularizer is not None
    # Strides see the same neighbours on both sides.
    name = "stage2_block1_conv1"
    x = np.zeros((1, 32, 32, 3), "float32")
    for model, padded in ((usual, False), (authors, True)):
        layers = [layer.name for layer in model.layers]
        assert (f"{name}_pad" in layers) == padded
        assert model.get_layer(name).output.shape == (None, 16, 16, 32)
        assert np.isfinite(model(x)).all()
    for wrong in ({"padding": "valid"}, {"decayed": "biases"}):
        with pytest.raises(ValueError, match="must be"):
            models.vgg_19(**wrong)


@pytest.mark.parametrize(
    "name, width, last", [("resnet_18", 16, 64), ("vgg_19", 64, 512)]
)
def test_a_narrower_network_keeps_the_ratios_of_its_widths(name, width, last):
    build, shape = models.get(name), SMALL[name]
    usual = build(shape, seed=0)
    narrow = build(shape, seed=0, width=width // 8)
    assert [v.path for v in usual.weights] == [v.path for v in narrow.weights]
    for a, b in zip(kernels(usual)[1:-1], kernels(narrow)[1:-1]):
        assert tuple(a.shape[-2:]) == tuple(8 * n for n in b.shape[-2:])
    assert kernels(narrow)[-1].shape == (last // 8, 10)
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match=f"`width`.*width={wrong}"):
            build(shape, width=wrong)
