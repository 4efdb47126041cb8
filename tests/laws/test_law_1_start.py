"""Law 1, start: a level begins at mask * theta, and all else goes back."""

import functools

import keras
import numpy as np
import pytest
import zoo

import keras_lottery


@pytest.mark.parametrize("kind", zoo.SOME_KINDS)
def test_every_level_starts_at_the_masked_initialisation(kind):
    search = zoo.search(kind)
    assert len(search.wrapped.starts) == 3
    for level, (weights, optimizers) in enumerate(search.wrapped.starts):
        masks = search.wrapped.masks[level]
        expected = zoo.masked(search.model, search.initial, masks)
        if search.model.built and (level or zoo.KINDS[kind].built):
            assert zoo.same(weights, expected)
        if level:
            assert zoo.same(optimizers, search.initial_optimizers)


@pytest.mark.parametrize("kind", zoo.SOME_KINDS)
def test_there_was_something_to_rewind(kind):
    # Otherwise the test above would pass without rewinding.
    search = zoo.search(kind)
    initial = zoo.masked(search.model, search.initial, search.wrapped.masks[0])
    weights, optimizers = search.wrapped.ends[0]
    moved = [not zoo.same(a, b) for a, b in zip(weights, initial)]
    for variable, has_moved in zip(search.model.variables, moved):
        # The key of an attention sees a bias that softmax cancels, and a
        # seed generator may serve a layer that draws nothing.
        assert has_moved or "seed" in variable.path or "bias" in variable.path
    for name, state in optimizers.items():
        assert not zoo.same(state, search.initial_optimizers[name])


def test_statistics_and_seeds_are_among_what_is_rewound():
    search = zoo.search("normalised")
    ends, _ = search.wrapped.ends[0]
    names = ("moving_mean", "moving_variance", "seed_generator_state")
    for name in names:
        found = [
            not zoo.same(end, start)
            for variable, end, start in zip(
                search.model.variables, ends, search.initial
            )
            if variable.name == name
        ]
        assert any(found), name


@pytest.mark.parametrize("name", zoo.OPTIMIZERS)
def test_every_variable_of_every_optimizer_goes_back(name):
    x, y = zoo.data()
    options = zoo.OPTIONS["use_ema"]
    fresh = zoo.compiled(optimizer=zoo.OPTIMIZERS[name](**options))
    fresh.optimizer.build(fresh.trainable_variables)
    expected = zoo.optimizer_state(fresh.optimizer)

    model = zoo.compiled(optimizer=zoo.OPTIMIZERS[name](**options), wrap={})
    zoo.train_eagerly(model, model.optimizer, x, y)
    trained = zoo.optimizer_state(model.optimizer)
    assert not zoo.same(trained, expected)
    model.lottery.prune()
    model.lottery.rewind()
    assert zoo.same(zoo.optimizer_state(model.optimizer), expected)
    assert zoo.same(
        zoo.weights(model),
        zoo.masked(model, zoo.weights(fresh), model.lottery.masks),
    )


@pytest.mark.parametrize(
    "name", zoo.available("Adam", "Nadam", "MultiOptimizer")
)
def test_an_optimizer_of_ones_own_loop_goes_back(name):
    x, y = zoo.data()
    model = zoo.build()
    pruner = keras_lottery.LotteryTicketPruner(model)
    optimizer = pruner.wrap_optimizer(zoo.OPTIMIZERS[name]())
    optimizer.build(model.trainable_variables)
    expected = zoo.optimizer_state(optimizer)
    zoo.train_eagerly(model, optimizer, x, y)
    assert not zoo.same(zoo.optimizer_state(optimizer), expected)
    pruner.prune()
    pruner.rewind()
    assert zoo.same(zoo.optimizer_state(optimizer), expected)


class Steps(keras.callbacks.Callback):
    """Copies everything after each step."""

    def __init__(self):
        super().__init__()
        self.states = []

    def on_train_batch_end(self, batch, logs=None):
        self.states.append(
            (zoo.weights(self.model), zoo.optimizer_states(self.model))
        )


@functools.cache
def plain_states(kind, **options):
    """(weights, optimizers) after each step of a plain training."""
    steps = Steps()
    zoo.fit(zoo.compiled(kind, **options), kind, callbacks=[steps])
    return steps.states


def with_dead_slots_cleared(model, state, masks):
    """Slots of the shape of their variable, zero where it is pruned."""
    cleared = dict(state)
    for i, variable in enumerate(model.trainable_variables):
        if variable.path not in masks:
            continue
        for key, value in state.items():
            if key.endswith(f"[{i}]") and value.shape == tuple(variable.shape):
                cleared[key] = value * masks[variable.path] + 0.0
    return cleared


