"""Law 6, identity: without pruning, training is bitwise what it was."""

import keras
import numpy as np
import pytest
import zoo

import keras_lottery


@pytest.mark.parametrize("kind", zoo.SOME_KINDS)
def test_level_0_is_training_without_wrap(kind):
    """A stronger form: the masks are there, and keep all."""
    search = zoo.search(kind)
    assert zoo.same(search.plain.ends[0], search.wrapped.ends[0])
    assert search.plain_history == search.wrapped_histories[0]
    assert all(mask.all() for mask in search.wrapped.masks[0].values())


@pytest.mark.parametrize("kind", ["normalised", "own_call", "adversaries"])
def test_rate_0(kind):
    search = zoo.search(kind)
    model = zoo.compiled(kind, wrap={"rate": 0, "rounds": 0})
    history = zoo.fit(model, kind).history
    state = zoo.weights(model), zoo.optimizer_states(model)
    assert zoo.same(state, search.plain.ends[0])
    assert history == search.plain_history


@pytest.mark.parametrize("scope", ["layerwise", "global"])
def test_rate_0_everywhere(scope):
    model = zoo.build()
    rates = {"output_rate": 0} if scope == "layerwise" else {}
    keras_lottery.wrap(model, rate=0, scope=scope, **rates)
    assert model.lottery.density == 1.0


def test_two_trainings_without_rewinding():
    plain, wrapped = (
        zoo.compiled("normalised", wrap=wrap)
        for wrap in (None, {"rate": 0, "rewind_to": None})
    )
    ends = []
    for model in (plain, wrapped):
        keras.utils.set_random_seed(5)
        histories = [zoo.fit(model, "normalised").history for _ in range(2)]
        ends.append((zoo.weights(model), zoo.optimizer_states(model)))
        assert histories[0] != histories[1]
        ends[-1] += (np.array([h["loss"] for h in histories]),)
    assert zoo.same(*ends)
    assert wrapped.lottery.level == 2


@pytest.mark.parametrize("name", zoo.OPTIMIZERS)
def test_every_optimizer(name):
    x, y = zoo.data()
    ends = []
    for wrap in (None, {"rate": 0.5, "output_rate": 0.5}):
        model = zoo.compiled(
            optimizer=zoo.OPTIMIZERS[name](global_clipnorm=0.5), wrap=wrap
        )
        losses = zoo.train_eagerly(model, model.optimizer, x, y)
        state = zoo.weights(model), zoo.optimizer_state(model.optimizer)
        ends.append((state, np.array(losses)))
    assert zoo.same(*ends)


WAYS = {
    "steps_per_execution": {"steps_per_execution": 2},
    "jit_compile": {"jit_compile": True},
    "rewind_to": {},
}


@pytest.mark.parametrize(
    "way",
    [
        "steps_per_execution",
        pytest.param("jit_compile", marks=pytest.mark.slow),
        "rewind_to",
    ],
)
def test_every_way_to_run(way):
    late = {"rewind_to": 3} if way == "rewind_to" else {}
    ends = []
    for wrap in (None, {"rate": 0.5, "rounds": 0, **late}):
        model = zoo.compiled("normalised", wrap=wrap, **WAYS[way])
        history = zoo.fit(model, "normalised").history
        state = zoo.weights(model), zoo.optimizer_states(model)
        ends.append((state, np.array(history["loss"])))
    assert zoo.same(*ends)


def test_paused_training_is_training():
    plain = zoo.compiled("normalised")
    histories = [zoo.fit(plain, "normalised").history for _ in range(2)]
    model = zoo.compiled("normalised", wrap={"rate": 0.5})
    with model.lottery.paused():
        paused = [zoo.fit(model, "normalised").history for _ in range(2)]
    assert histories == paused and model.lottery.level == 0
    assert zoo.same(zoo.weights(plain), zoo.weights(model))


def test_unwrapped_training_is_training():
    model = zoo.compiled("normalised")
    optimizer = model.optimizer
    keras_lottery.wrap(model, rate=0.5)
    model.make_train_function()
    assert keras_lottery.unwrap(model) is model
    assert model.optimizer is optimizer and type(model) is keras.Sequential
    recorder = zoo.Recorder()
    zoo.fit(model, "normalised", callbacks=[recorder])
    assert zoo.same(recorder.ends[0], zoo.search("normalised").plain.ends[0])


def test_what_unwrap_leaves_is_plain_keras():
    model = zoo.compiled("constrained", wrap={"rate": 0.5})
    zoo.fit(model, "constrained")
    zeros = [w == 0 for w in zoo.weights(model)]
    keras_lottery.unwrap(model)
    kinds = [type(layer.kernel.constraint) for layer in model.layers]
    own = keras.constraints.MaxNorm, keras.constraints.NonNeg, type(None)
    assert kinds == list(own)
    for name, value in vars(model.optimizer).items():
        assert "keras_lottery" not in getattr(value, "__module__", ""), name
    names = [variable.name for variable in model.optimizer.variables]
    assert not any("mask" in name for name in names)
    assert not hasattr(model, "lottery") and "fit" not in vars(model)
    before = zoo.weights(model)
    assert any(z.any() for z in zeros)
    assert all(zoo.same(w == 0, z) for w, z in zip(before, zeros))
    zoo.fit(model, "constrained")
    for old, new, zero in zip(before, zoo.weights(model), zeros):
        assert old.ndim == 1 or (new[zero] != 0).any()
