"""Examples: what `search` is given, as a data set of an experiment."""

import functools
import json
import math
import os

import keras
import numpy as np

from keras_lottery.datasets import Arrays, Dataset, examples
from keras_lottery.tuner import oracles

_FILE = "examples.json"


class Given(Arrays):
    """`Arrays` of which the validation examples are given, not drawn.

    Args:
        train: pair (x, y) of arrays or nested structures of arrays.
        validation: pair (x, y), likewise.
        test: pair (x, y), likewise.
    """

    def __init__(self, train, validation, test):
        both = keras.tree.map_structure(
            lambda *parts: np.concatenate(parts), train, validation
        )
        super().__init__(both, test, _count(validation))

    def split(self, seed):
        """The `Dataset`, the same for each seed."""
        at = _count(self._train) - self.validation
        train, validation = _cut(self._train, at)
        return Dataset(self.name, train, validation, self._test, self.classes)

    @functools.cached_property
    def fingerprint(self):
        """The hash of all examples and of how they are split."""
        return f"given_{super().fingerprint}"


def choose(named, given_ones, seed):
    """The data set of a search.

    Args:
        named: optional, the argument `dataset` of the tuner.
        given_ones: tuple, what `search` was given, for `given`.
        seed: int.

    Returns:
        A str or `Arrays`.

    Raises:
        ValueError: If it is both or neither.
    """
    if named is None:
        return given(*given_ones, seed=seed)
    if any(value is not None for value in given_ones):
        raise ValueError(
            "`search` must be given no examples by a tuner that was made "
            f"with a data set. Received: dataset={named!r}"
        )
    return named


def given(
    x, y, validation_data=None, validation_split=None, test_data=None, seed=0
):
    """The data set of what Keras' `fit` would be given.

    Args:
        x, y: arrays, or nested structures of arrays.
        validation_data: optional pair (x, y).
        validation_split: optional float: the last part of `x` and `y` is it,
            as in Keras. Without either, a tenth is drawn by `seed`.
        test_data: optional pair (x, y). Without it the columns of results
            that are of the test set tell the validation set again.
        seed: int.

    Returns:
        `Arrays`.

    Raises:
        ValueError: If the arrays do not fit together.
    """
    if x is None or y is None:
        raise ValueError(
            "`x` and `y` must be arrays, all of them in memory: a search "
            "trains on them again and again. Received: "
            f"x of type {type(x).__name__}, y of type {type(y).__name__}"
        )
    if validation_data is not None and validation_split is not None:
        raise ValueError(
            "Only one of `validation_data` and `validation_split` must be "
            f"given. Received: validation_split={validation_split}"
        )
    train, validation = examples("x, y", (x, y)), validation_data
    if validation_split is not None:
        _check_split(validation_split)
        at = math.floor(_count(train) * (1 - validation_split))
        train, validation = _cut(train, at)
    elif validation is None:
        data = Arrays(train, train).split(seed)
        train, validation = data.train, data.validation
    validation = examples("validation_data", validation)
    test = validation if test_data is None else examples("test_data", test_data)
    return Given(train, validation, test)


def _check_split(validation_split):
    if not 0 < validation_split < 1:
        raise ValueError(
            "`validation_split` must be in (0, 1). "
            f"Received: validation_split={validation_split}"
        )


def _cut(pair, at):
    """The pair up to an example, and from it on."""
    return tuple(
        keras.tree.map_structure(lambda leaf, s=s: leaf[s], pair)
        for s in (slice(at), slice(at, None))
    )


def _count(pair):
    return len(keras.tree.flatten(pair)[0])


# What is kept of them, to build the models without them.


def claim(directory, dataset, data):
    """Makes a directory that of a data set, and notes the shape of examples.

    Args:
        directory: str.
        dataset: str or `Arrays`.
        data: its `Dataset`.

    Raises:
        ValueError: If it is another's.
    """
    path = os.path.join(directory, _FILE)
    known = _read(path)
    if known and known["dataset"] != str(dataset):
        raise ValueError(
            f"{directory} holds a search on {known['dataset']}. Give the same "
            "data, another `project_name` or `overwrite=True`. Received: "
            f"{dataset}"
        )
    config = {
        "dataset": str(dataset),
        "classes": data.classes,
        "x": keras.tree.map_structure(_describe, data.train[0]),
    }
    oracles.write(path, config)


def stand_in(directory):
    """A `Dataset` of one example of zeros, of the shape `claim` noted.

    Returns:
        `None` if there was none.
    """
    known = _read(os.path.join(directory, _FILE))
    if known is None:
        return None
    example = keras.tree.map_structure(_zeros, known["x"])
    pair = (example, None)
    return Dataset(known["dataset"], pair, pair, pair, known["classes"])


def _read(path):
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def _describe(leaf):
    # A string, for no structure to be taken for a leaf or a leaf for one.
    return " ".join(map(str, (leaf.dtype, *leaf.shape[1:])))


def _zeros(text):
    dtype, *shape = text.split()
    return np.zeros((1, *map(int, shape)), dtype)