LATE = [
    ("sequential", 3, {"steps_per_execution": 2}),
    ("sequential", 6, {}),
    pytest.param("normalised", 5, {}, marks=pytest.mark.slow),
    ("unbuilt_sequential", 1, {"steps_per_execution": 3}),
    ("own_train_step", 2, {"run_eagerly": True}),
    pytest.param(
        "sequential", 2, {"jit_compile": True}, marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize("kind, step, options", LATE)
def test_a_late_rewind_point_is_that_of_a_plain_training(kind, step, options):
    # The reference knows nothing of executions of several steps.
    single = {k: v for k, v in options.items() if k != "steps_per_execution"}
    plain, plain_optimizers = plain_states(kind, **single)[step - 1]

    model = zoo.compiled(kind, wrap={"rate": 0.3, "rewind_to": step}, **options)
    recorder = zoo.Recorder()
    for _ in range(3):
        zoo.fit(model, kind, callbacks=[recorder])
    assert model.lottery.rewind_point.step == step
    for level in (1, 2):
        masks = recorder.masks[level]
        weights, optimizers = recorder.starts[level]
        assert zoo.same(weights, zoo.masked(model, plain, masks))
        expected = plain_optimizers["optimizer"]
        cleared = with_dead_slots_cleared(model, expected, masks)
        assert not zoo.same(cleared, expected)
        assert zoo.same(optimizers["optimizer"], cleared)
        assert optimizers["optimizer"]["._iterations"] == step
    assert not recorder.violations


def test_training_goes_on_from_the_late_rewind_point():
    model = zoo.compiled(wrap={"rewind_to": 4})
    zoo.fit(model)
    recorder = zoo.Recorder()
    zoo.fit(model, callbacks=[recorder])
    iterations = recorder.ends[0][1]["optimizer"]["._iterations"]
    assert iterations == 4 + zoo.STEPS


def test_a_rewind_point_beyond_the_training_is_refused():
    model = zoo.compiled(wrap={"rewind_to": zoo.STEPS + 1})
    with pytest.raises(ValueError, match="`rewind_to` must be a step"):
        zoo.fit(model)


@pytest.mark.parametrize(
    "callback",
    [
        lambda: keras.callbacks.ReduceLROnPlateau("loss", 0.5, 0, min_delta=9),
        lambda: keras.callbacks.LearningRateScheduler(lambda e, lr: lr / 2),
    ],
)
@pytest.mark.parametrize("rewind_to", [0, "learning_rate"])
def test_a_learning_rate_that_callbacks_changed_goes_back(callback, rewind_to):
    model = zoo.compiled(
        optimizer=keras.optimizers.SGD(0.1), wrap={"rewind_to": rewind_to}
    )
    rates = []

    class Seen(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

        on_train_end = on_train_begin

    for _ in range(3):
        zoo.fit(model, callbacks=[callback(), Seen()], epochs=3)
    begins, ends = rates[::2], rates[1::2]
    assert begins == [np.float32(0.1)] * 3
    assert all(end < 0.06 for end in ends) and len(set(ends)) == 1


def test_learning_rate_rewinding_keeps_the_trained_weights():
    model = zoo.compiled("normalised", wrap={"rewind_to": "learning_rate"})
    recorder = zoo.Recorder()
    for _ in range(2):
        zoo.fit(model, "normalised", callbacks=[recorder])
    kept = zoo.masked(model, recorder.ends[0][0], recorder.masks[1])
    assert zoo.same(recorder.starts[1][0], kept)
    assert zoo.same(
        recorder.starts[1][1], zoo.search("normalised").initial_optimizers
    )


def test_no_rewinding_keeps_all_but_the_pruned():
    model = zoo.compiled("normalised", wrap={"rewind_to": None})
    recorder = zoo.Recorder()
    for _ in range(2):
        zoo.fit(model, "normalised", callbacks=[recorder])
    masks = recorder.masks[1]
    kept = zoo.masked(model, recorder.ends[0][0], masks)
    assert zoo.same(recorder.starts[1][0], kept)
    before = recorder.ends[0][1]["optimizer"]
    after = recorder.starts[1][1]["optimizer"]
    cleared = with_dead_slots_cleared(model, before, masks)
    assert not zoo.same(before, cleared)
    assert zoo.same(after, cleared)


def test_a_new_optimizer_starts_fresh_at_every_level():
    model = zoo.compiled(wrap={})
    zoo.fit(model)
    model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9), loss="mse")
    recorder = zoo.Recorder()
    zoo.fit(model, callbacks=[recorder])
    zoo.fit(model, callbacks=[recorder])
    state = recorder.starts[1][1]["optimizer"]
    assert state["._iterations"] == 0
    assert not any(v.any() for k, v in state.items() if "momentum" in k)
    assert recorder.ends[0][1]["optimizer"]["._iterations"] == zoo.STEPS


def test_a_callback_that_restores_the_best_weights_is_pruned_after():
    model = zoo.compiled(
        optimizer=keras.optimizers.SGD(5.0), wrap={"rate": 0.5}
    )
    x, y = zoo.data()
    best = {}

    class Best(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if not best or logs["val_loss"] < best["loss"]:
                best.update(loss=logs["val_loss"], weights=zoo.weights(model))

    stop = keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True)
    zoo.fit(model, epochs=4, callbacks=[Best(), stop], validation_data=(x, y))
    trained = model.lottery.levels[0].trained_weights
    assert zoo.same(list(trained.values()), best["weights"])
