"""Groups of channels: what is tied, what is left alone, what is removed."""

import keras
import numpy as np
import pytest
from keras import layers
from small import some

import keras_lottery
from keras_lottery.export import compact


def normalised(x, filters, name, size=3, strides=1, relu=True):
    x = layers.Conv2D(
        filters, size, strides, "same", use_bias=False, name=f"{name}_conv"
    )(x)
    x = layers.BatchNormalization(name=f"{name}_norm")(x)
    return layers.ReLU(6.0)(x) if relu else x


def ended(inputs, x):
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def residual():
    """Two stages, the second of half the resolution behind a projection."""
    inputs = keras.Input((8, 8, 3))
    x = normalised(inputs, 8, "stem")
    for stage, (filters, strides) in enumerate([(8, 1), (12, 2)]):
        name, shortcut = f"s{stage}", x
        x = normalised(x, filters, f"{name}_a", strides=strides)
        x = normalised(x, filters, f"{name}_b", relu=False)
        if strides > 1:
            shortcut = normalised(
                shortcut, filters, f"{name}_short", 1, strides, relu=False
            )
        x = layers.ReLU()(layers.Add()([x, shortcut]))
    return ended(inputs, x)


def inverted():
    """An inverted residual of MobileNetV2, with squeeze and excitation."""
    inputs = keras.Input((8, 8, 3))
    x = shortcut = normalised(inputs, 8, "stem")
    x = normalised(x, 16, "expand", 1)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization(name="depth_norm")(x))
    scale = layers.GlobalAveragePooling2D(keepdims=True)(x)
    scale = layers.Dense(4, "relu", name="squeeze")(scale)
    scale = layers.Dense(16, "sigmoid", name="excite")(scale)
    x = layers.Multiply()([x, scale])
    x = normalised(x, 8, "project", 1, relu=False)
    return ended(inputs, layers.Add()([x, shortcut]))


def concatenated():
    inputs = keras.Input((8, 8, 3))
    a, b = normalised(inputs, 6, "a"), normalised(inputs, 8, "b", 1)
    x = layers.Concatenate()([a, b])
    x = layers.Add()([x, normalised(inputs, 14, "c")])
    return ended(inputs, normalised(x, 8, "d"))


def transformer():
    """An encoder block of stock layers, normalised after each part."""
    inputs = keras.Input((5, 8))
    x = layers.Dense(8, name="embed")(inputs)
    attended = layers.MultiHeadAttention(4, 3, name="attention")(x, x)
    x = layers.LayerNormalization()(x + attended)
    hidden = layers.Dense(16, "gelu", name="up")(x)
    x = layers.LayerNormalization()(x + layers.Dense(8, name="down")(hidden))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def flattened():
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="conv"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10, "relu", name="hidden"),
            layers.Dropout(0.3),
            layers.Dense(3, name="head"),
        ]
    )


# What is tied together, by layer.
MODELS = {
    residual: {
        "stem_conv s0_b_conv",
        "s0_a_conv",
        "s1_a_conv",
        "s1_b_conv s1_short_conv",
    },
    inverted: {
        "stem_conv project_conv",
        "expand_conv depthwise excite",
        "squeeze",
    },
    concatenated: {"a_conv b_conv c_conv", "d_conv"},
    transformer: {"query key value attention_output", "up"},
    flattened: {"conv", "hidden"},
}


def searched(build, rounds=2, **arguments):
    keras.utils.set_random_seed(1)
    model = build()
    with pytest.warns(UserWarning, match="block_size='channel' leaves"):
        model = keras_lottery.wrap(
            model, rate=0.4, block_size="channel", **arguments
        )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    draw = np.random.default_rng(0)
    x = draw.normal(size=(16, *model.input_shape[1:])).astype("float32")
    y = draw.normal(size=(16, 3)).astype("float32")
    model.lottery.find(x, y, rounds=rounds, batch_size=8, verbose=0)
    return model, x


