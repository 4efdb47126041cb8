"""Tiny models and data that the tests share."""

import keras
import numpy as np
import pytest

from keras_lottery import RewindPoint, Ticket

EXAMPLES, BATCH = 16, 4


def some(values, *default):
    """Parameters of a test, of which those but `default` are slow."""
    return [
        value
        if value in default
        else pytest.param(
            *(value if isinstance(value, tuple) else [value]),
            marks=pytest.mark.slow,
        )
        for value in values
    ]


def data():
    """Sixteen examples of four features in three classes: four steps."""
    x = np.random.default_rng(0).normal(size=(EXAMPLES, 4)).astype("float32")
    return x, np.arange(EXAMPLES) % 3


def mlp(seed=0, **kwargs):
    """4-6-3, built, its layers named `hidden` and `head`."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, "relu", name="hidden"),
            keras.layers.Dense(3, name="head"),
        ],
        **kwargs,
    )


class HalfLoss(keras.Model):
    """Trains on half the loss, by a `train_step` that `fit` alone runs."""

    def __init__(self, classes=3):
        super().__init__()
        self.hidden = keras.layers.Dense(16, "relu")
        self.logits = keras.layers.Dense(classes)

    def call(self, x):
        return self.logits(self.hidden(x))

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = 0.5 * self.compute_loss(x, y, self(x, training=True))
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        self._loss_tracker.update_state(loss)
        return self.get_metrics_result()


def compiled(model, optimizer="adam", **kwargs):
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **kwargs,
    )
    return model


def fit(model, **kwargs):
    arguments = {"batch_size": BATCH, "verbose": 0, "shuffle": False}
    return model.fit(*data(), **{**arguments, **kwargs})


def short(paths):
    """Paths without the model's name in front."""
    return {path.split("/", 1)[1] for path in paths}


def arrays(model):
    return [np.array(v) for v in model.get_weights()]


def same(one, other):
    """Whether two lists or dicts of arrays agree bit for bit."""
    if isinstance(one, dict):
        assert list(one) == list(other)
        one, other = one.values(), other.values()
    one, other = list(one), list(other)
    assert len(one) == len(other)
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(map(np.asarray, one), map(np.asarray, other))
    )


def ticket(level=0, **changes):
    """A ticket of one weight of two numbers; `changes` replace its arrays."""
    parts = {
        "mask": np.array([True, False]),
        "weight": np.array([1.0, 2.0], np.float32),
        "slot": np.zeros(2, np.float32),
        **changes,
    }
    point = RewindPoint(
        0, {"kernel": parts["weight"]}, {"optimizer": {"0:m": parts["slot"]}}
    )
    return Ticket({"kernel": parts["mask"]}, point, level)
