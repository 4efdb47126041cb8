"""What Keras users do to a wrapped model between, in and after trainings."""

import os
import signal
import subprocess
import sys
import threading
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import BATCH, arrays, compiled, data, fit, mlp, same, some

import keras_lottery
from keras_lottery import LotteryTicketPruner
from keras_lottery.state import START, TRAINED, TRAINING, UNBUILT, uninterrupted

SGD = keras.optimizers.SGD


def wrapped(model=None, optimizer=None, **arguments):
    model = keras_lottery.wrap(model or mlp(), **{"rate": 0.5, **arguments})
    return compiled(model, optimizer or SGD(0.1, momentum=0.9))


def start_of(model):
    """What the variables of a level's start must be: mask * theta."""
    pruner = model.lottery
    masks, theta = pruner.masks, pruner.rewind_point.weights
    return [
        np.where(masks[p], a, 0).astype(a.dtype) if p in masks else a
        for p, a in theta.items()
    ]


def variables(model):
    return [v.numpy() for v in model.variables]


class AtBegin(keras.callbacks.Callback):
    """The variables at the beginning of each training."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_begin(self, logs=None):
        self.seen.append(variables(self.model))


@keras.saving.register_keras_serializable("test_state")
class OwnWeights(keras.Model):
    """A subclass that holds a kernel of its own, and dropout."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = keras.layers.Dropout(0.5, seed=1)
        self.head = keras.layers.Dense(3, name="head")

    def build(self, shape):
        self.kernel = self.add_weight(shape=(4, 6), name="kernel")
        self.head.build((None, 6))

    def call(self, x, training=False):
        return self.head(self.dropout(x @ self.kernel, training=training))


def own_weights():
    keras.utils.set_random_seed(0)
    model = OwnWeights()
    model(np.zeros((1, 4), "float32"))
    return model


# The phases.


def test_the_phases_of_a_search():
    model = wrapped(keras.Sequential([keras.layers.Dense(3)]), rounds=1)
    state, seen = model.lottery.state, []
    assert state.phase == UNBUILT
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: seen.append(state.phase)
    )
    fit(model, callbacks=[watch])
    assert state.phase == START and seen == [TRAINING]
    with model.lottery.trained():
        assert state.phase == TRAINED and model.lottery.level == 0
    assert state.phase == START and model.lottery.level == 1
    fit(model)
    assert state.phase == TRAINED and model.lottery.resting


# 1: files of trained models.


