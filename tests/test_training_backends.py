"""The choice of the backend: by rules that nothing but the network decides, or
by a measurement that leaves no trace."""

import itertools
import logging
import os
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from small import compiled, data, mlp
from test_training import OwnStep, dense, dense_layers
from test_training import compiled as compiled_model

import keras_lottery
from keras_lottery import models, tracing
from keras_lottery.backend import loop_tensorflow
from keras_lottery.keras_internals import build_for_training
from keras_lottery.training import Loop, backends


def lstm(**kwargs):
    return keras.Sequential(
        [keras.Input((5, 4)), layers.LSTM(3, **kwargs), layers.Dense(2)]
    )


def attention():
    inputs = keras.Input((5, 4))
    x = layers.MultiHeadAttention(2, 3, dropout=0.1)(
        inputs, inputs, use_causal_mask=True
    )
    x = layers.LayerNormalization()(x + inputs)
    x = layers.Dense(4, "gelu")(x)
    return keras.Model(inputs, layers.GlobalAveragePooling1D()(x))


def embedding():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True)(inputs)
    return keras.Model(inputs, layers.GlobalAveragePooling1D()(x))


def of_layers(*shape, **kwargs):
    return lambda: keras.Sequential([keras.Input(shape), *kwargs["layers"]])


class Loops(keras.Sequential):
    """A loop and a convolution, in functions inside of functions."""

    def call(self, x):
        @tf.function
        def body(i, x):
            return i + 1, super(Loops, self).call(x)

        return tf.while_loop(lambda i, x: i < 2, body, [0, x])[1]


# On a CPU, and on a GPU.
RULE = {
    "lenet_300_100": (models.lenet_300_100, "xla", "xla"),
    "conv_2": (models.conv_2, "graph", "xla"),
    "conv_4": (models.conv_4, "graph", "xla"),
    "conv_6": (lambda: models.conv_6(dropout=0.5), "graph", "xla"),
    "resnet_18": (lambda: models.resnet_18(augment=True), "graph", "xla"),
    "vgg_19": (models.vgg_19, "graph", "xla"),
    "attention": (attention, "xla", "xla"),
    "embedding": (embedding, "xla", "xla"),
    "lstm": (lstm, "graph", "graph"),
    "lstm, unrolled": (lambda: lstm(unroll=True), "xla", "xla"),
    "depthwise": (
        of_layers(8, 8, 2, layers=[layers.DepthwiseConv2D(3)]),
        "graph",
        "xla",
    ),
    "transposed": (
        of_layers(8, 2, layers=[layers.Conv1DTranspose(3, 3)]),
        "graph",
        "xla",
    ),
    "average pooling": (
        of_layers(8, 2, layers=[layers.AveragePooling1D(2)]),
        "graph",
        "xla",
    ),
    "batch normalisation and noise": (
        of_layers(
            6,
            layers=[
                layers.Dense(4),
                layers.BatchNormalization(),
                layers.PReLU(),
                layers.Dropout(0.5),
                layers.GaussianNoise(0.1),
                layers.Softmax(),
            ],
        ),
        "xla",
        "xla",
    ),
    "a loop in `call`": (
        lambda: Loops([keras.Input((4,)), layers.Dense(4)]),
        "graph",
        "graph",
    ),
}


def inputs_of(model):
    (inputs,) = model.inputs
    return tf.TensorSpec(inputs.shape, inputs.dtype)


@pytest.mark.parametrize("network", RULE)
def test_the_rule(network):
    build, on_cpu, on_gpu = RULE[network]
    model = build()
    before = model.get_weights()
    operations = tracing.operations(model, inputs_of(model))
    for device, expected in (("CPU", on_cpu), ("GPU", on_gpu)):
        name, why = loop_tensorflow.rule(operations, device)
        assert (name, device in why) == (expected, True), why
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_rule_says_which_operations_it_does_not_trust():
    assert loop_tensorflow.rule({"MatMul", "MaxPool", "Conv2D"}, "CPU")[1] == (
        "XLA may be slow at Conv2D and MaxPool on a CPU"
    )
    assert (
        "B, C, D and 2 more on" in loop_tensorflow.rule(set("BCDEF"), "CPU")[1]
    )


