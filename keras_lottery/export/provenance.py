"""Provenance: which ticket a served model is, and what made it."""

import hashlib

import numpy as np

from keras_lottery import masks as masks_lib
from keras_lottery.experiments import environment
from keras_lottery.scopes import find_kernels
from keras_lottery.version import __version__
from keras_lottery.wrapping import LotteryModel


def describe(model, level=None):
    """What is known of a model's weights.

    Args:
        model: `keras.Model`, wrapped or not, with the weights to describe.
        level: optional int, the level they were trained at.

    Returns:
        A dict that JSON can hold: `created`, `created_by`, `command`,
        `versions`, `density`, `densities` (by weight) and, of a wrapped
        model, `level` and `ticket`, its `ticket_hash`.
    """
    now = environment.describe()
    found = {
        "created": now["started"],
        "created_by": f"keras_lottery {__version__}",
        "command": now["command"],
        "versions": now["versions"],
    }
    if isinstance(model, LotteryModel):
        ticket = model.lottery.ticket()
        masks = ticket.masks
        found["level"] = ticket.level if level is None else level
        found["ticket"] = ticket_hash(ticket)
    else:
        # What a plain model tells of its mask are its zeros.
        masks = {
            kernel.path: np.asarray(kernel.variable) != 0
            for kernel in find_kernels(model)
        }
    if masks:
        found["density"] = masks_lib.density(masks)
        found["densities"] = masks_lib.densities(masks)
    return found


def ticket_hash(ticket):
    """SHA-256 of a ticket's masks and rewound weights.

    Names are left out, since automatic ones differ between two builds of a
    model; order, shapes and types count.

    Args:
        ticket: `Ticket`.

    Returns:
        A str of 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    weights = ticket.rewind_point.weights
    for part in (ticket.masks, weights):
        for array in part.values():
            array = np.ascontiguousarray(array)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()
