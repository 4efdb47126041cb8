"""A twin of a model: made from its file, compared with it, exported.

Where both are installed, JAX or PyTorch has the model and TensorFlow the twin;
elsewhere TensorFlow has both.
"""

import json
import os
import pathlib
import pickle
import subprocess
import sys

import exports
import keras
import numpy as np
import pytest
import small
import test_backends

import keras_lottery
from keras_lottery import backend, export, processes
from keras_lottery.export import serving_files, twin


class Here:
    """`processes.Process` in this process: what it is sent goes by bytes."""

    def __init__(self, env):
        assert env["KERAS_BACKEND"] == "tensorflow"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def call(self, function, *args):
        function, args = pickle.loads(
            processes.cloudpickle.dumps((function, args))
        )
        return pickle.loads(pickle.dumps(function(*args)))


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(processes, "Process", Here)


@pytest.fixture(scope="module")
def wrapped():
    """Two trained levels; the model is rewound to the third."""
    model = small.compiled(keras_lottery.wrap(small.mlp(), rate=0.5))
    for _ in range(2):
        small.fit(model)
    return model


def outputs(model, x=None):
    return np.asarray(model(small.data()[0] if x is None else x))


def test_a_level_of_a_search_is_written_to_litert(here, wrapped, tmp_path):
    before = small.arrays(wrapped)
    file = twin.to_litert(wrapped, tmp_path / "a.tflite", level=1)
    assert small.same(small.arrays(wrapped), before)
    x = small.data()[0]
    with wrapped.lottery.trained(1):
        assert file.max_difference < 1e-5
        np.testing.assert_allclose(file.load()(x), outputs(wrapped), atol=1e-5)


def test_provenance_is_that_of_the_model(here, wrapped, tmp_path, monkeypatch):
    monkeypatch.setattr(
        export.serving, "verify_saved_model", exports.verify_here
    )
    served = twin.to_serving(
        wrapped, tmp_path / "net", 3, level=-1, metadata={"accuracy": 0.5}
    )
    assert served.version == 3 and served.base_dir == str(tmp_path / "net")
    path = pathlib.Path(served.path, serving_files.PROVENANCE_FILE)
    found = json.loads(path.read_text())
    ticket = wrapped.lottery.ticket(-1)
    assert found["ticket"] == serving_files.ticket_hash(ticket)
    assert found["level"] == 1 and found["metadata"] == {"accuracy": 0.5}
    assert found["density"] == pytest.approx(ticket.density)
    assert sys.argv[0] in found["command"]


def test_raw_inputs_are_prepared_for_both(here, tmp_path, monkeypatch):
    monkeypatch.setattr(
        export.serving, "verify_saved_model", exports.verify_here
    )
    model, x = small.mlp(), small.data()[0]

    def halved(raw):
        return keras.ops.cast(raw, "float32") / 2

    served = twin.to_serving(
        model, tmp_path, preprocess=halved, examples=x, compact=True
    )
    np.testing.assert_allclose(
        served.load()(x), outputs(model, x / 2), atol=1e-5
    )


class Shift(keras.layers.Layer):
    """Adds a number, which is part of its configuration or not."""

    def __init__(self, by=0.0, told=True, **kwargs):
        super().__init__(**kwargs)
        self.by, self.told = by, told

    def call(self, x):
        return x + self.by

    def get_config(self):
        own = {"by": self.by} if self.told else {}
        return {**super().get_config(), **own}


class Needing(Shift):
    """Cannot be made from its configuration."""

    def __init__(self, amount, **kwargs):
        super().__init__(amount, **kwargs)


def shifted(layer):
    return keras.Sequential(
        [keras.Input((4,)), layer, keras.layers.Dense(3, name="head")]
    )


def test_layers_of_ones_own_go_along(here, tmp_path):
    model = shifted(Shift(2.0))
    model.save(tmp_path / "m.keras")
    assert twin.custom_objects(model, tmp_path / "m.keras") == {"Shift": Shift}
    file = twin.to_litert(model, tmp_path / "a.tflite", sparse=False)
    x = small.data()[0]
    np.testing.assert_allclose(file.load()(x), outputs(model), atol=1e-5)


@pytest.mark.parametrize(
    "layer, message",
    [
        (
            Shift(2.0, told=False),
            "one whose twin does not.* differs by",
        ),
        (Needing(2.0), "saves, and loads on TensorFlow.*TypeError"),
    ],
)
def test_another_model_than_the_one_given_is_not_written(
    here, layer, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        twin.to_litert(shifted(layer), tmp_path / "a.tflite")
    assert not os.listdir(tmp_path)


def test_tensorflow_must_be_there(monkeypatch, tmp_path):
    model = small.mlp()
    monkeypatch.setattr(backend, "NAME", "jax")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(
        ImportError, match="beside Keras' jax backend.*pip inst"
    ):
        twin.to_serving(model, tmp_path)
    assert not os.listdir(tmp_path)


def test_what_has_no_twin_is_refused_elsewhere(monkeypatch):
    monkeypatch.setattr(backend, "NAME", "jax")
    with pytest.raises(
        ImportError, match="export.export_run needs Keras' Tens"
    ):
        export.__getattr__("export_run")
    with pytest.raises(AttributeError, match="no attribute 'export_walk'"):
        export.__getattr__("export_walk")


EXPORT = (
    test_backends.MODEL
    + """
net = keras_lottery.wrap(model(1), rate=0.3)
for _ in range(2):
    net.fit(*data(), batch_size=8, verbose=0)
x = data()[0]
with net.lottery.trained(-1):
    expected = keras.ops.convert_to_numpy(net(x, training=False))
    smaller = keras_lottery.export.compact(net).model
found = keras.ops.convert_to_numpy(smaller(x))
np.testing.assert_allclose(found, expected, atol=1e-5)
folder, arguments = sys.argv[1], {"level": -1, "examples": x}
served = keras_lottery.export.to_serving(net, folder + "/net", **arguments)
file = keras_lottery.export.to_litert(net, folder + "/a.tflite", **arguments)
for written in served, file:
    assert written.zeros > 20
    np.testing.assert_allclose(written.load()(x), expected, atol=1e-5)
np.save(folder + "/expected.npy", expected)
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jax", "torch"])
def test_a_ticket_of_another_backend(name, tmp_path):
    here = test_backends.python(name)
    asked = "import importlib.util as u; print(u.find_spec('tensorflow'))"
    found = subprocess.check_output([here, "-c", asked], text=True)
    if found.strip() == "None":
        pytest.skip(f"TensorFlow is not installed beside {name}.")
    code = EXPORT.replace("import keras_lottery", "import keras_lottery.export")
    test_backends.run(name, code, tmp_path)
    # And in a process that never saw the other backend.
    import tensorflow as tf

    loaded = tf.saved_model.load(tmp_path / "net" / "1")
    x = np.random.default_rng(0).normal(size=(16, 4, 4, 1)).astype("float32")
    (found,) = loaded.signatures["serving_default"](tf.constant(x)).values()
    expected = np.load(tmp_path / "expected.npy")
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.slow
def test_a_twin_in_a_process_of_its_own(wrapped, tmp_path):
    served = twin.to_serving(wrapped, tmp_path / "net", level=-1)
    x = small.data()[0]
    with wrapped.lottery.trained():
        np.testing.assert_allclose(
            served.load()(x), outputs(wrapped), atol=1e-5
        )
