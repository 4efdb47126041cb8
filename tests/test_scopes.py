"""Which weights are prunable, over the layers that Keras has."""

import keras
import numpy as np
import pytest
from keras import layers
from small import mlp, short

from keras_lottery import schedules
from keras_lottery.scopes import Rates, find_kernels, unique_paths

IMAGE, SEQUENCE, VOLUME = (8, 8, 3), (5, 4), (4, 4, 4, 2)


def model_of(layer, shape):
    return keras.Sequential([keras.Input(shape), layer])


CASES = {
    "Dense": (lambda: layers.Dense(3), (4,), {"kernel"}),
    "EinsumDense": (
        lambda: layers.EinsumDense(
            "abc,cde->abde", (None, 2, 3), bias_axes="de"
        ),
        SEQUENCE,
        {"kernel"},
    ),
    "Conv1D": (lambda: layers.Conv1D(2, 2), SEQUENCE, {"kernel"}),
    "Conv2D": (lambda: layers.Conv2D(2, 2), IMAGE, {"kernel"}),
    "Conv3D": (lambda: layers.Conv3D(2, 2), VOLUME, {"kernel"}),
    "Conv1DTranspose": (
        lambda: layers.Conv1DTranspose(2, 2),
        SEQUENCE,
        {"kernel"},
    ),
    "Conv2DTranspose": (
        lambda: layers.Conv2DTranspose(2, 2),
        IMAGE,
        {"kernel"},
    ),
    "Conv3DTranspose": (
        lambda: layers.Conv3DTranspose(2, 2),
        VOLUME,
        {"kernel"},
    ),
    "DepthwiseConv1D": (
        lambda: layers.DepthwiseConv1D(2),
        SEQUENCE,
        {"kernel"},
    ),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(2), IMAGE, {"kernel"}),
    "SeparableConv1D": (
        lambda: layers.SeparableConv1D(2, 2),
        SEQUENCE,
        {"depthwise_kernel", "pointwise_kernel"},
    ),
    "SeparableConv2D": (
        lambda: layers.SeparableConv2D(2, 2),
        IMAGE,
        {"depthwise_kernel", "pointwise_kernel"},
    ),
    "SimpleRNN": (
        lambda: layers.SimpleRNN(3),
        SEQUENCE,
        {"kernel", "recurrent_kernel"},
    ),
    "LSTM": (lambda: layers.LSTM(3), SEQUENCE, {"kernel", "recurrent_kernel"}),
    # Its bias has rank 2.
    "GRU": (
        lambda: layers.GRU(3, reset_after=True),
        SEQUENCE,
        {"kernel", "recurrent_kernel"},
    ),
    "RNN of cells": (
        lambda: layers.RNN([layers.GRUCell(3), layers.LSTMCell(2)]),
        SEQUENCE,
        {"kernel", "recurrent_kernel"},
    ),
    "ConvLSTM1D": (
        lambda: layers.ConvLSTM1D(2, 2),
        (3, 5, 2),
        {"kernel", "recurrent_kernel"},
    ),
    "ConvLSTM2D": (
        lambda: layers.ConvLSTM2D(2, 2),
        (3, 5, 5, 2),
        {"kernel", "recurrent_kernel"},
    ),
    "Bidirectional": (
        lambda: layers.Bidirectional(layers.LSTM(3)),
        SEQUENCE,
        {"kernel", "recurrent_kernel"},
    ),
    "TimeDistributed": (
        lambda: layers.TimeDistributed(layers.Dense(3)),
        SEQUENCE,
        {"kernel"},
    ),
    "SpectralNormalization": (
        lambda: layers.SpectralNormalization(layers.Dense(3)),
        (4,),
        {"kernel"},
    ),
    "PReLU": (lambda: layers.PReLU(), IMAGE, set()),
    "LayerNormalization": (
        lambda: layers.LayerNormalization(axis=(1, 2)),
        IMAGE,
        set(),
    ),
    "BatchNormalization": (lambda: layers.BatchNormalization(), IMAGE, set()),
    "GroupNormalization": (lambda: layers.GroupNormalization(3), IMAGE, set()),
    "UnitNormalization": (lambda: layers.UnitNormalization(), IMAGE, set()),
    "Dropout": (lambda: layers.Dropout(0.5), IMAGE, set()),
    "RandomFlip": (lambda: layers.RandomFlip(), IMAGE, set()),
}


