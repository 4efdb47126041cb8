"""Sparse kernels train as the dense backends do, on surviving weights alone."""

import contextlib
import functools
import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import some
from test_training import restore, state

import keras_lottery
from keras_lottery.constraints import TicketMask
from keras_lottery.training import Loop

pytest.importorskip("numba")

# ruff: noqa: E402
from keras_lottery import keras_internals
from keras_lottery.training import sparse_kernels as kernels
from keras_lottery.training.sparse import SparseSteps

BATCH, EXAMPLES, STEPS = 10, 60, 200
# Weights agree to this, in each dtype; the slots grow with the gradients.
TOLERANCE = {"float32": 2e-4, "float64": 1e-10}

schedules = keras.optimizers.schedules
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(
        schedules.PiecewiseConstantDecay([50, 120], [0.1, 0.03, 0.01]),
        momentum=0.9,
        weight_decay=0.01,
        clipvalue=0.01,
    ),
    "nesterov": lambda: keras.optimizers.SGD(
        0.05, momentum=0.9, nesterov=True, global_clipnorm=0.1
    ),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adam, clipped": lambda: keras.optimizers.Adam(
        schedules.InverseTimeDecay(0.01, 50, 0.5), clipnorm=0.05
    ),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
}
LOSSES = {
    "labels": (
        keras.losses.SparseCategoricalCrossentropy,
        "accuracy",
        lambda y: y,
    ),
    "one-hot": (
        keras.losses.CategoricalCrossentropy,
        "accuracy",
        lambda y: np.eye(3)[y],
    ),
    "binary": (
        keras.losses.BinaryCrossentropy,
        "binary_accuracy",
        lambda y: np.eye(3)[y],
    ),
    "squared": (
        keras.losses.MeanSquaredError,
        keras.metrics.CategoricalAccuracy(name="accuracy"),
        lambda y: np.eye(3)[y],
    ),
}