@pytest.mark.parametrize("make", [mlp, own_weights])
def test_a_trained_model_comes_back_trained(make, tmp_path):
    model = wrapped(make())
    model.lottery.find(*data(), rounds=2, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert same(variables(loaded), variables(model))
    assert loaded.lottery.state.phase == TRAINED
    assert loaded.lottery.level == 2
    # A search that is not at its end goes on with the next level.
    fit(loaded)
    assert loaded.lottery.level == 4 and loaded.lottery.levels[0].index == 3


def test_a_level_saved_inside_trained_is_that_level(tmp_path):
    model = wrapped()
    fit(model)
    with model.lottery.trained():
        model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    trained = model.lottery.levels[0].trained_weights
    assert same(variables(loaded), list(trained.values()))
    assert loaded.lottery.level == 0 and loaded.lottery.density == 1.0
    fit(loaded), fit(model)
    assert loaded.lottery.level == model.lottery.level == 2
    assert same(variables(loaded), variables(model))


# 2: layers that are never built.


@keras.saving.register_keras_serializable("test_state")
class Unused(keras.Model):
    """Holds a layer that its `call` does not use."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.unused = keras.layers.Dense(7)
        self.head = keras.layers.Dense(3)

    def call(self, x):
        return self.head(x)


def test_a_layer_that_is_not_used(tmp_path):
    keras.utils.set_random_seed(0)
    model = Unused()
    model(np.zeros((1, 4), "float32"))
    model = wrapped(model)
    assert model.lottery.density == 1.0
    fit(model)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.lottery.level == 1
    assert same(variables(loaded), variables(model))
    fresh = Unused()
    fresh(np.zeros((1, 4), "float32"))
    assert model.lottery.ticket().apply(fresh).lottery.level == 1


def test_a_table_of_words_in_front(tmp_path):
    words = keras.layers.TextVectorization(output_mode="multi_hot")
    words.adapt(["one two three", "four five"])
    model = keras.Sequential(
        [keras.Input((), dtype="string"), words, keras.layers.Dense(3)]
    )
    model = wrapped(model)
    assert model.lottery.density == 1.0
    x = tf.constant(["one two", "five"] * 8)
    model.fit(x, data()[1], verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.lottery.level == 1 and loaded.lottery.density < 1


# 3: weights that the user loads or sets.


def test_the_best_weights_can_be_evaluated_and_the_next_level_starts_right(
    tmp_path,
):
    path = str(tmp_path / "best.weights.h5")
    best = keras.callbacks.ModelCheckpoint(
        path, "loss", save_best_only=True, save_weights_only=True
    )
    model, watch = wrapped(), AtBegin()
    for level in range(3):
        history = fit(model, callbacks=[best, watch]).history
        best.best = np.inf
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.load_weights(path)
        trained = model.lottery.levels[level].trained_weights
        assert same(variables(model), list(trained.values())), history
        assert model.lottery.level == level + 1
    for level in (1, 2):
        masks = model.lottery.levels[level].masks
        theta = model.lottery.rewind_point.weights
        expected = [
            np.where(masks[p], a, 0) if p in masks else a
            for p, a in theta.items()
        ]
        assert same(watch.seen[level], expected)


def test_weights_that_were_set_are_told_of_and_not_trained():
    model, watch = wrapped(), AtBegin()
    fit(model)
    model.set_weights([w + 1 for w in model.get_weights()])
    start = start_of(model)
    with pytest.warns(UserWarning, match="weights were changed.*capture"):
        fit(model, callbacks=[watch])
    assert same(watch.seen[0], start)
    # Unless they are made the rewind point.
    model.set_weights([w + 1 for w in model.get_weights()])
    model.lottery.capture()
    start = start_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, callbacks=[watch])
    assert same(watch.seen[1], start)


@pytest.mark.parametrize("rewind_to", [None, "learning_rate"])
def test_weights_that_were_set_are_kept_where_weights_are_not_rewound(
    rewind_to,
):
    model, watch = wrapped(rewind_to=rewind_to), AtBegin()
    fit(model)
    model.set_weights([w + 1 for w in model.get_weights()])
    now, masks = variables(model), list(model.lottery.masks.values())
    fit(model, callbacks=[watch])
    assert same(watch.seen[0][0], np.where(masks[0], now[0], 0))


# 4: optimizers wherever they are.


class Adversaries(keras.Model):
    """Optimizers in a dict and a list, each for a layer."""

    def __init__(self):
        super().__init__()
        self.parts = [keras.layers.Dense(4), keras.layers.Dense(3)]
        self.solvers = {"a": SGD(0.1, momentum=0.9)}
        self.more = [keras.optimizers.Adam(0.1)]

    def call(self, x):
        return self.parts[1](self.parts[0](x))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape(persistent=True) as tape:
            loss = self.compute_loss(x, y, self(x))
        for part, solver in zip(self.parts, (self.solvers["a"], *self.more)):
            weights = part.trainable_variables
            grads = tape.gradient(loss, [w.value for w in weights])
            solver.apply(grads, weights)
        return {"loss": loss}


def test_optimizers_in_a_dict_and_in_a_list():
    model = Adversaries()
    model(np.zeros((1, 4), "float32"))
    for part, solver in zip(
        model.parts, (model.solvers["a"], *model.more), strict=True
    ):
        solver.build(part.trainable_variables)
    model = wrapped(model)
    for _ in range(2):
        fit(model)
        for solver in (model.solvers["a"], *model.more):
            assert int(solver.iterations) == 0
            assert not any(np.any(v) for v in solver.variables[2:])
    level = model.lottery.levels[1]
    for path, mask in level.masks.items():
        assert not level.trained_weights[path][~mask].any()


def test_the_optimizer_of_a_compiled_model_inside():
    inner = mlp()
    compiled(inner, keras.optimizers.Adam(0.1))
    fit(inner)
    outer = keras.Sequential([inner, keras.layers.Dense(3)])
    model = wrapped(outer)
    assert inner.optimizer in model.lottery.optimizers().values()
    fit(model)
    assert int(inner.optimizer.iterations) == 4


# 5: freezing.


def test_a_body_is_frozen_and_unfrozen(tmp_path):
    model = mlp()
    model.layers[0].trainable = False
    model = wrapped(model)
    body, head = (layer.kernel.path for layer in model.layers)
    fit(model)
    assert list(model.lottery.masks) == [head]
    model.layers[0].trainable = True
    compiled(model, SGD(0.1))
    fit(model)
    masks = model.lottery.masks
    assert masks[body].sum() == 12 and masks[head].sum() < 14
    # Frozen again, it keeps its masks, also in a file, and loses no more.
    model.layers[0].trainable = False
    compiled(model, SGD(0.1))
    fit(model)
    assert same(model.lottery.masks[body], masks[body])
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert same(
        list(loaded.lottery.masks.values()), list(model.lottery.masks.values())
    )
    loaded.layers[0].trainable = True
    compiled(loaded, SGD(0.1))
    fit(loaded)
    mask = next(iter(loaded.lottery.masks.values()))
    assert mask.sum() == 6 and not loaded.layers[0].kernel.numpy()[~mask].any()


# 6: learning rates.


def rate_of(model):
    return float(model.optimizer.learning_rate.numpy())


def test_a_learning_rate_that_is_set_between_rounds_stays():
    model = wrapped()
    fit(model)
    model.optimizer.learning_rate = 0.02
    halve = keras.callbacks.LearningRateScheduler(lambda e, rate: rate / 2)
    for _ in range(2):
        fit(model, callbacks=[halve])  # What a callback does is undone.
        assert rate_of(model) == np.float32(0.02)


def test_a_learning_rate_that_is_set_after_nan_stays():
    model = wrapped(optimizer=SGD(np.inf))
    with pytest.warns(UserWarning, match="NaN"):
        fit(model)
    model.optimizer.learning_rate = 0.01
    model.lottery.rewind()
    for _ in range(2):
        fit(model)
        assert rate_of(model) == np.float32(0.01)
    assert model.lottery.level == 2


def test_a_learning_rate_of_a_new_optimizer_stays_after_late_rewinding():
    model = wrapped(rewind_to=2)
    fit(model)
    compiled(model, SGD(0.01, momentum=0.9))
    for _ in range(2):
        fit(model)
        assert rate_of(model) == np.float32(0.01)


def test_a_schedule_takes_the_place_of_a_learning_rate():
    model = wrapped()
    fit(model)
    model.optimizer.learning_rate = keras.optimizers.schedules.ExponentialDecay(
        0.1, 10, 0.9
    )
    for _ in range(2):
        fit(model)
    assert model.lottery.level == 3 and int(model.optimizer.iterations) == 0


# 7: steps that are cut short.


def cut_short(monkeypatch, owner, name, error=KeyboardInterrupt):
    """Makes a method fail once, when it has done its work."""
    method, calls = getattr(owner, name), []

    def failing(*args, **kwargs):
        result = method(*args, **kwargs)
        if not calls:
            calls.append(1)
            raise error
        return result

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize(
    "where",
    some(
        [
            "levels.record",
            "scores",
            "attachment.assign_masks",
            "attachment.clear_pruned_slots",
            "rewind_point.restore_weights",
            "rewind_point.restore_optimizers",
        ],
        "levels.record",
        "attachment.assign_masks",
        "rewind_point.restore_optimizers",
    ),
)
def test_a_round_that_is_cut_short_is_ended_by_the_next(monkeypatch, where):
    whole, watch = wrapped(), AtBegin()
    for _ in range(3):
        fit(whole, callbacks=[watch])
    model, again = wrapped(), AtBegin()
    end = keras.callbacks.LambdaCallback(
        on_train_end=lambda logs: cut_short(
            monkeypatch, _owner(model.lottery, where), where.split(".")[-1]
        )
    )
    with pytest.raises(KeyboardInterrupt):
        fit(model, callbacks=[end, again])
    if where == "levels.record":
        # Neither trained again nor forgotten.
        model.lottery.levels.clear()
        model.lottery.record()
    for _ in range(2):
        fit(model, callbacks=[again])
    pruner = model.lottery
    assert [r.index for r in pruner.levels] == [0, 1, 2] and pruner.level == 3
    for one, other in zip(again.seen, watch.seen, strict=True):
        assert same(one, other)
    for one, other in zip(pruner.levels, whole.lottery.levels):
        assert same(
            list(one.trained_weights.values()),
            list(other.trained_weights.values()),
        )
    assert same(variables(model), variables(whole))


def _owner(pruner, where):
    for name in where.split(".")[:-1]:
        pruner = getattr(pruner, name)
    return pruner


@pytest.fixture
def python_s_own_handler():
    """That of an interactive start: a shell may have Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits_for_the_end_of_a_step(python_s_own_handler):
    done = []
    with pytest.raises(KeyboardInterrupt):
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append(1)
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_thread_cannot_be_interrupted_by_ctrl_c():
    def run():
        with uninterrupted():
            done.append(1)

    done = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done == [1]


# 8, 9, 10: files of weights, and what a wrapped model cannot do.


def test_weights_carry_the_search(tmp_path):
    model = wrapped()
    fit(model), fit(model)
    model.save_weights(tmp_path / "m.weights.h5")
    loaded = wrapped(mlp(seed=5))
    loaded.load_weights(tmp_path / "m.weights.h5")
    assert loaded.lottery.level == 2
    assert loaded.lottery.density == model.lottery.density
    fit(loaded), fit(model)
    assert same(variables(loaded), variables(model))
    # And a plain model takes the weights.
    plain = mlp(seed=6)
    plain.load_weights(tmp_path / "m.weights.h5")


def test_weights_of_another_architecture_change_nothing(tmp_path):
    model = wrapped()
    model.save_weights(tmp_path / "m.weights.h5")
    other = wrapped(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    )
    before = variables(other)
    with pytest.raises(ValueError, match="does not fit"):
        other.load_weights(tmp_path / "m.weights.h5")
    assert same(variables(other), before)


def test_what_would_lose_the_search_is_refused(tmp_path):
    model = wrapped()
    with pytest.raises(ValueError, match="must end in `.keras`.*Received"):
        model.save(tmp_path / "m.h5")
    with pytest.raises(ValueError, match="`max_shard_size` must be None"):
        model.save_weights(tmp_path / "m.weights.json", max_shard_size=1)
    with pytest.raises(ValueError, match="must not be quantized"):
        model.quantize("int8")
    assert not list(tmp_path.iterdir())


class Preset(keras.Sequential):
    def save_to_preset(self, directory):
        raise AssertionError


def test_a_preset_would_lose_the_search():
    layers = [keras.Input((4,)), keras.layers.Dense(3)]
    with pytest.raises(ValueError, match="must not be saved as a preset"):
        wrapped(Preset(layers)).save_to_preset("preset")
    assert not hasattr(wrapped(), "save_to_preset")


def lora(model):
    model.layers[0].enable_lora(2)


def add(model):
    model.add(keras.layers.Dense(3))


@pytest.mark.parametrize("change", [lora, add])
@pytest.mark.parametrize("rounds", [0, 1])
def test_a_model_that_gains_weights_is_refused(change, rounds, tmp_path):
    model = wrapped()
    for _ in range(rounds):
        fit(model)
    change(model)
    compiled(model)
    for act in (
        lambda: fit(model),
        model.lottery.prune,
        model.lottery.rewind,
        lambda: model.save(tmp_path / "m.keras"),
    ):
        with pytest.raises(ValueError, match="must keep the weights.*new"):
            act()
    assert model.lottery.level == rounds
    assert len(model.lottery.levels) == rounds


def test_adapters_are_pruned_and_their_frozen_kernel_is_not():
    model = mlp()
    lora(model)
    model = wrapped(model)
    fit(model)
    names = [path.rsplit("/", 1)[-1] for path in model.lottery.masks]
    assert names == ["lora_kernel_a", "lora_kernel_b", "kernel"]


# 11: what plain Keras trains.


class OnlyInTraining(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(3)
        self.auxiliary = keras.layers.Dense(3)

    def call(self, x, training=False):
        y = self.head(x)
        return y + self.auxiliary(x) if training else y


@pytest.mark.parametrize("built", [False, True])
def test_a_layer_that_is_called_in_training_alone(built):
    model = OnlyInTraining()
    if built:
        model(np.zeros((1, 4), "float32"))
    model = wrapped(model)
    fit(model), fit(model)
    assert model.lottery.level == 2 and len(model.lottery.masks) == 2


class Ragged(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(3)

    def call(self, x):
        x = tf.reduce_mean(x, axis=1) if isinstance(x, tf.RaggedTensor) else x
        return self.head(x)


def test_ragged_tensors():
    rows = tf.ragged.constant(
        [[[1.0, 2.0]] * (1 + i % 3) for i in range(16)], ragged_rank=1
    )
    batches = tf.data.Dataset.from_tensor_slices((rows, data()[1])).batch(4)
    plain = compiled(Ragged())
    plain.fit(batches, verbose=0)
    model = wrapped(Ragged())
    model.fit(batches, verbose=0)
    assert model.lottery.level == 1


class FitWithoutCallbacks(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(3)

    def call(self, x):
        return self.head(x)

    def fit(self, x, y):
        return super().fit(x, y, verbose=0, batch_size=BATCH)


def test_a_fit_without_callbacks():
    model = FitWithoutCallbacks()
    model(np.zeros((1, 4), "float32"))
    model = wrapped(model)
    theta = variables(model)
    model.fit(*data()), model.fit(*data())
    assert model.lottery.level == 2
    assert same(list(model.lottery.rewind_point.weights.values()), theta)


# 12: loops of one's own.


class TwoArguments(keras.Model):
    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(5, 4)
        self.head = keras.layers.Dense(3, name="head")

    def call(self, a, b):
        return self.head(self.table(a) + tf.one_hot(b, 4))


def test_a_call_with_two_arguments_of_integers():
    model = TwoArguments()
    tokens = np.zeros((2, 3), "int32")
    model(tokens, tokens)
    pruner = LotteryTicketPruner(model, rate=0.5)
    with pytest.raises(ValueError, match=r"argument.*'b'.*lottery.attach"):
        pruner.prune()
    pruner.attach(({"a": tokens, "b": tokens},))
    pruner.prune()
    assert pruner.density == (12 - 3) / 12  # The head, at half the rate.


class NotTraceable(keras.Model):
    def __init__(self):
        super().__init__(name="eager")
        self.body = keras.layers.Dense(4)
        self.head = keras.layers.Dense(3)

    def call(self, x):
        if isinstance(x, tf.Tensor) and x.numpy().sum() > 1e9:
            return x
        return self.head(self.body(x))


def test_a_model_that_cannot_be_traced_says_why_and_its_advice_helps():
    model = NotTraceable()
    model(np.zeros((1, 4), "float32"))
    pruner = LotteryTicketPruner(model, rate=0.5)
    with pytest.raises(ValueError, match="(?s)not be traced.*`output_rate`"):
        pruner.prune()
    pruner = LotteryTicketPruner(model, rate=0.5, output_rate=0.5)
    pruner.prune()
    assert pruner.density == 0.5


# 13: early stopping.


def test_the_early_stop_iteration_counts_steps_and_not_evaluations():
    class Losses(keras.callbacks.Callback):
        """Says what the validation losses are."""

        def on_epoch_end(self, epoch, logs=None):
            if "val_loss" in logs:
                logs["val_loss"] = abs(epoch - 3.0)

    model = wrapped()
    evaluation = {"validation_data": data(), "validation_freq": 2}
    fit(model, epochs=6, callbacks=[Losses()], **evaluation)
    assert model.lottery.levels[0].early_stop_iteration == 16
    # A level that was interrupted and goes on.
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: (
            (_ for _ in ()).throw(MemoryError) if epoch == 1 else None
        )
    )
    with pytest.raises(MemoryError):
        fit(model, epochs=6, callbacks=[stop])
    fit(model, epochs=6, initial_epoch=2, callbacks=[Losses()], **evaluation)
    assert model.lottery.levels[1].early_stop_iteration == 16


# 14: BackupAndRestore.


class Crash(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise MemoryError


@pytest.mark.parametrize("rewind_to", [0, 3])
def test_a_search_goes_on_from_the_level_of_its_backup(rewind_to, tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    whole = wrapped(rewind_to=rewind_to)
    for _ in range(3):
        fit(whole, epochs=3)
    model = wrapped(rewind_to=rewind_to)
    fit(model, epochs=3, callbacks=[backup()])
    with pytest.raises(MemoryError):
        fit(model, epochs=3, callbacks=[backup(), Crash(2)])
    # Another process, with other initial weights.
    model = wrapped(mlp(seed=9), rewind_to=rewind_to)
    for _ in range(2):
        fit(model, epochs=3, callbacks=[backup()])
    levels = model.lottery.levels
    assert [level.index for level in levels] == [1, 2]
    assert [len(level.history["loss"]) for level in levels] == [1, 3]
    assert model.lottery.level == 3
    assert same(
        list(model.lottery.rewind_point.weights.values()),
        list(whole.lottery.rewind_point.weights.values()),
    )


# 15: late rewinding without `fit`.


class Stop(Exception):
    """Ends a training in its midst."""


class StopAfter(keras.callbacks.Callback):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self.steps:
            raise Stop


@pytest.mark.parametrize("before", ["nothing", "a step"])
def test_a_late_rewind_point_is_captured_after_a_file(before, tmp_path):
    x, y = data()
    uninterrupted = wrapped(rewind_to=3)
    uninterrupted.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    expected = uninterrupted.lottery.rewind_point
    model = wrapped(rewind_to=3)
    if before == "nothing":
        with pytest.warns(UserWarning, match="at least one step"):
            model.fit(x, y, epochs=0, verbose=0)
    else:
        with pytest.raises(Stop):
            model.fit(
                x,
                y,
                batch_size=4,
                shuffle=False,
                verbose=0,
                callbacks=[StopAfter(1)],
            )
        # The batch that was trained on.
        x, y = x[4:], y[4:]
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    loaded.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    point = loaded.lottery.rewind_point
    assert (point.step, loaded.lottery.level) == (3, 1)
    assert same(list(point.weights.values()), list(expected.weights.values()))


def test_a_late_rewind_point_that_was_not_captured_is_refused():
    model, (x, y) = wrapped(rewind_to=2), data()
    for _ in range(2):
        model.train_on_batch(x, y)
    with pytest.raises(ValueError, match=r"capture\(step=2\).*of step 0"):
        model.lottery.prune()
    assert model.lottery.level == 0
    model.lottery.capture(step=2)
    model.train_on_batch(x, y)
    model.lottery.prune()
    model.lottery.rewind()
    assert int(model.optimizer.iterations) == 2


# 17: trainings that train nothing.


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize(
    "arguments",
    [
        {"epochs": 0},
        {"epochs": -1},
        {"epochs": 2, "initial_epoch": 2},
        {"x": tf.data.Dataset.from_tensor_slices(data()).take(0).batch(4)},
    ],
)
@pytest.mark.parametrize("rewind_to", some([0, 2], 2))
def test_a_training_without_a_step_is_no_round(arguments, rewind_to):
    model = wrapped(rewind_to=rewind_to)
    before = variables(model)
    x, y = data()
    given = {"x": x, "y": y, **arguments}
    if "x" in arguments:
        del given["y"]
    with pytest.warns(UserWarning, match="must train for at least one step"):
        model.fit(verbose=0, **given)
    assert model.lottery.level == 0 and not model.lottery.levels
    assert same(variables(model), before)
    fit(model)
    assert model.lottery.level == 1
    given.pop("y", None), given.pop("x")
    if given.get("epochs", 1) < 1:
        # Refused before `fit` is called, and could warn.
        with pytest.raises(ValueError, match="`epochs` must be .* at least 1"):
            model.lottery.find(x, y, rounds=2, verbose=0, **given)
    else:
        with pytest.warns(UserWarning):
            if given:
                with pytest.raises(ValueError, match="at least one step"):
                    model.lottery.find(x, y, rounds=2, verbose=0, **given)
            else:
                model.fit(arguments["x"], verbose=0)
    assert model.lottery.level == 1


# 18: exports of rewound models.


def test_every_export_refuses_a_model_that_was_rewound(tmp_path):
    from keras_lottery import export

    model = wrapped()
    fit(model)
    exports = [
        lambda: export.compact(model),
        lambda: model.export(tmp_path / "m", verbose=False),
        lambda: export.to_litert(model, tmp_path / "m.tflite"),
        lambda: export.to_serving(model, tmp_path / "serving"),
    ]
    for act in exports:
        with pytest.raises(ValueError, match="must be trained to be exported"):
            act()
    with model.lottery.trained():
        assert export.compact(model).model is not model
    model.set_weights([w + 1 for w in model.get_weights()])
    export.compact(model)


# 19: seeds.


@pytest.mark.parametrize("rewind_to", [0, None])
def test_dropout_goes_on_where_it_was_after_a_file(rewind_to, tmp_path):
    model = wrapped(own_weights(), rewind_to=rewind_to)
    fit(model)
    with pytest.raises(MemoryError):
        fit(model, epochs=3, callbacks=[Crash(2)])
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert same(variables(loaded), variables(model))
    for one in (model, loaded):
        fit(one), fit(one)
    assert same(variables(loaded), variables(model))
    assert loaded.lottery.level == model.lottery.level == 3


# What is not allowed in a context.


def test_weights_that_are_lent_cannot_be_pruned():
    model = wrapped()
    fit(model)
    pruner, before = model.lottery, variables(model)
    ticket = pruner.ticket()
    with pruner.trained():
        for name, arguments in (
            ("prune", ()),
            ("rewind", ()),
            ("record", ()),
            ("capture", ()),
            ("load", (ticket,)),
        ):
            with pytest.raises(ValueError, match=f"`{name}` must not.*trained"):
                getattr(pruner, name)(*arguments)
        with pytest.raises(ValueError, match="`find` must not"):
            pruner.find(*data(), rounds=2)
        fit(model)
    assert same(variables(model), before) and pruner.level == 1
    assert int(model.optimizer.iterations) == 0


def test_the_training_of_a_level_goes_on_after_a_pause():
    model, watch = wrapped(), AtBegin()
    fit(model)
    with model.lottery.paused():
        fit(model)
    now = variables(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, callbacks=[watch])
    assert same(watch.seen[0], now)


@pytest.mark.slow
def test_a_process_without_the_package_is_told_of_it(tmp_path):
    model = wrapped()
    model.save(tmp_path / "m.keras")
    code = (
        f"import keras; keras.models.load_model({str(tmp_path / 'm.keras')!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert "class 'Sequential of keras_lottery'" in done.stderr


def test_a_layer_that_loses_its_last_connection_is_told_of():
    model = wrapped(rates={"hidden": 0.99})
    with pytest.warns(UserWarning, match="no connection left in .*hidden"):
        fit(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model)  # Once.


@pytest.mark.parametrize("name", ["rate", "scope", "criterion", "rewind_to"])
def test_what_is_decided_at_the_start_cannot_be_assigned(name):
    pruner = wrapped().lottery
    with pytest.raises(AttributeError, match=f"`{name}` cannot be changed"):
        setattr(pruner, name, 0.1)
    pruner.rounds = 3


def test_a_ticket_is_loaded_by_its_path(tmp_path):
    model = wrapped()
    fit(model)
    model.lottery.ticket().save(tmp_path / "one.ticket")
    other = wrapped(mlp(seed=4))
    other.lottery.load(tmp_path / "one.ticket")
    assert same(variables(other), variables(model))


def test_no_warnings_of_other_libraries():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = wrapped()
        for _ in range(2):
            fit(model, validation_data=data())
        with model.lottery.trained():
            model.evaluate(*data(), verbose=0)


def test_other_backends_are_refused_by_name():
    code = (
        "import sys, types; keras = types.ModuleType('keras');"
        "keras.backend = types.SimpleNamespace(backend=lambda: 'numpy');"
        "sys.modules['keras'] = keras; import keras_lottery"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert "needs Keras' TensorFlow, JAX or PyTorch" in done.stderr
    assert "Found: numpy" in done.stderr


def test_a_model_is_compiled_while_weights_are_lent():
    model = keras_lottery.wrap(compiled(mlp()))
    fit(model)
    start = arrays(model)
    with model.lottery.trained():
        compiled(model, "adam", metrics=["accuracy"])
        model.evaluate(*data(), verbose=0)
    assert same(start, arrays(model))
    fit(model)
    assert model.lottery.level == 2


@pytest.mark.parametrize("rewind_to", [0, 2, None])
def test_after_nan_a_level_begins_again_where_it_began(rewind_to):
    optimizer = keras.optimizers.SGD(1e38)
    model = keras_lottery.wrap(compiled(mlp(), optimizer), rewind_to=rewind_to)
    before = arrays(model)
    with pytest.warns(UserWarning) as caught:
        fit(model)
    told = " ".join(str(one.message) for one in caught)
    assert ("no weights go back" in told) is (rewind_to is None)
    optimizer.learning_rate = 0.01
    model.lottery.rewind()
    if rewind_to is None:
        model.set_weights(before)
    assert same(before, arrays(model))
    fit(model)
    assert model.lottery.level == 1


def test_ctrl_c_waits_until_a_level_is_recorded(
    python_s_own_handler, monkeypatch
):
    model = keras_lottery.wrap(compiled(mlp()))
    record = model.lottery.levels.record

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return record(*arguments)

    monkeypatch.setattr(model.lottery.levels, "record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(model)
    assert model.lottery.state.phase == TRAINED
    monkeypatch.undo()
    fit(model)
    assert [level.index for level in model.lottery.levels] == [0, 1]


def test_a_rewind_point_that_was_captured_is_not_captured_again():
    model = keras_lottery.wrap(compiled(mlp()), rewind_to=2)
    x, y = data()
    for _ in range(2):
        model.train_on_batch(x[:BATCH], y[:BATCH])
    model.lottery.capture(step=2)
    point = model.lottery.rewind_point
    fit(model)
    assert model.lottery.rewind_point is point and point.step == 2
    assert int(model.optimizer.iterations) == 2


def test_a_ticket_of_level_0_brings_its_optimizer_back():
    model = keras_lottery.wrap(compiled(mlp()))
    first = model.lottery.ticket()
    model.lottery.find(*data(), rounds=1, batch_size=BATCH, verbose=0)
    model.lottery.load(first)
    assert int(model.optimizer.iterations) == 0
    fit(model)
    assert model.lottery.level == 1 and model.lottery.rewind_point.step == 0
    assert int(model.optimizer.iterations) == 0


def test_late_rewinding_takes_an_optimizer_that_no_attribute_holds():
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = keras.layers.Dense(3)

        def call(self, x):
            return self.head(x)

        def train_step(self, batch):
            x, y = batch
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            variables = self.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
            return {"loss": loss}

    model = Own()
    model.build((None, 4))
    keras_lottery.wrap(model, rewind_to=2)
    model.lottery.wrap_optimizer(optimizer)
    fit(compiled(model))
    assert model.lottery.level == 1 and int(optimizer.iterations) == 2


def test_after_late_rewinding_another_kind_of_optimizer_is_refused():
    model = keras_lottery.wrap(compiled(mlp(), "adam"), rewind_to=2)
    fit(model)
    # What it keeps of a weight is a part of what Adam keeps.
    compiled(model, SGD(0.1, momentum=0.9))
    with pytest.raises(ValueError, match="must be of the kind"):
        fit(model)


def test_after_late_rewinding_the_same_optimizer_goes_on_by_position():
    # Adafactor gives the slots of all layers the same names.
    model = keras_lottery.wrap(compiled(mlp(), "adafactor"), rewind_to=2)
    fit(model)
    compiled(model, "adafactor")
    fit(model)
    assert model.lottery.level == 2


def test_a_learning_rate_that_was_set_stays_when_a_ticket_is_loaded():
    model = wrapped()
    first = model.lottery.ticket()
    fit(model)
    model.optimizer.learning_rate = 0.02
    model.lottery.load(first)
    for _ in range(2):
        fit(model)
        assert rate_of(model) == np.float32(0.02)


def test_nan_does_not_get_into_a_file_as_a_rewind_point(tmp_path):
    optimizer = keras.optimizers.SGD(1e38)
    model = keras_lottery.wrap(compiled(mlp(), optimizer), rewind_to=2)
    with pytest.warns(UserWarning, match="NaN"):
        fit(model)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    loaded.lottery.rewind()
    assert all(np.isfinite(w).all() for w in loaded.get_weights())


def test_a_ticket_of_a_later_step_is_not_captured_again():
    model = keras_lottery.wrap(compiled(mlp()), rewind_to=2)
    fit(model)
    ticket = model.lottery.ticket(0)
    model.lottery.load(ticket)
    fit(model)
    assert same(ticket.rewind_point.weights, model.lottery.rewind_point.weights)
