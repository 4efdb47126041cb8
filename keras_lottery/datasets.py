"""Data sets: TensorFlow Datasets by name, `digits` embedded, arrays.

`digits` comes with the package: the 1,797 8x8 images that scikit-learn calls
by this name, which are the test set of *Optical Recognition of Handwritten
Digits*, E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning Repository,
doi:10.24432/C50P49, licensed under CC BY 4.0. Changed: stored as bytes, and
300 of them, 30 of each digit, drawn once as the test set.
"""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import math
import os
import pathlib
import socket
import sys
import urllib.parse
import urllib.request

import keras
import numpy as np
from absl import logging

from keras_lottery import decoded, reduction
from keras_lottery.checks import check_integer, missing

_DIGITS = pathlib.Path(__file__).parent / "data" / "digits.npz"

# The default directory of TFDS.
_TFDS_DIRECTORY = "~/tensorflow_datasets"

# Where TFDS looks for prepared sets before it asks a set's own hosts.
_TFDS_HOST = "storage.googleapis.com"


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test examples, in memory.

    Args:
        name: str.
        train: pair (x, y). Of a named set, x is float32 in [0, 1] of shape
            (n, height, width, channels) and y is int32 of shape (n,); of
            `Arrays`, both are as they were given.
        validation: pair (x, y), like `train`.
        test: pair (x, y), like `train`.
        classes: int, labels are below it; `None` if y holds no labels.
    """

    name: str
    train: tuple
    validation: tuple
    test: tuple
    classes: int | None

    @property
    def input_shape(self):
        """The shape of one example, such as (height, width, channels)."""
        return keras.tree.map_structure(lambda x: x.shape[1:], self.train[0])

    def channel_statistics(self):
        """The mean and the standard deviation of each channel.

        They are computed over the training and the validation examples
        together, so that they do not depend on the draw of the validation
        set: the networks of all trials standardise by the same numbers, bit
        for bit. The test examples are not used. A constant channel has the
        deviation 1, so that dividing by it is possible.

        Returns:
            Pair (mean, deviation) of tuples, one float per entry of the last
            axis of x. The floats are exact in float32.

        Raises:
            ValueError: If x is not one array of numbers.

        Example:

        ```python
        mean, deviation = datasets.load("cifar10").channel_statistics()
        model = models.conv_2(standardize=(mean, deviation))
        ```
        """
        return self._channel_statistics

    @functools.cached_property
    def _channel_statistics(self):
        moments = [_moments(x) for x, _ in (self.train, self.validation)]
        means, variances = np.concatenate(moments, axis=1)
        statistics = map(_mean_and_deviation, means.T, variances.T)
        mean, deviation = zip(*statistics)
        return mean, deviation


def _moments(x):
    """The mean and the variance of each channel of each example: an array of
    shape (2, examples, channels)."""
    if not isinstance(x, np.ndarray) or x.ndim < 2 or x.dtype.kind not in "iuf":
        raise ValueError(
            "`channel_statistics` needs examples in one array of numbers, of "
            f"shape (examples, ..., channels). Received: {type(x).__name__}"
            f"{getattr(x, 'shape', '')}"
        )
    x = x.reshape(len(x), -1, x.shape[-1])
    moments = np.empty((2, len(x), x.shape[-1]))
    # Few at a time, which stay in the processor's cache.
    few = max(1, 2**17 // x[0].size)
    for start in range(0, len(x), few):
        rows = slice(start, start + few)
        for channel in range(x.shape[-1]):
            values = np.array(x[rows, :, channel], np.float64, order="C")
            mean = values.mean(axis=1, keepdims=True)
            moments[0, rows, channel] = mean[:, 0]
            values -= mean
            moments[1, rows, channel] = (values * values).mean(axis=1)
    return moments


def _mean_and_deviation(means, variances):
    """The statistics of one channel from its moments in each example."""
    # The sums of fsum are exact and do not depend on the order.
    mean = math.fsum(means) / len(means)
    between = math.fsum((means - mean) ** 2)
    deviation = math.sqrt((math.fsum(variances) + between) / len(means))
    if np.float32(mean + deviation) == np.float32(mean):
        deviation = 1.0
    return float(np.float32(mean)), float(np.float32(deviation))


class Arrays:
    """Your own examples, in place of the name of a set.

    The validation set is drawn from the training set, as it is for a named
    set. Two objects are equal if all bits of their arrays are equal.

    Args:
        train: pair (x, y) of arrays, or of nested structures of arrays, with
            the examples on the first axis.
        test: pair (x, y), likewise.
        validation: optional int, number of examples to draw. Defaults to a
            tenth of the training set, at most 5,000.
        name: str, for reports. Defaults to `"arrays"`.

    Raises:
        ValueError: If the arrays do not fit together, hold NaN or infinity,
            or have targets that are no numbers.

    Example:

    ```python
    x, y = np.random.rand(300, 8), np.random.randint(0, 3, 300)
    data = Arrays(train=(x[100:], y[100:]), test=(x[:100], y[:100]))
    data.split(seed=0).validation  # (20, 8) and (20,)
    ```
    """

    def __init__(self, train, test, validation=None, name="arrays"):
        self.name = name
        train, test = examples("train", train), examples("test", test)
        check_alike("test", test, train)
        self._train, self._test = _in_common_types(train, test)
        size = len(keras.tree.flatten(self._train)[0])
        default = max(1, _tenth(size))
        self.validation = default if validation is None else validation
        _check_validation(self.validation, size)

    def split(self, seed):
        """The `Dataset`, of which the validation set is drawn by a seed."""
        generator = np.random.default_rng(seed)
        train, held_out = _split(self._train, self.validation, generator)
        return Dataset(self.name, train, held_out, self._test, self.classes)

    @property
    def classes(self):
        """One more than the largest label; `None` if y is not of integers."""
        leaves = keras.tree.flatten((self._train[1], self._test[1]))
        if any(leaf.dtype.kind not in "iu" for leaf in leaves):
            return None
        return int(max(leaf.max() for leaf in leaves)) + 1

    @functools.cached_property
    def fingerprint(self):
        """The hash of all examples: a str of 32 hexadecimal digits."""
        digest = hashlib.sha256(repr(self.validation).encode())
        for leaf in keras.tree.flatten((self._train, self._test)):
            digest.update(f"{leaf.dtype} {leaf.shape}".encode())
            if leaf.dtype.kind == "O":
                # What is in memory of text are addresses.
                leaf = leaf.astype(str)
            # Some dtypes have no buffer of their own.
            digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
        return digest.hexdigest()[:32]

    def __eq__(self, other):
        return (
            isinstance(other, Arrays) and self.fingerprint == other.fingerprint
        )

    def __hash__(self):
        return hash(self.fingerprint)

    def __repr__(self):
        return f"{self.name} ({self.fingerprint})"


def examples(name, pair):
    """A pair (x, y) of arrays with as many examples each, or an error.

    Numbers must be finite, and targets must be numbers.
    """
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(
            f"`{name}` must be a pair (x, y) of arrays. Received: {name} of "
            f"type {type(pair).__name__}{advice_on_batches(pair)}"
        )
    for part in keras.tree.flatten(tuple(pair)):
        if _is_dataset(part):
            raise ValueError(
                f"`{name}` must be a pair (x, y) of arrays. Received: {name} "
                f"with a {type(part).__name__} in it"
            )
    pair = keras.tree.map_structure(np.asarray, tuple(pair))
    leaves = keras.tree.flatten(pair)
    if any(leaf.ndim == 0 for leaf in leaves):
        raise ValueError(
            f"`{name}` must be a pair (x, y) of arrays, or of nested "
            "structures of arrays; `np.asarray` makes an array of a list of "
            f"numbers. Received: {name} with {len(leaves)} parts, of which "
            f"one is a {leaves[0].dtype.name} without examples"
        )
    if len({len(leaf) for leaf in leaves}) != 1 or not len(leaves[0]):
        raise ValueError(
            f"The arrays of `{name}` must have the same number of examples, "
            f"at least 1. Received: shapes {[leaf.shape for leaf in leaves]}"
        )
    for part, structure in zip(("x", "y"), pair):
        for leaf in keras.tree.flatten(structure):
            _check_values(name, part, leaf)
    return pair


def _is_dataset(value):
    """Whether it is a `tf.data.Dataset`, which needs TensorFlow to be one."""
    tf = sys.modules.get("tensorflow")
    return tf is not None and isinstance(value, tf.data.Dataset)


def advice_on_batches(value):
    """How to make arrays of a `tf.data.Dataset`; nothing if it is none."""
    if not _is_dataset(value):
        return ""
    return (
        ". Arrays of a dataset of batches: `x, y = map(np.concatenate, "
        "zip(*dataset.as_numpy_iterator()))`"
    )


def _check_values(name, part, leaf):
    """Refuses what cannot be trained on: no numbers, NaN and infinity."""
    # Text is for a layer of the model to read, but no loss takes it. Kind V
    # is bfloat16.
    kinds = "biufV" if part == "y" else "biufVSUO"
    if leaf.dtype.kind not in kinds:
        advice = ""
        if leaf.dtype.kind in "SUO":
            advice = (
                "; `classes, y = np.unique(y, return_inverse=True)` numbers "
                "the classes"
            )
        raise ValueError(
            f"`{name}` must hold real numbers in {part}. Received: {part} of "
            f"dtype {leaf.dtype}{advice}"
        )
    if leaf.dtype.kind not in "fV":
        return
    finite = np.isfinite(leaf.reshape(len(leaf), -1)).all(axis=1)
    if finite.all():
        return
    bad = np.flatnonzero(~finite)
    raise ValueError(
        f"`{name}` must hold finite numbers in {part}. Received: {part} with "
        f"NaN or infinity in {len(bad):,} of {len(leaf):,} examples, the "
        f"first at index {bad[0]}"
    )


def check_alike(name, pair, train):
    """Refuses examples that a model of the training set does not take.

    Args:
        name: str, of `pair` in the error.
        pair: pair (x, y) of arrays or nested structures of arrays.
        train: pair (x, y), likewise.
    """
    found, expected = (
        keras.tree.map_structure(lambda leaf: str(leaf.shape[1:]), examples)
        for examples in (pair, train)
    )
    if found != expected:
        raise ValueError(
            f"`{name}` must hold examples of the same structure and shapes as "
            f"those to train on, {expected}. Received: {found}"
        )


def _in_common_types(train, test):
    """Both pairs, with the dtypes that hold the values of both."""
    types = keras.tree.map_structure(
        lambda a, b: np.promote_types(a.dtype, b.dtype), train, test
    )
    return (
        keras.tree.map_structure(
            lambda leaf, dtype: leaf.astype(dtype, copy=False), pair, types
        )
        for pair in (train, test)
    )


def load(
    name,
    data_dir=None,
    seed=0,
    validation=None,
    image_size=None,
    classes=None,
):
    """Loads an image classification set.

    The test set is the set's own; the validation set is drawn at random from
    the training set, as in 1803.03635.

    Args:
        name: str, "digits" or a set of TensorFlow Datasets such as "mnist",
            "cifar10" or "fashion_mnist". One that `data_dir` does not hold
            yet is downloaded.
        data_dir: str, where TensorFlow Datasets keeps its files. Defaults to
            the environment variable TFDS_DATA_DIR, then to TFDS' own.
        seed: int, of the draw. The test set does not depend on it.
        validation: int, number of validation examples. Defaults to 200 of
            1,497 for "digits"; else to 5,000 as in the paper, or a tenth of
            the training set where that is less.
        image_size: optional int, to which height and width of the images are
            reduced, by area averages.
        classes: optional str such as "0-4,7", or sequence of int: the labels
            of the examples that are taken. They are numbered from 0.

    Returns:
        A `Dataset`. Examples keep the order of the files.

    Raises:
        ValueError: If there is no such set, or it is not one of equally
            sized images with one class label each, or has no such classes or
            smaller images.
        RuntimeError: If it can neither be found nor downloaded, or not read.

    Example:

    ```python
    from keras_lottery import datasets

    digits = datasets.load("digits")
    x, y = digits.train  # (1297, 8, 8, 1) and (1297,)
    ```
    """
    check_integer("seed", seed, minimum=0)
    if validation is not None:
        # Before anything is downloaded; its size is not known yet.
        _check_validation(validation, float("inf"))
    if classes is not None:
        classes = reduction.parse_classes(classes)
    if image_size is not None:
        reduction.check_image_size(image_size)
    found = _reduced(name, data_dir, image_size, classes)
    size = len(found.train[1])
    if validation is None:
        whole = name == "digits" and classes is None
        validation = 200 if whole else _tenth(size)
    _check_validation(validation, size)
    generator = np.random.default_rng(seed)
    # The split copies bytes; scaled images are four times as large.
    parts = *_split(found.train, validation, generator), found.test
    scaled = (_scaled(*part, found.scale) for part in parts)
    return Dataset(name, *scaled, found.classes)


def check(name, data_dir=None, image_size=None, classes=None):
    """Checks that a set can be loaded; raises the errors of `load` if not.

    The set is downloaded and decoded where that is necessary. The result is
    kept in memory: a following `load` of the same set only draws the
    validation set and scales the images.

    Args:
        name: str, as `load` takes it.
        data_dir: str, as `load` takes it.
        image_size: int, as `load` takes it.
        classes: str or sequence of int, as `load` takes it.

    Raises:
        ValueError: If there is no such set, or it is not one of equally
            sized images with one class label each, or has no such classes or
            smaller images.
        RuntimeError: If it can neither be found nor downloaded, or not read.
    """
    if classes is not None:
        classes = reduction.parse_classes(classes)
    _reduced(name, data_dir, image_size, classes)


def _tenth(size):
    """How many examples validate by default: 5,000 as in the paper, or a
    tenth of the training set where that is less."""
    return min(5_000, size // 10)


def _check_validation(validation, size):
    whole = isinstance(validation, (int, np.integer))
    if not whole or not 1 <= validation < size:
        raise ValueError(
            f"`validation` must be an integer in [1, {size}), the number of "
            f"training examples. Received: validation={validation!r}"
        )


def _split(examples, validation, generator):
    """Draws `validation` of the examples: (the others, those drawn)."""
    size = len(keras.tree.flatten(examples)[0])
    drawn = np.zeros(size, bool)
    drawn[generator.permutation(size)[:validation]] = True
    return tuple(
        keras.tree.map_structure(lambda leaf, rows=rows: leaf[rows], examples)
        for rows in (~drawn, drawn)
    )


def _scaled(x, y, scale):
    x = np.true_divide(x, np.float32(scale), dtype=np.float32)
    return x, y.astype(np.int32)


def _reduced(name, data_dir, image_size, classes):
    """The `Decoded` set, smaller where that is asked for."""
    if image_size is None and classes is None:
        return _decoded(name, data_dir)
    return _made_smaller(name, data_dir, image_size, classes)


# Every trial splits the same examples.
@functools.lru_cache(maxsize=1)
def _made_smaller(name, data_dir, image_size, classes):
    found = _decoded(name, data_dir)
    parts, scale, count = [found.train, found.test], found.scale, found.classes
    if classes is not None:
        if classes[-1] >= count:
            raise ValueError(
                f"`classes` must be labels of {name!r}, below {count}. "
                f"Received: classes={reduction.write_classes(classes)!r}"
            )
        parts = [reduction.choose_classes(part, classes) for part in parts]
        count = len(classes)
    if image_size is not None:
        sums = [reduction.area_sums(x, image_size) for x, _ in parts]
        parts = [(x, y) for (x, _), (_, y) in zip(sums, parts)]
        # Divided once, by the scale of the sums.
        scale *= sums[0][1]
    return decoded.Decoded(*parts, scale, count)


def _decoded(name, data_dir):
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"The data set must be a name, a string. Received: {name!r}"
        )
    if name == "digits":
        return _digits()
    return _tfds(name, data_dir or os.environ.get("TFDS_DATA_DIR"))


def _digits():
    with np.load(_DIGITS) as file:
        train = file["x_train"], file["y_train"]
        test = file["x_test"], file["y_test"]
    return decoded.Decoded(train, test, scale=16, classes=10)


# Every trial splits the same examples.
@functools.lru_cache(maxsize=1)
def _tfds(name, data_dir):
    kept_in = data_dir or _TFDS_DIRECTORY
    found = decoded.find(name, kept_in)
    if found is None:
        found, source = _decode(name, data_dir)
        decoded.keep(found, name, kept_in, source)
    return found


def _decode(name, data_dir):
    """A set as TFDS decodes it, and the directory that TFDS has it in."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise RuntimeError(
            f"{missing(f'Data set {name!r}', 'tensorflow-datasets')} "
            f"({_first_line(error)})"
        ) from None
    # TFDS prints its progress; standard output belongs to the caller.
    with contextlib.redirect_stdout(sys.stderr), _only_errors():
        builder = _builder(tfds, name, data_dir)
        keys = _keys(tfds, builder, name)
        if not builder.is_prepared():
            _prepare(builder, name)
        _check_splits(builder, name)
        try:
            train, test = (
                _read(tfds, builder, split, keys) for split in ("train", "test")
            )
        except Exception as error:  # Whatever a broken file makes TF raise.
            raise RuntimeError(
                f"Data set {name!r} in {builder.data_dir} cannot be read; "
                "delete that directory to have it prepared anew: "
                f"{_first_line(error)}"
            ) from None
    image, label = (builder.info.features[key] for key in keys)
    scale = np.iinfo(image.np_dtype).max
    found = decoded.Decoded(train, test, int(scale), label.num_classes)
    return found, builder.data_dir


