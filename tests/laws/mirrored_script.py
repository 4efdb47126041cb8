"""The laws on two devices: the checks of `test_mirrored.py`.

TensorFlow fixes its devices when it starts, so they run in a process of their
own. It prints a JSON dict: check -> traceback, or null if it passed.
"""

import functools
import json
import pathlib
import sys
import tempfile
import traceback

import keras
import numpy as np
import tensorflow as tf
import test_law_3_subnetwork as law_3
import zoo
from test_law_8_round_trip import assert_same_search

import keras_lottery
from keras_lottery.training import Loop, batch_indices

CHECKS = {}
KIND = "normalised"


def check(function):
    CHECKS[function.__name__] = function
    return function


@functools.cache
def strategy():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def mirror(model):
    """The same model, made under the strategy."""
    with strategy().scope():
        copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def mirrored(kind=KIND, name="Adam", wrap=None, clip="global_clipnorm", **how):
    """A compiled model under the strategy, wrapped there if it is."""
    model = mirror(zoo.build(kind))
    with strategy().scope():
        if wrap is not None:
            keras_lottery.wrap(model, **wrap)
        model.compile(zoo.OPTIMIZERS[name](**{clip: 0.1}), "mse", **how)
    return model


def on_both(variable):
    """Copies of what each replica has; nothing of the package is asked."""
    values = strategy().experimental_local_results(variable.value)
    assert len(values) == 2
    return [value.numpy() for value in values]


def weights(model):
    return {v.path: on_both(v) for v in model.variables}


def state(model):
    """Every variable that training changes, on both replicas."""
    slots = zoo.optimizer_variables(model.optimizer)
    return {**weights(model), **{k: on_both(v) for k, v in slots.items()}}


def masked(state, masks):
    return {
        name: [v * masks[name] + 0.0 if name in masks else v for v in values]
        for name, values in state.items()
    }


def assert_zero(model, whole=False):
    """Pruned weights are 0 on both replicas, and there are some."""
    dead = 0
    for path, mask in model.lottery.masks.items():
        for value in weights(model)[path]:
            assert not np.any(value[~mask] != 0), path
        dead += (~mask).sum()
    assert whole or dead


class Watch(keras.callbacks.Callback):
    """Writes down each level's start and end, and looks at every batch."""

    def __init__(self):
        super().__init__()
        self.starts, self.ends, self.masks = [], [], []

    def on_train_begin(self, logs=None):
        self.starts.append(state(self.model))

    def on_train_batch_end(self, batch, logs=None):
        if hasattr(self.model, "lottery"):
            assert_zero(self.model, whole=self.model.lottery.level == 0)

    def on_train_end(self, logs=None):
        self.ends.append(state(self.model))
        if hasattr(self.model, "lottery"):
            self.masks.append(self.model.lottery.masks)


@functools.cache
def search():
    """A plain training and three levels of one wrapped out of the scope."""
    plain, wrapped = Watch(), Watch()
    model = mirrored()
    expected = zoo.fit(model, KIND, callbacks=[plain]).history
    model = keras_lottery.wrap(mirrored(), rate=0.3)
    histories = [
        zoo.fit(model, KIND, callbacks=[wrapped]).history for _ in range(3)
    ]
    return model, plain, wrapped, expected, histories


@check
def start():
    _, plain, wrapped, _, _ = search()
    for begin, masks in zip(wrapped.starts, wrapped.masks, strict=True):
        assert zoo.same(begin, masked(plain.starts[0], masks))
    for name, values in wrapped.ends[0].items():
        moved = not zoo.same(values, wrapped.starts[0][name])
        assert moved or "seed" in name or "rate" in name, name


@check
def zero():
    """`Watch` has looked at every batch."""
    _, _, wrapped, _, _ = search()
    for end, masks in zip(wrapped.ends, wrapped.masks, strict=True):
        assert zoo.same(end, masked(end, masks))


@check
def count_and_nested():
    _, _, wrapped, _, _ = search()
    for before, after in zip(wrapped.masks, wrapped.masks[1:], strict=False):
        rates = []
        for path, mask in after.items():
            assert not (mask & ~before[path]).any()
            alive, lost = before[path].sum(), (before[path] & ~mask).sum()
            rates += [r for r in (0.3, 0.15) if lost == round(r * alive)]
        assert rates == [0.3] * (len(after) - 1) + [0.15]


@check
def identity():
    _, plain, wrapped, history, histories = search()
    assert zoo.same(plain.ends[0], wrapped.ends[0])
    assert history == histories[0]


