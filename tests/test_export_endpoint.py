"""Endpoint: what is traced, under which names, on which examples."""

import pathlib
import re
import sys

import keras
import numpy as np
import pytest
import small
import tensorflow as tf

from keras_lottery.export.endpoint import (
    Endpoint,
    name_leaves,
    named_examples,
)
from keras_lottery.export.saved_model import write_saved_model

sys.path.append(str(pathlib.Path(__file__).parent / "laws"))
import zoo  # noqa: E402
from zoo_models import KINDS  # noqa: E402

layers = keras.layers


def served(endpoint, directory, *batches):
    """The outputs of the SavedModel for each batch."""
    write_saved_model(endpoint.trace(), str(directory))
    model = tf.saved_model.load(str(directory))
    serve = model.signatures["serving_default"]
    return [
        {
            name: value.numpy()
            for name, value in serve(
                **{n: tf.constant(array) for n, array in inputs.items()}
            ).items()
        }
        for inputs in batches
    ]


def assert_close(found, expected):
    assert found.keys() == expected.keys() and expected
    for name in expected:
        assert found[name].shape == expected[name].shape
        np.testing.assert_allclose(found[name], expected[name], 1e-5, 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model(kind, tmp_path):
    model, (x, _) = zoo.build(kind), zoo.data(kind)
    reference = model(x, training=False)
    endpoint = Endpoint(model, examples=x)
    inputs = named_examples(endpoint.inputs, x)
    expected = endpoint.answers(inputs)
    assert_close(
        dict(enumerate(map(np.asarray, expected.values()))),
        dict(enumerate(map(np.asarray, keras.tree.flatten(reference)))),
    )
    one = {name: array[:1] for name, array in inputs.items()}
    whole, first = served(endpoint, tmp_path, inputs, one)
    assert_close(whole, expected)
    assert_close(first, endpoint.answers(one))
    content = (tmp_path / "saved_model.pb").read_bytes().lower()
    assert b"keras" not in content


def test_names_that_an_author_gave_are_kept():
    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="r-2")
    hidden = layers.Concatenate()([left, right])
    heads = [layers.Dense(2, name="class")(hidden), layers.Dense(1)(hidden)]
    model = keras.Model([left, right], heads)
    function = Endpoint(model).trace()
    assert list(function.structured_input_signature[1]) == ["left", "r_2"]
    assert sorted(function.structured_outputs) == ["class", "output_2"]


def test_names_do_not_depend_on_what_was_built_before():
    for _ in range(2):
        model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
        function = Endpoint(model).trace()
        assert list(function.structured_input_signature[1]) == ["inputs"]
        assert list(function.structured_outputs) == ["outputs"]


def test_two_outputs_of_one_layer_have_two_names():
    inputs = keras.Input((4, 3))
    outputs = layers.LSTM(2, return_state=True, name="memory")(inputs)
    function = Endpoint(keras.Model(inputs, outputs)).trace()
    assert sorted(function.structured_outputs) == [
        "memory_1",
        "memory_2",
        "memory_3",
    ]


def test_nested_names():
    spec = tf.TensorSpec((None, 2))
    nest = {"a": [spec, spec], "b": spec}
    assert name_leaves(nest, "input") == ["a_0", "a_1", "b"]
    assert name_leaves([spec, spec], "input") == ["input_1", "input_2"]


def test_preprocessing_and_softmax_are_inside(tmp_path):
    model = small.mlp()
    images = np.arange(40, dtype="uint8").reshape(10, 2, 2)

    def preprocess(images):
        return tf.reshape(tf.cast(images, tf.float32) / 255, (-1, 4))

    endpoint = Endpoint(model, preprocess, True, images)
    assert endpoint.inputs["inputs"] == tf.TensorSpec(
        (None, 2, 2), tf.uint8, "inputs"
    )
    (found,) = served(endpoint, tmp_path, {"inputs": images})
    logits = model(images.reshape(10, 4).astype("float32") / 255)
    np.testing.assert_allclose(found["head"], tf.nn.softmax(logits), 1e-5)


