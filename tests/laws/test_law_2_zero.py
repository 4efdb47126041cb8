"""Law 2, zero: after every batch each pruned weight is exactly 0."""

import keras
import numpy as np
import pytest
import zoo
import zoo_steps
from small import some

import keras_lottery

MASKED = {"rate": 0.4, "output_rate": 0.4}


def half(model, seed=11):
    """Random masks for all kernels of a model."""
    draw = np.random.default_rng(seed)
    return {
        v.path: draw.random(v.shape) < 0.5
        for v in model.trainable_variables
        if len(v.shape) > 1
    }


def sparse(optimizer, kind="sequential", **options):
    """A compiled model that starts at half of its weights."""
    masks = half(zoo.build(kind))
    wrap = {**MASKED, "masks": masks}
    return zoo.compiled(kind, optimizer, wrap, **options)


def test_every_optimizer_of_keras_is_tried():
    tried = {type(make()).__name__ for make in zoo.OPTIMIZERS.values()}
    assert tried == zoo.kinds_of_optimizers()


@pytest.fixture(scope="module")
def model():
    return sparse("sgd")


def gradients(model, draw, poison=None):
    """Random gradients; of pruned weights too, unless there is a poison."""
    found = []
    for variable in model.trainable_variables:
        gradient = draw.normal(size=variable.shape).astype("float32")
        mask = model.lottery.masks.get(variable.path)
        if poison is not None and mask is not None:
            gradient[~mask] = poison
        found.append(keras.ops.convert_to_tensor(gradient))
    return found


@pytest.mark.parametrize("name", zoo.OPTIMIZERS)
@pytest.mark.parametrize("option", zoo.CROSSED)
def test_every_optimizer_with_every_option(model, name, option):
    optimizer = keras_lottery.optimizers.wrap_optimizer(
        zoo.OPTIMIZERS[name](**zoo.OPTIONS[option])
    )
    variables, draw = model.trainable_variables, np.random.default_rng(0)
    before = zoo.weights(model)
    for _ in range(3):
        zoo_steps.apply(optimizer, gradients(model, draw), variables)
        zoo.assert_zero(model)
    optimizer.finalize_variable_values(variables)
    zoo.assert_zero(model)
    after = zoo.weights(model)
    model.set_weights(before)
    for a, b in zip(before, after):
        # A bias may stay where a clipped gradient meets Ftrl's threshold.
        assert a.ndim == 1 or not zoo.same(a, b)
    assert all(np.isfinite(array).all() for array in after)


@pytest.mark.parametrize("kind", zoo.SOME_KINDS)
def test_every_kind_of_model(kind):
    search = zoo.search(kind)
    assert not search.wrapped.violations
    assert all(not m.all() for m in search.wrapped.masks[2].values())


RUNS = {
    "float16": ("mixed_float16", {}),
    "bfloat16": ("mixed_bfloat16", {}),
    "float16 compiled": ("mixed_float16", {"jit_compile": True}),
    "compiled": ("float32", {"jit_compile": True}),
    "several steps": ("float32", {"steps_per_execution": 2}),
    "eagerly": ("float32", {"run_eagerly": True}),
}


@pytest.mark.parametrize(
    "run", some(RUNS, "float16 compiled", "several steps", "eagerly")
)
def test_every_way_to_run(run):
    policy, options = RUNS[run]
    keras.mixed_precision.set_global_policy(policy)
    try:
        optimizer = keras.optimizers.AdamW(
            0.02, weight_decay=0.1, global_clipnorm=0.1, use_ema=True
        )
        model = sparse(optimizer, **options)
        scaled = isinstance(
            model.optimizer, keras.optimizers.LossScaleOptimizer
        )
        assert scaled == (policy == "mixed_float16")
        recorder = zoo.Recorder()
        for _ in range(2):
            zoo.fit(model, callbacks=[recorder])
            zoo.assert_zero(model)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert not recorder.violations
    first, second = recorder.masks
    assert all(second[p].sum() < first[p].sum() for p in first)


@pytest.mark.parametrize("name", zoo.available("Adam", "MultiOptimizer"))
def test_averages_swapped_in_and_out(name):
    options = {"use_ema": True, "ema_momentum": 0.5}
    model = sparse(zoo.OPTIMIZERS[name](**options))
    recorder = zoo.Recorder()
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    for _ in range(2):
        zoo.fit(model, callbacks=[swap, recorder], validation_data=zoo.data())
        zoo.assert_zero(model)
    assert not recorder.violations


@pytest.mark.parametrize("rewind_to", some([None, "learning_rate", 0, 3], 0))
def test_averages_written_back_after_pruning(rewind_to):
    # An average remembers what a pruned weight was.
    options = {"use_ema": True, "ema_momentum": 0.9}
    wrap = {**MASKED, "rewind_to": rewind_to}
    model = zoo.compiled(optimizer=zoo.OPTIMIZERS["Adam"](**options), wrap=wrap)
    recorder = zoo.Recorder()
    for _ in range(3):
        zoo.fit(model, callbacks=[recorder])
    assert not recorder.violations


def test_a_model_that_was_trained_before_it_was_wrapped():
    """Its training function is compiled, its optimizer full of memories."""
    options = {"use_ema": True, "ema_momentum": 0.9}
    model = zoo.compiled(optimizer=zoo.OPTIMIZERS["Adam"](**options))
    zoo.fit(model)
    keras_lottery.wrap(model, masks=half(model), **MASKED)
    recorder = zoo.Recorder()
    for _ in range(2):
        zoo.fit(model, callbacks=[recorder])
    zoo.assert_zero(model)
    assert not recorder.violations and model.lottery.level == 2