def test_a_model_that_cannot_be_traced_alone_runs_as_a_graph():
    def broken(*_, **__):
        raise RuntimeError("no")

    name, why = loop_tensorflow.by_rule(broken, np.zeros((1, 2)))
    assert name == "graph" and "cannot be traced" in why


class ClockStopped(Exception):
    pass


def test_no_clock_has_a_part_in_the_rule(monkeypatch):
    def stopped():
        raise ClockStopped

    loop = loop_on(dense())
    with monkeypatch.context() as patch:
        for clock in ("perf_counter", "monotonic", "process_time"):
            patch.setattr(time, clock, stopped)
        choice = loop.choose_backend()
    ruled = loop_tensorflow.by_rule(loop.model, np.zeros((1, 6)))
    assert ruled[0] == "xla"
    assert choice == backends.with_sparse(ruled, loop.model, loop._train_data)
    assert choice[0] == loop.backend


def test_a_training_step_that_xla_cannot_compile_runs_as_a_graph():
    model = dense()

    def loss(y_true, y_pred):
        y_true = tf.strings.to_number(tf.strings.as_string(y_true))
        return keras.ops.mean(keras.ops.square(y_pred[:, 0] - y_true), -1)

    model.compile("adam", loss)
    loop = loop_on(model)
    name, why = loop.choose_backend()
    assert name == loop.backend == "graph"
    assert why.startswith("XLA cannot compile its training step; not by sparse")
    assert loop.train(5, seed=0).diverged is None


def test_a_model_with_its_own_step_is_left_to_fit(caplog):
    model = compiled_model(OwnStep([keras.Input((6,)), *dense_layers()]))
    for backend in ("auto", "measure"):
        loop = loop_on(model, backend=backend)
        with caplog.at_level(logging.WARNING, logger="absl"):
            choice = loop.choose_backend()
        assert choice == ("fit", "OwnStep has a `train_step` of its own")
    assert len(caplog.records) == 2


def test_a_backend_that_was_asked_for_is_taken():
    loop = loop_on(dense(), backend="xla_update")
    assert loop.choose_backend() == ("xla_update", "it was asked for")


# Measured.


