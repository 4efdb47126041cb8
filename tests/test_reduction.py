"""Smaller data sets: area averages and subsets of classes, to the bit."""

import numpy as np
import pytest

from keras_lottery.reduction import (
    area_sums,
    choose_classes,
    parse_classes,
    write_classes,
)


def images(height, width, count=3):
    generator = np.random.default_rng(0)
    shape = (count, height, width, 2)
    return generator.integers(0, 256, shape, np.uint8, endpoint=False)


def test_a_whole_factor_is_the_mean_of_blocks():
    x = images(8, 12)
    sums, divisor = area_sums(x, 4)
    blocks = x.astype(int).reshape(3, 4, 2, 4, 3, 2).sum((2, 4))
    assert divisor == 6 and np.array_equal(sums, blocks)
    # Of bytes few are made: at most 6 * 255.
    assert sums.dtype == np.uint16


@pytest.mark.parametrize("height, width, size", [(7, 7, 3), (28, 28, 16)])
def test_another_factor_weights_pixels_by_the_area_that_is_covered(
    height, width, size
):
    x = images(height, width)
    sums, divisor = area_sums(x, size)
    # Pixels so small that the edges of both grids are edges of theirs.
    fine = x.astype(int).repeat(size, 1).repeat(size, 2)
    means = fine.reshape(3, size, height, size, width, 2).mean((2, 4))
    assert sums / divisor == pytest.approx(means, rel=1e-12)


def test_the_same_size_leaves_images_alone():
    x = images(5, 5)
    sums, divisor = area_sums(x, 5)
    assert divisor == 1 and np.array_equal(sums, x)


def test_a_set_is_averaged_a_few_images_at_a_time(monkeypatch):
    x = images(6, 6, count=7)
    whole = area_sums(x, 4)[0]
    monkeypatch.setattr("keras_lottery.reduction._AT_A_TIME", 2 * 8 * 72)
    assert np.array_equal(area_sums(x, 4)[0], whole)


def test_images_do_not_become_larger():
    with pytest.raises(ValueError, match="at most the height and the width"):
        area_sums(images(8, 4), 5)
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match="`image_size` must be an integer"):
            area_sums(images(4, 4), wrong)


@pytest.mark.parametrize(
    "given, labels, written",
    [
        ("0-4", (0, 1, 2, 3, 4), "0-4"),
        ("7, 0-2", (0, 1, 2, 7), "0-2,7"),
        ([3, 1], (1, 3), "1,3"),
        (range(5, 10), (5, 6, 7, 8, 9), "5-9"),
    ],
)
def test_labels_are_written_in_one_way(given, labels, written):
    assert parse_classes(given) == labels
    assert write_classes(labels) == written
    assert parse_classes(written) == labels


@pytest.mark.parametrize(
    "wrong", ["", "3", "a-b", "0-2,2", "4-0,1,2", "-1,2", 5, (1.5, 2)]
)
def test_what_names_no_classes_is_refused(wrong):
    with pytest.raises(ValueError, match="`classes` must name at least two"):
        parse_classes(wrong)


def test_classes_are_numbered_from_0_in_the_order_of_their_labels():
    x, y = np.arange(6), np.array([5, 1, 2, 5, 1, 0])
    x, y = choose_classes((x, y), (1, 5))
    assert x.tolist() == [0, 1, 3, 4] and y.tolist() == [1, 0, 1, 0]