def test_train_on_batch():
    model = sparse("adam")
    x, y = zoo.data()
    before = zoo.weights(model)
    for _ in range(3):
        model.train_on_batch(x, y)
        zoo.assert_zero(model)
    assert not zoo.same(before, zoo.weights(model))


def test_an_unbuilt_model_trained_on_batch():
    model = zoo.compiled("own_call", wrap=MASKED)
    x, y = zoo.data("own_call")
    model.train_on_batch(x, y)
    model.lottery.prune()
    model.lottery.rewind()
    for _ in range(2):
        model.train_on_batch(x, y)
        zoo.assert_zero(model)


@pytest.mark.parametrize(
    "name", zoo.available("SGD momentum", "Muon", "MultiOptimizer")
)
def test_a_loop_of_ones_own(name):
    model = zoo.build()
    masks = half(model)
    pruner = keras_lottery.LotteryTicketPruner(model, masks=masks)
    optimizer = pruner.wrap_optimizer(zoo.OPTIMIZERS[name]())
    x, y = zoo.data()

    def check():
        for variable in model.trainable_variables:
            if variable.path in masks:
                dead = variable.numpy()[~masks[variable.path]]
                assert dead.size and not dead.any()

    zoo.train_eagerly(model, optimizer, x, y, after_step=check)
    pruner.prune()
    pruner.rewind()
    masks = pruner.masks
    zoo.train_eagerly(model, optimizer, x, y, after_step=check)


def test_a_compiled_loop_of_ones_own():
    model = zoo.build()
    pruner = keras_lottery.LotteryTicketPruner(model, rate=0.5)
    optimizer = pruner.wrap_optimizer(keras.optimizers.Adam(0.05))
    x, y = zoo.data()

    def loss():
        error = keras.ops.subtract(model(x), y)
        return keras.ops.mean(keras.ops.square(error))

    step = zoo_steps.compiled(loss, optimizer, model.trainable_variables)
    for level in range(3):
        for _ in range(3):
            step()
            for path, mask in pruner.masks.items():
                (kernel,) = [v for v in model.variables if v.path == path]
                assert not kernel.numpy()[~mask].any()
                assert mask.all() == (level == 0)
        pruner.prune()
        pruner.rewind()


@pytest.mark.parametrize("name", zoo.OPTIMIZERS)
def test_nan_does_not_hide_under_a_mask(model, name):
    """NaN in the gradients of pruned weights leaves no trace anywhere."""
    variables, before, ends = model.trainable_variables, model.get_weights(), []
    for poison in (0.0, np.nan):
        optimizer = keras_lottery.optimizers.wrap_optimizer(
            zoo.OPTIMIZERS[name](global_clipnorm=1.0)
        )
        draw = np.random.default_rng(0)
        for _ in range(3):
            found = gradients(model, draw, poison)
            zoo_steps.apply(optimizer, found, variables)
            zoo.assert_zero(model)
        ends.append((zoo.weights(model), zoo.optimizer_state(optimizer)))
        model.set_weights(before)
    assert zoo.same(*ends)
    assert all(np.isfinite(array).all() for array in ends[0][0])


def test_nan_in_a_pruned_weight_is_selected_away():
    model = sparse("sgd")
    before = zoo.weights(model)
    for path, variable in zoo.kernels(model).items():
        dead = ~model.lottery.masks[path]
        variable.assign(np.where(dead, np.float32(np.nan), variable.numpy()))
        variable.assign(variable.constraint(variable))
    assert zoo.same(zoo.weights(model), before)


def test_nan_in_a_live_weight_is_not_hidden():
    model = sparse("sgd")
    x, y = zoo.data()
    with pytest.warns(UserWarning, match="left NaN"):
        model.fit(x * np.nan, y, verbose=0)
    assert model.lottery.level == 0 and not model.lottery.levels


def test_users_own_constraints_hold_too():
    search = zoo.search("constrained")
    for weights, _ in search.wrapped.ends:
        first, second = weights[0], weights[2]
        norms = np.sqrt(np.square(first).sum(axis=0))
        assert (norms <= 0.7 + 1e-5).all() and (norms > 0.69).any()
        assert (second >= 0).all() and (second > 0).any()


@pytest.mark.parametrize("name", ["SGD momentum", "Adam", "Adagrad", "Lion"])
def test_sparse_gradients_of_embeddings(name):
    wrap = {**MASKED, "masks": half(zoo.build("embedding"))}
    model = zoo.compiled("embedding", zoo.OPTIMIZERS[name](), wrap=wrap)
    x, y = zoo.data("embedding")
    before = model.layers[0].embeddings.numpy()
    zoo.train_eagerly(
        model, model.optimizer, x, y, after_step=lambda: zoo.assert_zero(model)
    )
    after = model.layers[0].embeddings.numpy()
    assert not zoo.same(before, after)


def test_embeddings_are_left_alone_unless_asked_for():
    model = zoo.build("embedding")
    keras_lottery.wrap(model)
    assert not any("embedding" in path for path in model.lottery.masks)
    assert any(
        "embedding" in p for p in zoo.search("embedding").model.lottery.masks
    )
