"""The compiled loop trains as `fit` does, and is compiled once."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import some

from keras_lottery.training import (
    KeptWeights,
    Loop,
    Recorder,
    batch_indices,
    unsupported,
)

BATCH = 8
STEPS = 12
BACKENDS = ("graph", "xla", "xla_update")


def data(examples=100, shape=(6,), seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, *shape)).astype("float32")
    flat = x.reshape(examples, -1)
    y = np.argmax(flat[:, :3] + 0.1 * flat[:, 3:6], axis=1)
    return x, y.astype("int32")


def dense_layers():
    return [keras.layers.Dense(16, "relu"), keras.layers.Dense(3)]


def compiled(model, optimizer=None, **kwargs):
    model.compile(
        optimizer or keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **kwargs,
    )
    return model


def dense(optimizer=None, **kwargs):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), *dense_layers()])
    return compiled(model, optimizer, **kwargs)


def loop_on(model, backend="graph", shape=(6,), eval_every=5, **kwargs):
    return Loop(
        model,
        train=data(100, shape),
        validation=data(30, shape, seed=1),
        batch_size=BATCH,
        eval_every=eval_every,
        backend=backend,
        **kwargs,
    )


def state(model):
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


def restore(model, values):
    variables = (*model.variables, *model.optimizer.variables)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def fit_same_batches(model, x, y, seed, start, stop):
    order = batch_indices(len(x), BATCH, seed, start, stop)
    dataset = tf.data.Dataset.from_tensor_slices((x[order], y[order]))
    return model.fit(
        dataset,
        validation_data=data(30, x.shape[1:], seed=1),
        shuffle=False,
        verbose=0,
    ).history


def regularized(model):
    return [v for v in model.trainable_weights if v.regularizer is not None]


def assert_as_fit(model, backend, shape=(6,), tolerance=1e-5):
    """From one state, `fit` and the loop end in the same state."""
    loop = loop_on(model, backend, shape, eval_every=STEPS)
    loop.evaluate(data(30, shape))
    begin = state(model)
    run = loop.train(STEPS, seed=7)
    ours = model.get_weights()
    iterations = int(model.optimizer.iterations)
    restore(model, begin)
    history = fit_same_batches(model, *data(100, shape), 7, 0, STEPS)
    theirs = model.get_weights()
    assert iterations == int(model.optimizer.iterations) > 0
    start = begin[: len(model.variables)]
    moved = [v.numpy() for v in model.variables]
    assert any((a != b).any() for a, b in zip(start, moved))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    # One evaluation, with the weights that the training ended with.
    decay = sum(float(v.regularizer(v)) for v in regularized(model))
    for curve, key in (
        (run.train_loss, "loss"),
        (run.val_loss + decay, "val_loss"),
        (run.val_accuracy, "val_accuracy"),
    ):
        np.testing.assert_allclose(
            curve, history[key], rtol=10 * tolerance, atol=tolerance
        )


OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "schedule": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.PiecewiseConstantDecay(
            [3, 6], [0.3, 0.1, 0.01]
        )
    ),
    "clipped": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.1),
    "decay_ema": lambda: keras.optimizers.AdamW(
        0.01, weight_decay=0.1, use_ema=True, ema_momentum=0.9
    ),
    "accumulating": lambda: keras.optimizers.Adam(
        0.01, gradient_accumulation_steps=3
    ),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01)
    ),
}


@pytest.mark.parametrize(
    # "xla_update" differs from "xla" in where the compiled part ends.
    "name, backend",
    some(
        itertools.product(OPTIMIZERS, BACKENDS),
        *((name, "graph") for name in OPTIMIZERS),
        ("momentum", "xla"),
        ("decay_ema", "xla"),
    ),
)
def test_optimizers_as_fit(name, backend):
    model = dense(OPTIMIZERS[name]())
    if name == "scaled":
        # As many finite steps as make the scale grow, to see it grow.
        model.optimizer.dynamic_growth_steps = 5
    assert_as_fit(model, backend)


@pytest.mark.parametrize("backend", ["graph", "fit"])
def test_the_penalty_of_weight_decay_is_no_loss(backend):
    decays = keras.regularizers.L2(0.1), None
    losses, penalties = [], []
    for decay in decays:
        keras.utils.set_random_seed(1)
        layers = [
            keras.layers.Dense(4, kernel_regularizer=decay),
            keras.layers.Dense(3, bias_regularizer=decay),
        ]
        model = compiled(keras.Sequential([keras.Input((6,)), *layers]))
        loop = loop_on(model, backend)
        losses.append(loop.evaluate("validation"))
        whole = model.evaluate(*data(30, (6,), seed=1), verbose=0)
        penalties.append(whole[0] - losses[-1][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert penalties[0] > 0.01 and penalties[1] == pytest.approx(0, abs=1e-6)


class Subclassed(keras.Model):
    """A model with regularisation, dropout, batch norm and a shared loss."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(
            16, "relu", kernel_regularizer=keras.regularizers.L2(0.1)
        )
        self.normalization = keras.layers.BatchNormalization()
        self.dropout = keras.layers.Dropout(0.5, seed=3)
        self.logits = keras.layers.Dense(3)

    def call(self, x, training=False):
        x = self.normalization(self.hidden(x), training=training)
        return self.logits(self.dropout(x, training=training))


