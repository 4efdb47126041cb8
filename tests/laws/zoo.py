"""What the tests of the laws train: models and optimizers of every kind.

Nothing here asks the package what it thinks: states are read by walking
attributes, masks are found by comparing arrays.
"""

import dataclasses
import functools

import keras
import numpy as np
import pytest
import zoo_steps
from zoo_models import KINDS, TOKENS

import keras_lottery

# The others are much like one of these.
SOME_KINDS = [
    pytest.param(kind, marks=pytest.mark.slow)
    if kind in ("convolutions_1d_and_3d", "lists", "own_call", "constrained")
    else kind
    for kind in KINDS
]

SAMPLES, BATCH, EPOCHS = 24, 8, 2

# Of `fit`, for models of which one was trained before: but on TensorFlow a
# global random state orders the examples (NumPy's on JAX, PyTorch's own), and
# `fit` draws an order more to build metrics.
SAME_ORDER = {"shuffle": zoo_steps.BACKEND == "tensorflow"}
STEPS = EPOCHS * SAMPLES // BATCH


def data(kind="sequential", samples=SAMPLES, seed=7):
    """(x, y) for a kind of model."""
    draw, kind = np.random.default_rng(seed), KINDS[kind]

    def array(shape):
        if shape == TOKENS:
            return draw.integers(0, 11, (samples, 5)).astype("int32")
        shape = shape if isinstance(shape, tuple) else (shape,)
        return draw.normal(size=(samples, *shape)).astype("float32")

    def of(spec):
        if isinstance(spec, dict):
            return {name: array(shape) for name, shape in spec.items()}
        if isinstance(spec, list):
            return [array(shape) for shape in spec]
        return array(spec)

    return of(kind.x), of(kind.y)


def build(kind="sequential", seed=3):
    """A model, the same at every call."""
    if kind == "adversaries" and zoo_steps.BACKEND == "jax":
        pytest.skip("Keras' JAX trainer carries the state of one optimizer.")
    policy = keras.config.dtype_policy()
    keras.backend.clear_session(free_memory=False)
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(seed)
    return KINDS[kind].build()


def compiled(kind="sequential", optimizer=None, wrap=None, seed=3, **options):
    """`build`, wrapped if `wrap` holds its arguments, compiled with mse."""
    several = options.get("steps_per_execution", 1) > 1
    if several and zoo_steps.BACKEND == "torch":
        pytest.skip("Keras' PyTorch trainer executes one step at a time.")
    if options.get("jit_compile") and zoo_steps.BACKEND == "torch":
        pytest.skip("PyTorch's compiler takes minutes.")
    model = build(kind, seed)
    if wrap is not None:
        model = keras_lottery.wrap(model, rates=KINDS[kind].rates, **wrap)
    if optimizer is None:
        optimizer = keras.optimizers.Adam(0.05)
    loss = keras.tree.map_structure(lambda _: "mse", KINDS[kind].y)
    model.compile(optimizer=optimizer, loss=loss, **options)
    return model


def fit(model, kind="sequential", **arguments):
    """Trains as all tests here do: two epochs of three batches."""
    x, y = data(kind)
    arguments = {"epochs": EPOCHS, "batch_size": BATCH, **arguments}
    return model.fit(x, y, verbose=0, **arguments)


# Optimizers.


def _multi(matrices=None, **options):
    scale = options.pop("loss_scale_factor", None)
    matrices = matrices or keras.optimizers.Adam
    kinds = [
        matrices(0.02, name="for_matrices", **options),
        keras.optimizers.SGD(0.02, momentum=0.9, name="for_others", **options),
    ]
    return keras.optimizers.MultiOptimizer(
        lambda variable: kinds[len(variable.shape) < 2],
        loss_scale_factor=scale,
    )


def _loss_scaled(inner=None, **options):
    inner = inner or keras.optimizers.Adam
    return keras.optimizers.LossScaleOptimizer(
        inner(0.02, **options), initial_scale=64.0
    )


def _of(name, *args, **own):
    kind = getattr(keras.optimizers, name, None)
    return lambda **options: kind(*args, **{**own, **options})


