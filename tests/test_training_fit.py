"""What the compiled loop cannot train is trained by `fit`, as faithfully."""

import logging

import keras
import numpy as np
import pytest
from small import HalfLoss
from test_training import (
    BATCH,
    OwnStep,
    assert_as_fit,
    compiled,
    data,
    dense,
    dense_layers,
    loop_on,
    state,
)

from keras_lottery import wrap
from keras_lottery.training import Loop, unsupported


def half(**kwargs):
    keras.utils.set_random_seed(1)
    model = HalfLoss()
    model(data()[0][:1])
    return compiled(model, **kwargs)


def test_the_reason_is_said_in_one_line(caplog):
    loop = loop_on(half(), "auto")
    with caplog.at_level(logging.WARNING, logger="absl"):
        loop.train(5, seed=0)
    assert loop.backend == "fit"
    # TensorFlow warns of what it traced in the tests before.
    (line,) = [r.getMessage() for r in caplog.records if r.name == "absl"]
    assert line == "Training by fit: HalfLoss has a `train_step` of its own."


class Behind:
    def train_step(self, data):
        raise AssertionError("Keras' own comes first.")


class InFront(Behind, keras.Sequential):
    pass


class AfterKeras(keras.Sequential, Behind):
    pass


def test_a_method_counts_where_it_comes_before_that_of_keras():
    for cls, reason in (
        (InFront, "Behind has a `train_step` of its own"),
        (AfterKeras, None),
    ):
        model = cls([keras.Input((4,)), keras.layers.Dense(3)])
        assert unsupported(compiled(model)) == reason
        assert unsupported(wrap(model)) == reason


@pytest.mark.parametrize(
    "model",
    [
        half,
        lambda: half(steps_per_execution=3),
        lambda: dense(keras.optimizers.Adam(0.01, use_ema=True)),
    ],
)
def test_it_ends_where_one_fit_on_the_same_batches_ends(model):
    assert_as_fit(model(), "fit", tolerance=1e-6)


def two_outputs():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    outputs = [
        keras.layers.Dense(3, name=name)(inputs) for name in ("main", "aux")
    ]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = keras.Model(inputs, outputs)
    model.compile("adam", [loss, loss], metrics=[["accuracy"], ["accuracy"]])
    return model


def test_of_several_accuracies_it_records_that_of_the_compiled_loop():
    (x, y), curves = data(), []
    both = x, (y, 2 - y)
    for backend in ("graph", "fit"):
        loop = Loop(two_outputs(), both, both, None, BATCH, 5, backend=backend)
        curves.append(loop.train(20, seed=0).val_accuracy)
    np.testing.assert_allclose(*curves)


class OwnLoss(keras.Sequential):
    """Its loss has no penalties of weights."""

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        losses = keras.losses.sparse_categorical_crossentropy(
            y, y_pred, from_logits=True
        )
        return keras.ops.mean(losses)


@pytest.mark.parametrize("backend", ("graph", "fit"))
def test_nothing_is_taken_from_a_loss_of_the_models_own(backend):
    decayed = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(1))
    model = compiled(OwnLoss([keras.Input((6,)), decayed]))
    loop = loop_on(model, backend)
    expected = model.evaluate(*data(), verbose=0)[0]
    assert loop.evaluate(data())[0] == pytest.approx(expected, rel=1e-5)


def test_evaluations_between_steps_change_nothing():
    often, once = half(), half()
    runs = [
        loop_on(model, "fit", eval_every=every).train(23, seed=3)
        for model, every in ((often, 5), (once, 23))
    ]
    assert list(runs[0].iterations) == [5, 10, 15, 20, 23]
    for a, b in zip(often.get_weights(), once.get_weights()):
        np.testing.assert_array_equal(a, b)
    assert runs[0].val_loss[-1] == runs[1].val_loss[-1]
    assert np.average(runs[0].train_loss, weights=[5, 5, 5, 5, 3]) == (
        pytest.approx(runs[1].train_loss[0], rel=1e-5)
    )


def test_it_measures_what_the_compiled_loop_measures():
    runs = [loop_on(dense(), b).train(23, seed=3) for b in ("fit", "graph")]
    for name in ("iterations", "val_loss", "val_accuracy", "train_loss"):
        np.testing.assert_allclose(
            *(getattr(run, name) for run in runs), rtol=1e-5
        )
    assert runs[0].early_stop_iteration == runs[1].early_stop_iteration
    for a, b in zip(*(run.early_stop_weights for run in runs)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_visits_are_at_their_step_and_a_start_goes_on():
    whole, parts = half(), half()
    loop_on(whole, "fit").train(12, seed=3)
    loop, seen = loop_on(parts, "fit"), []

    def visit():
        seen.append((int(parts.optimizer.iterations), state(parts)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(12, seed=3, visits={7: visit})
    assert seen[0][0] == 7
    loop.train(12, seed=3, start=7)
    for a, b in zip(state(whole), state(parts)):
        np.testing.assert_array_equal(a, b)


def test_a_wrapped_model_is_trained_and_not_pruned():
    model = wrap(half())
    loop_on(model, "auto").train(5, seed=0)
    assert model.lottery.level == 0 and model.lottery.density == 1.0


def test_divergence_ends_it():
    run = loop_on(dense(keras.optimizers.SGD(1e30)), "fit").train(100, seed=0)
    assert run.diverged == run.iterations[-1] < 100


def test_progress_is_reported(monkeypatch):
    from keras_lottery.training import fit

    monkeypatch.setattr(fit, "_PROGRESS_EVERY", 0.0)
    reported = []
    loop_on(dense(), "fit").train(12, seed=0, progress=reported.append)
    assert reported[-1] == 12 and reported == sorted(reported)


def test_a_sequential_model_with_its_own_step():
    keras.utils.set_random_seed(1)
    model = compiled(OwnStep([keras.Input((6,)), *dense_layers()]))
    loop = Loop(model, data(), data(10), batch_size=BATCH, eval_every=5)
    reference = dense()
    loop.train(10, seed=0)
    loop_on(reference, "fit").train(10, seed=0)
    for a, b in zip(model.get_weights(), reference.get_weights()):
        np.testing.assert_array_equal(a, b)
