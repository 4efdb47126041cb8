"""The laws where blocks of weights are pruned as one."""

import itertools

import keras
import numpy as np
import pytest
import zoo
from keras import layers
from small import some

import keras_lottery
from keras_lottery.patterns import get

SIZES = [(4, 1), (2, 2), "3x1", "2:4", "channel"]


def network():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6, 6, 5)),
            layers.Conv2D(7, 3, activation="relu", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(),
            layers.Dense(9, "relu", name="hidden"),
            layers.Dense(3, name="head"),
        ],
        name="net",
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


def elements(mask, size):
    """One boolean a block of a kernel of this network, by plain NumPy."""
    matrix = mask.reshape(-1, *mask.shape[-2:])
    if size == "channel":
        return matrix.any((0, 1))
    rows, columns = size
    return np.array(
        [
            matrix[:, i : i + rows, j : j + columns].any((1, 2))
            for i in range(0, matrix.shape[1], rows)
            for j in range(0, matrix.shape[2], columns)
        ]
    )


def is_whole(mask, size):
    """Whether a mask of a kernel of this network is made of whole blocks."""
    return bool(np.array_equal(elements(mask, size), ~elements(~mask, size)))


@pytest.mark.filterwarnings("ignore:block_size='channel' leaves 1 of")
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
    size = get(size)
    assert not recorder.violations
    for level, (start, _) in enumerate(recorder.starts):
        masks = recorder.masks[level]
        if size == "channel":
            masks = masks | with_channels(masks)
        assert zoo.same(start, zoo.masked(model, initial, masks))
    counts = []
    for masks in [*recorder.masks, model.lottery.masks]:
        if size == "2:4":
            counts.append({p: int(m.sum()) for p, m in masks.items()})
            continue
        assert all(is_whole(mask, size) for mask in masks.values())
        counts.append(
            {p: int(elements(m, size).sum()) for p, m in masks.items()}
        )
    for before, after in zip(counts, counts[1:]):
        if scope == "global":
            pool = sum(before.values())
            assert sum(after.values()) == allowed(pool, 0.3, size, model)
            continue
        for path, survivors in before.items():
            rate = 0.15 if path.endswith("head/kernel") else 0.3
            assert after[path] == allowed(survivors, rate, size, model, path)
    for before, after in zip(recorder.masks, recorder.masks[1:]):
        assert all(not (after[p] & ~before[p]).any() for p in after)


def allowed(survivors, rate, size, model, path=None):
    """How many a round leaves."""
    left = survivors - round(rate * survivors)
    if size != "2:4":
        return left
    limit = 0
    for name, mask in model.lottery.masks.items():
        if path in (None, name):
            *window, inputs, outputs = mask.shape
            a_column = inputs // 4 * 2 + min(inputs % 4, 2)
            limit += int(np.prod(window)) * a_column * outputs
    return min(left, limit)


def with_channels(masks):
    """The masks of what is pruned with the channels of this network."""
    conv, hidden = list(masks.values())[:2]
    conv, hidden = elements(conv, "channel"), elements(hidden, "channel")
    return {
        "net/conv/bias": conv,
        "net/norm/gamma": conv,
        "net/norm/beta": conv,
        "net/hidden/bias": hidden,
    }


def test_the_channels_of_the_output_are_left_alone_and_it_is_said():
    with pytest.warns(UserWarning, match="leaves 1 of 3 kernels.*head/kernel"):
        model = keras_lottery.wrap(network(), block_size="channel")
    assert not any("head" in path for path in model.lottery.masks)
    with pytest.raises(ValueError, match="channels are the outputs"):
        keras_lottery.wrap(network(), block_size={"head": "channel"})


def test_sizes_by_layer_and_in_files(tmp_path):
    sizes = {"conv": "channel", layers.Dense: (4, 1)}
    model, _, _ = search(rounds=1, block_size=sizes)
    conv, hidden, head = model.lottery.masks.values()
    assert is_whole(conv, "channel") and is_whole(hidden, (4, 1))
    assert is_whole(head, (4, 1)) and not is_whole(hidden, (8, 1))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    applied = model.lottery.ticket().apply(network())
    for other in (loaded, applied):
        other.lottery.prune()
        masks = list(other.lottery.masks.values())
        assert is_whole(masks[0], "channel") and is_whole(masks[1], (4, 1))


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
    with pytest.raises(ValueError, match="channels are the inputs"):
        keras_lottery.wrap(
            build(depthwise), block_size={"depth_conv": "channel"}
        )


def test_attention_is_a_matrix_of_inputs_and_heads():
    inputs = keras.Input((4, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(2)(x))
    model = keras_lottery.wrap(model, rate=0.5, block_size=(4, 1))
    model.lottery.prune()
    for path, mask in model.lottery.masks.items():
        inputs = 2 if "attention_output" in path else 1
        matrix = mask.reshape(int(np.prod(mask.shape[:inputs])), -1)
        assert is_whole(matrix, (4, 1))
        assert not mask.all() and not is_whole(matrix, (8, 1))