@pytest.mark.parametrize("backend", some(BACKENDS, "graph"))
def test_subclassed_model_with_dropout_and_batch_norm_as_fit(backend):
    keras.utils.set_random_seed(1)
    # XLA draws random numbers of its own, in `fit` as here.
    jit_compile = backend == "xla"
    assert_as_fit(compiled(Subclassed(), jit_compile=jit_compile), backend)


@pytest.mark.parametrize("backend", some(BACKENDS, "xla"))
def test_functional_convolutions_as_fit(backend):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x)) + x
    x = keras.layers.Flatten()(keras.layers.MaxPooling2D()(x))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    assert_as_fit(compiled(model), backend, shape=(6, 6, 1))


def test_mixed_precision_as_fit():
    keras.utils.set_random_seed(1)
    policy = "mixed_float16"
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(16, "relu", dtype=policy),
            keras.layers.Dense(3, dtype=policy),
        ]
    )
    model.dtype_policy = keras.DTypePolicy(policy)
    compiled(model)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert_as_fit(model, "graph", tolerance=1e-3)


class Mask(keras.constraints.Constraint):
    def __init__(self, shape):
        self.mask = tf.Variable(np.ones(shape, bool), trainable=False)

    def __call__(self, kernel):
        return keras.ops.where(self.mask, kernel, 0)


@pytest.fixture(scope="module", params=BACKENDS)
def shared(request):
    """One compiled loop a backend, on a model whose first kernel is masked."""
    model = dense(keras.optimizers.SGD(1.5, momentum=0.9))
    kernel = model.layers[0].kernel
    kernel.constraint = Mask(kernel.shape)
    loop = loop_on(model, request.param)
    loop.evaluate("validation")
    return loop, state(model)


@pytest.fixture
def loop(shared):
    """The shared loop, as it was made."""
    loop, begin = shared
    restore(loop.model, begin)
    kernel = loop.model.layers[0].kernel
    kernel.constraint.mask.assign(np.ones(kernel.shape, bool))
    loop.set_data(data(100), data(30, seed=1))
    return loop


def test_new_weights_masks_seeds_and_starts_compile_nothing(loop):
    model = loop.model
    kernel = model.layers[0].kernel
    loop.train(12, seed=0)
    traces = loop.traces
    assert traces >= 2
    mask = np.random.default_rng(0).random(kernel.shape) < 0.5
    kernel.constraint.mask.assign(mask)
    model.set_weights([np.full_like(w, 0.1) for w in model.get_weights()])
    for start in (0, 3):
        loop.train(23, seed=1, start=start)
        loop.evaluate(data(30, seed=2), weights=model.get_weights())
        assert (kernel.numpy()[~mask] == 0).all()
        assert (kernel.numpy()[mask] != 0).all()
    assert loop.traces == traces


def test_a_constraint_installed_after_training_is_obeyed():
    model = dense()
    loop = loop_on(model)
    loop.train(5, seed=0)
    kernel = model.layers[0].kernel
    kernel.constraint = Mask(kernel.shape)
    kernel.constraint.mask.assign(np.zeros(kernel.shape, bool))
    loop.train(5, seed=0)
    assert (kernel.numpy() == 0).all()


