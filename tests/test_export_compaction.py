"""compact: the same outputs from fewer units, over tickets of every density."""

import functools

import keras
import numpy as np
import pytest
import small
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from keras import layers

import keras_lottery
from keras_lottery import models
from keras_lottery.export.compaction import compact
from keras_lottery.graph import plain
from keras_lottery.keras_internals import functional_of, operation_of

ACTIVATIONS = (
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh "
    "leaky_relu linear log_sigmoid mish relu relu6 selu sigmoid silu "
    "soft_shrink softmax softplus softsign sparse_plus squareplus tanh "
    "tanh_shrink log_softmax"
).split()

# Nothing to shrink: a failing example is a row of a table.
SETTINGS = settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
)


def sequential(shape, *stack):
    return keras.Sequential([keras.Input(shape), *stack])


def dense(units, activation="relu", **options):
    return layers.Dense(units, activation, **options)


def mlp(activation="tanh", **options):
    return sequential(
        (6,),
        dense(9, activation, name="first", **options),
        dense(8, activation, name="second", **options),
        dense(3, None, name="head", **options),
    )


def stack_2d(*between, size=8):
    """conv -> norm -> relu -> `between` -> flatten -> dense."""
    return sequential(
        (size, size, 2),
        layers.Conv2D(6, 3, use_bias=False, name="conv"),
        layers.BatchNormalization(),
        layers.ReLU(),
        *between,
        layers.Flatten(),
        dense(5),
        dense(3, None),
    )


def residual():
    inputs = keras.Input((6, 6, 3))
    x = start = layers.Conv2D(7, 3, padding="same", name="stem")(inputs)
    for _ in range(2):
        y = layers.BatchNormalization()(x)
        y = layers.Conv2D(5, 3, padding="same", activation="relu")(y)
        y = layers.Conv2D(7, 1, padding="same")(y)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Concatenate()([x, layers.Conv2D(4, 1)(start)])
    x = layers.Maximum()([x, layers.LeakyReLU()(x)])
    return keras.Model(inputs, dense(3, None)(layers.GlobalMaxPool2D()(x)))


def several_outputs():
    a, b = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    hidden = layers.Concatenate()([dense(7)(a), dense(5, "sigmoid")(b), b])
    deep = dense(6, name="deep")(hidden)
    outputs = {
        "p": dense(3, "softmax", name="p")(deep),
        "q": dense(2, None, name="q")(hidden),
        "deep": deep,
    }
    return keras.Model({"a": a, "b": b}, outputs)


def shared():
    inputs = keras.Input((6,))
    twice, relu = dense(6, "tanh", name="twice"), layers.ReLU()
    x = relu(dense(6, "tanh")(inputs))
    x = relu(dense(5, None)(twice(twice(x))))
    return keras.Model(inputs, dense(3, None)(x))


def nested():
    inner = sequential((9,), dense(8), dense(7))
    inputs = keras.Input((4,))
    middle = keras.Model(inputs, [dense(9)(inputs), inner(dense(9)(inputs))])
    outer = keras.Input((6,))
    one, other = middle(dense(4)(outer))
    top = sequential((7,), dense(5), dense(3, None, name="top"))
    return keras.Model(outer, [top(other), dense(2, None)(one)])


def other_layers():
    inputs = keras.Input((6,))
    x = dense(8)(inputs)
    x = layers.LayerNormalization()(x) + dense(8)(x)
    x = layers.Softmax()(dense(5)(x))
    return keras.Model(inputs, dense(3, None)(layers.UnitNormalization()(x)))


def one_dimensional():
    return sequential(
        (12, 3),
        layers.Conv1D(6, 3, activation="elu", padding="causal"),
        layers.Conv1D(5, 2, activation="sigmoid", dilation_rate=2),
        layers.DepthwiseConv1D(2, depth_multiplier=2, activation="relu"),
        layers.SeparableConv1D(6, 2, depth_multiplier=2, activation="tanh"),
        layers.Conv1DTranspose(5, 3, strides=2, activation="relu"),
        layers.ZeroPadding1D(1),
        layers.UpSampling1D(2),
        layers.Cropping1D(1),
        layers.MaxPool1D(2),
        layers.Reshape((-1, 10)),
        layers.Conv1D(4, 1, groups=2),
        layers.GlobalAveragePooling1D(),
        layers.RepeatVector(3),
        layers.PReLU(),
        dense(4),
        layers.Flatten(),
        dense(3, None),
    )


