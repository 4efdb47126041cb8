"""The models of experiments: built by functions, checked before any is trained.

What a user's function builds meets the user's arrays here for the first time.
What does not fit would otherwise end in the error of a compiled function, or,
after a whole level, in weights that are NaN.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import math
import re

import keras
import numpy as np

from keras_lottery import backend
from keras_lottery.keras_internals import names_from_the_first

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@contextlib.contextmanager
def in_precision(policy):
    """Context manager: layers are made with a dtype policy.

    Args:
        policy: str, the name of a Keras dtype policy.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def check_function(build):
    """Refuses what is not a function that can build a model.

    Args:
        build: function.

    Raises:
        ValueError: If it is a model, or needs arguments that it is not given.
    """
    if isinstance(build, keras.Model):
        raise ValueError(
            "`model` must be a function that builds a model and returns it: "
            "each trial begins with new weights. "
            f"Received: the model {build.name!r}"
        )
    others = [
        parameter.name
        for parameter in inspect.signature(build).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind
        not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and parameter.name not in _ARGUMENTS
    ]
    if others:
        raise ValueError(
            "`model` must be a function that needs no other arguments than "
            f"{list(_ARGUMENTS)}. Received: model={name(build)}, which also "
            f"needs {others}"
        )


_ARGUMENTS = ("input_shape", "classes", "seed")


def check_new(build, one, other):
    """Refuses a function that returns a model of which it keeps parts.

    Args:
        build: function.
        one: `keras.Model`, which it returned.
        other: `keras.Model`, which it returned when it was called again.

    Raises:
        ValueError: If the two share weights.
    """
    others = {id(variable) for variable in other.variables}
    shared = [v.path for v in one.variables if id(v) in others]
    if shared:
        raise ValueError(
            "`model` must be a function that builds a new model, all layers "
            "of it, each time that it is called. Received: "
            f"model={name(build)}, of which two models share the weights "
            f"{shared[:3]}{', ...' * (len(shared) > 3)}"
        )


def call(build, **arguments):
    """Calls a function with those of the arguments that it has.

    Args:
        build: function.
        **arguments: what it may be called with.

    Returns:
        What it returns.

    Raises:
        ValueError: If it has `classes`, which the targets do not say.
    """
    parameters = inspect.signature(build).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return build(**arguments)
    accepted = {p.name for p in parameters}
    if "classes" in accepted and arguments.get("classes", 0) is None:
        raise ValueError(
            "y must be integer labels for a model that is built with "
            "`classes`, one more than the largest label; `y.astype(int)` makes "
            "such of booleans and whole numbers. Received: "
            f"model={name(build)}, and targets that are no integers"
        )
    return build(**{k: v for k, v in arguments.items() if k in accepted})


def build_own(build, data, seed):
    """A built model of a user's function, the same for the same seed.

    The seed is also made that of Keras, NumPy and Python, for a function that
    does not take one.

    Args:
        build: function, called with those of `input_shape`, `classes` and
            `seed` that it has.
        data: `Dataset`.
        seed: int.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If it does not return one.
    """
    keras.utils.set_random_seed(seed)
    with names_from_the_first():
        model = call(
            build,
            input_shape=data.input_shape,
            classes=data.classes,
            seed=seed,
        )
        if not isinstance(model, keras.Model):
            raise ValueError(
                "`model` must be a function that returns a Keras 3 model. "
                f"Received: model={name(build)}, which returned {model!r}"
            )
        if not model.built or not model.weights:
            model(keras.tree.map_structure(lambda x: x[:1], data.train[0]))
    return model


def name(build):
    """How a network or a function is called in files.

    Args:
        build: str, the name of a network; or a function, which is called by
            its module and name.

    Returns:
        A str.
    """
    if isinstance(build, str):
        return build
    qualified = getattr(build, "__qualname__", type(build).__qualname__)
    return f"{build.__module__}.{qualified}"