@pytest.mark.parametrize("name", CASES)
def test_kernels_of_a_layer(name):
    make, shape, expected = CASES[name]
    kernels = find_kernels(model_of(make(), shape))
    assert {k.variable.name for k in kernels} == expected
    assert all(k.default and len(k.variable.shape) >= 2 for k in kernels)
    cells = {"Bidirectional": 2, "RNN of cells": 2}.get(name, 1)
    assert len(kernels) == len(expected) * cells


def test_no_layer_with_a_kernel_is_missing_above():
    """Every layer class that owns a kernel argument is in the table."""
    known = {name.split(" ")[0] for name in CASES} | {
        # Each has a test or a sibling of its own.
        "MultiHeadAttention", "GroupedQueryAttention", "GroupQueryAttention",
        "SimpleRNNCell", "LSTMCell", "GRUCell", "ConvLSTM3D",
        # Aliases.
        "Convolution1D", "Convolution2D", "Convolution3D",
        "Convolution1DTranspose", "Convolution2DTranspose",
        "Convolution3DTranspose", "SeparableConvolution1D",
        "SeparableConvolution2D", "RandomFourierFeatures",
    }  # fmt: skip
    import inspect

    for name, cls in vars(layers).items():
        if inspect.isclass(cls) and issubclass(cls, layers.Layer):
            arguments = inspect.signature(cls.__init__).parameters
            if any("kernel_initializer" in a for a in arguments):
                assert name in known or cls.__name__ in known, name


@pytest.mark.parametrize(
    "attention",
    [
        lambda: layers.MultiHeadAttention(2, 3),
        lambda: layers.GroupQueryAttention(3, 4, 2),
    ],
)
def test_attention_has_four_kernels_and_no_biases(attention):
    inputs = keras.Input(SEQUENCE)
    model = keras.Model(inputs, attention()(inputs, inputs))
    assert any(w.name == "bias" and len(w.shape) == 2 for w in model.weights)
    kernels = find_kernels(model)
    assert len(kernels) == 4
    assert {k.variable.name for k in kernels} == {"kernel"}


def token_model():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, name="tokens")(inputs)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def resolved(model, rate=0.2, output_rate=None, rates=None, scope="layerwise"):
    kernels = find_kernels(model)
    found = Rates(rate, output_rate, rates, scope).resolve(kernels, model)
    return {p: found[p](0) for p in found}


def test_embeddings_are_off_until_asked_for():
    model = token_model()
    by_name = {k.layer.name: k for k in find_kernels(model)}
    assert not by_name["tokens"].default and by_name["head"].default
    assert set(resolved(model)) == {"head/kernel"}
    for key in ("tokens", layers.Embedding, model.layers[1], "^tokens/"):
        got = resolved(model, rates={key: 0.4})
        assert got == {
            "tokens/embeddings": 0.4, "head/kernel": pytest.approx(0.1)
        }  # fmt: skip


class Positions(layers.Layer):
    """Tables and parameters that are no connections, and one that is."""

    def build(self, shape):
        for name in (
            "position_table", "pos", "positional", "layer_scale", "beta",
            "bias_table", "offset", "class_token", "distillation_token",
            "query_tokens", "mask_emb", "segment_encoding", "probe",
            "temperature", "centroids",
        ):  # fmt: skip
            setattr(self, name, self.add_weight(shape=(4, 4), name=name))
        self.w = self.add_weight(shape=(4, 4), name="composed")
        self.ids = self.add_weight(
            shape=(4, 4), name="w_int", dtype="int32", initializer="zeros"
        )
        self.frozen = self.add_weight(
            shape=(4, 4), name="w_fix", trainable=False
        )

    def call(self, x):
        return x @ self.w + self.position_table