def three_dimensional():
    return sequential(
        (5, 5, 5, 2),
        layers.Conv3D(6, 2, activation="relu"),
        layers.Conv3DTranspose(4, 2, activation="relu"),
        layers.AveragePooling3D(2, padding="same"),
        layers.Flatten(),
        dense(3, None),
    )


ACTIVATED = {f"mlp {n}": functools.partial(mlp, n) for n in ACTIVATIONS}
KINDS = {
    **ACTIVATED,
    "mlp without biases": functools.partial(mlp, "sigmoid", use_bias=False),
    "mlp mixed": functools.partial(mlp, "tanh", dtype="mixed_float16"),
    "mlp bfloat16": functools.partial(mlp, "sigmoid", dtype="bfloat16"),
    "pool": lambda: stack_2d(layers.MaxPool2D(2)),
    "pool same": lambda: stack_2d(layers.MaxPool2D(4, 2, "same")),
    "average": lambda: stack_2d(layers.AveragePooling2D(2)),
    "average same": lambda: stack_2d(layers.AveragePooling2D(4, 2, "same")),
    "dropout": lambda: stack_2d(
        layers.SpatialDropout2D(0.5), layers.GaussianNoise(0.5)
    ),
    "same": lambda: stack_2d(layers.Conv2D(5, 3, padding="same")),
    "strided": lambda: stack_2d(layers.Conv2D(5, 3, 2, activation="elu")),
    "depthwise": lambda: stack_2d(
        layers.DepthwiseConv2D(2, depth_multiplier=2, activation="relu"),
        layers.DepthwiseConv2D(3, padding="same"),
    ),
    "separable": lambda: stack_2d(
        layers.SeparableConv2D(5, 2, depth_multiplier=2),
        layers.SeparableConv2D(6, 3, padding="same", activation="relu"),
    ),
    "transposed": lambda: stack_2d(layers.Conv2DTranspose(5, 3, strides=2)),
    "padded": lambda: stack_2d(layers.ZeroPadding2D(1), layers.Conv2D(4, 3)),
    "reshaped": lambda: stack_2d(layers.Reshape((4, 54)), dense(5)),
    "any size": lambda: sequential(
        (None, None, 2),
        layers.Conv2D(6, 3, activation="sigmoid"),
        layers.DepthwiseConv2D(2, strides=2, padding="same"),
        layers.Conv2D(6, 3),
        layers.MaxPool2D(2),
        layers.GlobalAveragePooling2D(),
        dense(3, None),
    ),
    "residual": residual,
    "several outputs": several_outputs,
    "shared": shared,
    "nested": nested,
    "other layers": other_layers,
    "1d": one_dimensional,
    "3d": three_dimensional,
}
# Where no two layers with rules follow each other.
NO_RULES = ("mlp softmax", "mlp log_softmax", "other layers")


@functools.cache
def built(kind):
    return KINDS[kind]()


def ticket(model, density, dead, seed):
    """Gives a model random weights; of each kernel a random part survives.

    A share `dead` of its units loses all that comes in, and as many channels
    all that goes out. Returns the number of survivors.
    """
    draw, survivors = np.random.default_rng(seed), 0
    for variable in model.weights:
        values = draw.normal(size=variable.shape) * 0.5
        if "variance" in variable.path:
            values = np.abs(values) + 0.1
        if len(variable.shape) > 1 and "alpha" not in variable.path:
            mask = draw.random(values.shape) < density
            mask &= draw.random(values.shape[-1]) >= dead
            mask &= draw.random(values.shape[-2])[:, None] >= dead
            values, survivors = values * mask, survivors + mask.sum()
        variable.assign(values)
    return survivors


def examples(model, count=3):
    draw = np.random.default_rng(9)
    return keras.tree.map_structure(
        lambda x: draw.normal(
            size=(count, *[size or 9 for size in x.shape[1:]])
        ).astype("float32"),
        functional_of(model).input,
    )


def assert_same(model, other):
    x = examples(model)
    expected, found = model(x), other(x)
    keras.tree.assert_same_structure(expected, found)
    for a, b in zip(keras.tree.flatten(expected), keras.tree.flatten(found)):
        assert a.shape == b.shape and a.dtype == b.dtype
        tolerance = 1e-4 if a.dtype == "float32" else 3e-2
        a, b = (np.asarray(keras.ops.cast(t, "float32")) for t in (a, b))
        scale = max(np.abs(a).max(), 1e-3)
        np.testing.assert_allclose(b / scale, a / scale, atol=tolerance)


