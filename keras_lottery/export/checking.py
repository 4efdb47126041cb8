"""Checks a written model against the Keras model it was made from."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import tensorflow as tf

from keras_lottery.export import clean_process

_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Checked:
    """What the clean process found.

    Args:
        examples: int, how many it was asked.
        max_difference: float, the greatest absolute one over all outputs.
        weights: int, floating-point numbers in the file.
        zeros: int, those of them that are exactly zero.
    """

    examples: int
    max_difference: float
    weights: int
    zeros: int


def check(directory, inputs, expected, tolerance):
    """Runs a SavedModel in a process without Keras and compares.

    Args:
        directory: str, of the SavedModel.
        inputs: dict, name -> array.
        expected: dict, name -> array: the Keras model's outputs.
        tolerance: float, the difference that is allowed, as a fraction of
            the greatest absolute output (of 1 where that is less).

    Returns:
        A `Checked`.

    Raises:
        ValueError: If the outputs differ by more.
        RuntimeError: If the model does not load or run there.
    """
    with tempfile.TemporaryDirectory() as exchange:
        for name, array in inputs.items():
            _write(os.path.join(exchange, f"{name}.input"), array)
        report = _run(directory, exchange)
        found = {
            name: _read(os.path.join(exchange, f"{name}.output"), dtype)
            for name, dtype in report["outputs"].items()
        }
    if report["loaded"] or found.keys() != expected.keys():
        raise RuntimeError(
            "The written model was not checked as it should be: loaded "
            f"{report['loaded']}, outputs {list(found)}"
        )
    difference = max(
        compare(name, found[name], expected[name], tolerance)
        for name in expected
    )
    examples = len(next(iter(inputs.values())))
    return Checked(examples, difference, report["weights"], report["zeros"])


def compare(name, found, expected, tolerance):
    """The greatest difference of one output, refused above tolerance."""
    if found.dtype != expected.dtype or found.shape != expected.shape:
        raise ValueError(
            f"The written model gives {name!r} as {found.dtype} of shape "
            f"{found.shape}, the Keras model as {expected.dtype} of shape "
            f"{expected.shape}."
        )
    if expected.dtype.kind not in "fciubV":
        # Strings are the same or not.
        found, expected = found != expected, np.zeros(found.shape)
    one, other = found.astype("float64"), expected.astype("float64")
    both = np.isnan(one) & np.isnan(other)
    one, other = one[~both & (one != other)], other[~both & (one != other)]
    difference = float(np.max(np.abs(one - other), initial=0.0))
    finite = expected.astype("float64")
    scale = np.max(np.abs(finite[np.isfinite(finite)]), initial=1.0)
    if not difference <= tolerance * scale:
        raise ValueError(
            "The written model must answer as the Keras model does. Output "
            f"{name!r} differs by {difference:.3g}; tolerance={tolerance:g} "
            f"allows {tolerance * scale:.3g}. A model that draws random "
            "numbers cannot be checked; one in half precision needs more "
            "`tolerance`."
        )
    return difference


def _run(directory, exchange):
    # -P: the modules beside the script are none of its own.
    command = [sys.executable, "-P", clean_process.__file__]
    done = subprocess.run(
        [*command, directory, exchange, str(_BATCH)],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        told = done.stderr.strip().splitlines() or ["it ended silently"]
        raise RuntimeError(
            "The written model does not run in a process without Keras: "
            f"{told[-1]}"
        )
    return json.loads(lines[-1])


def _write(path, array):
    with open(path, "wb") as file:
        file.write(tf.io.serialize_tensor(tf.constant(array)).numpy())


def _read(path, dtype):
    with open(path, "rb") as file:
        return tf.io.parse_tensor(file.read(), dtype).numpy()