@pytest.mark.parametrize("build", some(MODELS, inverted))
def test_pruned_channels_are_removed_exactly(build):
    model, x = searched(build)
    groups = model.lottery.attachment.pattern.groups.values()
    layer_of = lambda path: path.split("/")[-2]  # noqa: E731
    tied = {" ".join(map(layer_of, group.paths)) for group in groups}
    assert tied == MODELS[build]
    compacted = compact(model)
    np.testing.assert_allclose(
        compacted.model.predict(x, verbose=0),
        model.predict(x, verbose=0),
        rtol=1e-4,
        atol=1e-5,
    )
    # Nothing but what survives is left of each kernel.
    sizes = {
        layer_of(v.path): np.prod(v.shape)
        for v in compacted.model.trainable_variables
        if v.path.endswith("kernel")
    }
    masks = model.lottery.masks
    for group in groups:
        kept = group.kept(masks)
        assert kept.sum() == round(0.6 * round(0.6 * group.count))
        for member in group.members:
            channels = member.spread(kept)
            assert np.array_equal(channels, masks[member.path])
            assert sizes[layer_of(member.path)] <= channels.sum()
    assert compacted.model.count_params() < 0.7 * model.count_params()


def test_biases_and_normalisation_are_zero_with_their_channel(tmp_path):
    model, _ = searched(inverted, rounds=1)
    attachment = model.lottery.attachment
    assert attachment.followers.keys() >= {
        "stem_norm/gamma",
        "project_norm/beta",
        "depthwise/bias",
    }
    masks = attachment.all_masks()

    def zeros(model):
        values = {v.path: v.numpy() for v in model.variables}
        return all((values[p][~masks[p]] == 0).all() for p in masks)

    assert zeros(model) and any(not masks[p].all() for p in masks)
    model.save(tmp_path / "m.keras")
    assert zeros(keras.models.load_model(tmp_path / "m.keras"))
    assert zeros(model.lottery.ticket().apply(inverted()))
    keras_lottery.unwrap(model)
    assert zeros(model)
    assert all(v.constraint is None for v in model.trainable_variables)


def test_what_is_tied_is_pruned_at_one_rate_or_not_at_all():
    for rates, reason in (
        ({"s1_short_conv": 0.0}, "that is not pruned so"),
        ({"s1_short_conv": 0.1}, "that has another rate"),
    ):
        model = residual()
        with pytest.warns(UserWarning, match=reason):
            model = keras_lottery.wrap(model, rates=rates, block_size="channel")
        left = {path.split("/")[0] for path in model.lottery.masks}
        assert left == {"stem_conv", "s0_a_conv", "s0_b_conv", "s1_a_conv"}
    with pytest.raises(ValueError, match="tied to 's1_b_conv/kernel'"):
        keras_lottery.wrap(residual(), block_size={"s1_short_conv": "channel"})


def test_a_frozen_member_keeps_its_group():
    model = residual()
    with pytest.warns(UserWarning, match="leaves 1 of 7 kernels"):
        model = keras_lottery.wrap(model, rate=0.5, block_size="channel")
    model.get_layer("s1_short_conv").trainable = False
    model.lottery.prune()
    masks = model.lottery.masks
    assert masks["s1_b_conv/kernel"].all()
    assert not masks["s1_a_conv/kernel"].all()


class Subclassed(keras.Model):
    """A model without a graph."""

    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(4, 3)
        self.hidden = layers.Dense(10, "relu", name="hidden")
        self.head = layers.Dense(3, name="head")

    def call(self, x):
        return self.head(self.hidden(self.attention(x, x)))


def test_without_a_graph_each_kernel_is_by_itself():
    model = Subclassed()
    model(np.zeros((1, 5, 8), "float32"))
    with pytest.warns(UserWarning, match="channels are the outputs"):
        model = keras_lottery.wrap(model, rate=0.5, block_size="channel")
    model.lottery.prune()
    for group in model.lottery.attachment.pattern.groups.values():
        kept = group.kept(model.lottery.masks)
        assert kept.sum() == group.count // 2
        assert group.count == (4 if len(group.paths) == 4 else 10)
