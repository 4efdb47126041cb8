"""Whether a model can be trained on examples, found before it is trained.

What a user's function builds meets the user's arrays here for the first time.
What does not fit would otherwise end in the error of a compiled function, or,
after a whole level, in weights that are NaN.
"""

import functools
import math
import re

import keras
import numpy as np

from keras_lottery import backend


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