def test_preprocessing_of_free_lengths_and_strings(tmp_path):
    model = small.mlp()

    @tf.function(
        input_signature=[tf.TensorSpec((None, None), tf.string, name="lines")]
    )
    def preprocess(lines):
        return tf.strings.to_number(lines[:, :4])

    endpoint = Endpoint(model, preprocess)
    lines = np.array([list("12345"), list("67890")], dtype=object)
    (found,) = served(endpoint, tmp_path, {"lines": lines})
    expected = model(lines[:, :4].astype("float32"))
    np.testing.assert_allclose(found["head"], expected)


def refused(message, model, **arguments):
    with pytest.raises(ValueError, match=re.escape(message)):
        Endpoint(model, **arguments).trace()


class Own(keras.Model):
    """Calls a function that it was given."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


def test_what_cannot_be_served_is_refused_with_the_reason():
    x = np.ones((5, 4), "float32")
    refused("does not know what it takes", Own(lambda x: x))
    refused(
        "trace with any batch size. Received one that fails with TypeError",
        Own(lambda x: tf.zeros([x.shape[0], 2])),
        examples=x,
    )
    refused("must give a row for each example", Own(tf.reduce_sum), examples=x)
    refused(
        "must not call Python functions",
        Own(lambda x: tf.numpy_function(np.sin, [x], tf.float32)),
        examples=x,
    )
    sparse = keras.Input((4,), sparse=True)
    refused(
        "must take dense tensors", keras.Model(sparse, layers.Dense(2)(sparse))
    )


def test_a_model_that_cannot_answer_is_refused_with_keras_reason():
    inputs = keras.Input((5, 6), batch_size=4)
    model = keras.Model(inputs, layers.LSTM(3, stateful=True)(inputs))
    endpoint = Endpoint(model)
    with pytest.raises(ValueError, match="If an RNN is stateful"):
        endpoint.answers(named_examples(endpoint.inputs))


def test_softmax_is_refused_where_it_means_nothing():
    ends = [keras.Input((4,)), layers.Dense(3, "softmax")]
    refused("ends in a softmax", keras.Sequential(ends), softmax=True)
    ends = [keras.Input((4,)), layers.Dense(1)]
    refused("is a single number", keras.Sequential(ends), softmax=True)


def test_preprocessing_must_say_what_it_takes():
    refused("`examples` must be given", small.mlp(), preprocess=tf.abs)
    two = [tf.TensorSpec((None, 4)), tf.TensorSpec((None, 4))]
    both = tf.function(lambda a, b: a + b, input_signature=two)
    refused("must take one argument", small.mlp(), preprocess=both)


def test_examples_are_made_up_from_the_signature():
    inputs = {
        "pixels": tf.TensorSpec((None, 3), tf.uint8),
        "tokens": tf.TensorSpec((None, None), tf.int32),
        "values": tf.TensorSpec((None,), tf.float32),
    }
    made = named_examples(inputs)
    assert made["pixels"].shape == (32, 3) and made["pixels"].max() > 100
    assert made["tokens"].shape == (32, 16) and made["tokens"].max() == 1
    assert made["values"].dtype == "float32"
    again = named_examples(inputs)
    assert all(np.array_equal(made[n], again[n]) for n in inputs)
    with pytest.raises(ValueError, match="cannot be made up for 'words'"):
        named_examples({"words": tf.TensorSpec((None,), tf.string)})


def test_examples_that_do_not_fit():
    inputs = {n: tf.TensorSpec((None, 3), tf.float32) for n in ("a", "b")}
    rows = np.ones((4, 3))
    for examples, message in [
        (rows, "must hold 2 arrays"),
        ([rows, rows[:, :2]], r"must have shape (None, 3) for 'b'"),
        ([rows, rows[:2]], "must be as many for every input"),
        ([rows[:0], rows[:0]], "at least one"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            named_examples(inputs, examples)
    assert (
        named_examples(inputs, {"b": rows, "a": rows})["b"].dtype == "float32"
    )


def test_examples_by_the_names_of_inputs():
    inputs = {name: tf.TensorSpec((None, 1), "float32", name) for name in "ba"}
    x = {"a": np.zeros((2, 1)), "b": np.ones((2, 1))}
    for given in (x, [x["b"], x["a"]]):
        found = named_examples(inputs, given)
        assert list(found) == ["b", "a"]
        for name in x:
            np.testing.assert_array_equal(found[name], x[name])
