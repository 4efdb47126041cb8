"""The laws where blocks of weights are pruned as one."""

import itertools

import keras
import numpy as np
import pytest
import zoo
from keras import layers
from small import some

import keras_lottery
from keras_lottery.patterns import Blocks

SIZES = [(4, 1), (2, 2), "3x1", "channel"]


def network():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6, 6, 5)),
            layers.Conv2D(7, 3, activation="relu", name="conv"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(9, "relu", name="hidden"),
            layers.Dense(3, name="head"),
        ]
    )


def search(rounds=3, **arguments):
    """(model, weights before, what a `zoo.Recorder` saw of the levels)."""
    model = keras_lottery.wrap(network(), rate=0.3, **arguments)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    draw, recorder = np.random.default_rng(0), zoo.Recorder()
    x = draw.normal(size=(12, 6, 6, 5)).astype("float32")
    y = draw.normal(size=(12, 3)).astype("float32")
    initial = zoo.weights(model)
    for _ in range(rounds):
        model.fit(x, y, batch_size=4, verbose=0, callbacks=[recorder])
    return model, initial, recorder


def whole(mask, size):
    """Whether a mask of a kernel of this network is made of whole blocks."""
    blocks = Blocks(mask.shape, mask.ndim - 2, 1, size)
    return np.array_equal(blocks.mask(blocks.kept(mask)), mask)


@pytest.mark.filterwarnings("ignore:block_size='channel' leaves 1 kernels")
@pytest.mark.parametrize(
    "size, scope",
    some(
        itertools.product(SIZES, ["layerwise", "global"]),
        *((size, "layerwise") for size in SIZES),
        ("channel", "global"),
    ),
)
def test_start_zero_count_nested(size, scope):
    model, initial, recorder = search(block_size=size, scope=scope)
    from keras_lottery.patterns import get

    pair = get(size)
    assert not recorder.violations
    for level, (start, _) in enumerate(recorder.starts):
        expected = zoo.masked(model, initial, recorder.masks[level])
        assert zoo.same(start, expected)
    counts = []
    for masks in [*recorder.masks, model.lottery.masks]:
        assert all(whole(mask, pair) for mask in masks.values())
        kept = {
            path: Blocks(m.shape, m.ndim - 2, 1, pair).kept(m)
            for path, m in masks.items()
        }
        counts.append({path: int(k.sum()) for path, k in kept.items()})
    for before, after in zip(counts, counts[1:]):
        if scope == "global":
            pool = sum(before.values())
            assert sum(after.values()) == pool - round(0.3 * pool)
            continue
        for path, survivors in before.items():
            rate = 0.15 if path.endswith("head/kernel") else 0.3
            assert after[path] == survivors - round(rate * survivors)
    for before, after in zip(recorder.masks, recorder.masks[1:]):
        assert all(not (after[p] & ~before[p]).any() for p in after)


def test_the_channels_of_the_output_are_left_alone_and_it_is_said():
    with pytest.warns(UserWarning, match="leaves 1 kernels alone.*head/kernel"):
        model = keras_lottery.wrap(network(), block_size="channel")
    assert not any("head" in path for path in model.lottery.masks)
    with pytest.raises(ValueError, match="channels are the outputs"):
        keras_lottery.wrap(network(), block_size={"head": "channel"})


def test_sizes_by_layer_and_in_files(tmp_path):
    sizes = {"conv": "channel", layers.Dense: (4, 1)}
    model, _, _ = search(rounds=1, block_size=sizes)
    conv, hidden, head = model.lottery.masks.values()
    assert whole(conv, "channel") and whole(hidden, (4, 1))
    assert whole(head, (4, 1)) and not whole(hidden, (8, 1))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    applied = model.lottery.ticket().apply(network())
    for other in (loaded, applied):
        other.lottery.prune()
        masks = list(other.lottery.masks.values())
        assert whole(masks[0], "channel") and whole(masks[1], (4, 1))


def test_what_a_kernel_cannot_be_cut_into():
    def build(layer):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 4) if "conv" in layer.name else (8, 4))
        x = layers.Flatten()(layer(inputs))
        return keras.Model(inputs, layers.Dense(2)(x))

    depthwise = layers.DepthwiseConv2D(3, name="depth_conv")
    for layer, reason in (
        (depthwise, "one input alone"),
        (layers.Conv2DTranspose(3, 3, name="up_conv"), "Conv2DTranspose"),
        (layers.LSTM(3, name="lstm"), "LSTM"),
    ):
        with pytest.raises(ValueError, match=reason):
            keras_lottery.wrap(build(layer), block_size={layer.name: (2, 2)})
    # A filter of a depthwise convolution is a channel.
    model = build(layers.DepthwiseConv2D(3, name="depth_conv"))
    model = keras_lottery.wrap(
        model, rate=0.5, block_size={"depth_conv": "channel"}
    )
    model.lottery.prune()
    mask = next(iter(model.lottery.masks.values()))
    assert sorted(mask.all(axis=(0, 1)).ravel()) == [False, False, True, True]
    assert sorted(mask.any(axis=(0, 1)).ravel()) == [False, False, True, True]


def test_attention_is_a_matrix_of_inputs_and_heads():
    inputs = keras.Input((4, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(2)(x))
    model = keras_lottery.wrap(model, rate=0.5, block_size=(4, 1))
    model.lottery.prune()
    for path, mask in model.lottery.masks.items():
        inputs = 2 if "attention_output" in path else 1
        blocks = Blocks(mask.shape, 0, inputs, (4, 1))
        assert blocks.kept(mask).shape[1] * 4 == np.prod(mask.shape[:inputs])
        assert np.array_equal(blocks.mask(blocks.kept(mask)), mask)