@check
def replicas_agree():
    _, plain, wrapped, _, _ = search()
    for end in plain.ends + wrapped.ends:
        for name, (first, second) in end.items():
            # Each replica has statistics of its own share, as plain Keras.
            assert zoo.same(first, second) or "moving" in name, name


@check
def determinism_by_find():
    _, _, wrapped, _, histories = search()
    model = mirrored(wrap={"rate": 0.3})
    x, y = zoo.data(KIND)
    how = {"epochs": zoo.EPOCHS, "batch_size": zoo.BATCH, "verbose": 0}
    levels = model.lottery.find(x, y, rounds=2, **how)
    for level, masks in zip(levels, wrapped.masks, strict=True):
        assert zoo.same(level.masks, masks)
    assert [level.history for level in levels] == histories
    assert zoo.same(state(model), wrapped.ends[2])


@check
def trained():
    model, _, wrapped, _, _ = search()
    before = state(model)
    with model.lottery.trained(1):
        lent = weights(model)
    # A record holds one value of each, that of the first replica.
    for path, values in lent.items():
        assert zoo.same(values, [wrapped.ends[1][path][0]] * 2)
    assert zoo.same(state(model), before)


@check
def round_trip():
    model = search()[0]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.keras")
        model.save(path)
        with strategy().scope():
            loaded = keras.models.load_model(path)
        alone = keras.models.load_model(path)
        model.lottery.ticket().save(path.with_suffix(".ticket"))
        ticket = keras_lottery.Ticket.load(path.with_suffix(".ticket"))
    assert_same_search(model, loaded)
    assert_same_search(model, alone)
    values = [list(state(m).values()) for m in (model, loaded)]
    assert zoo.same(*values)
    fresh = mirror(zoo.build(KIND))
    with strategy().scope():
        applied = ticket.apply(fresh)
    assert zoo.same(*(list(weights(m).values()) for m in (model, applied)))
    zoo.fit(loaded, KIND, callbacks=[Watch()], epochs=1)


@check
def unwrapping():
    model = mirrored("sequential", wrap={"rate": 0.5})
    model.lottery.prune()
    before = weights(model)
    keras_lottery.unwrap(model)
    assert zoo.same(weights(model), before)
    assert type(model) is keras.Sequential and not hasattr(model, "lottery")
    assert all(layer.kernel.constraint is None for layer in model.layers)


class After(Watch):
    """What both replicas have once three steps have been taken."""

    def on_train_batch_end(self, batch, logs=None):
        self.taken = getattr(self, "taken", 0) + 1
        if self.taken == 3:
            self.state = state(self.model)


@check
def a_late_rewind_point():
    """By a `fit` inside of the scope."""
    after, watch = After(), Watch()
    how = {"name": "AdamW", "clip": "clipnorm"}
    zoo.fit(mirrored("sequential", **how), callbacks=[after])
    late = {"rate": 0.3, "rewind_to": 3}
    model = mirrored("sequential", wrap=late, **how)
    with strategy().scope():
        for _ in range(2):
            zoo.fit(model, callbacks=[watch])
    assert model.lottery.rewind_point.step == 3
    masks = dict(watch.masks[1])
    for i, variable in enumerate(model.trainable_variables):
        if variable.path in masks:
            for slot in ("._momentums", "._velocities"):
                masks[f"{slot}[{i}]"] = masks[variable.path]
    expected = masked(after.state, masks)
    assert not zoo.same(expected, after.state)
    assert zoo.same(watch.starts[1], expected)
    assert_zero(model)


@check
def half_precision():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        watch = Watch()
        model = mirrored("sequential", "SGD momentum", {"rate": 0.4})
        for _ in range(2):
            zoo.fit(model, callbacks=[watch], epochs=1)
        assert "LossScale" in type(model.optimizer).__name__
    finally:
        keras.mixed_precision.set_global_policy("float32")


@check
def every_optimizer():
    """NaN in the gradients of pruned weights leaves no trace anywhere: no
    clip norm and no slot has seen them."""
    model, draw = mirror(zoo.build()), np.random.default_rng(11)
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    masks = {v.path: draw.random(v.shape) < 0.5 for v in kernels}
    keras_lottery.wrap(model, masks=masks)
    before = model.get_weights()
    for name in zoo.OPTIMIZERS:
        check_optimizer(model, masks, name)
        model.set_weights(before)


