"""The file format: every damage is noticed, no older file is lost."""

import errno
import os
import struct

import hypothesis.extra.numpy as hnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lottery import files

HEADER = {"level": 3, "config": {"rate": 0.2}}
ARRAYS = [
    ("mask", "a/kernel", np.arange(21).reshape(3, 7) % 3 == 0),
    ("weight", "a/kernel", np.arange(21, dtype="float32").reshape(3, 7)),
    ("weight", 'naïve/\n"path"', np.array(2.5, "float64")),
    ("weight", "zeros", np.zeros((4, 4), "float16")),
    ("weight", "brain", np.array([1.5, -2.0], ml_dtypes.bfloat16)),
    ("optimizer", "0:iteration", np.array(7, "int64")),
    ("weight", "empty", np.zeros((0, 3), "float32")),
    ("mask", "none kept", np.zeros((3, 3), bool)),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "t.ticket"


def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "t.ticket"
    files.write(path, HEADER, ARRAYS)
    return path


def agree(got, expected):
    assert len(got) == len(expected)
    for (kind, name, array), (kind2, name2, array2) in zip(got, expected):
        assert (kind, name) == (kind2, name2)
        assert array.dtype == array2.dtype and array.shape == array2.shape
        assert array.tobytes() == array2.tobytes()


def test_round_trip(path):
    files.write(path, HEADER, iter(ARRAYS))
    header, arrays = files.read(path)
    assert header == HEADER
    agree(arrays, ARRAYS)


DTYPES = [
    "float16", "float32", "float64", "int8", "int64", "uint32", "bool",
]  # fmt: skip


@settings(deadline=None)  # A busy machine writes slowly.
@given(st.data())
def test_any_array_comes_back_bit_for_bit(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.ticket"
    dtype = data.draw(st.sampled_from(DTYPES))
    array = data.draw(
        hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0))
    )
    files.write(path, {}, [("w", "a", array), ("w", "b", array.T)])
    agree(files.read(path)[1], [("w", "a", array), ("w", "b", array.T)])


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_small_floats(path, dtype):
    array = np.linspace(-2, 2, 16).astype(dtype).reshape(4, 4)
    files.write(path, {}, [("w", "a", array)])
    agree(files.read(path)[1], [("w", "a", array)])


def test_bytes_in_another_order_are_the_same_numbers(path):
    array = np.arange(3).astype(">f4")
    files.write(path, {}, [("weight", "a", array)])
    ((_, _, found),) = files.read(path)[1]
    np.testing.assert_array_equal(found, array)


def test_minus_zero_is_not_nothing(path):
    array = np.full(3, -0.0, "float32")
    files.write(path, {}, [("w", "a", array)])
    agree(files.read(path)[1], [("w", "a", array)])


def test_fresh_slots_take_nothing(path):
    files.write(path, {}, [("slot", "m", np.zeros((1000, 1000), "float32"))])
    assert path.stat().st_size < 300


def test_truncation_anywhere(path):
    files.write(path, HEADER, ARRAYS)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut short|not a ticket"):
            files.read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="damaged"):
        files.read(path)


@settings(deadline=None)  # A busy machine writes slowly.
@given(st.data())
def test_flipped_bits_anywhere(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "flipped.ticket"
    files.write(path, HEADER, ARRAYS)
    whole = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(whole))
    with pytest.raises(ValueError, match=r"flipped\.ticket (is|was) "):
        files.read(path)


@pytest.mark.parametrize(
    "content", [b"", b"KL", b"PK\x03\x04" + b"x" * 500, os.urandom(1000)]
)
def test_foreign_files(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="t.ticket is not a ticket of keras_l"):
        files.read(path)


def test_newer_version_says_so(path):
    files.write(path, HEADER, ARRAYS)
    whole = bytearray(path.read_bytes())
    struct.pack_into("<I", whole, 8, 2)
    path.write_bytes(bytes(whole))
    with pytest.raises(
        ValueError, match="newer keras_lottery.*format 2.*Update"
    ):
        files.read(path)


def test_no_file():
    with pytest.raises(FileNotFoundError):
        files.read("/nowhere/t.ticket")


def big():
    yield ("w", "a", np.ones(200_000, "float32"))


def full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("when", ["fsync", "replace"])
def test_a_failed_write_leaves_the_older_file(path, monkeypatch, when):
    files.write(path, HEADER, ARRAYS)
    monkeypatch.setattr(os, when, full)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, {"level": 4}, big())
    monkeypatch.undo()
    assert os.listdir(path.parent) == [path.name]
    assert files.read(path)[0] == HEADER


@pytest.mark.parametrize("limit", [0, 10, 5000, 100_000])
def test_a_disk_that_is_really_full(path, limit):
    resource = pytest.importorskip("resource", reason="only on POSIX")
    files.write(path, HEADER, ARRAYS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError):
            files.write(path, {"level": 4}, big())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(path.parent) == [path.name]
    assert files.read(path)[0] == HEADER


def test_an_interrupt_leaves_the_older_file(path):
    files.write(path, HEADER, ARRAYS)
    with pytest.raises(KeyboardInterrupt):
        with files.atomic_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt
    assert os.listdir(path.parent) == [path.name]
    assert files.read(path)[0] == HEADER


def test_a_header_that_json_cannot_hold_writes_nothing(path):
    with pytest.raises(TypeError):
        files.write(path, {"level": object()}, [])
    assert not path.exists()


def test_directories_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "t.ticket"
    files.write(str(path), HEADER, ARRAYS)
    assert files.read(path)[0] == HEADER


def test_others_may_read_it_as_any_file(path, tmp_path):
    files.write(path, HEADER, ARRAYS)
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_masks_of_lenet_take_a_bit_a_weight(path):
    rng = np.random.default_rng(0)
    shapes = [(784, 300), (300, 100), (100, 10)]
    masks = [("mask", f"{s}", rng.random(s) < 0.2) for s in shapes]
    assert sum(m.size for _, _, m in masks) == 266_200
    files.write(path, HEADER, masks)
    assert path.stat().st_size <= 34_000
    agree(files.read(path)[1], masks)