def noisy_model():
    """Has all the state that a measurement could change."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(16, "relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(3),
        ]
    )
    return compiled_model(model, keras.optimizers.Adam(0.01, use_ema=True))


def loop_on(model, **kwargs):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 6)).astype("float32")
    y = rng.integers(0, 3, 100)
    return Loop(model, (x, y), (x, y), batch_size=8, eval_every=5, **kwargs)


def state(model):
    variables = (
        *model.variables,
        *model.optimizer.variables,
        *model.metrics_variables,
    )
    return [v.numpy() for v in variables]


@pytest.mark.slow
def test_choosing_changes_no_bit(monkeypatch):
    monkeypatch.setattr(backends, "COMPILED", ("graph", "xla"))
    monkeypatch.setattr(backends, "_STRETCH_SECONDS", 0.0)
    monkeypatch.setattr(backends, "_MOST_SECONDS", 0.0)
    model = noisy_model()
    loop = loop_on(model)
    loop._prepare()
    before = state(model)
    ruled = loop.choose_backend()
    measured = backends.by_measurement(
        model, loop._steps_on, loop._train_data, (5, 8)
    )
    for name, why in (ruled, measured):
        assert name in ("graph", "xla") and why
    after = state(model)
    assert len(before) == len(after) > 10
    for a, b in zip(before, after):
        np.testing.assert_array_equal(a, b)
    assert loop.choose_backend() == ruled


def test_measuring_is_done_on_request_and_once(monkeypatch):
    choices = iter([("xla_update", "faster")])
    monkeypatch.setattr(backends, "by_measurement", lambda *_: next(choices))
    loop = loop_on(dense(), backend="measure")
    assert loop.choose_backend() == ("xla_update", "faster")
    assert loop.choose_backend() == ("xla_update", "faster")
    assert loop.backend == "xla_update"


class Pretended:
    """Compiled steps whose speed is given, on a clock of its own."""

    clock = 0.0
    load = staticmethod(lambda: 1.0)

    def __init__(self, tiny, full):
        self.seconds = {2: tiny, 60: full}
        self.calls = []

    def train(self, count, indices, data):
        batch_size = indices.shape[1]
        self.calls.append((batch_size, Pretended.clock))
        Pretended.clock += count * self.seconds[batch_size] * Pretended.load()


class Broken:
    def train(self, *_):
        raise NotImplementedError


@pytest.fixture
def measured(monkeypatch):
    def measured(load=lambda: 1.0, **steps):
        monkeypatch.setattr(
            backends.time, "perf_counter", lambda: Pretended.clock
        )
        monkeypatch.setattr(Pretended, "load", staticmethod(load))
        monkeypatch.setattr(
            backends, "_preserved", lambda *_: monkeypatch.context()
        )
        data = (np.zeros((100, 2)), np.zeros(100))
        return backends.by_measurement(None, steps.get, data, (100, 60))

    return measured


def test_the_fastest_is_chosen_and_what_was_measured_is_said(measured):
    graph, xla = Pretended(0.001, 0.002), Pretended(0.0005, 0.001)
    update = Pretended(0.001, 0.0015)
    assert measured(graph=graph, xla=xla, xla_update=update) == (
        "xla",
        "graph 2 ms a step, xla 1 ms a step, xla_update 1.5 ms a step "
        "(medians of 15 stretches, stable)",
    )


def test_a_slow_candidate_never_sees_a_full_batch(measured):
    graph, slow = Pretended(0.02, 0.1), Pretended(0.1, 26.0)
    name, why = measured(graph=graph, xla=slow, xla_update=Pretended(1, 1))
    assert name == "graph"
    assert {batch_size for batch_size, _ in slow.calls} == {2}
    assert "xla far slower on two examples" in why


def test_a_near_tie_goes_to_the_graph(measured):
    near = Pretended(0.01, 0.098)
    graph = Pretended(0.02, 0.100)
    assert measured(graph=graph, xla=near, xla_update=near)[0] == "graph"


def test_a_model_xla_cannot_compile_is_left_to_the_graph(measured):
    name, why = measured(
        graph=Pretended(0.02, 0.1), xla=Broken(), xla_update=Broken()
    )
    assert name == "graph" and "xla cannot compile this model" in why
    with pytest.raises(NotImplementedError):
        measured(graph=Broken(), xla=Broken(), xla_update=Broken())


def test_load_on_the_machine_does_not_change_what_is_chosen(measured):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        # Stretches take up to five times as long as alone.
        name, why = measured(
            lambda rng=rng: rng.choice([1.0, 1.0, 1.0, 1.0, 5.0]),
            graph=Pretended(0.002, 0.003),
            xla=Pretended(0.002, 0.002),
            xla_update=Pretended(0.002, 0.0028),
        )
        assert name == "xla", why


def test_a_measurement_ends_though_nothing_is_stable(measured):
    began, load = Pretended.clock, itertools.count(1.0)
    name, why = measured(
        lambda: next(load),
        graph=Pretended(0.1, 0.1),
        xla=Pretended(0.1, 0.1),
        xla_update=Broken(),
    )
    assert "not stable" in why
    assert Pretended.clock - began < 2 * backends._MOST_SECONDS


def test_candidates_are_timed_in_turn(measured):
    graph, xla = Pretended(0.001, 0.002), Pretended(0.001, 0.001)
    measured(graph=graph, xla=xla, xla_update=Broken())
    ended = sorted(
        (when, name)
        for name, steps in (("graph", graph), ("xla", xla))
        for _, when in steps.calls[-15:]
    )
    assert [name for _, name in ended] == ["graph", "xla"] * 15


# Sparse kernels.

LENET = [784, 300, 100, 10]


def wrapped():
    model = compiled(keras_lottery.wrap(mlp()), metrics=["accuracy"])
    build_for_training(model, data())
    return model


def small_loop(model, backend):
    return Loop(model, data(), data(), batch_size=4, backend=backend)


@given(st.integers(0, 266_199), st.sampled_from([16, 60, 64, 128, 256]))
def test_what_is_faster_stays_so_with_fewer_weights(kept, batch_size):
    if backends.sparse_is_faster(LENET, kept + 1, batch_size):
        assert backends.sparse_is_faster(LENET, kept, batch_size)


@pytest.mark.parametrize("units", [LENET, [784, 1024, 1024, 10]])
def test_dense_levels_are_dense_and_sparse_ones_sparse(units):
    weights = sum(a * b for a, b in zip(units, units[1:]))
    assert not backends.sparse_is_faster(units, weights, 60)
    assert backends.sparse_is_faster(units, weights // 10, 60)


def test_neither_clock_nor_cores_have_a_part_in_it(monkeypatch):
    pytest.importorskip("numba")
    model = wrapped()
    before = backends.backend_for("sparse_or_xla", model, 60)
    for name in ("cpu_count", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    for clock in ("perf_counter", "monotonic", "time"):
        monkeypatch.setattr(f"time.{clock}", None)
    assert backends.backend_for("sparse_or_xla", model, 60) == before


def test_the_density_is_that_of_the_masks_or_what_is_told(monkeypatch):
    model, seen = wrapped(), []
    monkeypatch.setattr(
        backends, "sparse_is_faster", lambda *arguments: seen.append(arguments)
    )
    mask = np.arange(24).reshape(4, 6) % 3 == 0
    first, second = model.lottery.masks
    model.lottery.attachment.assign_masks({first: mask})
    for kept in (None, 5, 0):
        name = backends.backend_for("sparse_or_graph", model, 7, kept)
        assert name == "graph"
    assert seen == [([4, 6, 3], kept, 7) for kept in (8 + 18, 5, 0)]
    # Other choices are for all densities.
    assert backends.backend_for("xla", model, 7) == "xla"
    assert len(seen) == 3


def test_without_numba_all_is_as_before_and_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    loop = small_loop(wrapped(), "auto")
    name, why = loop.choose_backend()
    assert name == loop.backend == loop.backend_for(kept=1) == "xla"
    assert "not by sparse kernels, since compiling them needs" in why
    for backend in ("sparse", "sparse_or_xla"):
        with pytest.raises(ValueError, match="cannot be imported"):
            small_loop(wrapped(), backend).train(2, seed=0)


def test_what_kernels_do_not_know_is_refused_if_asked_for_and_told_if_not():
    pytest.importorskip("numba")
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3)(keras.layers.BatchNormalization()(inputs))

    def loop(backend):
        model = keras.Model(inputs, outputs)
        return small_loop(compiled(model), backend)

    with pytest.raises(ValueError, match="since it has a layer of the class"):
        loop("sparse").choose_backend()
    name, why = loop("auto").choose_backend()
    assert name == "xla" and "the class BatchNormalization" in why


def test_levels_of_one_loop_are_trained_by_what_suits_them(monkeypatch):
    pytest.importorskip("numba")
    model = wrapped()
    loop = small_loop(model, "sparse_or_graph")
    monkeypatch.setattr(
        backends, "sparse_is_faster", lambda units, kept, batch_size: kept < 30
    )
    assert loop.backend_for(42) == "graph" == loop.backend_for()
    loop.train(5, seed=0)
    assert loop.traces > 0
    traces = loop.traces
    first, _ = model.lottery.masks
    model.lottery.attachment.assign_masks({first: np.eye(4, 6, dtype=bool)})
    model.lottery.attachment.apply_masks()
    assert loop.backend_for() == "sparse"
    loop.train(5, seed=0)
    assert loop.traces == traces
    kernel = np.array(model.get_weights()[0])
    assert (kernel[~np.eye(4, 6, dtype=bool)] == 0).all() and kernel.any()
    assert int(model.optimizer.iterations) == 10