def fingerprint(model):
    """The hash of how a model computes and is trained.

    Args:
        model: `keras.Model`, compiled. Of one that Keras cannot write down
            the source of its class is taken.

    Returns:
        A str of 32 hexadecimal digits.
    """
    try:
        made = keras.saving.serialize_keras_object(model)
    except (NotImplementedError, TypeError, ValueError):
        made = {}
    # Of a wrapped model: how it is pruned does not say how it is trained.
    made.get("config", {}).pop("lottery", None)
    with contextlib.suppress(OSError, TypeError):
        own = getattr(type(model), "unwrapped_class", type(model))
        made["source"] = inspect.getsource(own)
    text = json.dumps(made, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# Whether they can be trained on the examples, found before they are.


def check_labels(model, data):
    """Refuses targets that are no class labels of a model's outputs.

    They have to be if the model comes without a loss of its own, since it is
    compiled for classification by logits.

    Args:
        model: `keras.Model`.
        data: `Dataset`.

    Raises:
        ValueError: If they are not.
    """
    outputs = _try(model, data, lambda x, _: model(x, training=False))
    shapes = [tuple(leaf.shape) for leaf in keras.tree.flatten(outputs)]
    targets = [y for _, y in _sets(data)]
    if len(shapes) != 1 or keras.tree.is_nested(targets[0]):
        raise ValueError(
            f"{_COMPILE}. Received: a model with {len(shapes)} outputs, and "
            f"targets of {len(keras.tree.flatten(targets[0]))} arrays"
        )
    *places, units = shapes[0][1:] or (0,)
    shape = targets[0].shape[1:]
    if units < 2 or shape not in ((*places,), (*places, 1)):
        raise ValueError(
            f"{_COMPILE}. Received: a model with outputs of shape "
            f"{(None, *shapes[0][1:])}, and targets of shape {(None, *shape)}"
        )
    if not all(np.array_equal(y, np.floor(y)) for y in targets):
        raise ValueError(f"{_COMPILE}. Received: targets that are no integers")
    lowest = min(int(y.min()) for y in targets)
    highest = max(int(y.max()) for y in targets)
    if lowest < 0 or highest >= units:
        raise ValueError(
            f"Labels must be in [0, {units}): the model has {units} outputs. "
            f"Received: labels from {lowest} to {highest}"
        )


def check_loss(model, data):
    """Refuses a model that has no loss on some of the examples.

    It is evaluated on one example of each set and on those with the lowest
    and the highest target.

    Args:
        model: `keras.Model`, compiled.
        data: `Dataset`.

    Raises:
        ValueError: If it cannot be evaluated, or its loss is NaN.
    """
    if backend.is_distributed(model):
        # A step is made in the context of a replica.
        return
    loss = _try(model, data, functools.partial(backend.test_loss, model))
    model.reset_metrics()
    if math.isnan(keras.ops.convert_to_numpy(loss)):
        targets = [leaf for _, y in _sets(data) for leaf in _leaves(y)]
        raise ValueError(
            "`model` must have a loss on all examples; labels of a sparse "
            "crossentropy are below the number of outputs. Received: a loss "
            f"that is NaN, and targets from {min(y.min() for y in targets)} "
            f"to {max(y.max() for y in targets)}"
        )


_COMPILE = (
    "`model` must come compiled unless it classifies: without a loss of its "
    "own it is trained by logits, one output for each class, on integer "
    'labels. Have its function call `model.compile("adam", loss)`'
)


def _sets(data):
    return data.train, data.validation, data.test


def _leaves(structure):
    return keras.tree.flatten(structure)


def _try(model, data, function):
    """What a function of (x, y) returns for a few of the examples."""
    few = [_few(*pair) for pair in _sets(data)]
    few = keras.tree.map_structure(
        lambda *parts: keras.ops.convert_to_tensor(np.concatenate(parts)), *few
    )
    try:
        return function(*few)
    except Exception as error:  # Of Keras, TensorFlow or the user's code.
        x, y = keras.tree.map_structure(
            lambda leaf: f"{leaf.dtype.name} {(None, *leaf.shape[1:])}",
            data.train,
        )
        raise ValueError(
            "`model` must be one that can be evaluated on the examples. "
            f"Received: model {model.name!r} on x of {x} and y of {y}, which "
            f"says: {_reason(error)}"
        ) from error


def _few(x, y):
    """The first example and those with the lowest and highest target."""
    rows = [0]
    for leaf in _leaves(y):
        for extreme in (np.argmin, np.argmax):
            rows.append(extreme(leaf) // (leaf.size // len(leaf)))
    return keras.tree.map_structure(lambda leaf: leaf[rows], (x, y))


def _reason(error):
    """The line of an error that tells its cause."""
    text = re.sub(r"\x1b\[\d+m|\{\{.*?\}\} ?|\[Op:\w+\].*", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_NOT_TELLING)]
    return next(iter(telling or lines), type(error).__name__)


_NOT_TELLING = ("Exception encountered", "Graph execution error")
