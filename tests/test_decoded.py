"""Decoded data sets on disk: found again, never wrong, never in the way."""

import concurrent.futures
import errno
import importlib.metadata
import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from keras_lottery import decoded, files


def pair(seed, size):
    x = np.random.default_rng(seed).integers(0, 256, (size, 4, 3, 1), np.uint8)
    return x, np.arange(size) % 3


SET = decoded.Decoded(pair(0, 20), pair(1, 10), scale=255, classes=3)


def agree(found):
    """Whether what was found is `SET`, bit for bit."""
    assert (found.scale, found.classes) == (255, 3)
    for (x, y), (x_set, y_set) in zip(found[:2], SET[:2]):
        for array, expected in ((x, x_set), (y, y_set)):
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)
    return True


@pytest.fixture(autouse=True)
def tfds_version(monkeypatch):
    """A version of TFDS that can be changed, whether it is installed or not."""
    versions = {"tensorflow-datasets": "4.9.10"}

    def version(package):
        try:
            return versions[package]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError from None

    monkeypatch.setattr(importlib.metadata, "version", version)
    return versions


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    cache = tmp_path / "user"
    monkeypatch.setattr(decoded, "_user_cache", lambda: cache)
    return cache


@pytest.fixture
def root(tmp_path):
    """The directory of the data sets, with a prepared set in it."""
    prepare(tmp_path / "sets")
    return tmp_path / "sets"


def prepare(root):
    folder = root / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"name": "tiny"}')
    (folder / "tiny-train.tfrecord-00000-of-00001").write_bytes(b"compressed")


def keep(root, name="tiny"):
    decoded.keep(SET, name, str(root), str(root / "tiny" / "1.0.0"))


def kept(root):
    return root / "keras_lottery" / "tiny.tfds-4.9.10"


def failing(monkeypatch, module, name, fails):
    """Makes a function raise that the disk is full if `fails(path)`."""
    real = getattr(module, name)

    def function(path, *args, **kwargs):
        if fails(os.fspath(path)):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(module, name, function)


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr(
        decoded.logging,
        "warning",
        lambda message, *args: lines.append(message % args),
    )
    return lines


def test_what_is_kept_is_found_as_mapped_files(root, user_cache, warnings):
    assert decoded.find("tiny", str(root)) is None
    keep(root)
    found = decoded.find("tiny", str(root))
    assert agree(found)
    for array in (*found.train, *found.test):
        assert isinstance(array, np.memmap) and not array.flags.writeable
    assert sorted(os.listdir(kept(root))) == [
        "index.json", "x_test.npy", "x_train.npy", "y_test.npy", "y_train.npy",
    ]  # fmt: skip
    assert not user_cache.exists() and not warnings


def test_the_name_and_the_version_of_tfds_are_the_key(root, tfds_version):
    keep(root)
    assert decoded.find("tiny/config:1.0.0", root) is None
    keep(root, "tiny/config:1.0.0")
    assert agree(decoded.find("tiny/config:1.0.0", root))
    tfds_version["tensorflow-datasets"] = "4.9.11"
    assert decoded.find("tiny", root) is None
    del tfds_version["tensorflow-datasets"]
    # Without TFDS, what any version of it has decoded.
    assert agree(decoded.find("tiny", root))
    tfds_version["tfds-nightly"] = "4.9.10"
    assert agree(decoded.find("tiny", root))


def test_the_directory_can_be_moved(root, tmp_path, monkeypatch):
    keep(root)
    root.rename(tmp_path / "elsewhere")
    assert decoded.find("tiny", root) is None
    assert agree(decoded.find("tiny", tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    assert agree(decoded.find("tiny", "elsewhere"))


def test_a_set_from_another_directory(root, tmp_path):
    (tmp_path / "other").mkdir()
    source = root / "tiny" / "1.0.0"
    decoded.keep(SET, "tiny", tmp_path / "other", source)
    assert agree(decoded.find("tiny", tmp_path / "other"))


ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "header", "lost"])
def test_a_damaged_array_is_not_used(root, name, damage):
    keep(root)
    path = kept(root) / f"{name}.npy"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
    if damage == "header":
        content[20] ^= 1
    size = {"cut": -1, "empty": 0}.get(damage)
    path.write_bytes(bytes(content[:size]))
    if damage == "lost":
        path.unlink()
    assert decoded.find("tiny", root) is None
    keep(root)
    assert agree(decoded.find("tiny", root))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b"{}", b'{"format": 1, "source": 3}']
)
def test_a_damaged_index_is_not_used(root, content):
    keep(root)
    (kept(root) / "index.json").write_bytes(content)
    assert decoded.find("tiny", root) is None


