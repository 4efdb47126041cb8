"""to_litert: what is written, and verified in the LiteRT interpreter."""

import os

import keras
import numpy as np
import pytest
from small import arrays, compiled, data, fit, mlp, same

import keras_lottery
from keras_lottery.export import litert as litert_module
from keras_lottery.export.litert import interpret, to_litert

layers = keras.layers


def sparse(model, density=0.2, seed=0):
    """The model with random weights, few of them not zero."""
    draw = np.random.default_rng(seed)
    for weight in model.weights:
        if len(weight.shape) > 1:
            kept = draw.random(weight.shape) < density
            weight.assign(draw.normal(size=weight.shape) * kept)
    return model


def images():
    keras.utils.set_random_seed(0)
    return sparse(
        keras.Sequential(
            [
                keras.Input((6, 6, 2), name="pixels"),
                layers.Conv2D(8, 3, use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Flatten(),
                layers.Dense(16, "relu"),
                layers.Dense(4, name="logits"),
            ]
        )
    )


def pixels(count=8):
    draw = np.random.default_rng(1)
    return draw.normal(size=(count, 6, 6, 2)).astype("float32")


def zeros(model):
    kernels = [w for w in arrays(model) if w.ndim > 1]
    return sum(w.size for w in kernels), sum((w == 0).sum() for w in kernels)


def answers(path, **inputs):
    with open(path, "rb") as file:
        return interpret(file.read(), inputs)


@pytest.mark.parametrize("quantize", [None, "dynamic", "int8"])
def test_a_file_answers_as_the_model_and_keeps_its_zeros(tmp_path, quantize):
    model, x = images(), pixels()
    path = tmp_path / "m.tflite"
    file = to_litert(model, path, quantize, representative=x)
    weights, pruned = zeros(model)
    assert file.weights == weights
    # Rounding to 8 bits may add a few, and takes none away.
    assert pruned <= file.zeros < pruned + 0.05 * weights
    assert file.bytes == os.path.getsize(path) > file.compressed_bytes > 0
    outputs = answers(path, pixels=x)["logits"]
    expected = model(x).numpy()
    difference = np.abs(outputs - expected).max()
    np.testing.assert_allclose(difference, file.max_difference, atol=1e-5)
    for batch in (x, x[:3]):
        np.testing.assert_allclose(file.load()(batch), outputs[: len(batch)])
    assert difference < (0.1 if quantize else 1e-5) * np.abs(expected).max()
    assert f"{file.zeros:,} of {file.weights:,}" in str(file)


def test_8_bits_take_a_quarter(tmp_path):
    model = sparse(
        keras.Sequential([keras.Input((64,)), layers.Dense(256)]), 0.5
    )
    x = np.random.default_rng(0).normal(size=(9, 64)).astype("float32")
    full, dynamic, int8 = (
        to_litert(
            model, tmp_path / "m", quantize, representative=x, sparse=False
        ).bytes
        for quantize in (None, "dynamic", "int8")
    )
    assert full > 3 * dynamic and full > 3 * int8


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_the_sparse_encoding_is_smaller_and_answers_the_same(
    tmp_path, quantize
):
    model = sparse(
        keras.Sequential([keras.Input((64,)), layers.Dense(256)]), 0.05
    )
    x = np.random.default_rng(0).normal(size=(9, 64)).astype("float32")
    plain, encoded = (
        to_litert(
            model,
            tmp_path / f"{sparse_}",
            quantize,
            representative=x,
            sparse=sparse_,
        )
        for sparse_ in (False, True)
    )
    assert encoded.bytes < 0.5 * plain.bytes
    assert (encoded.weights, encoded.zeros) == (plain.weights, plain.zeros)
    assert encoded.max_difference == pytest.approx(plain.max_difference)


@pytest.mark.parametrize(
    "block_size, kernel", [(None, "unpacked"), ("4x1", "sparse")]
)
def test_which_kernel_runs_a_layer_is_read_from_the_file(
    block_size, kernel, tmp_path
):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((64,)), layers.Dense(96, "relu"), layers.Dense(8)]
    )
    model = keras_lottery.wrap(
        model, rate=0.7, output_rate=0.1, block_size=block_size
    )
    model.lottery.prune()
    dense = to_litert(model, tmp_path / "dense", sparse=False)
    assert [layer.kernel for layer in dense.layers] == ["dense", "dense"]
    file = to_litert(model, tmp_path / "sparse", sparse=True)
    hidden, head = file.layers
    assert hidden.operation == head.operation == "FULLY_CONNECTED"
    assert (hidden.shape, head.shape) == ((96, 64), (8, 96))
    assert (hidden.kernel, head.kernel) == (kernel, "dense")
    expected = list(model.lottery.densities().values())
    assert [hidden.density, head.density] == pytest.approx(expected)