def test_own_layers_by_the_names_of_their_weights():
    kernels = find_kernels(model_of(Positions(), (4, 4)))
    # "composed" holds the letters of "pos", but is not that word.
    assert [k.variable.name for k in kernels] == ["composed"]


def test_frozen_kernels_are_found_for_later():
    model = mlp()
    names = [k.layer.name for k in find_kernels(model)]
    model.layers[0].trainable = False
    assert [k.layer.name for k in find_kernels(model)] == names
    assert len(resolved(model)) == 2


def test_frozen_model_has_nothing_to_prune():
    model = mlp()
    model.trainable = False
    with pytest.raises(
        ValueError, match="something to prune.*Received: model="
    ):
        resolved(model)


def test_order_is_that_of_the_weights_and_paths_are_unique():
    inner = [
        keras.Sequential([layers.Dense(4, name="d")], name="same") for _ in "ab"
    ]
    inputs = x = keras.Input((4,))
    for block in inner:
        block.name = "same"
        x = block(x) if block is inner[0] else block(x)
    variables = [w for block in inner for w in block.weights]
    paths = unique_paths(variables)
    assert list(paths.values()) == variables
    assert len(paths) == 4
    assert [p for p in paths if p.endswith(":2")] == [
        "same/d/kernel:2", "same/d/bias:2"
    ]  # fmt: skip
    assert inputs is not None


def test_the_owner_is_the_innermost_layer():
    inner = keras.Sequential([layers.Dense(3, name="deep")], name="block")
    model = keras.Sequential([keras.Input((4,)), inner, layers.Dense(2)])
    kernel = find_kernels(model)[0]
    assert [layer.name for layer in kernel.layers][1:] == ["block", "deep"]
    assert kernel.layers[0] is model and kernel.layer is inner.layers[0]


def test_shared_layers_count_once():
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(shared(shared(inputs))))
    assert len(find_kernels(model)) == 2


class Blocks(keras.Model):
    """Layers in lists, dicts and lists of models."""

    def __init__(self):
        super().__init__()
        self.parts = [layers.Dense(4), [layers.Dense(4)]]
        self.named = {"a": keras.Sequential([layers.Dense(4)])}
        self.head = layers.Dense(2, name="head")

    def call(self, x):
        return self.head(self.named["a"](self.parts[1][0](self.parts[0](x))))


def test_layers_in_containers_of_a_subclassed_model():
    model = Blocks()
    model(np.zeros((2, 4), "float32"))
    kernels = find_kernels(model)
    assert len(kernels) == 4
    got = resolved(model)
    assert sorted(got.values()) == pytest.approx([0.1, 0.2, 0.2, 0.2])
    assert got[model.head.kernel.path] == pytest.approx(0.1)


def nested():
    keras.utils.set_random_seed(0)
    block = keras.Sequential(
        [layers.Dense(4, name="a"), layers.Dense(4, name="b")], name="block"
    )
    head = layers.Dense(2, name="head")
    return keras.Sequential([keras.Input((4,)), block, head], name="net"), block


def by_layer(model, **kwargs):
    paths = {k.path: k.layer.name for k in find_kernels(model)}
    return {paths[p]: r for p, r in resolved(model, **kwargs).items()}


def test_rates_precedence():
    model, block = nested()
    a = block.layers[0]
    everything = {
        layers.Dense: 0.3,
        "kernel": 0.4,
        "a": 0.5,
        a: 0.6,
    }
    expected = [0.6, 0.5, 0.4, 0.3]
    for key, value in zip([a, "a", "kernel", layers.Dense], expected):
        assert by_layer(model, rates=everything)["a"] == value
        del everything[key]
        if not everything:
            break
    assert by_layer(model)["a"] == 0.2


