"""Chooses the backend of the compiled loop by measuring it.

XLA makes a step of a dense network several times faster and, on a CPU, a step
of a convolutional one up to a hundred times slower. So nothing is assumed: a
candidate first runs one step on two examples, which is cheap however bad it
is, and only if that beats the graph does it run on full batches.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import platform
import time

import keras
import tensorflow as tf
from absl import logging

from keras_lottery.training.compiled import COMPILED
from keras_lottery.training.order import batch_indices

BACKENDS = (*COMPILED, "fit")

# A measurement may cost this much, in seconds, or as a part of the training.
_BUDGET_SECONDS = 10.0
_BUDGET_PART = 0.03
# How long XLA takes to compile a function, in times of what TensorFlow takes to
# optimise its graph. Measured: 5 to 7, for Conv-2, Conv-6, ResNet-18, VGG-19.
_COMPILE_TIMES = 6.0
# So many times faster than the graph a backend must be, to rise above noise.
_MARGIN = 1.05
# A step is timed over stretches of this length.
_STRETCH_SECONDS = 0.1

_chosen = {}


def choose(model, steps_on, data, shape, steps, timings=None, must_fit=None):
    """Measures the backends and names the fastest.

    Leaves every variable as it was, bit for bit.

    Args:
        model: The model to be trained.
        steps_on: Function of a backend's name to its `CompiledSteps`.
        data: Pair of inputs and targets, as tensors.
        shape: Pair of integers, `(rows, batch_size)` of the index arrays of
            the training to come.
        steps: Integer, the length of the training to come.
        timings: Path of a JSON file of earlier choices, or `None`.
        must_fit: The reason why the model has to be trained by `fit`, or
            `None`.

    Returns:
        Pair of str: one of `BACKENDS`, and why.
    """
    key = _key(model, data, shape)
    choice = {**_chosen, **_read(timings)}.get(key)
    if not _is_choice(choice):
        if must_fit:
            choice = ["fit", must_fit]
        else:
            with _preserved(model, steps_on("graph")):
                choice = list(_fastest(steps_on, data, shape, steps))
    _chosen[key] = choice
    return tuple(_agree(timings, key, choice))


def _is_choice(value):
    return isinstance(value, list) and value[:1] and value[0] in BACKENDS


def _fastest(steps_on, data, shape, steps):
    """The fastest backend, and what was measured."""
    began = time.perf_counter()
    tiny = (1, min(2, shape[1]))
    graph_tiny, preparing = _measure(steps_on("graph"), data, tiny)
    graph, _ = _measure(steps_on("graph"), data, shape)
    found = [f"graph {1e3 * graph:.3g} ms a step"]
    budget = max(_BUDGET_SECONDS, _BUDGET_PART * steps * graph)
    fastest = "graph"
    for backend in ("xla", "xla_update"):
        left = budget - (time.perf_counter() - began)
        if 2 * _COMPILE_TIMES * preparing > left:
            found.append(f"{backend} takes too long to compile")
            continue
        try:
            seconds, _ = _measure(steps_on(backend), data, tiny)
            if seconds > graph_tiny:
                found.append(f"{backend} slower on two examples")
                continue
            seconds, _ = _measure(steps_on(backend), data, shape)
        except Exception as error:
            # Any failure to compile what runs as a graph is XLA's own.
            logging.info("%s cannot compile this model: %s", backend, error)
            found.append(f"{backend} cannot compile this model")
            continue
        found.append(f"{backend} {1e3 * seconds:.3g} ms a step")
        if seconds * _MARGIN < graph:
            fastest = backend
            break
    return fastest, ", ".join(found)


def _measure(steps, data, shape):
    """Seconds a step takes, and those it took to prepare the first."""
    rows, batch_size = shape
    size = len(keras.tree.flatten(data)[0])
    indices = batch_indices(size, batch_size, 0, 0, rows)
    first = _timed(steps.train, 1, indices, data)
    second = _timed(steps.train, 1, indices, data)
    count = max(1, min(rows, int(_STRETCH_SECONDS / second)))
    best = min(
        _timed(steps.train, count, indices, data) / count for _ in range(3)
    )
    return min(best, second), first - second


def _timed(function, *args):
    began = time.perf_counter()
    function(*args)
    return time.perf_counter() - began


@contextlib.contextmanager
def _preserved(model, steps):
    """Puts every variable a step may change back as it was."""
    variables = (
        *model.variables,
        *model.optimizer.variables,
        *steps.variables(),
    )
    values = [variable.numpy() for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values):
            variable.assign(value)


def _key(model, data, shape):
    """One line for what the choice depends on: network, batch, machine."""
    layers = [type(layer).__name__ for layer in model._flatten_layers()]
    variables = [(v.shape, v.dtype) for v in model.variables]
    leaves = [(t.shape[1:], t.dtype) for t in keras.tree.flatten(data)]
    network = repr(
        (layers, variables, leaves, type(model.optimizer).__name__)
    ).encode()
    machine = (
        platform.node(),
        platform.machine(),
        os.cpu_count(),
        tf.config.threading.get_intra_op_parallelism_threads(),
        [d.device_type for d in tf.config.list_physical_devices()],
        tf.__version__,
    )
    return (
        f"{hashlib.sha256(network).hexdigest()[:16]}"
        f" batch {shape[1]} on {' '.join(map(str, machine))}"
    )


def _read(path):
    """The choices in the file; none if there is no file or it is damaged."""
    if path is None:
        return {}
    try:
        choices = json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError):
        return {}
    return choices if isinstance(choices, dict) else {}


def _agree(path, key, choice):
    """Writes a choice to the file, unless another process came first."""
    if path is None:
        return choice
    choices = _read(path)
    if _is_choice(choices.get(key)):
        return choices[key]
    # Written beside and renamed: a reader never sees half a file.
    part = pathlib.Path(f"{path}.{os.getpid()}")
    part.write_text(
        json.dumps({**choices, key: choice}, indent=2, sort_keys=True)
    )
    part.replace(path)
    return choice