@pytest.mark.parametrize(
    "speed, kernel", [(2.0, "sparse"), (0.96, "sparse"), (0.5, "dense")]
)
def test_the_default_is_what_is_measured_to_be_faster(
    speed, kernel, tmp_path, monkeypatch
):
    model = keras.Sequential([keras.Input((64,)), layers.Dense(96)])
    model = keras_lottery.wrap(model, output_rate=0.7, block_size="4x1")
    model.lottery.prune()
    sizes = []

    def measure(functions, x, batch_sizes):
        assert len({tuple(np.shape(f(x[:3]))) for f in functions}) == 1
        sizes.append(batch_sizes)
        return [{1: 1.0, 8: 1.0}, {1: 0.1, 8: 1 / speed}]

    monkeypatch.setattr(litert_module, "latencies", measure)
    file = to_litert(model, tmp_path / "m", batch_sizes=(1, 8))
    assert sizes == [(1, 8)]
    assert [layer.kernel for layer in file.layers] == [kernel]
    assert file.encoding.startswith(kernel)
    assert f"{speed:.2f} (batch 8) times the speed of the den" in file.encoding
    assert file.encoding in file.summary() and "FULLY" in file.summary()


def test_without_zeros_or_a_sparse_encoding_nothing_is_measured(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(litert_module, "latencies", None)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(96)])
    file = to_litert(model, tmp_path / "m")
    assert file.encoding == "dense: few weights are zero"
    file = to_litert(sparse(model, 0.3), tmp_path / "m", "dynamic")
    assert "gets it wrong" in file.encoding


def test_a_sparse_encoding_that_loses_weights_is_refused(tmp_path):
    # 3 inputs: the converter's blocks of 4 have no room for them.
    model = keras.Sequential([keras.Input((3,)), layers.Dense(37)])
    kernel = np.zeros((3, 37), "float32")
    kernel[[0, 1, 2, 2], [0, 9, 20, 36]] = 1.0
    model.set_weights([kernel, np.zeros(37)])
    to_litert(model, tmp_path / "plain")
    with pytest.raises(ValueError, match="`sparse` must be False for this"):
        to_litert(model, tmp_path / "m", sparse=True)
    assert os.listdir(tmp_path) == ["plain"]


def test_a_level_of_a_wrapped_model(tmp_path):
    model = keras_lottery.wrap(compiled(mlp()), rate=0.5)
    x, y = data()
    model.lottery.find(x, y, rounds=2, verbose=0)
    before = arrays(model)
    sparsity = []
    for level in (0, 1, 2):
        path = tmp_path / f"{level}.tflite"
        file = to_litert(model, path, level=level, examples=x)
        sparsity.append(file.zeros)
        with model.lottery.trained(level):
            expected = model(x).numpy()
        outputs = answers(path, inputs=x)
        np.testing.assert_allclose(outputs["head"], expected, atol=1e-5)
    assert sparsity == [0, 12 + 4, 18 + 8]
    assert same(arrays(model), before)


def test_a_model_that_was_rewound_is_refused(tmp_path):
    model = keras_lottery.wrap(compiled(mlp()))
    fit(model)
    with pytest.raises(ValueError, match="must be trained to be exported"):
        to_litert(model, tmp_path / "m")


