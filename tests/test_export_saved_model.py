"""SavedModels: what is written, and verified in a process without Keras."""

import sys

import keras
import numpy as np
import pytest
import small
import tensorflow as tf

from keras_lottery import processes
from keras_lottery.export.endpoint import Endpoint
from keras_lottery.export.saved_model import (
    FORBIDDEN,
    Blocker,
    bare_module,
    compare_outputs,
    verify_saved_model,
    write_saved_model,
)
from keras_lottery.keras_internals import flatten_layers

layers = keras.layers


def test_the_file_holds_each_weight_under_its_path(tmp_path):
    model = small.mlp()
    names = {id(v.value): v.path for v in model.variables}
    write_saved_model(Endpoint(model).trace(), str(tmp_path), names)
    reader = tf.train.load_checkpoint(str(tmp_path / "variables/variables"))
    for variable in model.variables:
        key = "/".join(
            ["weights", variable.path.replace("/", ".S"), ".ATTRIBUTES"]
        )
        found = reader.get_tensor(f"{key}/VARIABLE_VALUE")
        assert np.array_equal(found, variable.numpy())


def test_the_module_is_bare():
    module = bare_module(Endpoint(small.mlp()).trace(), names=None)
    assert type(module) is tf.Module and len(module.weights) == 4


@pytest.fixture(scope="module")
def with_a_table(tmp_path_factory):
    """A model with a lookup table, its SavedModel, examples and outputs."""
    words = keras.Input((2,), dtype="string")
    table = layers.StringLookup(vocabulary=["a", "b"])
    hidden = layers.Embedding(4, 3)(table(words))
    model = keras.Model(words, layers.Dense(2)(layers.Flatten()(hidden)))
    inputs = {"inputs": np.array([["a", "b"], ["c", "a"]], dtype=object)}
    expected = Endpoint(model).answers(inputs)
    directory = str(tmp_path_factory.mktemp("saved"))
    function = Endpoint(model).trace()
    write_saved_model(function, directory, holders=flatten_layers(model))
    return model, directory, inputs, expected


def test_a_lookup_table_is_written(with_a_table):
    _, directory, inputs, expected = with_a_table
    verified = verify_saved_model(directory, inputs, expected, 1e-4)
    assert verified.examples == 2 and verified.max_difference < 1e-5
    assert verified.weights == 4 * 3 + 6 * 2 and verified.zeros == 0


def test_a_table_that_no_layer_holds_is_refused(with_a_table, tmp_path):
    model, *_ = with_a_table
    with pytest.raises(ValueError, match="a resource which is no variable"):
        write_saved_model(Endpoint(model).trace(), str(tmp_path))


def test_the_process_cannot_import_keras_or_this_library():
    def errors_of_imports(names):
        before = [name for name in FORBIDDEN if name in sys.modules]
        sys.meta_path.insert(0, Blocker(FORBIDDEN))
        errors = {}
        for name in names:
            try:
                __import__(name)
            except ImportError as error:
                errors[name] = str(error)
        return before, errors

    names = [*FORBIDDEN, "keras.models", "keras_lottery.export"]
    before, errors = processes.call(errors_of_imports, [*names, "numpy"])
    assert before == [] and list(errors) == names
    for error in errors.values():
        assert "not there for a server" in error
    assert {"keras", "keras_lottery"} <= set(FORBIDDEN)


def test_what_was_loaded_nevertheless_is_an_error(monkeypatch):
    def call(function, *args, env):
        return {"a": np.ones(2)}, ["keras"], (2, 0)

    monkeypatch.setattr(processes, "call", call)
    x = {"a": np.ones(2)}
    with pytest.raises(RuntimeError, match=r"loaded \['keras'\]"):
        verify_saved_model("nowhere", x, x, 1e-4)


def test_a_model_that_does_not_load_is_refused(monkeypatch):
    def call(function, *args, env):
        raise OSError("first line\nno file")

    monkeypatch.setattr(processes, "call", call)
    message = "not run in a process without Keras: no file"
    with pytest.raises(RuntimeError, match=message):
        verify_saved_model("nowhere", {"a": np.ones(2)}, {}, 1e-4)


def test_differences():
    def compare(found, expected):
        return compare_outputs(
            "a", np.array(found), np.array(expected), tolerance=1e-2
        )

    assert compare([1.0, 2.0], [1.0, 2.01]) == pytest.approx(0.01)
    assert compare([1000.0, 0.0], [1000.0, 5.0]) == 5.0
    assert compare([np.nan, np.inf], [np.nan, np.inf]) == 0
    assert compare(["a"], ["a"]) == 0
    for found, expected in [
        ([1.0, 2.0], [1.0, 2.1]),
        ([np.nan], [1.0]),
        ([np.inf], [1.0]),
        (["a"], ["b"]),
        ([1], [1.0]),
        ([1.0], [1.0, 1.0]),
    ]:
        with pytest.raises(ValueError):
            compare(found, expected)
