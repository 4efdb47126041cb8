"""Trainings that are stacked in one program are those of each alone."""

import keras
import numpy as np
import pytest

from keras_lottery.backend.loop import stacks
from keras_lottery.experiments import Experiment
from keras_lottery.training import Loop

needs_stacks = pytest.mark.skipif(
    stacks is None, reason="Keras' JAX backend alone stacks trainings."
)
if stacks is not None:
    from keras_lottery.training.stack import Stack

EVERY, STEPS, BATCH = 5, 20, 8


def images(seed, examples, size=6):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(examples, size, size, 1)).astype("float32")
    return x, draw.integers(0, 3, examples).astype("int32")


def sets(seed):
    return {
        "train": images(seed, 50),
        "validation": images(seed + 100, 23),
        "test": images(seed + 200, 17),
    }


def dense(seed, rate=0.05):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return compiled(
        [
            layers.Flatten(),
            layers.Dense(12, "relu", kernel_regularizer="l2"),
            layers.Dropout(0.3),
            layers.Dense(3),
        ],
        keras.optimizers.Adam(rate),
    )


def convolutional(seed):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return compiled(
        [
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ],
        keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True),
    )


def compiled(layers, optimizer):
    model = keras.Sequential([keras.Input((6, 6, 1)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    optimizer.build(model.trainable_variables)
    return model


def state_of(model):
    return [np.array(variable.numpy()) for variable in model.variables]


def everything(model):
    return [*model.variables, *model.optimizer.variables]


def starts(build, count):
    """The model, and what its variables are at the start of each training."""
    model = build(0)
    values = [
        [np.array(v.numpy()) for v in everything(build(seed))]
        for seed in range(count)
    ]
    return model, values


def begin(model, values):
    for variable, value in zip(everything(model), values):
        variable.assign(value)


@needs_stacks
@pytest.mark.parametrize("build", [dense, convolutional])
@pytest.mark.parametrize("start", [0, 3])
def test_each_is_the_same_as_alone(build, start):
    model, values = starts(build, 3)
    data = [sets(0), sets(1)]
    which, seeds = [1, 0, 1], [7, 8, 7]
    loop = Loop(model, *data[0].values(), BATCH, EVERY)
    expected = []
    for index in range(3):
        loop.set_data(*data[which[index]].values())
        begin(model, values[index])
        training = loop.train(STEPS, seeds[index], start=start)
        measured = [
            loop.evaluate("test", training.early_stop_weights),
            loop.evaluate("train"),
            loop.evaluate("test"),
        ]
        expected.append((training, measured, state_of(model)))
    # The fourth row is filled up.
    stack = Stack(model, data, 4, BATCH, EVERY, "val_loss")
    states = []
    for value in values:
        begin(model, value)
        states.append(stack.state())
    seen = []
    found = stack.train(
        states,
        which,
        seeds,
        STEPS,
        start=start,
        visits={13: lambda state_of: seen.append(state_of(2)[0][0])},
    )
    assert len(seen) == 1 and len(found.trainings) == 3
    measured = [
        found.evaluate("test", at_early_stop=True),
        found.evaluate("train"),
        found.evaluate("test"),
    ]
    close = dict(rtol=1e-4, atol=1e-5)
    for index, (training, alone, weights) in enumerate(expected):
        other = found.trainings[index]
        for name in ("iterations", "val_loss", "val_accuracy", "train_loss"):
            np.testing.assert_allclose(
                getattr(other, name), getattr(training, name), **close
            )
        assert other.early_stop_iteration == training.early_stop_iteration
        for a, b in zip(other.early_stop_weights, training.early_stop_weights):
            np.testing.assert_allclose(a, b, **close)
        np.testing.assert_allclose([m[index] for m in measured], alone, **close)
        found.assign(index)
        for a, b in zip(state_of(model), weights):
            np.testing.assert_allclose(a, b, **close)


@needs_stacks
def test_one_that_diverges_ends_and_the_others_go_on():
    model, values = starts(dense, 2)
    names = [variable.name for variable in everything(model)]
    values[0][names.index("learning_rate")] = np.float32(1e30)
    stack = Stack(model, [sets(0)], 2, BATCH, EVERY, "val_loss")
    states = []
    for value in values:
        begin(model, value)
        states.append(stack.state())
    found = stack.train(states, [0, 0], [1, 1], STEPS).trainings
    assert found[0].diverged and found[1].diverged is None
    assert len(found[0].iterations) < len(found[1].iterations)
    assert np.isfinite(found[1].val_loss).all()


@needs_stacks
def test_what_a_loop_refuses_is_refused():
    with pytest.raises(ValueError, match="`batch_size` must be at most"):
        Stack(dense(0), [sets(0)], 2, 51, EVERY, "val_loss")
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="needs a model compiled"):
        Stack(model, [sets(0)], 2, BATCH, EVERY, "val_accuracy")


@needs_stacks
def test_a_model_with_a_step_of_its_own_is_refused():
    class Own(keras.Sequential):
        def train_step(self, state, data):
            return super().train_step(state, data)

    model = Own(dense(0).layers)
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="`stack` must be 1, since Own has"):
        Stack(model, [sets(0)], 2, BATCH, EVERY, "val_loss")


@needs_stacks
def test_an_experiment_is_the_same_in_stacks_of_any_height(tmp_path):
    arms = ("ticket", "reinit", "one_shot", "late_rewind", "lr_rewind", "snip")
    given = dict(rounds=2, trials=2, iterations=40, arms=arms)
    alone = Experiment(**given).run(tmp_path / "alone")
    stacked = Experiment(**given, stack=5).run(tmp_path / "stacked")
    assert len(alone) == len(stacked) == 2 * 3 * len(arms)
    for one, other in zip(alone, stacked):
        place = one.trial, one.arm, one.level, one.density
        assert place == (other.trial, other.arm, other.level, other.density)
        np.testing.assert_allclose(
            one.early_stop_val_loss, other.early_stop_val_loss, rtol=2e-3
        )
        # Of 300 examples one or two may fall on the other side.
        assert abs(one.final_test_accuracy - other.final_test_accuracy) < 0.01
    # Nothing is left to train, at any height.
    assert Experiment(**given, stack=2).run(tmp_path / "stacked") == stacked


@pytest.mark.skipif(stacks is not None, reason="This backend has stacks.")
def test_stacks_need_jax():
    with pytest.raises(ValueError, match="needs Keras' JAX backend"):
        Experiment(stack=2)