OPTIMIZERS = {
    "SGD": _of("SGD", 0.1),
    "SGD momentum": _of("SGD", 0.05, momentum=0.9),
    "SGD nesterov": _of("SGD", 0.05, momentum=0.9, nesterov=True),
    "RMSprop": _of("RMSprop", 0.02),
    "RMSprop centered": _of("RMSprop", 0.02, centered=True, momentum=0.9),
    "Adam": _of("Adam", 0.02),
    "Adam amsgrad": _of("Adam", 0.02, amsgrad=True),
    "AdamW": _of("AdamW", 0.02, weight_decay=0.1),
    "Adadelta": _of("Adadelta", 1.0),
    "Adafactor": _of("Adafactor", 0.05),
    "Adagrad": _of("Adagrad", 0.1),
    "Adamax": _of("Adamax", 0.02),
    "Ftrl": _of(
        "Ftrl",
        0.1,
        l1_regularization_strength=0.01,
        l2_regularization_strength=0.01,
        l2_shrinkage_regularization_strength=0.01,
    ),
    "Lamb": _of("Lamb", 0.02),
    "Lion": _of("Lion", 0.01),
    "LossScaleOptimizer": _loss_scaled,
    "LossScaleOptimizer of Adafactor": functools.partial(
        _loss_scaled, keras.optimizers.Adafactor
    ),
    "MultiOptimizer": _multi,
    "MultiOptimizer with Muon": functools.partial(
        _multi, keras.optimizers.Muon
    ),
    "Muon": _of("Muon", 0.02),
    "Nadam": _of("Nadam", 0.02),
    "ScheduleFreeAdamW": _of("ScheduleFreeAdamW", 0.02),
}
# Keras has them since 3.14 and 3.15.
for _name in ("ScheduleFreeAdamW", "MultiOptimizer"):
    if not hasattr(keras.optimizers, _name):
        OPTIMIZERS = {n: m for n, m in OPTIMIZERS.items() if _name not in n}


def available(*names):
    """Those of the names of `OPTIMIZERS` that this version of Keras has."""
    return [name for name in names if name in OPTIMIZERS]


# Two options at a time where they do not meet.
OPTIONS = {
    "plain": {},
    "clipnorm": {"clipnorm": 0.05, "weight_decay": 0.2},
    "clipvalue": {"clipvalue": 0.01, "loss_scale_factor": 8.0},
    "global_clipnorm": {
        "global_clipnorm": 0.05,
        "gradient_accumulation_steps": 2,
    },
    "use_ema": {"use_ema": True, "ema_momentum": 0.5},
    "ema_overwrite_frequency": {
        "use_ema": True,
        "ema_momentum": 0.5,
        "ema_overwrite_frequency": 2,
        "weight_decay": 0.2,
    },
}


# What every optimizer is crossed with; the last has all that `use_ema` does.
CROSSED = [name for name in OPTIONS if name != "use_ema"]


def kinds_of_optimizers():
    """Names of all optimizer classes that Keras offers."""
    return {
        name
        for name, value in vars(keras.optimizers).items()
        if isinstance(value, type)
        and issubclass(value, keras.optimizers.Optimizer)
        and value is not keras.optimizers.Optimizer
    }


def meet(model):
    """Shows a wrapped model the optimizer it was compiled with, as `fit`."""
    if hasattr(model, "lottery"):
        model.make_train_function()


def train_eagerly(model, optimizer, x, y, steps=3, after_step=None):
    """A custom loop, nothing traced. Returns the losses."""
    variables, losses = model.trainable_variables, []
    meet(model)
    if not optimizer.built:
        # A loss is scaled by what only exists once it is built.
        if not model.built:
            model(x[:1])
            variables = model.trainable_variables
        optimizer.build(variables)

    def scaled():
        error = keras.ops.subtract(model(x, training=True), y)
        return optimizer.scale_loss(keras.ops.mean(keras.ops.square(error)))

    for _ in range(steps):
        scale = keras.ops.convert_to_numpy(optimizer.scale_loss(1.0))
        loss, gradients = zoo_steps.gradients(
            scaled, variables, model.non_trainable_variables
        )
        zoo_steps.apply(optimizer, gradients, variables)
        losses.append(float(keras.ops.convert_to_numpy(loss)) / float(scale))
        if after_step:
            after_step()
    return losses


# States, read without the package's help.


