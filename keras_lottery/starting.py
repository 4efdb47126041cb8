"""Where a search starts from: the argument `masks`."""

import numpy as np

from keras_lottery.tickets import Ticket


def start_masks(start, variables, model):
    """The masks that the argument `masks` stands for.

    Args:
        start: `None`, `"zeros"`, a dict or a `Ticket`.
        variables: dict, path -> `keras.Variable`: the prunable weights.
        model: the model they belong to.

    Returns:
        A dict, path -> boolean array, for all or some of the weights.

    Raises:
        ValueError: If a mask does not fit.
    """
    if start is None:
        return {}
    if isinstance(start, str):
        return zeros_as_masks(variables)
    if isinstance(start, Ticket):
        places = start.match(model)
        start = {places[path]: mask for path, mask in start.masks.items()}
    for path, mask in start.items():
        if path not in variables:
            raise ValueError(
                f"`masks` must name prunable weights {list(variables)}. "
                f"Received: {path!r}"
            )
        if np.shape(mask) != tuple(variables[path].shape):
            raise ValueError(
                f"The mask of {path!r} must have shape "
                f"{tuple(variables[path].shape)}. "
                f"Received: shape={np.shape(mask)}"
            )
        if np.asarray(mask).dtype != bool:
            raise ValueError(
                f"The mask of {path!r} must be a boolean array. "
                f"Received: dtype={np.asarray(mask).dtype}"
            )
    return start


def check_masks(masks):
    """Refuses what `start_masks` cannot read."""
    if masks is None or (isinstance(masks, str) and masks == "zeros"):
        return
    if not isinstance(masks, (dict, Ticket)):
        raise ValueError(
            '`masks` must be None, "zeros", a dict from weight path to '
            f"boolean array or a Ticket. Received: masks={masks!r}"
        )


def zeros_as_masks(variables):
    """Masks of a model that is already sparse: its exact zeros are pruned.

    Args:
        variables: dict, path -> `keras.Variable`.

    Returns:
        A dict, path -> boolean array.
    """
    masks = {p: np.asarray(v.numpy()) != 0 for p, v in variables.items()}
    empty = [path for path, mask in masks.items() if not mask.any()]
    if empty:
        raise ValueError(
            f'masks="zeros" would prune all of {empty[0]!r}: it is '
            "initialised to zeros, not sparse. Give a dict of masks instead."
        )
    return masks
