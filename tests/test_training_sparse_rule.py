"""When sparse kernels train, and that nothing but the network decides it."""

import os
import sys

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import compiled, data, mlp

import keras_lottery
from keras_lottery.keras_internals import build_for_training
from keras_lottery.training import Loop, sparse_rule

LENET = [784, 300, 100, 10]


def wrapped():
    model = compiled(keras_lottery.wrap(mlp()), metrics=["accuracy"])
    build_for_training(model, data())
    return model


def loop_on(model, backend):
    return Loop(model, data(), data(), batch_size=4, backend=backend)


@given(st.integers(0, 266_199), st.sampled_from([16, 60, 64, 128, 256]))
def test_what_is_faster_stays_so_with_fewer_weights(kept, batch_size):
    if sparse_rule.is_faster(LENET, kept + 1, batch_size):
        assert sparse_rule.is_faster(LENET, kept, batch_size)


@pytest.mark.parametrize("units", [LENET, [784, 1024, 1024, 10]])
def test_dense_levels_are_dense_and_sparse_ones_sparse(units):
    weights = sum(a * b for a, b in zip(units, units[1:]))
    assert not sparse_rule.is_faster(units, weights, 60)
    assert sparse_rule.is_faster(units, weights // 10, 60)


def test_neither_clock_nor_cores_have_a_part_in_it(monkeypatch):
    pytest.importorskip("numba")
    model = wrapped()
    before = sparse_rule.backend_for("sparse_or_xla", model, 60)
    for name in ("cpu_count", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    for clock in ("perf_counter", "monotonic", "time"):
        monkeypatch.setattr(f"time.{clock}", None)
    assert sparse_rule.backend_for("sparse_or_xla", model, 60) == before


def test_the_density_is_that_of_the_masks_or_what_is_told(monkeypatch):
    model, seen = wrapped(), []
    monkeypatch.setattr(
        sparse_rule, "is_faster", lambda *arguments: seen.append(arguments)
    )
    mask = np.arange(24).reshape(4, 6) % 3 == 0
    first, second = model.lottery.masks
    model.lottery.attachment.assign_masks({first: mask})
    for kept in (None, 5, 0):
        name = sparse_rule.backend_for("sparse_or_graph", model, 7, kept)
        assert name == "graph"
    assert seen == [([4, 6, 3], kept, 7) for kept in (8 + 18, 5, 0)]
    # Other choices are for all densities.
    assert sparse_rule.backend_for("xla", model, 7) == "xla"
    assert len(seen) == 3


def test_without_numba_all_is_as_before_and_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    loop = loop_on(wrapped(), "auto")
    name, why = loop.choose_backend()
    assert name == loop.backend == loop.backend_for(kept=1) == "xla"
    assert "not by sparse kernels, since compiling them needs" in why
    for backend in ("sparse", "sparse_or_xla"):
        with pytest.raises(ValueError, match="cannot be imported"):
            loop_on(wrapped(), backend).train(2, seed=0)


def test_what_kernels_do_not_know_is_refused_if_asked_for_and_told_if_not():
    pytest.importorskip("numba")
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3)(keras.layers.BatchNormalization()(inputs))

    def loop(backend):
        model = keras.Model(inputs, outputs)
        return loop_on(compiled(model), backend)

    with pytest.raises(ValueError, match="since it has a layer of the class"):
        loop("sparse").choose_backend()
    name, why = loop("auto").choose_backend()
    assert name == "xla" and "the class BatchNormalization" in why


def test_levels_of_one_loop_are_trained_by_what_suits_them(monkeypatch):
    pytest.importorskip("numba")
    model = wrapped()
    loop = loop_on(model, "sparse_or_graph")
    monkeypatch.setattr(
        sparse_rule, "is_faster", lambda units, kept, batch_size: kept < 30
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