TICKETS = (
    st.sampled_from([0.0, 0.02, 0.1, 0.3, 1.0]),
    st.sampled_from([0.0, 0.3, 0.7]),
    st.integers(0, 10**6),
)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ACTIVATED])
@SETTINGS
@given(*TICKETS)
def test_same_outputs(kind, density, dead, seed):
    check_same_outputs(kind, density, dead, seed)


# They differ by one function of Keras.
@pytest.mark.parametrize("kind", ACTIVATED)
@settings(SETTINGS, max_examples=2)
@given(*TICKETS)
def test_same_outputs_of_every_activation(kind, density, dead, seed):
    check_same_outputs(kind, density, dead, seed)


def check_same_outputs(kind, density, dead, seed):
    model = built(kind)
    ticket(model, density, dead, seed)
    before = small.arrays(model)
    compacted = compact(model)
    assert_same(model, compacted.model)
    assert small.same(before, small.arrays(model))
    if density == 0 and kind not in NO_RULES:
        assert compacted.removed


@pytest.mark.parametrize("density", [0.01, 0.1])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "vgg_19" else name
        for name in models.NETWORKS
    ],
)
def test_the_networks_of_the_paper(name, density):
    size = {"vgg_19": 16, "conv_6": 8}.get(name, 6)
    model = models.get(name)((size, size, 2), classes=4)
    ticket(model, density, 0.2, seed=3)
    compacted = compact(model)
    assert_same(model, compacted.model)
    assert compacted.removed
    assert compacted.model.count_params() < model.count_params()


def reachable(kernels):
    """Units of each hidden layer on a path from an input to an output."""
    heard, hears = [np.ones(len(kernels[0]), bool)], []
    for kernel in kernels:
        heard.append((kernel[heard[-1]] != 0).any(0))
    live = np.ones(kernels[-1].shape[1], bool)
    for kernel in reversed(kernels):
        live = (kernel[:, live] != 0).any(1)
        hears.append(live)
    return [a & b for a, b in zip(heard[1:-1], hears[-2::-1])]


@SETTINGS
@given(
    st.sampled_from([0.02, 0.1, 0.2, 0.4]),
    st.sampled_from(["mlp relu", "mlp sigmoid", "mlp without biases"]),
    st.integers(0, 10**6),
)
def test_counts_are_those_of_paths(density, kind, seed):
    model = built(kind)
    ticket(model, density, 0.1, seed)
    kernels = [layer.get_weights()[0] for layer in model.layers]
    live = [max(1, units.sum()) for units in reachable(kernels)]
    removed = compact(model).removed
    widths = dict(zip(("first", "second"), (9, 8)))
    found = [width - removed.get(n, 0) for n, width in widths.items()]
    assert found == live and "head" not in removed


def test_a_known_mask_gives_known_units():
    """Unit 1 hears nothing, 2 is not heard; 0 of the next hears only 1."""
    model = sequential((4,), dense(6, name="a"), dense(5, name="b"), dense(3))
    ticket(model, 1.0, 0.0, seed=0)
    (first, c), (second, d) = (n.get_weights() for n in model.layers[:2])
    c[1], first[:, 1] = 2.0, 0
    second[2], second[:, 0] = 0, 0
    second[1, 0] = 1.5
    model.layers[0].set_weights([first, c])
    model.layers[1].set_weights([second, d])
    compacted = compact(model)
    assert compacted.removed == {"a": 2, "b": 1} and not compacted.left
    shapes = [v.shape for v in compacted.model.weights]
    assert shapes[:4] == [(4, 4), (4,), (4, 4), (4,)]
    found = compacted.model.layers[2].get_weights()[1]
    np.testing.assert_allclose(found, (d + 2.0 * second[1])[1:], rtol=1e-6)
    assert_same(model, compacted.model)


def test_a_filter_through_norm_pool_and_flatten():
    model = built("pool")
    ticket(model, 1.0, 0.0, seed=0)
    kernel = model.layers[0].get_weights()[0]
    kernel[..., [1, 4]] = 0
    model.layers[0].set_weights([kernel])
    compacted = compact(model)
    assert compacted.removed == {"conv": 2} and not compacted.left
    shapes = [tuple(v.shape) for v in compacted.model.trainable_weights]
    assert shapes[:4] == [(3, 3, 2, 4), (4,), (4,), (36, 5)]
    assert_same(model, compacted.model)


