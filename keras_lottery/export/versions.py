"""A version directory that appears under its number when it is complete.

TensorFlow Serving polls a base directory for entries whose names are numbers,
and loads one as soon as it sees it.
"""

import os
import shutil
import uuid


class NewVersion:
    """Context manager: writes beside, renames in one step.

    After an error or Ctrl-C the base directory is as it was.

    Args:
        base_dir: str or path-like, created if it is missing.
        version: optional int. Defaults to the next after those that exist.

    Attributes:
        part: str, the directory to write to.
        path: str, where it is after the context has ended.
        version: int, its number.

    Raises:
        ValueError: If the version is no number or exists.
        OSError: If the directory cannot be written.
    """

    def __init__(self, base_dir, version=None):
        self.base_dir = os.path.abspath(os.fspath(base_dir))
        self.version, self.path = version, None
        self._check()

    def __enter__(self):
        self._made = _missing(self.base_dir)
        # On the same file system, and no number.
        name = f".part.{uuid.uuid4().hex}"
        self.part = os.path.join(self.base_dir, name)
        try:
            os.makedirs(self.part)
        except OSError:
            self._undo()
            raise
        return self

    def __exit__(self, kind, error, traceback):
        try:
            if kind is None:
                self._publish()
        finally:
            if self.path is None:
                self._undo()

    def _publish(self):
        _to_disk(self.part)
        if self.version is None:
            self.version = max(versions(self.base_dir), default=0) + 1
        self._check()
        path = os.path.join(self.base_dir, str(self.version))
        os.rename(self.part, path)
        self.path = path

    def _check(self):
        number = self.version
        if number is None:
            return
        if (
            isinstance(number, bool)
            or not isinstance(number, int)
            or number < 1
        ):
            raise ValueError(
                "`version` must be an integer, at least 1. Received: "
                f"version={number!r}"
            )
        there = versions(self.base_dir)
        if number in there:
            raise ValueError(
                f"`version` must be new in {self.base_dir}, which has "
                f"{sorted(there)}. Received: version={number}"
            )

    def _undo(self):
        shutil.rmtree(self.part, ignore_errors=True)
        for directory in self._made:
            if os.path.isdir(directory) and not os.listdir(directory):
                os.rmdir(directory)


def versions(base_dir):
    """The set of version numbers that a base directory has."""
    if not os.path.isdir(base_dir):
        return set()
    return {int(name) for name in os.listdir(base_dir) if name.isdecimal()}


def _missing(directory):
    """Those that `os.makedirs` would make, the innermost first."""
    missing = []
    while not os.path.exists(directory):
        missing.append(directory)
        directory = os.path.dirname(directory)
    return missing


def _to_disk(directory):
    """A rename may outlive a power failure that the files do not."""
    for parent, _, names in os.walk(directory):
        for path in (*(os.path.join(parent, name) for name in names), parent):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
