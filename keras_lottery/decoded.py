"""Decoded data sets, kept on disk as memory-mapped arrays.

TensorFlow Datasets (TFDS) stores images compressed. Importing it and decoding
MNIST takes longer than a short training, so the arrays of a set are decoded
once and kept, in the directory of the data sets or, where that cannot be
written, in the user's cache directory:

    keras_lottery/mnist.tfds-4.9.10/
        x_train.npy  y_train.npy  x_test.npy  y_test.npy
        index.json

The index is written last. It names the directory of the prepared set and how
that looked when it was decoded, and the size and the checksum of each array.
A set that does not agree with its index is not used, and is decoded anew. The
directory can be copied to a machine that has neither TFDS nor the prepared set.
"""

import contextlib
import glob
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import sys
import typing
import urllib.parse
import zlib

import numpy as np
from absl import logging

from keras_lottery import files

_FORMAT = 1
_INDEX = "index.json"
# Raised for a file that is missing, cut short or altered.
_DAMAGED = (OSError, ValueError, KeyError, TypeError)


class Decoded(typing.NamedTuple):
    """The images and the labels of a set, as integers.

    Attributes:
        train: pair (x, y) of integer arrays.
        test: pair (x, y), likewise.
        scale: int, the value of a pixel that stands for 1.
        classes: int, labels are below it.
    """

    train: tuple
    test: tuple
    scale: int
    classes: int


def find(name, data_dir):
    """The decoded set that is kept for a name.

    Args:
        name: str, as TFDS takes it: `"mnist"`, `"name/config:version"`.
        data_dir: str or path-like, the directory of the data sets.

    Returns:
        `Decoded`, its arrays memory-mapped and read-only; `None` if the set
        is not kept, or not whole, or was prepared anew since.
    """
    for directory in _directories(name, data_dir):
        with contextlib.suppress(*_DAMAGED):
            return _read(directory, _absolute(data_dir))
    return None


def keep(decoded, name, data_dir, source):
    """Keeps a decoded set for `find`; logs one line if it cannot be kept.

    Args:
        decoded: `Decoded`.
        name: str, as `find` takes it.
        data_dir: str or path-like, the directory of the data sets.
        source: str or path-like, the directory of the prepared set.
    """
    errors = []
    for directory in _directories(name, data_dir):
        try:
            return _write(decoded, directory, _absolute(data_dir), source)
        except OSError as error:
            errors.append(error)
    if errors:
        logging.warning(
            "Data set %r is decoded at each start, because its arrays cannot "
            "be written: %s",
            name,
            "; ".join(map(str, errors)),
        )


def _directories(name, data_dir):
    """The directories in which a set may be kept, the preferred one first."""
    if "://" in os.fspath(data_dir):
        return
    data_dir = _absolute(data_dir)
    parents = [os.path.join(data_dir, "keras_lottery")]
    # Path.home() raises it for a user without a home directory.
    with contextlib.suppress(RuntimeError):
        digest = hashlib.sha256(data_dir.encode()).hexdigest()[:16]
        parents.append(os.path.join(_user_cache(), "keras_lottery", digest))
    entry, version = urllib.parse.quote(name, safe=""), _tfds_version()
    for parent in parents:
        if version is not None:
            yield os.path.join(parent, f"{entry}.tfds-{version}")
        else:
            # Without TFDS, what any version of it has decoded elsewhere.
            kept = pathlib.Path(parent).glob(f"{glob.escape(entry)}.tfds-*")
            yield from sorted(map(os.fspath, kept), reverse=True)


def _tfds_version():
    """The installed version of TFDS, found without importing it."""
    for package in ("tensorflow-datasets", "tfds-nightly"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return None


def _user_cache():
    if sys.platform == "win32":
        given, usual = "LOCALAPPDATA", ("AppData", "Local")
    elif sys.platform == "darwin":
        given, usual = None, ("Library", "Caches")
    else:
        given, usual = "XDG_CACHE_HOME", (".cache",)
    return os.environ.get(given or "") or pathlib.Path.home().joinpath(*usual)


def _absolute(path):
    return os.path.abspath(os.path.expanduser(path))


def _read(directory, data_dir):
    index = json.loads(pathlib.Path(directory, _INDEX).read_bytes())
    source = os.path.join(data_dir, index["source"])
    # Without TFDS, nothing can have prepared the set anew.
    known = _tfds_version() is None or index["state"] == _state(source)
    if index["format"] != _FORMAT or not known:
        raise ValueError("The set was prepared anew since.")
    arrays = {
        name: _read_array(os.path.join(directory, f"{name}.npy"), **entry)
        for name, entry in index["arrays"].items()
    }
    return Decoded(
        (arrays["x_train"], arrays["y_train"]),
        (arrays["x_test"], arrays["y_test"]),
        index["scale"],
        index["classes"],
    )


def _read_array(path, size, crc32):
    content = np.memmap(path, np.uint8, mode="r")
    if len(content) != size or zlib.crc32(content) != crc32:
        raise ValueError(f"{path} is damaged.")
    return np.lib.format.open_memmap(path, mode="r")


def _write(decoded, directory, data_dir, source):
    _check_writable(directory, data_dir)
    try:
        _write_files(decoded, directory, data_dir, source)
    except OSError:
        # Arrays without an index only take space on a full disk.
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _write_files(decoded, directory, data_dir, source):
    entries = {}
    for split in ("train", "test"):
        for axis, array in zip("xy", getattr(decoded, split)):
            name = f"{axis}_{split}"
            path = os.path.join(directory, f"{name}.npy")
            entries[name] = _write_array(path, array)
    index = {
        "format": _FORMAT,
        "source": _relative(source, data_dir),
        "state": _state(source),
        "scale": decoded.scale,
        "classes": decoded.classes,
        "arrays": entries,
    }
    with files.atomic_file(os.path.join(directory, _INDEX)) as file:
        file.write(json.dumps(index, indent=1).encode())


def _write_array(path, array):
    with files.atomic_file(path) as file:
        np.save(file, array, allow_pickle=False)
    content = np.memmap(path, np.uint8, mode="r")
    return {"size": len(content), "crc32": zlib.crc32(content)}


def _check_writable(directory, data_dir):
    """Refuses a directory of data sets that is marked as read-only.

    The system would let an administrator write there.
    """
    inside = pathlib.Path(directory).is_relative_to(data_dir)
    if inside and not os.stat(data_dir).st_mode & 0o222:
        raise PermissionError(f"{data_dir} is read-only")


def _relative(source, data_dir):
    """The path of a set within the directory of the sets, if it is there.

    So the directory can be moved.
    """
    source = pathlib.Path(_absolute(source))
    inside = source.is_relative_to(data_dir)
    return str(source.relative_to(data_dir) if inside else source)


def _state(source):
    """The hash of how a prepared set looks: its description, and the names
    and the sizes of its files."""
    info = pathlib.Path(source, "dataset_info.json").read_bytes()
    digest = hashlib.sha256(info)
    for path in sorted(pathlib.Path(source).iterdir()):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()