@pytest.mark.parametrize("bias, removed", [(-1.0, {"a": 1}), (1.0, {})])
def test_a_constant_under_padding_goes_if_it_is_zero(bias, removed):
    model = sequential(
        (5, 5, 1),
        layers.Conv2D(3, 1, activation="relu", name="a"),
        layers.Conv2D(2, 3, padding="same", name="b"),
    )
    ticket(model, 1.0, 0.0, seed=1)
    kernel, biases = model.layers[0].get_weights()
    kernel[..., 1], biases[1] = 0, bias
    model.layers[0].set_weights([kernel, biases])
    compacted = compact(model)
    assert compacted.removed == removed
    assert ("`b` pads" in compacted.left.get("a", "")) == (not removed)
    assert_same(model, compacted.model)


def test_a_sum_needs_its_channels_from_every_summand():
    inputs = keras.Input((4,))
    one, two = dense(5, name="one")(inputs), dense(5, name="two")(inputs)
    model = keras.Model(inputs, dense(3)(layers.Add(name="sum")([one, two])))
    ticket(model, 1.0, 0.0, seed=1)
    for name, units in (("one", [0, 1, 2]), ("two", [1, 2, 3])):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[:, units] = 0
        model.get_layer(name).set_weights([kernel, bias])
    compacted = compact(model)
    assert compacted.removed == {"one": 2, "two": 2}
    assert set(compacted.left) == {"one", "two"}
    assert "1 dead units are kept: `sum`" in compacted.left["one"]
    assert_same(model, compacted.model)


def test_what_is_left_is_listed():
    model = built("other layers")
    ticket(model, 1.0, 0.0, seed=1)
    reasons = " ".join(compact(model).left.values())
    for kind in ("LayerNormalization", "Softmax", "UnitNormalization", "Add"):
        assert f"no rule for {kind}" in reasons
    model = built("mlp softmax")
    assert "mixes its units" in compact(model).left["second"]
    model = built("shared")
    assert compact(model).left["twice"] == "it is called more than once"
    model = built("mlp relu")
    ticket(model, 0.0, 0.0, seed=1)
    left = compact(model).left["first"]
    assert "1 dead unit is kept" in left and "6 of its 6 inputs" in left


def test_a_call_with_arguments_is_left():
    inputs = keras.Input((6,))
    x = layers.Dropout(0.5)(dense(5)(inputs), training=True)
    model = keras.Model(inputs, dense(3)(x))
    ticket(model, 0.0, 0.0, seed=1)
    reasons = compact(model).left.values()
    assert "it is called with arguments of its own" in reasons


@pytest.mark.parametrize("kind", ["several outputs", "nested", "mlp relu"])
def test_names_and_shapes_stay(kind):
    model = built(kind)
    ticket(model, 0.2, 0.3, seed=2)
    compacted = compact(model).model
    assert type(compacted) is type(keras.Model(*[keras.Input((1,))] * 2))
    assert compacted.name == model.name
    for end in ("inputs", "outputs"):
        for a, b in zip(getattr(model, end), getattr(compacted, end)):
            assert a.shape == b.shape and a.dtype == b.dtype
            names = [operation_of(t).name for t in (a, b)]
            assert names[0] == names[1]
    assert not any(isinstance(n, keras.Model) for n in compacted.layers)


def test_a_wrapped_model_gives_a_plain_one(tmp_path):
    model = keras_lottery.wrap(small.compiled(small.mlp()), rate=0.6, rounds=3)
    for _ in range(4):
        small.fit(model)
    compacted = compact(model)
    assert compacted.removed["hidden"]
    for copy in (compacted.model, plain(model)):
        assert_same(model, copy)
        assert not hasattr(copy, "lottery")
        copy.save(tmp_path / "m.keras")
        assert b"keras_lottery" not in (tmp_path / "m.keras").read_bytes()
        assert_same(model, keras.models.load_model(tmp_path / "m.keras"))


def adapted():
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(5, 3, (100, 6)))
    return sequential((6,), normalization, *mlp().layers)


def test_copies_and_tickets_bring_the_statistics_of_normalization():
    model, other = keras_lottery.wrap(adapted()), adapted()
    for variable in other.layers[0].variables[:2]:
        variable.assign(keras.ops.ones_like(variable))
    for copy in (compact(model).model, plain(model)):
        assert_same(model, copy)
    model.lottery.ticket().apply(other)
    assert_same(model, other)


class OwnCall(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    "model, why",
    [
        (OwnCall(), "has a `call` of its own"),
        (keras.Sequential([layers.Dense(3)]), "is not built"),
        (layers.Dense(3), "must be a Keras 3 model"),
    ],
)
def test_models_without_a_graph_are_refused(model, why):
    with pytest.raises(ValueError, match=why):
        compact(model)
