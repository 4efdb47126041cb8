"""The output layers of all kinds of models."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_lottery.scopes import find_kernels
from keras_lottery.tracing import (
    TracingError,
    operations,
    output_variables,
)


def outputs(model, data=None):
    """Names of the layers that own an output kernel."""
    kernels = find_kernels(model)
    found = output_variables(model, [k.variable for k in kernels], data)
    owners = {id(k.variable): k.layer.name for k in kernels}
    return {owners[id(v)] for v in found}


def dense(name, units=3, **kwargs):
    return layers.Dense(units, name=name, **kwargs)


TAILS = {
    "nothing": [],
    "activation": [layers.Activation("relu")],
    "softmax": [layers.Softmax()],
    "leaky": [layers.LeakyReLU(), layers.PReLU()],
    "reshape": [layers.Reshape((3, 1)), layers.Flatten()],
    "batch norm": [layers.BatchNormalization(), layers.ReLU()],
    "layer norm": [layers.LayerNormalization(), layers.Dropout(0.5)],
    "noise and scaling": [layers.GaussianNoise(0.1), layers.Rescaling(2.0)],
}


@pytest.mark.parametrize("tail", TAILS)
def test_through_layers_without_a_kernel(tail):
    model = keras.Sequential(
        [keras.Input((4,)), dense("a"), dense("b"), *TAILS[tail]]
    )
    assert outputs(model) == {"b"}


def test_a_sequence_of_dense_layers():
    # The shape of b's output is computed from that of a's.
    model = keras.Sequential(
        [keras.Input((None, 4)), dense("a"), dense("b"), layers.Softmax()]
    )
    assert outputs(model) == {"b"}


def test_a_recurrent_state_made_from_a_shape():
    model = keras.Sequential(
        [keras.Input((5, 4)), dense("stem"), layers.LSTM(3), dense("head")]
    )
    assert outputs(model) == {"head"}


def test_one_layer():
    assert outputs(keras.Sequential([keras.Input((4,)), dense("a")])) == {"a"}


def test_convolution_and_pooling_as_output():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(2, 3, name="first"),
            layers.Conv2D(2, 3, name="last", activation="relu"),
            layers.GlobalAveragePooling2D(),
        ]
    )
    assert outputs(model) == {"last"}


def test_several_heads_each_at_its_depth():
    inputs = keras.Input((4,))
    trunk = dense("trunk")(inputs)
    early = dense("early")(trunk)
    late = dense("late")(dense("neck")(trunk))
    model = keras.Model(inputs, {"e": early, "l": layers.Softmax()(late)})
    assert outputs(model) == {"early", "late"}


def test_a_head_that_feeds_another_head_is_an_output_too():
    inputs = keras.Input((4,))
    first = dense("first")(inputs)
    assert outputs(keras.Model(inputs, [first, dense("second")(first)])) == {
        "first", "second"
    }  # fmt: skip


def test_the_last_block_of_a_residual_body():
    inputs = keras.Input((3,))
    x = dense("stem")(inputs)
    for block in range(3):
        inner = dense(f"in_{block}", 5)(layers.LayerNormalization()(x))
        x = layers.Add()([x, dense(f"out_{block}")(inner)])
    # Whatever block is added to it, another follows all but the last.
    assert outputs(keras.Model(inputs, x)) == {"out_2"}


def test_nested_models():
    inner = keras.Sequential([dense("a"), dense("b", 4)], name="inner")
    model = keras.Sequential([keras.Input((4,)), dense("stem", 4), inner])
    assert outputs(model) == {"b"}
    outer = keras.Sequential([keras.Input((4,)), inner, dense("head")])
    assert outputs(outer) == {"head"}


def test_shared_layer_last():
    shared, inputs = dense("shared", 4), keras.Input((4,))
    model = keras.Model(inputs, shared(dense("mid", 4)(shared(inputs))))
    assert outputs(model) == {"shared"}


@pytest.mark.parametrize("rnn", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_recurrent_layer_last(rnn):
    model = keras.Sequential(
        [keras.Input((5, 4)), dense("stem"), rnn(3, name="rnn")]
    )
    found = output_variables(model, [k.variable for k in find_kernels(model)])
    assert {v.name for v in found} >= {"recurrent_kernel"}
    assert "stem" not in outputs(model)


def test_bidirectional_lstm_at_the_output():
    model = keras.Sequential(
        [
            keras.Input((5, 4)),
            dense("stem"),
            layers.Bidirectional(layers.LSTM(3, name="rnn"), name="bi"),
        ]
    )
    assert outputs(model) == {"lstm_cell"}
    found = output_variables(model, [k.variable for k in find_kernels(model)])
    assert [v.name for v in found] == ["kernel", "recurrent_kernel"] * 2


def test_attention_at_the_output():
    inputs = keras.Input((5, 4))
    x = dense("stem", 4)(inputs)
    attention = layers.MultiHeadAttention(2, 3, name="mha")
    found = outputs(keras.Model(inputs, attention(x, x)))
    assert found == {"attention_output"}


def test_dict_and_tuple_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    both = layers.Concatenate()([dense("da")(a), dense("db")(b)])
    out = dense("out")(both)
    assert outputs(keras.Model({"a": a, "b": b}, out)) == {"out"}
    assert outputs(keras.Model([a, b], out)) == {"out"}
    assert outputs(keras.Model({"x": a, "rest": (b,)}, out)) == {"out"}


def test_integer_and_text_inputs():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(7, 4)(inputs))
    assert outputs(keras.Model(inputs, dense("head")(x))) == {"head"}


class Tied(keras.Model):
    def __init__(self):
        super().__init__()
        self.table = layers.Embedding(7, 4, name="table")
        self.hidden = dense("hidden", 4)

    def call(self, x):
        x = self.hidden(self.table(x))
        return tf.matmul(x, self.table.embeddings, transpose_b=True)


def test_tied_embedding_is_the_output_layer():
    model = Tied()
    batch = np.zeros((2, 5), "int32")
    model(batch)
    assert outputs(model, batch) == {"table"}


def test_kernel_less_model_has_no_output_kernel():
    model = keras.Sequential([keras.Input((4,)), layers.Flatten()])
    assert output_variables(model, []) == []


class WithOps(keras.Model):
    """Raw tf ops, control flow and a nested tf.function in `call`."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = dense("a", 4), dense("b", 4), dense("c")

    @tf.function
    def middle(self, x):
        return tf.nn.relu(self.b(x)) + 1

    def call(self, x, training=False):
        if training:
            raise AssertionError("traced in training mode")
        x = tf.cond(tf.reduce_sum(x) > 0, lambda: self.a(x), lambda: -self.a(x))
        x = tf.while_loop(
            lambda i, x: i < 2, lambda i, x: (i + 1, self.middle(x)), [0, x]
        )[1]
        return tf.stack(tf.unstack(tf.nn.softmax(self.c(x)), axis=1), axis=1)