def check_optimizer(model, masks, name):
    variables = model.trainable_variables
    with strategy().scope():
        optimizer = zoo.OPTIMIZERS[name](global_clipnorm=0.1, weight_decay=0.2)
        keras_lottery.optimizers.wrap_optimizer(optimizer)
        optimizer.build(variables)
    draw, before = np.random.default_rng(0), weights(model)
    for _ in range(2):
        gradients = []
        for variable in variables:
            gradient = draw.normal(size=variable.shape).astype("float32")
            gradient[~masks.get(variable.path, gradient == gradient)] = np.nan
            gradients.append(tf.constant(gradient))
        strategy().run(lambda g: optimizer.apply(g, variables), (gradients,))
        assert_zero(model)
    after = state_of(optimizer) | weights(model)
    for key, (first, second) in after.items():
        assert np.isfinite(first).all(), (name, key)
        assert zoo.same(first, second), (name, key)
    assert not zoo.same(before, weights(model)), name


def state_of(optimizer):
    variables = zoo.optimizer_variables(optimizer)
    return {key: on_both(variable) for key, variable in variables.items()}


@check
def subnetwork():
    model = mirror(law_3.dense(8, 7, bias=False))
    keras_lottery.wrap(model, masks=law_3.structural_masks(model), rounds=0)
    small = mirror(law_3.small_from(model, bias=False))
    losses = []
    for network in (model, small):
        with strategy().scope():
            optimizer = zoo.OPTIMIZERS["Lamb"](global_clipnorm=0.1)
            network.compile(optimizer, "mse", run_eagerly=True)
        keras.utils.set_random_seed(5)
        losses.append(zoo.fit(network).history["loss"])
    law_3.assert_agree(model, small, *losses)


@check
def a_loop_of_ones_own():
    model = mirror(zoo.build())
    with strategy().scope():
        pruner = keras_lottery.LotteryTicketPruner(model, rate=0.5)
        optimizer = pruner.wrap_optimizer(keras.optimizers.Adam(0.1))
    x, y = (tf.constant(array) for array in zoo.data())

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x) - y) ** 2)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    try:
        strategy().run(step)
    except ValueError as error:
        assert "must be built before" in str(error), error
    else:
        raise AssertionError("an optimizer was built inside of a replica")
    with strategy().scope():
        optimizer.build(model.trainable_variables)
    first = weights(model), state_of(optimizer)
    strategy().run(step)
    pruner.prune()
    pruner.rewind()
    second = masked(first[0], pruner.masks), first[1]
    assert zoo.same((weights(model), state_of(optimizer)), second)
    strategy().run(step)
    assert zoo.same(weights(model), masked(weights(model), pruner.masks))


@check
def loop_trains_by_fit():
    x, y = zoo.data()
    masks = law_3.structural_masks(zoo.build())
    ends, wrap = [], {"masks": masks}
    loop = Loop(mirrored("sequential", wrap=wrap), (x, y), (x, y), None, 8, 3)
    training = loop.train(6, seed=0)
    assert loop.backend == "fit" and loop.model.lottery.level == 0
    assert_zero(loop.model)
    ends.append(state(loop.model))
    plain = mirrored("sequential", wrap=wrap)
    order = batch_indices(len(x), 8, 0, 0, 6).reshape(-1)
    with plain.lottery.paused():
        plain.fit(x[order], y[order], batch_size=8, shuffle=False, verbose=0)
    ends.append(state(plain))
    assert zoo.same(*ends)
    alone = zoo.compiled()
    alone.set_weights(plain.get_weights())
    expected = alone.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(training.val_loss[-1], expected, rtol=1e-5)


@functools.cache
def of_several_machines():
    """Made before all else: collective operations are set up at the start."""
    with tf.distribute.MultiWorkerMirroredStrategy().scope():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


@check
def other_strategies_are_refused():
    central = tf.distribute.experimental.CentralStorageStrategy(["CPU:0"])
    with central.scope():
        centralised = keras.models.clone_model(of_several_machines())
    for model in (of_several_machines(), centralised):
        try:
            keras_lottery.wrap(model)
        except ValueError as error:
            assert "MirroredStrategy" in str(error), error
            assert "--scheduler" in str(error), error
            assert type(model.distribute_strategy).__name__ in str(error)
        else:
            raise AssertionError(f"{model.distribute_strategy} was accepted")


def main(names):
    (cpu,) = tf.config.list_physical_devices("CPU")
    one = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [one, one])
    of_several_machines()
    found = {}
    for name in names or CHECKS:
        try:
            CHECKS[name]()
            found[name] = None
        except Exception:
            found[name] = traceback.format_exc()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
