"""Examples: what `search` is given, as the data set of an experiment."""

import functools
import json
import math

import keras
import numpy as np

from keras_lottery.datasets import Arrays, Dataset, check_alike, examples

_FILE = "examples.json"


class SplitArrays(Arrays):
    """`Arrays` whose validation examples are given instead of drawn.

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


def search_dataset(dataset, arrays, seed):
    """The data set of a search.

    Args:
        dataset: optional, the argument of the tuner.
        arrays: tuple, what `search` was given: the arguments of
            `fit_arrays` up to `seed`.
        seed: int.

    Returns:
        A str or `Arrays`.

    Raises:
        ValueError: If both are given, or neither.
    """
    if dataset is None:
        return fit_arrays(*arrays, seed=seed)
    if any(value is not None for value in arrays):
        raise ValueError(
            "`search` must be given no examples by a tuner that was made "
            f"with a data set. Received: dataset={dataset!r}"
        )
    return dataset


def fit_arrays(
    x, y, validation_data=None, validation_split=None, test_data=None, seed=0
):
    """The data set of what Keras' `fit` takes.

    Args:
        x, y: arrays, or nested structures of arrays.
        validation_data: optional pair (x, y).
        validation_split: optional float: the last part of `x` and `y` is the
            validation set, as in Keras. Without either, a tenth is drawn by
            `seed`.
        test_data: optional pair (x, y). Defaults to the validation set.
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
    check_alike("validation_data", validation, train)
    test = validation if test_data is None else examples("test_data", test_data)
    check_alike("test_data", test, train)
    return SplitArrays(train, validation, test)


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


# What a project keeps of them: models can be built again without the examples.


def claim(project, dataset, data, standardize=False):
    """Makes a project that of a data set, and notes the shape of examples.

    Args:
        project: `Run`.
        dataset: str or `Arrays`.
        data: its `Dataset`.
        standardize: bool, whether models standardise by its channels.

    Raises:
        ValueError: If it is that of another data set.
    """
    known = _read(project)
    if known and known["dataset"] != str(dataset):
        raise ValueError(
            f"{project.directory} holds a search on {known['dataset']}. Give "
            "the same data, another directory (`directory`, `project_name`) or "
            "`overwrite=True`. "
            f"Received: {dataset}"
        )
    noted = {
        "dataset": str(dataset),
        "classes": data.classes,
        "x": keras.tree.map_structure(_describe, data.train[0]),
    }
    if standardize:
        # The models have no variables for them.
        noted["channel_statistics"] = data.channel_statistics()
    project.write(_FILE, json.dumps(noted))


class Placeholder(Dataset):
    """One example of zeros in place of a data set, to build models for it."""

    def __init__(self, known):
        example = keras.tree.map_structure(_zeros, known["x"])
        pair = (example, None)
        super().__init__(known["dataset"], pair, pair, pair, known["classes"])
        statistics = known.get("channel_statistics")
        object.__setattr__(self, "_statistics", statistics)

    def channel_statistics(self):
        """Those of the data set itself.

        Raises:
            ValueError: If the project does not hold them.
        """
        if self._statistics is None:
            raise ValueError(
                "A model that standardises its images can be built again only "
                "with the examples: call `search` with them first."
            )
        return tuple(map(tuple, self._statistics))


def placeholder(project):
    """A `Dataset` of one example of zeros, of the shape that `claim` noted.

    Args:
        project: `Run`.

    Returns:
        A `Dataset`; `None` if no data set has claimed the project.
    """
    known = _read(project)
    return None if known is None else Placeholder(known)


def _read(project):
    try:
        with open(project.path(_FILE)) as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def _describe(leaf):
    # A string: a list would be taken for a nested structure.
    return " ".join(map(str, (leaf.dtype, *leaf.shape[1:])))


def _zeros(text):
    dtype, *shape = text.split()
    return np.zeros((1, *map(int, shape)), dtype)