def test_training_from_the_middle_gives_the_same_bits(loop):
    model = loop.model
    begin = state(model)
    whole = loop.train(20, seed=5)
    end = state(model)
    restore(model, begin)
    head = loop.train(7, seed=5)
    tail = loop.train(20, seed=5, start=7)
    for a, b in zip(end, state(model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert whole.iterations.tolist() == [5, 10, 15, 20]
    assert head.iterations.tolist() == [5, 7]
    assert tail.iterations.tolist() == [10, 15, 20]
    np.testing.assert_array_equal(tail.val_loss, whole.val_loss[1:])


def test_early_stop_weights_are_those_of_the_minimum(loop):
    model = loop.model
    run = loop.train(60, seed=0)
    best = int(np.argmin(run.val_loss))
    assert 0 < best < len(run.iterations) - 1
    assert run.early_stop_iteration == run.iterations[best]
    final = model.get_weights()
    loss, accuracy = loop.evaluate(
        data(30, seed=1), weights=run.early_stop_weights
    )
    assert loss == run.val_loss[best]
    assert accuracy == run.val_accuracy[best]
    assert loss < loop.evaluate(data(30, seed=1))[0]
    for a, b in zip(final, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_early_stop_at_the_maximum_accuracy_if_that_is_the_metric():
    model = dense(keras.optimizers.SGD(1.5, momentum=0.9))
    loop = loop_on(model, early_stop_metric="val_accuracy")
    run = loop.train(60, seed=0)
    best = int(np.argmax(run.val_accuracy))
    assert run.early_stop_iteration == run.iterations[best]
    assert best != int(np.argmin(run.val_loss))


def test_an_accuracy_that_is_not_measured_is_refused_as_the_metric():
    model = keras.Sequential([keras.Input((6,)), *dense_layers()])
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    with pytest.raises(ValueError, match="needs a model compiled with"):
        loop_on(model, early_stop_metric="val_accuracy").train(5, seed=0)


def test_visits_are_made_after_exactly_so_many_steps():
    model = dense()
    loop = loop_on(model)
    loop.evaluate(data(30))
    begin = state(model)
    loop.train(20, seed=0)
    end = state(model)
    restore(model, begin)
    seen = []
    visits = {
        step: lambda: seen.append(int(model.optimizer.iterations))
        for step in (3, 5, 11, 20, 21)
    }
    loop.train(20, seed=0, visits=visits)
    assert seen == [3, 5, 11, 20]
    for a, b in zip(end, state(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_data_of_the_same_shape_compile_nothing(loop):
    model = loop.model
    model.optimizer.learning_rate = 0.0
    first = loop.train(5, seed=0)
    traces = loop.traces
    loop.set_data(data(100, seed=5), data(30, seed=6))
    second = loop.train(5, seed=0)
    assert loop.traces == traces
    expected = model.evaluate(*data(30, seed=6), verbose=0)
    np.testing.assert_allclose(
        (second.val_loss[0], second.val_accuracy[0]), expected, rtol=1e-5
    )
    assert first.val_loss[0] != second.val_loss[0]
    assert first.train_loss[0] != second.train_loss[0]


def test_the_first_of_equal_losses_is_the_early_stop():
    model = dense(keras.optimizers.SGD(0.0))
    assert loop_on(model).train(20, seed=0).early_stop_iteration == 5


def test_only_weights_from_the_first_eligible_iteration_on_are_kept():
    variable = tf.Variable([0.0])
    recorder = Recorder("val_loss", KeptWeights([variable]), first=3)
    for iteration, loss in enumerate((0.1, 0.2, 0.5, 0.4, 0.4, np.nan), 1):
        variable.assign([float(iteration)])
        recorder.add(iteration, loss, 0.9, 1.0)
    run = recorder.training()
    assert run.early_stop_iteration == 4 and run.diverged == 6
    assert run.early_stop_weights == [[4.0]]
    assert run.val_loss[:5].tolist() == [0.1, 0.2, 0.5, 0.4, 0.4]


def test_evaluation_as_keras():
    model = dense()
    loop = loop_on(model)
    for examples in (1, 499, 500, 1203):
        x, y = data(examples, seed=4)
        loss, accuracy = loop.evaluate((x, y))
        expected = model.evaluate(x, y, verbose=0)
        np.testing.assert_allclose((loss, accuracy), expected, rtol=1e-5)


def test_accuracy_is_nan_without_an_accuracy_metric():
    model = keras.Sequential([keras.Input((6,)), *dense_layers()])
    model.compile("sgd", "mse")
    x, y = data()
    y = np.eye(3)[y]
    loss, accuracy = Loop(model, (x, y), (x, y)).evaluate((x, y))
    assert np.isfinite(loss) and np.isnan(accuracy)


@pytest.mark.parametrize("backend", ("graph", "fit"))
def test_sets_are_evaluated_by_name(backend):
    model = dense()
    sets = data(100), data(30, seed=1), data(20, seed=2)
    loop = Loop(model, *sets, batch_size=BATCH, backend=backend)
    weights = [w + 0.1 for w in model.get_weights()]
    for name, pair in zip(("train", "validation", "test"), sets):
        assert loop.evaluate(name) == loop.evaluate(pair)
        assert loop.evaluate(name, weights) == loop.evaluate(pair, weights)
    for given in (None, weights):
        assert loop.evaluate(["train", sets[2]], given) == [
            loop.evaluate(pair, given) for pair in sets[::2]
        ]
    loop.set_data(sets[0], sets[2])
    assert loop.evaluate("validation") == loop.evaluate(sets[2])
    with pytest.raises(ValueError, match="data='test'"):
        loop.evaluate("test")


def test_divergence_ends_the_training_and_is_said():
    model = dense(keras.optimizers.SGD(1e30))
    run = loop_on(model).train(100, seed=0)
    assert run.diverged == run.iterations[-1] < 100
    assert np.isnan(run.val_loss[-1])
    assert np.isfinite(run.val_loss[:-1]).all()
    assert dense() and loop_on(dense()).train(5, seed=0).diverged is None


def test_progress_is_reported_and_may_interrupt():
    seen = []

    def progress(iteration):
        seen.append(iteration)
        if iteration >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop_on(dense()).train(1000, seed=0, progress=progress)
    assert seen == sorted(set(seen)) and seen[-1] == 10


def test_float64_and_nested_inputs():
    keras.utils.set_random_seed(1)
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    logits = keras.layers.Dense(3)(keras.layers.Concatenate()([a, b]))
    model = compiled(keras.Model({"a": a, "b": b}, logits))
    x, y = data()
    pair = ({"a": x.astype("float64"), "b": x}, y)
    loop = Loop(model, pair, pair, batch_size=BATCH, backend="graph")
    run = loop.train(200, seed=0)
    assert run.val_loss[-1] < run.val_loss[0]


class OwnStep(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


class Wrapped(keras.Sequential):
    """As a wrapped model: a subclass the package itself made."""

    def train_step(self, data):
        return super().train_step(data)


Wrapped.__module__ = "keras_lottery.wrapping"


def test_unsupported_names_the_reason():
    x, y = data()
    layers = [keras.Input((6,)), *dense_layers()]
    assert unsupported(dense(), x, y) is None
    assert unsupported(compiled(Wrapped(layers)), x, y) is None
    assert "not compiled" in unsupported(keras.Sequential(layers))
    assert "OwnStep" in unsupported(compiled(OwnStep(layers)))
    assert "run_eagerly" in unsupported(dense(run_eagerly=True))
    assert "class_weight" in unsupported(dense(), class_weight={0: 1.0})
    assert "callbacks" in unsupported(
        dense(), callbacks=[keras.callbacks.EarlyStopping()]
    )
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    assert "not arrays" in unsupported(dense(), dataset)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"batch_size": 101}, "batch_size=101"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"eval_every": 0}, "eval_every=0"),
        ({"backend": "fast"}, "backend='fast'"),
        ({"early_stop_metric": "loss"}, "early_stop_metric='loss'"),
        ({"train": data()[0]}, "`train` must be a pair"),
        ({"validation": (data()[0], data()[1][:5])}, "lengths"),
        (
            {"validation": data(30, (7,))},
            r"`validation` must have the structure.*float32\(None, 6\)"
            r".*Received.*float32\(None, 7\)",
        ),
        ({"test": ({"a": data()[0]}, data()[1])}, "`test` must have the"),
        ({"test": (data()[0], data()[1] + 0.5)}, "`test` must have the"),
        (
            {"model": compiled(OwnStep(dense_layers())), "backend": "xla"},
            '`backend` must be "fit", since OwnStep has a `train_step`',
        ),
    ],
)
def test_wrong_arguments_are_refused(kwargs, message):
    good = {"model": dense(), "train": data(), "validation": data(10)}
    with pytest.raises(ValueError, match=message):
        Loop(**{**good, **kwargs})


def test_wrong_start_is_refused():
    with pytest.raises(ValueError, match="start=5, iterations=5"):
        loop_on(dense()).train(5, seed=0, start=5)
    with pytest.raises(ValueError, match="`iterations` must be an integer"):
        loop_on(dense()).train(5.0, seed=0)


@pytest.mark.parametrize("backend", (*BACKENDS, "sparse"))
def test_all_sets_take_the_dtype_of_the_training_data(backend):
    found = []
    for dtype in ("int32", "int64", "float64"):
        model, (x, y) = dense(), data(30, seed=1)
        validation = x.astype("float64"), y.astype(dtype)
        loop = Loop(model, data(), validation, None, BATCH, 5, backend=backend)
        found.append(
            [*loop.train(5, seed=0).val_loss, *loop.evaluate(validation)]
        )
    assert found[0] == found[1] == found[2]
    with pytest.raises(ValueError, match="`data` must have the structure"):
        loop.evaluate((x[:, :4], y))


def test_a_model_that_is_compiled_again_has_its_backend_chosen_again():
    loop = loop_on(dense(), "auto")
    loop.train(5, seed=0)
    assert loop.backend == "sparse_or_xla"
    compiled(loop.model, "rmsprop")
    loop.train(5, seed=0)
    assert loop.backend == "xla"
    compiled(loop.model, run_eagerly=True)
    loop.train(5, seed=0)
    assert loop.backend == "fit"