@contextlib.contextmanager
def _only_errors():
    """TFDS warns of what it does itself."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _builder(tfds, name, data_dir):
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(name, known)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            'The data set must be "digits" or an image classification set of '
            f"TensorFlow Datasets. Received: {name!r}.{hint}"
        ) from None
    except Exception as error:  # A version or a configuration it lacks.
        raise ValueError(
            "The data set must be one that TensorFlow Datasets can load. "
            f"Received: {name!r} ({_first_line(error)})"
        ) from None


def _keys(tfds, builder, name):
    """The names of the set's image feature and of its label feature."""
    features = builder.info.features
    keys = builder.info.supervised_keys or ("image", "label")
    if len(keys) == 2 and all(key in features for key in keys):
        image, label = (features[key] for key in keys)
        if (
            isinstance(image, tfds.features.Image)
            and isinstance(label, tfds.features.ClassLabel)
            and None not in image.shape
            and np.issubdtype(image.np_dtype, np.integer)
        ):
            return keys
    raise ValueError(
        "The data set must be of images of one size and integer type, with "
        f"one class label each. Received: {name!r}, whose "
        f"features are {_described(features)}"
    )


def _described(features):
    return ", ".join(
        f"{key} {type(feature).__name__}{feature.shape}"
        for key, feature in features.items()
    )