@contextlib.contextmanager
def in_dtype(dtype):
    """Context manager: models, losses and data are of a dtype."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


def network(activation="relu", l2=0.0, output=None):
    """6-20-17-3, wrapped: rows of weights of either side of a vector."""
    keras.utils.set_random_seed(1)
    decay = keras.regularizers.L2(l2) if l2 else None
    layers = keras.layers
    return keras_lottery.wrap(
        keras.Sequential(
            [
                keras.Input((2, 3)),
                layers.Rescaling(0.5, 0.1),
                layers.Flatten(),
                layers.Dense(20, activation, kernel_regularizer=decay),
                layers.Dropout(0.0),
                layers.Dense(17, use_bias=False),
                layers.Activation("tanh"),
                layers.Dense(3, output, bias_regularizer=decay),
            ]
        )
    )


def data(target=lambda y: y, examples=EXAMPLES, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, 2, 3)).astype("float32")
    y = np.argmax(x.reshape(examples, -1)[:, :3], 1)
    return x, target(y)


class Pair:
    """One model, trained by a dense backend and by sparse kernels."""

    def __init__(
        self,
        optimizer,
        loss="labels",
        batch_size=BATCH,
        dense="graph",
        **options,
    ):
        self.model = network(**options)
        kind, accuracy, target = LOSSES[loss]
        arguments = {} if loss == "squared" else {"from_logits": True}
        if options.get("output"):
            arguments = {}
        self.model.compile(optimizer, kind(**arguments), metrics=[accuracy])
        sets = data(target), data(target, 25, seed=1)
        self.loops = {
            backend: Loop(
                self.model,
                *sets,
                batch_size=batch_size,
                eval_every=70,
                backend=backend,
            )
            for backend in (dense, "sparse")
        }
        self.loops[dense].evaluate("train")
        self.begin = state(self.model)

    def start(self, masks):
        """Puts the model where trainings begin, under masks."""
        restore(self.model, self.begin)
        attachment = self.model.lottery.attachment
        paths = self.model.lottery.masks
        attachment.assign_masks(dict(zip(paths, masks)))
        attachment.apply_masks()

    def assert_agree(self, masks, steps=STEPS):
        """Both end in the same state, with the same curves."""
        ends = []
        for loop in self.loops.values():
            self.start(masks)
            training = loop.train(steps, seed=3)
            ends.append((state(self.model), training, loop.evaluate("train")))
        (ours, run, measured), (theirs, expected, dense) = reversed(ends)
        tolerance = TOLERANCE[keras.config.floatx()]
        near = functools.partial(
            np.testing.assert_allclose, rtol=tolerance, atol=tolerance
        )
        for a, b in zip(ours, theirs, strict=True):
            near(a, b)
        for a, b in zip(
            run.early_stop_weights, expected.early_stop_weights, strict=True
        ):
            near(a, b)
        for curve in ("iterations", "val_loss", "val_accuracy", "train_loss"):
            # Keras adds up losses in float32.
            np.testing.assert_allclose(
                getattr(run, curve), getattr(expected, curve), rtol=1e-4
            )
        np.testing.assert_allclose(measured, dense, rtol=1e-4)
        assert run.early_stop_iteration == expected.early_stop_iteration
        return ours


def random_masks(density, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.random(shape) < density for shape in SHAPES]


SHAPES = [(6, 20), (20, 17), (17, 3)]


@st.composite
def masks(draw):
    """Masks that leave dead units, empty rows and columns, one weight, none."""
    found = []
    for shape in SHAPES:
        seed = draw(st.integers(0, 2**16))
        density = draw(st.sampled_from([0.05, 0.3, 0.9, 1.0]))
        mask = np.random.default_rng(seed).random(shape) < density
        kind = draw(
            st.sampled_from(["all", "inputs", "outputs", "one", "none"])
        )
        if kind == "inputs":
            mask[draw(st.integers(0, shape[0] - 1)) :] = False
        elif kind == "outputs":
            mask[:, : draw(st.integers(1, shape[1]))] = False
        elif kind in ("one", "none"):
            mask[:] = False
        if kind == "one":
            mask[draw(st.integers(0, shape[0] - 1)), 0] = True
        found.append(mask)
    return found


# Two of the many, one with most of what there is.
@pytest.mark.parametrize(
    "name, dtype",
    some(
        itertools.product(OPTIMIZERS, TOLERANCE),
        ("adam", "float32"),
        ("momentum", "float32"),
    ),
)
def test_every_optimizer_and_any_masks(name, dtype):
    with in_dtype(dtype):
        pair = Pair(OPTIMIZERS[name](), l2=0.02 if "momentum" in name else 0.0)

        @settings(max_examples=3 if dtype == "float32" else 15, deadline=None)
        @given(masks())
        def agree(masks):
            pair.assert_agree(masks)

        agree()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "activation", ["leaky_relu", "elu", "tanh", "sigmoid", "linear"]
)
def test_every_loss_and_activation(loss, activation, dtype):
    with in_dtype(dtype):
        output = {"labels": "softmax", "binary": "sigmoid"}.get(loss)
        if activation == "tanh":
            output = "elu" if loss == "squared" else None
        pair = Pair(
            keras.optimizers.SGD(0.1, momentum=0.5),
            loss,
            activation=activation,
            output=output,
        )
        pair.assert_agree(random_masks(0.5))


@pytest.mark.parametrize("batch_size", some([5, 64, 100], 100))
def test_any_batch_and_any_number_of_threads(batch_size):
    """Batches that fill no vector, one, and some of the second."""
    sets = data(examples=120), data(examples=70, seed=1)
    optimizer = keras.optimizers.Adam(0.01, global_clipnorm=0.5)
    pair = Pair(optimizer, l2=0.01)
    model, ends = pair.model, []
    for threads in (1, 2, 3):
        pair.start(random_masks(0.6))
        loop = Loop(
            model, *sets, batch_size=batch_size, eval_every=15, backend="sparse"
        )
        loop.choose_backend()
        loop._compiled["sparse"] = SparseSteps(model, batch_size, threads)
        run = loop.train(30, seed=0)
        ends.append([*state(model), run.val_loss, run.train_loss])
    for other in ends[1:]:
        for a, b in zip(ends[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    if batch_size == 100:
        pair.start(random_masks(0.6))
        dense = Loop(
            model, *sets, batch_size=batch_size, eval_every=15, backend="graph"
        )
        run = dense.train(30, seed=0)
        for a, b in zip(ends[0], state(model)):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(ends[0][-2], run.val_loss, rtol=1e-5)


@pytest.fixture(scope="module")
def adam():
    return Pair(keras.optimizers.Adam(0.05))


def test_training_from_the_middle_gives_the_same_bits(adam):
    model, loop = adam.model, adam.loops["sparse"]
    adam.start(random_masks(0.5))
    whole = loop.train(140, seed=5)
    end = state(model)
    adam.start(random_masks(0.5))
    visited = {}
    loop.train(30, seed=5, visits={13: lambda: visited.update(at=state(model))})
    restore(model, visited["at"])
    tail = loop.train(140, seed=5, start=13)
    for a, b in zip(end, state(model), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(tail.val_loss, whole.val_loss)


def test_pruned_weights_and_their_slots_are_zero(adam):
    model, masks = adam.model, random_masks(0.4, seed=2)
    adam.start(masks)
    adam.loops["sparse"].train(20, seed=0)
    kernels = [w for w in model.get_weights() if w.ndim == 2]
    slots = [v.numpy() for v in model.optimizer.variables if len(v.shape) == 2]
    moved = 0
    for array in (*kernels, *slots):
        (mask,) = (m for m in masks if m.shape == array.shape)
        if array.dtype != bool:
            assert (array[~mask] == 0).all()
            moved += (array[mask] != 0).any()
    assert moved == 9 and int(model.optimizer.iterations) == 20


def test_whole_units_under_masks_are_as_units_that_are_not_there(adam):
    """Law 3: the smaller network trains to the same weights."""
    first, second = np.arange(20) % 3 > 0, np.arange(17) % 2 > 0
    masks = [np.ones(shape, bool) for shape in SHAPES]
    masks[0][:, ~first] = masks[1][~first] = False
    masks[1][:, ~second] = masks[2][~second] = False
    adam.start(masks)
    big = [w for w in adam.model.get_weights()]
    layers = keras.layers
    small = keras.Sequential(
        [
            keras.Input((2, 3)),
            layers.Rescaling(0.5, 0.1),
            layers.Flatten(),
            layers.Dense(int(first.sum()), "relu"),
            layers.Dense(int(second.sum()), "tanh", use_bias=False),
            layers.Dense(3),
        ]
    )

    def cut(weights):
        kernel, bias, middle, last, final = weights
        return [
            kernel[:, first],
            bias[first],
            middle[np.ix_(first, second)],
            last[second],
            final,
        ]

    small.set_weights(cut(big))
    small.compile(
        keras.optimizers.Adam(0.05),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    loop = Loop(
        small, data(), data(), batch_size=BATCH, eval_every=70, backend="graph"
    )
    loop.train(50, seed=3)
    adam.loops["sparse"].train(50, seed=3)
    for a, b in zip(
        cut(adam.model.get_weights()), small.get_weights(), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def test_weights_that_no_mask_knows_are_evaluated_all(adam):
    adam.start(random_masks(0.3))
    weights = [w + 0.1 for w in adam.model.get_weights()]
    sparse, dense = (
        adam.loops[backend].evaluate("train", weights)
        for backend in ("sparse", "graph")
    )
    np.testing.assert_allclose(sparse, dense, rtol=1e-5)


def test_a_loss_that_is_nan_ends_the_training():
    pair = Pair(keras.optimizers.SGD(1e30))
    pair.start(random_masks(0.5))
    run = pair.loops["sparse"].train(STEPS, seed=0)
    assert run.diverged == run.iterations[-1] == 70


def test_labels_without_an_output_are_refused(adam):
    adam.start(random_masks(0.5))
    x, y = data()
    loop = Loop(
        adam.model, (x, y + 1), (x, y), batch_size=BATCH, backend="sparse"
    )
    with pytest.raises(ValueError, match="labels below 3"):
        loop.train(5, seed=0)


STRUCTURES = {
    "plain": lambda value: value,
    "list": lambda value: [value],
    "dict": lambda value: {"x": value},
}


def test_inputs_in_a_structure_of_one_are_taken():
    (x, y), curves = data(), []
    for structure in STRUCTURES.values():
        keras.utils.set_random_seed(0)
        inputs = keras.Input((2, 3), name="x")
        outputs = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
        model = keras.Model(structure(inputs), outputs)
        model.compile("sgd", "mse")
        examples = structure(x), np.eye(3)[y]
        loop = Loop(model, examples, examples, None, BATCH, backend="sparse")
        curves.append(loop.train(5, seed=0).val_loss)
    assert curves[0] == curves[1] == curves[2]


def test_targets_that_the_loss_broadcasts_are_left_to_keras():
    x, y = data()
    model = network()
    model.compile("sgd", "mse")
    sets = (x, y[:, None].astype("float32")), (x, y[:, None].astype("float32"))
    loop = Loop(model, *sets, batch_size=BATCH)
    loop.train(5, seed=0)
    assert loop.backend == "xla"
    with pytest.raises(ValueError, match=r"targets have the shape \(None, 1\)"):
        Loop(model, *sets, batch_size=BATCH, backend="sparse").train(5, seed=0)


def test_another_mask_of_a_bias_alone_counts():
    model = Pair(keras.optimizers.SGD(0.1)).model
    bias = model.layers[2].bias
    bias.constraint = TicketMask((20,))
    x, y = data()
    loop = Loop(model, (x, y), (x, y), batch_size=BATCH, backend="sparse")
    loop.train(5, seed=0)
    mask = np.arange(20) % 2 == 0
    bias.constraint.assign(mask)
    bias.assign(np.where(mask, bias.numpy(), 0))
    loop.train(10, seed=0, start=5)
    assert not bias.numpy()[~mask].any() and bias.numpy()[mask].all()


@pytest.mark.parametrize("threads", (1, 2))
def test_an_interrupt_while_kernels_run_counts_their_steps(
    adam, threads, monkeypatch
):
    adam.start(random_masks(0.5))
    steps = SparseSteps(adam.model, BATCH, threads)
    x, y = adam.loops["sparse"]._train_data
    indices = np.arange(5 * BATCH, dtype="int32").reshape(5, BATCH) % len(x)
    steps.load()
    train = kernels.train

    def interrupted(*arguments):
        train(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(kernels, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        steps.train(5, indices, (x, y))
    steps.store()
    ended = state(adam.model)
    monkeypatch.undo()
    adam.start(random_masks(0.5))
    steps.load()
    steps.train(5, indices, (x, y))
    steps.store()
    for a, b in zip(ended, state(adam.model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_interrupted_training_leaves_what_it_came_to(adam):
    adam.start(random_masks(0.5))

    def interrupt(iteration):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adam.loops["sparse"].train(100, seed=0, progress=interrupt)
    assert int(adam.model.optimizer.iterations) > 0


def test_numbers_too_small_for_an_exponent_are_zero_in_kernels_alone(adam):
    """They are slow; a slot that decays would stay at the smallest of all."""
    masks = random_masks(0.5)
    adam.start(masks)
    tiny = np.float32(1e-40)
    slots = keras_internals.adam_slots(adam.model.optimizer)[0]
    # Of an input that is always zero no gradient comes.
    x, y = data()
    x[:, 0, 0] = -0.2
    slots[0].assign(np.where(masks[0], tiny, 0).astype("float32"))
    loop = Loop(adam.model, (x, y), (x, y), batch_size=BATCH, backend="sparse")
    loop.train(1, seed=0)
    assert (slots[0].numpy()[0] == 0).all() and slots[0].numpy().any()
    assert np.float32(1e-20) * np.float32(1e-20) == tiny
