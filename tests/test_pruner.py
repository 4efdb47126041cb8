"""LotteryTicketPruner: its members, and the callbacks it lives with."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import BATCH, arrays, compiled, data, fit, mlp, same

import keras_lottery
from keras_lottery import LotteryTicketPruner

SGD = keras.optimizers.SGD


def pruner_of(model=None, **kwargs):
    return LotteryTicketPruner(model or mlp(), **{"rate": 0.5, **kwargs})


def wrapped(optimizer=None, compile=None, **kwargs):
    model = keras_lottery.wrap(mlp(), **{"rate": 0.5, **kwargs})
    return compiled(model, optimizer or SGD(0.1, momentum=0.9), **compile or {})


def kept(pruner):
    return [int(m.sum()) for m in pruner.masks.values()]


# Members, without any training.


def test_at_the_start():
    pruner = pruner_of(rate=0.25, seed=3, rounds=2)
    assert pruner.level == 0 and pruner.levels == []
    assert pruner.density == 1.0 and pruner.sparsity == 0.0
    assert kept(pruner) == [24, 18]
    assert pruner.rate == 0.25 and pruner.seed == 3 and pruner.rounds == 2
    assert pruner.output_rate is None and pruner.rates is None
    assert pruner.scope == "layerwise" and pruner.criterion == "magnitude"
    assert pruner.rewind_to == 0 and pruner.attached
    assert pruner.rewind_point.step == 0


def test_prune_takes_the_smallest_and_half_of_the_rate_at_the_output():
    pruner = pruner_of()
    hidden, head = (layer.kernel for layer in pruner.model.layers)
    before = np.abs(hidden.numpy()), np.abs(head.numpy())
    pruner.prune()
    # 24 * 0.5 go, and round(18 * 0.25) = round(4.5) = 4.
    assert kept(pruner) == [12, 14] and pruner.level == 1
    for mask, score in zip(pruner.masks.values(), before):
        assert score[mask].min() > score[~mask].max()
    assert pruner.density == 26 / 42
    assert pruner.sparsity == pytest.approx(16 / 42)
    assert list(pruner.densities().values()) == [12 / 24, 14 / 18]
    assert not hidden.numpy()[~list(pruner.masks.values())[0]].any()


def test_prune_records_the_level_and_rewinds_nothing():
    pruner = pruner_of()
    kernel = pruner.model.layers[0].kernel
    kernel.assign(kernel * 3)
    now = kernel.numpy()
    pruner.prune()
    mask = list(pruner.masks.values())[0]
    np.testing.assert_array_equal(kernel.numpy(), np.where(mask, now, 0))
    (level,) = pruner.levels
    assert level.index == 0 and level.density == 1.0 and level.history == {}
    np.testing.assert_array_equal(level.trained_weights[kernel.path], now)
    pruner.rewind()
    np.testing.assert_allclose(
        kernel.numpy(), np.where(mask, now / 3, 0), rtol=1e-6
    )
    assert pruner.level == 1


def test_masks_are_read_only_copies():
    pruner = pruner_of()
    mask = next(iter(pruner.masks.values()))
    assert mask.dtype == bool
    with pytest.raises(ValueError, match="read-only"):
        mask[0, 0] = False
    pruner.masks.clear()
    assert kept(pruner) == [24, 18]
    pruner.prune()
    assert mask.all()


def test_masks_are_in_the_order_of_the_weights():
    pruner = pruner_of()
    paths = [w.path for w in pruner.model.weights]
    assert list(pruner.masks) == [p for p in paths if p.endswith("kernel")]


def test_scope_global_has_one_threshold():
    pruner = pruner_of(scope="global")
    before = [np.abs(v.numpy()) for v in pruner.attachment.kernels.values()]
    pruner.prune()
    masks = list(pruner.masks.values())
    assert sum(kept(pruner)) == 42 - 21
    lowest = min(b[m].min() for b, m in zip(before, masks))
    highest = max(b[~m].max() for b, m in zip(before, masks))
    assert lowest > highest


def test_schedules_go_by_the_level():
    seen = []

    def rate(round):
        seen.append(round)
        return [0.5, 0.25, 0.0][round]

    pruner = pruner_of(rate=rate, rates={"head": 0})
    counts = []
    for _ in range(3):
        pruner.prune()
        counts.append(kept(pruner))
    assert counts == [[12], [9], [9]] and set(seen) == {0, 1, 2}


def test_a_schedule_that_returns_no_rate_prunes_nothing():
    pruner = pruner_of(rate=lambda round: round * 1.5)
    pruner.prune()
    with pytest.raises(ValueError, match="rate of .*in round 1.*Received"):
        pruner.prune()
    assert pruner.level == 1 and pruner.density == 1.0


def test_criterion_sees_the_rewind_point_and_now():
    calls = []

    def criterion(initial, trained):
        calls.append((initial.copy(), trained.copy()))
        return np.abs(trained - initial)

    pruner = pruner_of(criterion=criterion)
    kernel = pruner.model.layers[0].kernel
    theta = kernel.numpy()
    kernel.assign(theta + np.arange(24).reshape(4, 6))
    now = kernel.numpy()
    pruner.prune()
    np.testing.assert_array_equal(calls[0][0], theta)
    np.testing.assert_array_equal(calls[0][1], now)
    mask = list(pruner.masks.values())[0]
    np.testing.assert_array_equal(mask.ravel(), np.arange(24) >= 12)


def test_random_follows_the_seed_and_the_level():
    def masks(seed):
        pruner = pruner_of(criterion="random", seed=seed)
        pruner.prune()
        pruner.prune()
        return list(pruner.masks.values())

    assert same(masks(1), masks(1))
    assert not same(masks(1), masks(2))


def test_start_from_a_dict_of_masks():
    mask = np.arange(24).reshape(4, 6) % 3 > 0
    model = mlp()
    path = model.layers[0].kernel.path
    pruner = pruner_of(model, masks={path: mask})
    assert kept(pruner) == [16, 18] and pruner.level == 0
    assert not model.layers[0].kernel.numpy()[~mask].any()
    pruner.prune()
    assert kept(pruner) == [8, 14]
    assert not (pruner.masks[path] & ~mask).any()


@pytest.mark.parametrize("rate", [0, 0.5])
def test_start_from_zeros_of_a_sparse_model(rate):
    model = mlp()
    for layer in model.layers:
        kernel = layer.kernel.numpy()
        kernel.flat[::3] = 0
        layer.kernel.assign(kernel)
    pruner = pruner_of(model, rate=rate, masks="zeros")
    assert kept(pruner) == [16, 12]


def test_unbuilt_models_wait_for_data():
    model = keras.Sequential([keras.layers.Dense(6), keras.layers.Dense(3)])
    pruner = pruner_of(model)
    assert not pruner.attached
    for ask in (
        lambda: pruner.masks, lambda: pruner.density, pruner.prune,
        pruner.rewind, pruner.ticket,
    ):  # fmt: skip
        with pytest.raises(ValueError, match="must be built.*Received: model="):
            ask()
    model(np.zeros((1, 4)))
    assert kept(pruner) == [24, 18]


def test_levels_that_were_not_trained():
    pruner = pruner_of()
    pruner.prune()
    for level in (1, 5, -2, "0", None):
        with pytest.raises(ValueError, match="`level` must.*Received: level="):
            with pruner.trained(level):
                raise AssertionError
    assert pruner.ticket(0).level == pruner.ticket(-1).level == 0
    with pytest.raises(ValueError, match="`level` must be"):
        pruner.ticket(3)


def test_trained_puts_everything_back_even_after_an_error():
    pruner = pruner_of()
    model = pruner.model
    start = arrays(model)
    model.set_weights([w + 1 for w in start])
    end = arrays(model)
    pruner.prune()
    pruner.rewind()
    now, masks = arrays(model), pruner.masks
    with pruner.trained() as inside:
        assert inside is model and same(arrays(model), end)
        assert pruner.density == 1.0
    assert same(arrays(model), now)
    with pytest.raises(KeyError):
        with pruner.trained(0):
            raise KeyError
    assert same(arrays(model), now) and same(pruner.masks, masks)


def test_fit_inside_trained_is_no_round():
    model = wrapped()
    fit(model)
    before = arrays(model)
    with model.lottery.trained():
        fit(model)
        assert not same(arrays(model), before)
    assert model.lottery.level == 1 and len(model.lottery.levels) == 1
    assert same(arrays(model), before)


# A loop of one's own.


def test_custom_loop():
    model, (x, y) = mlp(), data()
    pruner = pruner_of(model)
    optimizer = pruner.wrap_optimizer(keras.optimizers.Adam(0.1))
    assert pruner.wrap_optimizer(optimizer) is optimizer
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        variables = model.trainable_variables
        optimizer.apply(
            tape.gradient(value, [v.value for v in variables]), variables
        )

    theta = arrays(model)
    for _ in range(2):
        masks = list(pruner.masks.values())
        for index, mask in ((0, masks[0]), (2, masks[1])):
            start = np.where(mask, theta[index], 0)
            np.testing.assert_array_equal(arrays(model)[index], start)
        for i in range(0, 16, BATCH):
            step(x[i : i + BATCH], y[i : i + BATCH])
        for index, mask in ((0, masks[0]), (2, masks[1])):
            assert not arrays(model)[index][~mask].any()
        assert int(optimizer.iterations) == 4
        pruner.prune()
        pruner.rewind()
        # The optimizer went back as well: it is not the model's own.
        assert int(optimizer.iterations) == 0
        assert not any(np.any(v) for v in optimizer.variables[2:])
    assert pruner.level == 2 and len(pruner.levels) == 2
    pruner.detach()
    assert "apply" not in vars(optimizer)


def test_custom_loop_rewinds_to_where_it_captured():
    pruner = pruner_of()
    optimizer = pruner.wrap_optimizer(SGD(0.1, momentum=0.9))
    variables = pruner.model.trainable_variables
    ones = [tf.ones(v.shape) for v in variables]
    optimizer.apply(ones, variables)
    pruner.capture(step=1)
    late = arrays(pruner.model)
    optimizer.apply(ones, variables)
    pruner.prune()
    pruner.rewind()
    assert pruner.rewind_point.step == 1 and int(optimizer.iterations) == 1
    mask = list(pruner.masks.values())[0]
    np.testing.assert_array_equal(
        arrays(pruner.model)[0], np.where(mask, late[0], 0)
    )
    # The momentum of what does not exist any more is gone.
    moment = optimizer.variables[2].numpy()
    assert not moment[~mask].any() and moment[mask].all()


# Rounds by `fit`.


def test_rounds_by_fit_then_the_ticket_stays_trained():
    model = wrapped(rounds=1)
    pruner = model.lottery
    theta = arrays(model)
    history = fit(model, epochs=2, validation_data=data())
    assert isinstance(history, keras.callbacks.History)
    assert pruner.level == 1 and kept(pruner) == [12, 14]
    mask = list(pruner.masks.values())[0]
    np.testing.assert_array_equal(arrays(model)[0], np.where(mask, theta[0], 0))
    level = pruner.levels[0]
    assert level.history == history.history and len(level.history["loss"]) == 2
    assert level.early_stop_iteration in (4, 8)
    fit(model)
    assert pruner.level == 1 and len(pruner.levels) == 2
    assert same(list(pruner.levels[1].trained_weights.values()), arrays(model))
    assert not same(arrays(model)[:1], [np.where(mask, theta[0], 0)])
    # And further fits train on, under the mask, without a record.
    before = arrays(model)
    fit(model)
    assert pruner.level == 1 and len(pruner.levels) == 2
    assert not same(before, arrays(model))
    assert not arrays(model)[0][~mask].any()
    # A level's ticket, and its trained weights.
    assert pruner.ticket(0).density == 1.0
    assert same(pruner.ticket(1).trained, pruner.levels[1].trained_weights)
    with pruner.trained(0):
        assert arrays(model)[0].all()


@pytest.mark.parametrize("wrap", [False, True])
def test_find(wrap):
    model = mlp()
    pruner = (
        keras_lottery.wrap(model, rate=0.5).lottery
        if wrap
        else pruner_of(model)
    )
    compiled(model, SGD(0.1))
    levels = pruner.find(*data(), rounds=2, verbose=0, batch_size=BATCH)
    assert levels is pruner.levels
    assert [r.index for r in levels] == [0, 1, 2] and pruner.level == 2
    # 12 + 14, then 6 + 10 (round(14 * 0.25) = round(3.5) = 4 go).
    assert [r.density for r in levels] == [1.0, 26 / 42, 16 / 42]
    assert same(list(levels[-1].trained_weights.values()), arrays(model))
    assert pruner.rounds is None
    assert "train_step" not in vars(model)


def test_find_without_wrap_rewinds_late_too():
    model = compiled(mlp(), SGD(0.1, momentum=0.9))
    pruner = pruner_of(model, rewind_to=3, rounds=1)
    pruner.find(*data(), verbose=0, batch_size=BATCH, steps_per_epoch=4)
    assert pruner.rewind_point.step == 3
    point = pruner.rewind_point.optimizers["optimizer"]
    assert int(point["0:iteration"]) == 3
    # Trained once more, from step 3 on.
    assert int(model.optimizer.iterations) == 7
    theirs = wrapped(rewind_to=3)
    fit(theirs)
    one = list(pruner.rewind_point.weights.values())
    for a, b in zip(one, theirs.lottery.rewind_point.weights.values()):
        assert a.shape == b.shape


def test_paused():
    model = wrapped(rewind_to=50)  # Beyond this fit, which is no round.
    with model.lottery.paused() as inside:
        assert inside is model
        fit(model)
        with pytest.raises(ValueError, match="`find` must not"):
            model.lottery.find(*data(), rounds=1)
    assert model.lottery.level == 0 and model.lottery.levels == []
    assert not model.lottery.is_paused


@pytest.mark.parametrize("rewind_to", [None, "learning_rate"])
def test_weights_that_stay(rewind_to):
    model = wrapped(rewind_to=rewind_to)
    fit(model)
    trained = list(model.lottery.levels[0].trained_weights.values())
    mask = list(model.lottery.masks.values())[0]
    np.testing.assert_array_equal(
        arrays(model)[0], np.where(mask, trained[0], 0)
    )
    steps = int(model.optimizer.iterations)
    assert steps == (4 if rewind_to is None else 0)


# What goes wrong.


class Interrupts(keras.callbacks.Callback):
    def __init__(self, error, batch=1):
        super().__init__()
        self.error, self.batch, self.armed = error, batch, True

    def on_train_batch_end(self, batch, logs=None):
        if self.armed and batch == self.batch:
            self.armed = False
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("x")])
def test_interrupted_fit_neither_prunes_nor_rewinds(error):
    model = wrapped()
    theta = arrays(model)
    with pytest.raises(type(error)) as caught:
        fit(model, callbacks=[Interrupts(error)])
    (note,) = caught.value.__notes__
    assert "Level 0" in note and "`lottery.rewind()`" in note
    assert "another `fit` goes on" in note
    assert model.lottery.level == 0 and model.lottery.levels == []
    assert model.lottery.density == 1.0 and not same(arrays(model), theta)
    model.lottery.rewind()
    assert same(arrays(model), theta) and int(model.optimizer.iterations) == 0


def test_after_an_interrupt_the_rewind_point_is_that_of_the_whole_level():
    model = wrapped(rewind_to=3)
    with pytest.raises(KeyboardInterrupt):
        fit(model, callbacks=[Interrupts(KeyboardInterrupt())])
    model.lottery.rewind()
    fit(model)
    point = model.lottery.rewind_point
    assert point.step == 3
    assert int(point.optimizers["optimizer"]["0:iteration"]) == 3


def test_fit_that_left_nan():
    model = wrapped(SGD(np.inf))
    with pytest.warns(UserWarning, match="left NaN in .*neither.*rewind"):
        fit(model)
    assert model.lottery.level == 0 and model.lottery.levels == []
    model.lottery.rewind()
    assert np.isfinite(np.concatenate([w.ravel() for w in arrays(model)])).all()


@pytest.mark.parametrize("wrap", [True, False])
def test_find_refuses_before_it_trains(wrap):
    model = mlp()
    pruner = keras_lottery.wrap(model).lottery if wrap else pruner_of(model)
    compiled(model)
    for wrong, error, message in [
        ({"round": 1}, TypeError, "`round`. Did you mean `rounds`?"),
        ({"rounds": 1, "epoch": 1}, TypeError, "Did you mean `epochs`?"),
        ({"rounds": 1, "qqq": 1}, TypeError, "It takes .'rounds', 'x', 'y'"),
        ({}, ValueError, "`rounds` must be given"),
        ({"rounds": 1, "epochs": 2.5}, ValueError, "`epochs` must be an int"),
        ({"rounds": 1, "batch_size": 0}, ValueError, "`batch_size` must be"),
    ]:
        with pytest.raises(error, match=message):
            pruner.find(*data(), **wrong)
    assert model.optimizer.iterations == 0 and not pruner.levels


def test_find_stops_at_nan():
    model = wrapped(SGD(np.inf))
    with pytest.warns(UserWarning, match="left NaN"):
        with pytest.raises(FloatingPointError, match="Level 0.*learning rate"):
            model.lottery.find(*data(), rounds=3, verbose=0, batch_size=4)


def test_rewind_to_beyond_training_is_refused_before_training():
    model = wrapped(rewind_to=9)
    theta = arrays(model)
    with pytest.raises(
        ValueError, match="`rewind_to` must.*Received: rewind_to=9"
    ):
        fit(model, epochs=2)
    assert same(arrays(model), theta) and int(model.optimizer.iterations) == 0
    fit(model, epochs=3)
    assert model.lottery.rewind_point.step == 9


def endless(steps):
    """A dataset that does not know how long it is."""
    x, y = data()
    return tf.data.Dataset.from_generator(
        lambda: ((x[:BATCH], y[:BATCH]) for _ in range(steps)),
        output_signature=(
            tf.TensorSpec((BATCH, 4)),
            tf.TensorSpec((BATCH,), tf.int64),
        ),
    )


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.filterwarnings("ignore:`shuffle=True`")
def test_steps_are_counted_where_a_dataset_has_no_length():
    model = wrapped(rewind_to=5)
    model.fit(endless(3), epochs=2, verbose=0)
    late = list(model.lottery.rewind_point.weights.values())
    # Running out of data at the end of an epoch is no step. (Keras counts it
    # in `optimizer.iterations`, so weights are compared.)
    other, (x, y) = compiled(mlp(), SGD(0.1, momentum=0.9)), data()
    for _ in range(5):
        other.train_on_batch(x[:BATCH], y[:BATCH])
    for a, b in zip(late, arrays(other)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    model = wrapped(rewind_to=7)
    with pytest.raises(ValueError, match="ended at step 6") as caught:
        model.fit(endless(3), epochs=2, verbose=0)
    assert "neither recorded nor pruned" in caught.value.__notes__[0]


def test_steps_are_counted_after_a_pause():
    model = wrapped(rewind_to=2)
    with model.lottery.paused():
        fit(model)
    fit(model)
    point = model.lottery.rewind_point
    # Two steps after those of the pause, which the search starts from.
    assert point.step == 2
    assert int(point.optimizers["optimizer"]["0:iteration"]) == 6


# Keras' callbacks.


class Watch(keras.callbacks.Callback):
    """The weights as every other callback left them at the end."""

    def on_epoch_end(self, epoch, logs=None):
        self.epochs = [*getattr(self, "epochs", []), arrays(self.model)]


def test_early_stopping_prunes_by_the_restored_weights():
    watch = Watch()
    stop = keras.callbacks.EarlyStopping(
        "loss", patience=1, mode="max", restore_best_weights=True
    )
    model = wrapped()
    fit(model, epochs=4, callbacks=[watch, stop])
    best = watch.epochs[0]  # The loss falls: its maximum is the first.
    assert stop.stopped_epoch == 1 and not same(best, watch.epochs[-1])
    level = model.lottery.levels[0]
    assert same(list(level.trained_weights.values()), best)
    mask = list(model.lottery.masks.values())[0]
    score = np.abs(best[0])
    assert score[mask].min() > score[~mask].max()


def test_learning_rates_of_callbacks_go_back():
    rates = []
    plateau = keras.callbacks.ReduceLROnPlateau(
        "loss", factor=0.1, patience=1, min_delta=100.0
    )
    watch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda e, logs: rates.append(
            float(model.optimizer.learning_rate.numpy())
        )
    )
    model = wrapped()
    for _ in range(2):
        fit(model, epochs=4, callbacks=[plateau, watch])
    assert rates[:4] == rates[4:] and rates[3] < rates[0]
    schedule = keras.callbacks.LearningRateScheduler(lambda e, lr: lr * 0.5)
    fit(model, epochs=2, callbacks=[schedule])
    assert float(model.optimizer.learning_rate.numpy()) == np.float32(0.1)


def test_checkpoints_and_backups(tmp_path):
    model = wrapped()
    fit(model)
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "m.keras"),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "m.weights.h5", save_weights_only=True
        ),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    fit(model, callbacks=callbacks)
    trained = list(model.lottery.levels[1].trained_weights.values())
    back = keras.models.load_model(tmp_path / "m.keras")
    assert same(arrays(back), trained)
    masks = list(model.lottery.levels[1].masks.values())
    assert same(list(back.lottery.masks.values()), masks)
    assert back.lottery.level == 1
    plain = mlp()
    plain.load_weights(tmp_path / "m.weights.h5")
    assert same(arrays(plain), trained)


def test_backup_goes_on_where_a_killed_fit_stopped(tmp_path):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    whole = wrapped()
    fit(whole, epochs=3)
    model = wrapped()
    stop = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda e, logs: (
            (_ for _ in ()).throw(MemoryError) if e == 2 else None
        )
    )
    with pytest.raises(MemoryError):
        fit(model, epochs=3, callbacks=[backup(), stop])
    model = wrapped()  # A new process.
    fit(model, epochs=3, callbacks=[backup()])
    assert model.lottery.level == 1
    one, other = (m.lottery.levels[0] for m in (whole, model))
    for a, b in zip(
        one.trained_weights.values(), other.trained_weights.values()
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert same(arrays(whole), arrays(model))


def test_swap_ema_weights():
    model = wrapped(SGD(0.1, use_ema=True, ema_momentum=0.5))
    for _ in range(2):
        fit(model, epochs=2, callbacks=[keras.callbacks.SwapEMAWeights()])
    for level in model.lottery.levels:
        for path, mask in level.masks.items():
            assert not level.trained_weights[path][~mask].any()
    assert model.lottery.level == 2


def test_terminate_on_nan():
    model = wrapped(SGD(np.inf))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(model, epochs=3, callbacks=[keras.callbacks.TerminateOnNaN()])
    assert model.lottery.level == 0
