"""Levels: records, and weights that leave memory."""

import os

import ml_dtypes
import numpy as np
import pytest
from small import same

from keras_lottery.levels import Levels, Weights, early_stop


def weights(index):
    rng = np.random.default_rng(index)
    return {
        "a/kernel": rng.normal(size=(5, 4)).astype("float32"),
        "b:2/../odd name\n/kernel": rng.normal(size=(3,)).astype("float16"),
        "brain": rng.normal(size=(2, 2)).astype(ml_dtypes.bfloat16),
        "seed": np.array([1, index], "uint32"),
        "scalar": np.float64(index),
        "empty": np.zeros((0, 3), "float32"),
    }


SIZE = Weights(weights(0)).nbytes
MASKS = {"a/kernel": np.arange(20).reshape(5, 4) % 4 > 0}


def filled(memory, count=4):
    levels = Levels(memory)
    for index in range(count):
        levels.record(index, MASKS, weights(index))
    return levels


@pytest.mark.parametrize("memory", [10**9, 2 * SIZE, SIZE, 1, 0])
def test_weights_come_back_bit_for_bit_from_wherever_they_are(memory):
    levels = filled(memory)
    held = sum(level._weights.nbytes for level in levels)
    assert held <= memory
    for index, level in enumerate(levels):
        assert same(level.trained_weights, weights(index))
        # And once more: reading does not bring them back to memory.
        assert same(level.trained_weights, weights(index))
    assert sum(level._weights.nbytes for level in levels) == held


def test_the_oldest_leave_first():
    levels = filled(2 * SIZE)
    assert [bool(lv._weights.nbytes) for lv in levels] == [
        False, False, True, True
    ]  # fmt: skip


def test_nothing_is_written_while_memory_lasts():
    assert filled(10**9)._directory is None


def test_files_go_with_the_levels():
    levels = filled(0)
    directory = levels._directory.name
    assert len(os.listdir(directory)) == 4
    del levels
    assert not os.path.exists(directory)


def test_a_level_that_is_recorded_again_replaces_the_older_record():
    levels = filled(0)
    count = len(levels)
    level = levels.record(1, MASKS, weights(0))
    assert len(levels) == count and levels.find(1) is level


def test_record():
    history = {"loss": [3.0, 2.0, 1.0], "val_loss": [0.9, 0.4, 0.5]}
    levels = Levels()
    level = levels.record(2, MASKS, weights(0), history, [10, 20, 30])
    assert levels[-1] is level and len(levels) == 1
    assert level.index == 2 and level.density == 0.75
    assert level.history == history
    assert level.metrics == {"loss": 1.0, "val_loss": 0.5}
    assert level.early_stop_iteration == 20
    assert same(level.masks, MASKS)


def test_masks_are_nobody_elses():
    masks = {"a/kernel": MASKS["a/kernel"].copy()}
    level = Levels().record(0, masks, weights(0))
    masks["a/kernel"][:] = False
    level.masks["a/kernel"][:] = False
    assert same(level.masks, MASKS)


@pytest.mark.parametrize(
    "history, evaluated_at, expected",
    [
        ({"loss": [1.0]}, [10], None),
        ({"val_loss": [1.0, 0.5, 0.5]}, [10, 20, 30], 20),  # The first minimum.
        ({"val_loss": [np.nan, 0.5]}, [20, 40], 40),
        ({"val_loss": [np.nan, np.nan]}, [10, 20], None),
        ({"val_loss": [1.0]}, None, None),
        ({}, [10], None),
    ],
)
def test_early_stop_iteration(history, evaluated_at, expected):
    level = Levels().record(0, MASKS, weights(0), history, evaluated_at)
    assert level.early_stop_iteration == expected


def test_a_level_without_a_history():
    level = Levels().record(0, MASKS, weights(0))
    assert level.history == {} and level.metrics == {}


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "values, metric, index",
    [
        ([3.0, 1.0, 2.0], "val_loss", 1),
        ([3.0, 1.0, 2.0], "val_accuracy", 0),
        ([2.0, 1.0, 1.0], "val_loss", 1),
        ([1.0, 2.0, 2.0], "val_accuracy", 1),
        ([NAN, 2.0, NAN, 1.0], "val_loss", 3),
        ([NAN, INF], "val_loss", 1),
        ([NAN, -INF], "val_accuracy", 1),
        ([NAN, NAN], "val_loss", 0),
    ],
)
def test_early_stop_is_the_first_of_the_best(values, metric, index):
    assert early_stop(values, metric) == index
    assert early_stop(np.array(values), metric) == index


def test_on_a_full_disk_weights_stay_in_memory(monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    levels = Levels(memory=0)
    weights = {"kernel": np.arange(3.0)}
    with pytest.warns(UserWarning, match="stay in memory"):
        level = levels.record(0, {"kernel": np.ones(3, bool)}, weights)
    assert level.trained_weights["kernel"] is weights["kernel"]


def test_a_full_disk_leaves_no_half_of_a_file(monkeypatch, tmp_path):
    def cut_short(path, *arrays):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", cut_short)
    with pytest.raises(OSError):
        Weights(weights(0)).spill(str(tmp_path))
    assert not os.listdir(tmp_path)
