"""What the files of a wrapped model hold of its search.

Keras writes a model's weights; beside them stand the search's ticket (masks,
rewind point, level, arguments) and its state (the phase, and the seeds, which
Keras does not write). A `.keras` file holds both as assets, a `.weights.h5`
file as data sets of a group that a plain model does not look at.
"""

import contextlib
import os
import tempfile

import h5py
import numpy as np

from keras_lottery import files
from keras_lottery.rewinding import model_state, seed_paths
from keras_lottery.tickets import Ticket

_SUFFIX = ".weights.h5"
_TICKET, _STATE, _GROUP = "lottery.ticket", "lottery.state", "keras_lottery"


def save_search(pruner, directory):
    """Writes the search into two files of a directory.

    Args:
        pruner: `LotteryTicketPruner`, attached.
        directory: str, of a directory that exists.
    """
    pruner.ticket().save(os.path.join(directory, _TICKET))
    state, own = model_state(pruner.model), seed_paths(pruner.model)
    seeds = [
        ("seed", path, variable.numpy())
        for path, variable in state.items()
        if path in own
    ]
    progress = pruner.state.progress()
    files.write(os.path.join(directory, _STATE), progress, seeds)


def load_search(pruner, directory):
    """Takes the search that `save_search` wrote; weights stay as they are.

    Args:
        pruner: `LotteryTicketPruner`.
        directory: str.
    """
    path = os.path.join(directory, _TICKET)
    if not os.path.exists(path):
        return
    ticket, progress, seeds = _read(directory)
    pruner.state.take(ticket)
    # Keras loads optimizers after this: those of the model are fresh yet.
    optimizers = ticket.rewind_point.optimizers
    pruner.rewind_point.optimizers.update(optimizers)
    _assign_seeds(pruner, ticket, seeds)
    pruner.state.restored(progress)


def save_weights(pruner, save, filepath, overwrite):
    """Writes a `.weights.h5` file that holds the search, in one step.

    A kill in its midst leaves the file that there was.

    Args:
        pruner: `LotteryTicketPruner`, attached.
        save: function of a path, Keras' own `save_weights`.
        filepath: str or path-like.
        overwrite: bool, whether there may be such a file.

    Raises:
        ValueError: If there is one and it may not be replaced.
    """
    name = os.path.basename(filepath)
    # A link stays one.
    path = os.path.realpath(filepath)
    parent = os.path.dirname(path)
    if not os.path.isdir(parent) or not name.endswith(_SUFFIX):
        # Keras says what is wrong with it.
        save(filepath, overwrite=overwrite)
        return
    if not overwrite and os.path.exists(path):
        raise ValueError(
            "`overwrite` must be True for a file that exists. "
            f"Received: filepath={filepath}"
        )
    with tempfile.TemporaryDirectory(dir=parent, prefix=".saving_") as parts:
        whole = os.path.join(parts, name)
        save(whole)
        save_search(pruner, parts)
        with h5py.File(whole, "a") as file:
            group = file.create_group(_GROUP)
            for name in (_TICKET, _STATE):
                with open(os.path.join(parts, name), "rb") as part:
                    group[name] = np.frombuffer(part.read(), np.uint8)
        os.replace(whole, path)


@contextlib.contextmanager
def search_beside_weights(path):
    """Context manager: a directory for `load_search`, or `None`.

    Args:
        path: str or path-like, a file of weights.
    """
    path = os.fspath(path)
    if not path.endswith(_SUFFIX) or not os.path.isfile(path):
        yield None
        return
    with h5py.File(path, "r") as file, tempfile.TemporaryDirectory() as parts:
        if _GROUP not in file:
            yield None
            return
        for name in (_TICKET, _STATE):
            with open(os.path.join(parts, name), "wb") as part:
                part.write(file[_GROUP][name][()].tobytes())
        yield parts


def check_search(pruner, directory):
    """Refuses weights of another architecture, before any is assigned."""
    Ticket.load(os.path.join(directory, _TICKET)).match(pruner.model)


def weights_loaded(pruner, directory):
    """Called when a wrapped model has loaded weights that a search wrote.

    Weights of an earlier level are there to be evaluated and exported: the
    search stays where it is. Those of the same or of a later level go on with
    the search that they are of.
    """
    ticket, progress, seeds = _read(directory)
    state, done = pruner.state, pruner.resting
    if state.lent is not None or ticket.level < pruner.level:
        state.weights_loaded(ticket.level)
        return
    if done and ticket.level == pruner.level:
        return
    in_fit = state.phase if state.in_fit else None
    pruner.state.take(ticket)
    _assign_seeds(pruner, ticket, seeds)
    state.restored(progress, in_fit)


def _read(directory):
    ticket = Ticket.load(os.path.join(directory, _TICKET))
    path = os.path.join(directory, _STATE)
    if not os.path.exists(path):
        return ticket, None, {}
    progress, arrays = files.read(path)
    return ticket, progress, {name: array for _, name, array in arrays}


def _assign_seeds(pruner, ticket, seeds):
    places, state = ticket.match(pruner.model), model_state(pruner.model)
    for path, array in seeds.items():
        state[places[path]].assign(array)