def test_several_inputs_and_outputs_keep_their_names(tmp_path):
    a, b = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    both = layers.Concatenate()([a, b])
    model = keras.Model(
        {"a": a, "b": b}, {"p": layers.Dense(3)(both), "q": layers.Dense(2)(a)}
    )
    draw = np.random.default_rng(0)
    x = {
        name: draw.normal(size=(5, size)).astype("float32")
        for name, size in (("b", 4), ("a", 6))
    }
    to_litert(model, tmp_path / "m", "int8", representative=x)
    to_litert(model, tmp_path / "m", examples=x)
    outputs = answers(tmp_path / "m", **x)
    for name, expected in model(x).items():
        np.testing.assert_allclose(outputs[name], expected, atol=1e-5)


class OwnCall(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = layers.Dense(8, "tanh"), layers.Dense(3)

    def call(self, inputs):
        return self.out(self.hidden(inputs)) + inputs[:, :3]


def test_a_subclassed_model(tmp_path):
    model, (x, _) = OwnCall(), data()
    expected = model(x).numpy()
    to_litert(model, tmp_path / "m")
    outputs = answers(tmp_path / "m", inputs=x)["outputs"]
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_a_loop_needs_a_batch_size_and_no_int8(tmp_path):
    model = keras.Sequential([keras.Input((4, 2)), layers.LSTM(3)])
    x = np.random.default_rng(0).normal(size=(5, 4, 2)).astype("float32")
    advice = "LiteRT can run.*TensorList.*batch_size=1, or .* unroll=True"
    with pytest.raises(ValueError, match=advice) as told:
        to_litert(model, tmp_path / "m")
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match='not be "int8" for a model with a'):
        to_litert(model, tmp_path / "m", "int8", representative=x)
    assert not os.listdir(tmp_path)
    for size in (1, 2):
        file = to_litert(model, tmp_path / "m", batch_size=size, examples=x)
        assert file.examples == 5 and file.max_difference < 1e-5
    layer = layers.LSTM(3, unroll=True)
    to_litert(keras.Sequential([keras.Input((4, 2)), layer]), tmp_path / "m")


def test_wrong_arguments_are_refused_before_anything_starts(tmp_path):
    for arguments, told in (
        ({"quantize": "int4"}, "`quantize` must be one of"),
        ({"quantize": "int8"}, "`representative` must be given"),
        ({"quantize": "dynamic", "sparse": True}, "`sparse` must be False"),
        ({"batch_size": 0}, "`batch_size` must be an integer, at least 1"),
        ({"level": 1}, "`level` must be None"),
        ({"examples": np.ones((2, 5))}, "`examples` must have shape"),
    ):
        with pytest.raises(ValueError, match=told):
            to_litert(mlp(), tmp_path / "m", **arguments)
    assert not os.listdir(tmp_path)


def test_a_file_that_answers_otherwise_is_not_written(tmp_path):
    (tmp_path / "m").write_text("before")
    with pytest.raises(ValueError, match="answer as the Keras model does"):
        to_litert(mlp(), tmp_path / "m", tolerance=-1.0)
    assert (tmp_path / "m").read_text() == "before"
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.slow
def test_8_bits_of_a_batch_that_is_reshaped(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((4, 2), name="x"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    x = np.random.default_rng(0).random((10, 4, 2), "float32")
    path = tmp_path / "a.tflite"
    to_litert(model, path, "int8", representative=x, batch_size=4)
    answers = interpret(path.read_bytes(), {"x": x}, 4)
    (found,) = answers.values()
    np.testing.assert_allclose(found, model(x), atol=0.1)


def test_a_loaded_file_takes_what_fit_takes(tmp_path):
    file = to_litert(mlp(), tmp_path / "a.tflite")
    x, _ = data()
    predict = file.load()
    np.testing.assert_array_equal(
        predict(x.astype("float64")), predict(x.astype("float32"))
    )
