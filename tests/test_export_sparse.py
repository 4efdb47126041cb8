"""sparsify: the same outputs from stored connections, where it is faster."""

import keras
import numpy as np
import pytest
import small
import tensorflow as tf
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from keras import layers

import keras_lottery
from keras_lottery.export import sparse
from keras_lottery.export.sparse import SparseDense, sparsify


def network(activation="relu", use_bias=True, **options):
    return keras.Sequential(
        [
            keras.Input((7,), name="x"),
            layers.Dense(9, activation, use_bias, name="a", **options),
            layers.Dense(8, "tanh", use_bias, name="b", **options),
            layers.Dense(3, name="c", **options),
        ]
    )


def prune(model, density, seed=0):
    draw = np.random.default_rng(seed)
    for variable in model.weights:
        values = draw.normal(size=variable.shape)
        if len(variable.shape) > 1:
            values *= draw.random(values.shape) < density
        variable.assign(values)
    return model


def inputs(count=5):
    return np.random.default_rng(1).normal(size=(count, 7)).astype("float32")


def assert_same(model, other, x=None):
    x = inputs() if x is None else x
    np.testing.assert_allclose(model(x), other(x), rtol=1e-4, atol=1e-5)


def sparse_layers(model):
    return [n.name for n in model.layers if isinstance(n, SparseDense)]


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
)
@given(
    st.sampled_from([0.0, 0.02, 0.2, 0.5, 1.0]),
    st.sampled_from(["relu", "softmax", None, layers.LeakyReLU(0.1)]),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_same_outputs(density, activation, use_bias, seed):
    model = prune(network(activation, use_bias), density, seed)
    before = small.arrays(model)
    sparsified = sparsify(model, which="all")
    assert sparse_layers(sparsified.model) == ["a", "b", "c"]
    assert_same(model, sparsified.model)
    assert small.same(before, small.arrays(model))
    stored = {v.path: v.shape for v in sparsified.model.weights}
    count = np.count_nonzero(model.layers[0].kernel)
    assert stored["a/values"] == (count,) and stored["a/places"] == (count, 2)
    assert not sparsified.model.trainable_variables
    (first, *_) = sparsified.layers
    assert first.chosen and first.density == count / 63


@pytest.fixture
def stopwatch(monkeypatch):
    """Measures nothing: says that sparse layers take what the test says."""
    taken, asked = {}, []

    def median_seconds(functions, x, repetitions):
        name = functions[1].python_function.name
        asked.append((name, x.shape[0], repetitions))
        return [1.0, taken[name][x.shape[0]]]

    monkeypatch.setattr(sparse, "median_seconds", median_seconds)
    return taken, asked


def test_auto_takes_what_is_faster_at_every_batch_size(stopwatch):
    taken, asked = stopwatch
    taken["a"] = {2: 0.5, 16: 0.89}
    taken["b"] = {2: 0.1, 16: 0.91}
    taken["c"] = {2: 1.5, 16: 0.1}
    model = prune(network(), 0.2)
    sparsified = sparsify(model, batch_sizes=(2, 16), repetitions=3)
    assert asked == [(n, size, 3) for n in "abc" for size in (2, 16)]
    assert sparse_layers(sparsified.model) == ["a"]
    assert [choice.chosen for choice in sparsified.layers] == [True, 0, 0]
    assert sparsified.layers[1].dense == {2: 1.0, 16: 1.0}
    assert sparsified.layers[1].sparse == taken["b"]
    assert sparsified.layers[2].why == (
        "0.67 times as fast at batch 2, 10 times as fast at batch 16"
    )
    assert_same(model, sparsified.model)


def test_a_real_measurement_decides_somehow():
    model = prune(network(), 0.2)
    sparsified = sparsify(model, batch_sizes=[4], repetitions=2)
    for choice in sparsified.layers:
        assert choice.dense[4] > 0 and choice.sparse[4] > 0
    assert_same(model, sparsified.model)


def test_layers_by_name(stopwatch):
    model = prune(network(), 0.2)
    sparsified = sparsify(model, which=["b"])
    assert sparse_layers(sparsified.model) == ["b"] and not stopwatch[1]
    assert_same(model, sparsified.model)


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "float64"])
def test_other_precisions_stay_dense(policy):
    model = prune(network(dtype=policy), 0.2)
    sparsified = sparsify(model, which="all")
    assert not sparse_layers(sparsified.model)
    assert "it computes in" in sparsified.layers[0].why
    np.testing.assert_array_equal(model(inputs()), sparsified.model(inputs()))


def test_inputs_of_another_rank_stay_dense():
    model = keras.Sequential(
        [keras.Input((4, 7)), layers.Dense(3, name="deep"), layers.Flatten()]
    )
    (choice,) = sparsify(model, which="all").layers
    assert not choice.chosen and "rank 2" in choice.why


def test_a_shared_layer_in_a_nested_model_and_one_alone():
    shared, x = layers.Dense(7, name="twice"), keras.Input((7,))
    inner = keras.Model(x, shared(shared(x)))
    model = prune(keras.Model(x, inner(x)), 0.3)
    sparsified = sparsify(model, which="all")
    assert sparse_layers(sparsified.model) == ["twice"]
    assert len(sparsified.layers) == 1
    assert_same(model, sparsified.model)


def test_a_wrapped_model():
    model = keras_lottery.wrap(small.compiled(small.mlp()), rate=0.5, rounds=1)
    small.fit(model), small.fit(model)
    sparsified = sparsify(model, which="all")
    assert_same(model, sparsified.model, small.data()[0])
    densities = [choice.density for choice in sparsified.layers]
    np.testing.assert_allclose(densities, [*model.lottery.densities().values()])


def operations(graph):
    definition = graph.as_graph_def()
    functions = definition.library.function
    nodes = [*definition.node, *(n for f in functions for n in f.node_def)]
    return {node.op for node in nodes}


def test_it_is_served_by_stock_operations(tmp_path):
    model = prune(network(), 0.2)
    sparsified = sparsify(model, which="all").model
    module = tf.Module()
    module.weights = [v.value for v in sparsified.variables]
    module.serve = tf.function(
        lambda x: sparsified(x, training=False),
        input_signature=[tf.TensorSpec((None, 7))],
    )
    tf.saved_model.save(module, tmp_path, {"serving_default": module.serve})
    served = tf.saved_model.load(tmp_path).signatures["serving_default"]
    (answer,) = served(x=inputs()).values()
    np.testing.assert_allclose(answer, model(inputs()), rtol=1e-4, atol=1e-5)
    found = operations(served.graph)
    assert {"SparseTensorToCSRSparseMatrix", "SparseMatrixMatMul"} <= found
    assert not found & {"PyFunc", "EagerPyFunc", "PyFuncStateless"}


def test_it_is_saved_and_predicts_as_keras_does(tmp_path):
    model = prune(network(), 0.2)
    sparsified = sparsify(model, which="all").model
    sparsified.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert sparse_layers(loaded) == ["a", "b", "c"]
    found = loaded.predict(inputs(), verbose=0)
    np.testing.assert_allclose(found, model(inputs()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"which": "fast"}, "`which` must be"),
        ({"which": ["a", "z"]}, "'z'; there is no Dense layer"),
        ({"batch_sizes": [0]}, "`batch_sizes` must be"),
        ({"repetitions": 0}, "`repetitions` must be"),
    ],
)
def test_wrong_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sparsify(network(), **arguments)
