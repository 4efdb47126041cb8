"""RewindPoint: all that training changes goes back."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from small import compiled, data, fit, mlp, same

from keras_lottery.constraints import TicketMask
from keras_lottery.rewinding import (
    DelayedCapture,
    RewindPoint,
    copy_optimizer,
    fits_optimizer,
    model_state,
    optimizers_of,
    restore_optimizer,
)


def rich():
    """A model with statistics and a seed, trained by an optimizer with
    slots, averages and a loss scale."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, name="hidden"),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(3),
        ]
    )
    adam = keras.optimizers.Adam(0.01, use_ema=True)
    return compiled(model, keras.optimizers.LossScaleOptimizer(adam))


def state(model):
    point = RewindPoint.capture(model)
    return [*point.weights.values(), *point.optimizers["optimizer"].values()]


def test_everything_goes_back_bit_for_bit():
    model = rich()
    fit(model)
    before, point = state(model), RewindPoint.capture(model, 4)
    assert point.step == 4
    fit(model)
    adam = model.optimizer.inner_optimizer
    adam.learning_rate = 0.5
    after = state(model)
    changed = [a.tobytes() != b.tobytes() for a, b in zip(before, after)]
    names = [*point.weights, *point.optimizers["optimizer"]]
    unchanged = {n for n, c in zip(names, changed) if not c}
    assert not any(n.endswith(("kernel", "moving_mean")) for n in unchanged)
    assert not any("seed" in n for n in unchanged)
    # Those of the loss scale, which works through another optimizer.
    assert unchanged == {"0:iteration", "1:learning_rate", "3:dynamic_scale"}
    point.restore_weights(model)
    point.restore_optimizers(model)
    assert same(before, state(model))
    assert float(adam.learning_rate.numpy()) == np.float32(0.01)


def test_the_copy_does_not_follow_the_model():
    model = mlp()
    point = RewindPoint.capture(model)
    kernel = model.layers[0].kernel
    before = point.weights[kernel.path].copy()
    kernel.assign(kernel + 1)
    np.testing.assert_array_equal(point.weights[kernel.path], before)


def test_restoring_selects_under_the_mask():
    model = mlp()
    kernel = model.layers[0].kernel
    kernel.assign(np.full((4, 6), np.nan))
    point = RewindPoint.capture(model)
    mask = np.arange(24).reshape(4, 6) % 2 == 0
    kernel.constraint = TicketMask((4, 6))
    kernel.constraint.assign(mask)
    point.restore_weights(model)
    assert (kernel.numpy()[~mask] == 0).all()
    assert np.isnan(kernel.numpy()[mask]).all()


def test_zeros_keep_their_sign():
    model = mlp()
    bias = model.layers[0].bias
    bias.assign(np.full(6, -0.0))
    point = RewindPoint.capture(model)
    bias.assign(np.ones(6))
    point.restore_weights(model)
    assert np.signbit(bias.numpy()).all()


def test_optimizers_of_finds_those_of_the_user_too():
    model = compiled(mlp())
    assert list(optimizers_of(model)) == ["optimizer"]
    model.critic_optimizer = keras.optimizers.SGD()
    found = optimizers_of(model)
    assert set(found) == {"optimizer", "critic_optimizer"}
    assert optimizers_of(mlp()) == {}


def test_optimizers_that_are_not_built_wait():
    model = compiled(mlp())
    assert RewindPoint.capture(model).optimizers == {}


def built(optimizer, shape=(2, 3)):
    optimizer.build([keras.Variable(np.zeros(shape))])
    return optimizer


@pytest.mark.parametrize(
    "other",
    [
        built(keras.optimizers.SGD()),
        built(keras.optimizers.Adam(), (3, 2)),
        built(keras.optimizers.Adam(use_ema=True)),
    ],
)
def test_another_kind_of_optimizer_is_refused(other):
    saved = copy_optimizer(built(keras.optimizers.Adam()))
    assert not fits_optimizer(other, saved)
    before = copy_optimizer(other)
    with pytest.raises(ValueError, match="must be of the kind.*Received: opti"):
        restore_optimizer(other, saved)
    assert same(before, copy_optimizer(other))


def test_model_state_has_every_variable():
    model = rich()
    fit(model)
    assert len(model_state(model)) == len(model.variables)
    assert len(model.variables) > len(model.weights)  # Seeds.


def train_steps(at, steps_per_call=1, jit=False):
    """A compiled loop of SGD, counted by a capture `at` a step."""
    model = compiled(mlp(name="m"), keras.optimizers.Adam(0.1))
    model.optimizer.build(model.trainable_variables)
    delayed = DelayedCapture(model, at)
    x, y = data()

    @tf.function(jit_compile=jit)
    def step():
        for _ in range(steps_per_call):
            model.train_step((x, y))
            delayed.after_step((x, y))

    return model, delayed, step


@pytest.mark.parametrize("steps_per_call", [1, 3])
def test_delayed_capture_is_the_state_after_that_step(steps_per_call):
    model, delayed, step = train_steps(4, steps_per_call)
    for _ in range(6 // steps_per_call):
        step()
    assert delayed.steps == 6
    late = delayed.rewind_point()
    exact, _, step = train_steps(99)
    for _ in range(4):
        step()
    now = RewindPoint.capture(exact, 4)
    assert late.step == 4
    assert list(late.weights) == list(now.weights)
    for path in late.weights:
        np.testing.assert_allclose(
            late.weights[path], now.weights[path], rtol=1e-5, atol=1e-7
        )
    one, other = late.optimizers["optimizer"], now.optimizers["optimizer"]
    assert list(one) == list(other)
    assert int(one["0:iteration"]) == 4
    for key in one:
        np.testing.assert_allclose(one[key], other[key], rtol=1e-5, atol=1e-7)


def test_delayed_capture_counts_from_0_again():
    model, delayed, step = train_steps(2)
    step(), delayed.restart(), step()
    assert delayed.steps == 1
    step()
    now = RewindPoint.capture(model)
    assert same(delayed.rewind_point().weights, now.weights)