def test_an_index_of_another_format_is_not_used(root):
    keep(root)
    path = kept(root) / "index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "format": 2}))
    assert decoded.find("tiny", root) is None


@pytest.mark.parametrize("change", ["info", "shard", "more", "gone"])
def test_a_set_that_was_prepared_anew_is_decoded_anew(root, change):
    keep(root)
    source = root / "tiny" / "1.0.0"
    if change == "info":
        (source / "dataset_info.json").write_text('{"name": "tony"}')
    elif change == "shard":
        (source / "tiny-train.tfrecord-00000-of-00001").write_bytes(b"other")
    elif change == "more":
        (source / "tiny-valid.tfrecord-00000-of-00001").write_bytes(b"more")
    else:
        shutil.rmtree(source)
    assert decoded.find("tiny", root) is None


def test_a_read_only_directory_is_left_alone(root, user_cache, warnings):
    root.chmod(0o555)
    try:
        keep(root)
    finally:
        root.chmod(0o755)
    assert os.listdir(root) == ["tiny"]
    assert agree(decoded.find("tiny", root)) and not warnings
    (found,) = user_cache.rglob("index.json")
    # Of the same set in another directory nothing is known.
    prepare(root.parent / "others")
    assert decoded.find("tiny", root.parent / "others") is None


def test_directories_that_cannot_be_made(root, monkeypatch, warnings):
    inside = str(root)
    failing(monkeypatch, os, "makedirs", lambda path: path.startswith(inside))
    keep(root)
    assert os.listdir(root) == ["tiny"]
    assert agree(decoded.find("tiny", root)) and not warnings


@pytest.mark.parametrize("file", [*ARRAYS, "index"])
def test_a_full_disk_leaves_nothing_behind(root, monkeypatch, warnings, file):
    name = f"{os.sep}{file}."
    failing(monkeypatch, files, "atomic_file", lambda path: name in path)
    keep(root)
    assert not kept(root).exists()
    assert decoded.find("tiny", root) is None
    (line,) = warnings
    assert "'tiny'" in line and "No space left" in line and "\n" not in line


def test_a_user_without_a_home(root, monkeypatch, warnings):
    def home(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(decoded, "_user_cache", home)
    keep(root)
    assert agree(decoded.find("tiny", root))
    root.chmod(0o555)
    try:
        keep(root, "tiny:1.0.0")
    finally:
        root.chmod(0o755)
    assert len(warnings) == 1


def test_nothing_is_kept_of_a_remote_directory(tmp_path, monkeypatch, warnings):
    monkeypatch.chdir(tmp_path)
    decoded.keep(SET, "tiny", "gs://bucket/sets", "gs://bucket/sets/tiny/1.0.0")
    assert decoded.find("tiny", "gs://bucket/sets") is None
    assert not os.listdir(tmp_path) and not warnings


@pytest.mark.parametrize(
    "platform, variable, usual",
    [
        ("linux", "XDG_CACHE_HOME", (".cache",)),
        ("darwin", None, ("Library", "Caches")),
        ("win32", "LOCALAPPDATA", ("AppData", "Local")),
    ],
)
def test_the_usual_places(monkeypatch, tmp_path, platform, variable, usual):
    monkeypatch.undo()
    monkeypatch.setattr(decoded.sys, "platform", platform)
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    assert decoded._user_cache() == tmp_path.joinpath(*usual)
    if variable:
        monkeypatch.setenv(variable, "given")
        assert decoded._user_cache() == "given"


def test_who_reads_while_others_write_sees_all_or_nothing(root):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(keep, root) for _ in range(20)]
        # In one thread: Python 3.11 fails where two threads parse headers
        # at once (AST constructor recursion depth mismatch).
        for _ in range(80):
            found = decoded.find("tiny", root)
            assert found is None or agree(found)
        for future in writers:
            future.result()
    assert agree(decoded.find("tiny", root))
    assert len(os.listdir(kept(root))) == 5