def test_the_innermost_layer_wins():
    model, block = nested()
    assert by_layer(model, rates={"block": 0.3, "b": 0.4}) == {
        "a": 0.3, "b": 0.4, "head": pytest.approx(0.1)
    }  # fmt: skip
    got = by_layer(model, rates={keras.Sequential: 0.3, layers.Dense: 0.4})
    assert set(got.values()) == {0.4}
    # A layer object, even an outer one, goes before a name.
    assert by_layer(model, rates={block: 0.3, "a": 0.4})["a"] == 0.3


def test_overrides_reach_the_output_layer_too():
    model, _ = nested()
    assert by_layer(model, rates={"head": 0.35})["head"] == 0.35
    assert "head" not in by_layer(model, rates={"head": 0})
    assert by_layer(model, output_rate=0.05)["head"] == 0.05


def test_a_name_says_nothing_about_longer_names():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, name="dense"),
            layers.Dense(4, name="dense_1"),
            layers.Dense(2, name="out"),
        ]
    )
    assert set(by_layer(model, rates={"dense": 0})) == {"dense_1", "out"}
    assert set(by_layer(model, rates={"dense.*": 0})) == {"out"}


def test_rate_0_for_all_keeps_masks_and_prunes_nothing():
    model, _ = nested()
    assert by_layer(model, rate=0) == {"a": 0, "b": 0, "head": 0}
    assert by_layer(model, rate=0, scope="global") == {
        "a": 0, "b": 0, "head": 0
    }  # fmt: skip
    assert set(by_layer(model, rate=0, rates={"a": 0})) == {"b", "head"}


class Tied(keras.Model):
    """Its last layer is its first, transposed."""

    def __init__(self):
        super().__init__()
        self.table = layers.Embedding(7, 4, name="table")
        self.hidden = layers.Dense(4, name="hidden")

    def call(self, x):
        x = self.hidden(self.table(x))
        return keras.ops.matmul(x, keras.ops.transpose(self.table.embeddings))


def test_no_hidden_layer_is_the_output_of_a_tied_model():
    inputs = keras.Input((5,), dtype="int32")
    model = keras.Model(inputs, Tied()(inputs))
    assert list(resolved(model).values()) == [0.2]


def test_schedules_as_rates():
    model, _ = nested()
    kernels = find_kernels(model)
    rates = Rates(
        schedules.ToDensity(0.25, 2),
        None,
        {"a": lambda r: 0.1 * r},
        "layerwise",
    )
    found = {
        k.layer.name: rates.resolve(kernels, model)[k.path] for k in kernels
    }
    assert found["a"](2) == pytest.approx(0.2)
    assert found["b"](0) == pytest.approx(0.5)
    assert found["head"](0) == pytest.approx(0.25)


@pytest.mark.parametrize(
    "rates", [{"nothing": 0.1}, {layers.Conv2D: 0.1}, {layers.Dense(1): 0.1}]
)
def test_a_key_that_matches_nothing(rates):
    model, _ = nested()
    with pytest.raises(ValueError, match="`rates` must .*matches none"):
        resolved(model, rates=rates)


def test_global_scope():
    model, _ = nested()
    assert set(by_layer(model, scope="global").values()) == {0.2}
    got = by_layer(model, scope="global", rates={"head": 0, "a": 0.2})
    assert got == {"a": 0.2, "b": 0.2}
    for wrong in ({"rates": {"a": 0.1}}, {"output_rate": 0.1}):
        with pytest.raises(ValueError, match="one threshold.*Received"):
            resolved(model, scope="global", **wrong)


def test_paths_of_an_mlp():
    assert short(resolved(mlp())) == {"hidden/kernel", "head/kernel"}
