"""What trains experiments, on each backend of Keras that has a loop."""

import keras
import numpy as np
import pytest

from keras_lottery import wrap
from keras_lottery.backend.loop import COMPILED
from keras_lottery.training import Loop

EVERY, STEPS = 5, 23


def data(examples, seed=0):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(examples, 6)).astype("float32")
    return x, np.argmax(x[:, :3], axis=1).astype("int32")


def dense(cls=keras.Sequential, rate=0.001, normalized=True):
    keras.utils.set_random_seed(1)
    layers = keras.layers
    between = [layers.BatchNormalization()] if normalized else []
    model = cls(
        [
            keras.Input((6,)),
            layers.Dense(16, "relu"),
            *between,
            layers.Dense(3, "softmax"),
        ]
    )
    optimizer = keras.optimizers.Adam(rate)
    loss = "sparse_categorical_crossentropy"
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def loop_on(model, backend, eval_every=EVERY):
    return Loop(
        model,
        data(100),
        data(30, seed=1),
        batch_size=8,
        eval_every=eval_every,
        backend=backend,
    )


def state(model):
    variables = (*model.variables, *model.optimizer.variables)
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


@pytest.mark.parametrize("prepared", (lambda model: model, wrap))
def test_fit_measures_what_the_compiled_loop_measures(prepared):
    models = [prepared(dense()) for _ in range(2)]
    runs = [
        loop_on(model, backend).train(STEPS, seed=3)
        for model, backend in zip(models, ("fit", COMPILED[0]))
    ]
    for name in ("iterations", "val_loss", "val_accuracy", "train_loss"):
        np.testing.assert_allclose(
            *(getattr(run, name) for run in runs), rtol=1e-4
        )
    for a, b in zip(*(run.early_stop_weights for run in runs)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", ("fit", COMPILED[0]))
def test_evaluations_and_visits_between_steps_change_nothing(backend):
    often, once = dense(), dense()
    visited = []
    loop_on(often, backend).train(
        STEPS, seed=3, visits={7: lambda: visited.extend(state(often))}
    )
    loop_on(once, backend, STEPS).train(STEPS, seed=3)
    for a, b in zip(state(often), state(once)):
        np.testing.assert_array_equal(a, b)

    part = dense()
    loop_on(part, backend, STEPS).train(7, seed=3)
    for a, b in zip(visited, state(part)):
        np.testing.assert_array_equal(a, b)


class OwnStep(keras.Sequential):
    def train_step(self, *args, **kwargs):
        return super().train_step(*args, **kwargs)


def test_fit_keeps_the_weights_of_the_best_evaluation():
    model = dense(OwnStep, rate=3.0)
    training = loop_on(model, "fit").train(STEPS, seed=3)
    assert training.early_stop_iteration < STEPS
    found = model.get_weights()
    kept = training.early_stop_weights
    assert any((a != b).any() for a, b in zip(kept, found))
    again = dense(OwnStep, rate=3.0)
    loop_on(again, "fit").train(training.early_stop_iteration, seed=3)
    for a, b in zip(kept, again.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_the_loss_is_that_of_keras_whatever_trains():
    """Far outputs, of which some backends clip the probabilities."""
    x, y = data(100)
    model = dense(normalized=False)
    model.set_weights([30 * weight for weight in model.get_weights()])
    expected = model.evaluate(x, y, batch_size=100, verbose=0)[0]
    found = loop_on(model, "auto").evaluate((x, y))[0]
    assert found == pytest.approx(expected, rel=1e-5)