def test_subclassed_with_tf_ops():
    model = WithOps()
    model(np.zeros((2, 4), "float32"))
    assert outputs(model) == {"c"}
    # A batch of data does as well as remembered shapes.
    assert outputs(model, np.zeros((2, 4), "float32")) == {"c"}


class TwoInputs(keras.Model):
    def __init__(self):
        super().__init__()
        self.a, self.b = dense("a"), dense("b")

    def call(self, inputs):
        return self.b(self.a(inputs["x"]) + inputs["y"])


def test_subclassed_with_dict_inputs():
    model = TwoInputs()
    batch = {"x": np.zeros((2, 4), "float32"), "y": np.zeros((2, 3), "float32")}
    model(batch)
    assert outputs(model, batch) == {"b"}
    assert outputs(model) == {"b"}


def test_kernel_used_after_a_function_of_itself():
    """A normalised kernel is met through what it is computed into."""

    class Normed(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")

        def call(self, x):
            return tf.matmul(x, tf.math.l2_normalize(self.kernel, axis=0))

    model = keras.Sequential(
        [keras.Input((4,)), dense("a"), Normed(name="normed")]
    )
    assert outputs(model) == {"normed"}


def test_a_penalty_on_weights_is_no_path_of_data():
    inputs = keras.Input((4,))
    a = dense("a", kernel_regularizer="l2")
    model = keras.Model(
        inputs, dense("b", activity_regularizer="l2")(a(inputs))
    )
    assert outputs(model) == {"b"}


def test_weights_are_as_they_were():
    model = keras.Sequential(
        [keras.Input((4,)), dense("a"), layers.BatchNormalization(), dense("b")]
    )
    before = model.get_weights()
    outputs(model)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


class Broken(keras.Model):
    def __init__(self):
        super().__init__()
        self.a = dense("a")

    def call(self, x):
        return self.a(x) if tf.executing_eagerly() else 1 / 0


def test_untraceable_models_say_what_to_do():
    model = Broken()
    model(np.zeros((2, 4), "float32"))
    with pytest.raises(TracingError, match="give `output_rate` the value"):
        outputs(model, np.zeros((2, 4), "float32"))


def test_operations_in_branches_loops_and_functions_are_found():
    class Nested(WithOps):
        def call(self, x, training=False):
            assert training
            return super().call(x)

    model = Nested()
    batch = np.zeros((2, 4), "float32")
    model(batch, training=True)
    before = model.get_weights()
    found = operations(model, batch)
    assert {"MatMul", "Relu", "Softmax", "Neg"} <= found
    assert any("While" in kind for kind in found)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_operations_are_those_of_training():
    model = keras.Sequential([keras.Input((4,)), layers.Dropout(0.5, seed=1)])
    assert "StatelessRandomUniformV2" in operations(model, np.zeros((1, 4)))
