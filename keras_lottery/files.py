"""One file for a header and arrays: versioned, checksummed, atomic.

The file is a header of JSON, the arrays one after the other, and a SHA-256 of
all before it. No pickle, so that a file from a stranger can be read; booleans
take one bit; arrays of zeros (fresh slots) take nothing.
"""

import contextlib
import hashlib
import json
import os
import shutil
import struct
import uuid

import ml_dtypes  # noqa: F401  (gives NumPy the names of bfloat16 and float8)
import numpy as np

from keras_lottery import masks

_MAGIC = b"KLTICKET"
_VERSION = 1
_HEAD = struct.Struct("<8sIQ")
_DIGEST = hashlib.sha256().digest_size


def write(path, header, arrays):
    """Writes header and arrays to `path`, replacing it in one step.

    Args:
        path: str or path-like.
        header: dict that JSON can hold.
        arrays: iterable of (kind, name, array).
    """
    entries, blobs = [], []
    for kind, name, array in arrays:
        array = np.asarray(array)
        # The name of a dtype says nothing of the order of its bytes.
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        blob = b""
        if array.dtype == bool:
            blob = masks.pack(array).tobytes()
        elif has_bits(array):
            blob = np.ascontiguousarray(array).tobytes()
        entries.append([kind, name, array.shape, array.dtype.name, len(blob)])
        blobs.append(blob)
    text = json.dumps({**header, "arrays": entries}).encode()
    digest = hashlib.sha256()
    with atomic_file(path) as file:
        for part in (_HEAD.pack(_MAGIC, _VERSION, len(text)), text, *blobs):
            digest.update(part)
            file.write(part)
        file.write(digest.digest())


def read(path):
    """The header and a list of (kind, name, array) from `path`."""
    with open(path, "rb") as file:
        data = file.read()
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError(f"{path} is not a ticket of keras_lottery.")
    if len(data) < _HEAD.size + _DIGEST:
        raise ValueError(f"{path} is damaged: it is cut short.")
    _, version, length = _HEAD.unpack_from(data)
    if version > _VERSION:
        raise ValueError(
            f"{path} was written by a newer keras_lottery (format {version}; "
            f"this one reads up to {_VERSION}). Update keras_lottery."
        )
    body = memoryview(data)[:-_DIGEST]
    if hashlib.sha256(body).digest() != data[-_DIGEST:]:
        raise ValueError(
            f"{path} is damaged: its checksum does not match (it was altered "
            "or cut short)."
        )
    header = json.loads(bytes(body[_HEAD.size : _HEAD.size + length]))
    offset, arrays = _HEAD.size + length, []
    for kind, name, shape, dtype, size in header.pop("arrays"):
        blob = body[offset : offset + size]
        arrays.append((kind, name, _array(blob, tuple(shape), dtype)))
        offset += size
    return header, arrays


def has_bits(array):
    """Whether any bit is set: -0.0 is not the zero that takes nothing."""
    return bool(np.ascontiguousarray(array).view(np.uint8).any())


def _array(blob, shape, dtype):
    if not len(blob):
        return np.zeros(shape, np.dtype(dtype))
    if dtype == "bool":
        return masks.unpack(np.frombuffer(blob, np.uint8), shape)
    return np.frombuffer(blob, np.dtype(dtype)).reshape(shape)


def check_directory(name, path):
    """Refuses a path at which a file is, where a directory must be.

    Args:
        name: str, the argument.
        path: str or path-like, that need not exist.

    Raises:
        ValueError: If it, or a parent of it, is a file.
    """
    place = os.path.abspath(path)
    if missing := missing_directories(place):
        place = os.path.dirname(missing[-1])
    if not os.path.isdir(place):
        raise ValueError(
            f"`{name}` must be a directory, and {place} is a file. "
            f"Received: {name}={os.fspath(path)!r}"
        )


def missing_directories(directory):
    """Those that `os.makedirs` would make, the innermost first."""
    missing = []
    while not os.path.exists(directory):
        missing.append(directory)
        directory = os.path.dirname(directory)
    return missing


def remove_empty(directories):
    """Removes those of the directories that are empty, in this order."""
    for directory in directories:
        if os.path.isdir(directory) and not os.listdir(directory):
            os.rmdir(directory)


def copy(source, target):
    """Copies a file in one step, if it is there."""
    with contextlib.suppress(FileNotFoundError), open(source, "rb") as file:
        with atomic_file(target) as written:
            shutil.copyfileobj(file, written)


@contextlib.contextmanager
def atomic_file(path):
    """Context manager: a file that appears under its name when complete.

    Args:
        path: str or path-like.

    Yields:
        A binary file, open for writing.

    Raises:
        OSError: If it cannot be written, naming it; nothing is left behind.
    """
    path = os.fspath(path)
    directory = os.path.dirname(os.path.abspath(path))
    os.makedirs(directory, exist_ok=True)
    name = f".{os.path.basename(path)}.{uuid.uuid4().hex}"
    part = os.path.join(directory, name)
    # Not `tempfile`, whose files no one else may read.
    file = open(part, "xb")
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())
        file.close()
        os.replace(part, path)
    except OSError as error:
        # A write that fails does not say of which file.
        error.filename = error.filename or path
        raise
    finally:
        # A full disk fails the close as well.
        with contextlib.suppress(OSError):
            file.close()
        if os.path.exists(part):
            os.unlink(part)