def _check_splits(builder, name):
    splits = list(builder.info.splits)
    if not {"train", "test"} <= set(splits):
        raise ValueError(
            "The data set must have the splits train and test. "
            f"Received: {name!r}, whose splits are {splits}"
        )


def _prepare(builder, name):
    advice = (
        f"Data set {name!r} is not in {builder.data_dir} and could not be "
        f"downloaded. Prepare it where there is a network (`tfds build {name}`"
        ") and pass that directory as `data_dir` or TFDS_DATA_DIR, or use "
        '"digits", which needs neither.'
    )
    try:
        if _offline(builder):
            raise ConnectionError("there is no network")
        builder.download_and_prepare()
    except Exception as error:  # From requests' errors to failed assertions.
        raise RuntimeError(f"{advice} Cause: {_first_line(error)}") from None


def _offline(builder):
    """Whether no host that could have the set has an address.

    TFDS itself finds that out after minutes of retrying.
    """
    if urllib.request.getproxies():
        return False
    hosts = {urllib.parse.urlparse(url).hostname for url in builder.url_infos}
    return not any(_resolves(host) for host in {_TFDS_HOST, *hosts} if host)


def _resolves(host):
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


def _read(tfds, builder, split, keys):
    """One split as arrays (x, y), in the order of the files."""
    image, label = keys
    batches = builder.as_dataset(
        split=split,
        batch_size=1_000,
        decoders=tfds.decode.PartialDecoding({image: True, label: True}),
        read_config=tfds.ReadConfig(
            try_autocache=False, interleave_cycle_length=1
        ),
    )
    feature = builder.info.features[image]
    size = builder.info.splits[split].num_examples
    x = np.empty((size, *feature.shape), feature.np_dtype)
    y = np.empty(size, np.int64)
    start = 0
    for batch in tfds.as_numpy(batches):
        stop = start + len(batch[label])
        x[start:stop], y[start:stop] = batch[image], batch[label]
        start = stop
    if start != size:
        raise ValueError(
            f"The split {split!r} must have {size} examples. Received: {start}"
        )
    return x, y


def _first_line(error):
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