def weights(model):
    """List of copies of every variable of the model."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]


def optimizer_variables(optimizer):
    """Dict of every variable that hangs on an optimizer, by attribute.

    Not by `optimizer.variables`: Keras does not list all.
    """
    found = {}

    def visit(value, name):
        if isinstance(value, keras.Variable):
            found[name] = value
        elif isinstance(value, keras.optimizers.Optimizer):
            visit_attributes(value, name)
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                visit(item, f"{name}[{i}]")

    def visit_attributes(owner, name):
        for attribute, value in vars(owner).items():
            # Lists of what has an attribute of its own, or is no slot.
            if attribute not in ("_trainable_variables", "_variables"):
                visit(value, f"{name}.{attribute}")

    visit_attributes(optimizer, "")
    return found


def optimizer_state(optimizer):
    """Dict of copies of `optimizer_variables`."""
    return {
        name: np.array(keras.ops.convert_to_numpy(variable))
        for name, variable in optimizer_variables(optimizer).items()
    }


def optimizer_states(model):
    """`optimizer_state` of every optimizer of a model, by attribute."""
    return {
        name: optimizer_state(value)
        for name, value in vars(model).items()
        if isinstance(value, keras.optimizers.Optimizer)
    }


def same(a, b):
    """Whether two nests of arrays are equal bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(u, v) for u, v in zip(a, b))
    a, b = _array(a), _array(b)
    return (
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    )


def _array(value):
    if keras.ops.is_tensor(value):
        value = keras.ops.convert_to_numpy(value)
    return np.asarray(value)


def masked(model, arrays, masks):
    """What `weights` must be: `arrays`, zero where a mask is False."""
    result = []
    for variable, array in zip(model.variables, arrays):
        if variable.path in masks:
            array = array * masks[variable.path].astype(array.dtype) + 0.0
        result.append(array)
    return result


def kernels(model):
    """Dict, path -> variable, of what is masked."""
    return {v.path: v for v in weighted(model, model.lottery)}


def weighted(model, pruner):
    """The variables that a pruner masks."""
    masks = pruner.masks
    return [v for v in model.trainable_variables if v.path in masks]


def assert_zero(model):
    """Every pruned weight is exactly 0, and there are such."""
    pruned, masks = 0, model.lottery.masks
    for path, variable in kernels(model).items():
        dead = ~masks[path]
        values = keras.ops.convert_to_numpy(variable)[dead]
        assert not np.any(values != 0), f"{path}: {values[values != 0][:5]}"
        pruned += dead.sum()
    assert pruned


class Recorder(keras.callbacks.Callback):
    """Writes down how each level starts, goes and ends."""

    def __init__(self):
        super().__init__()
        self.starts, self.ends, self.masks, self.violations = [], [], [], []

    def state(self):
        return weights(self.model), optimizer_states(self.model)

    def on_train_begin(self, logs=None):
        self.starts.append(self.state())

    def on_train_batch_end(self, batch, logs=None):
        self.check(f"batch {batch}")

    def on_epoch_end(self, epoch, logs=None):
        self.check(f"epoch {epoch}")

    def on_train_end(self, logs=None):
        self.check("the end")
        self.ends.append(self.state())
        if isinstance(self.model, keras_lottery.wrapping.LotteryModel):
            self.masks.append(self.model.lottery.masks)

    def check(self, where):
        if not isinstance(self.model, keras_lottery.wrapping.LotteryModel):
            return
        masks = self.model.lottery.masks
        for path, variable in kernels(self.model).items():
            dead = ~masks[path]
            if np.any(keras.ops.convert_to_numpy(variable)[dead] != 0):
                self.violations.append((self.model.lottery.level, where, path))


@dataclasses.dataclass
class Search:
    """A plain training and three levels of a wrapped one, side by side."""

    model: object
    initial: list
    initial_optimizers: dict
    plain: Recorder
    wrapped: Recorder
    plain_history: dict
    wrapped_histories: list


@functools.cache
def search(kind):
    """Trains one kind of model, once for all laws."""
    first = compiled(kind)
    x, _ = data(kind)
    if not first.built:
        first(keras.tree.map_structure(lambda a: a[:1], x))
    initial = weights(first)
    parts = {"optimizer": first}
    if kind == "adversaries":
        parts = {"optimizer": first.generator, "critic_optimizer": first.critic}
        if zoo_steps.BACKEND == "torch":
            # There `fit` builds its optimizer for the whole model.
            parts["optimizer"] = first
    for name, part in parts.items():
        getattr(first, name).build(part.trainable_variables)
    initial_optimizers = optimizer_states(first)

    plain, wrapped = Recorder(), Recorder()
    plain_history = fit(first, kind, callbacks=[plain]).history
    model = compiled(kind, wrap={"rate": 0.3})
    histories = [
        fit(model, kind, callbacks=[wrapped]).history for _ in range(3)
    ]
    return Search(
        model,
        initial,
        initial_optimizers,
        plain,
        wrapped,
        plain_history,
        histories,
    )
