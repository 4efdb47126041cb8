"""Smaller data sets: images averaged to fewer pixels, some of the classes.

NumPy alone computes them, in sums of integers that are exact, so that every
backend and every machine trains on the same bits.
"""

import math
import re

import numpy as np

from keras_lottery.checks import check_integer

# Values of this many bytes are averaged at a time.
_AT_A_TIME = 2**25


def area_sums(images, size):
    """The weighted sums of the area averages of images.

    Each pixel of the smaller image is the mean of the rectangle of pixels that
    it covers, those that it covers in part weighted by that part: for 28 to 14
    pixels, the mean of blocks of 2x2. Weights are integers.

    Args:
        images: array of integers, (examples, height, width, channels).
        size: int, the height and the width of the smaller images.

    Returns:
        Pair: array of integers, (examples, size, size, channels), and the int
        that divides them to give the averages.

    Raises:
        ValueError: If `size` is larger than the images.

    Example:

    ```python
    images = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    sums, divisor = area_sums(images, 2)
    sums[0, ..., 0] / divisor  # [[2.5, 4.5], [10.5, 12.5]]
    ```
    """
    check_image_size(size)
    height, width = images.shape[1:3]
    if size > min(height, width):
        raise ValueError(
            "`image_size` must be at most the height and the width of the "
            f"images, {height} and {width}. Received: image_size={size}"
        )
    down, across = _weights(height, size), _weights(width, size)
    divisor = int(down[0].sum() * across[0].sum())
    largest = divisor * int(np.iinfo(images.dtype).max)
    sums = np.empty(
        (len(images), size, size, images.shape[3]), np.min_scalar_type(largest)
    )
    count = max(1, _AT_A_TIME // (8 * images[0].size))
    for start in range(0, len(images), count):
        rows = slice(start, start + count)
        # Floats, for which NumPy has fast products. Sums of integers below
        # 2**53 are exact in them.
        part = images[rows].astype(np.float64)
        part = np.einsum("ih,nhwc->niwc", down, part, optimize=True)
        part = np.einsum("jw,niwc->nijc", across, part, optimize=True)
        sums[rows] = part
    return sums, divisor


def _weights(length, size):
    """Which pixels of a row each pixel of the shorter row covers, and by how
    much: an array of shape (size, length)."""
    unit = math.gcd(length, size)
    # On a common scale a pixel is so long.
    old, new = size // unit, length // unit
    old_start, new_start = old * np.arange(length), new * np.arange(size)
    start = np.maximum(old_start[None], new_start[:, None])
    stop = np.minimum(old_start[None] + old, new_start[:, None] + new)
    return np.maximum(0, stop - start).astype(np.float64)


def check_image_size(size):
    """Refuses what is no size of an image, in pixels."""
    check_integer("image_size", size, minimum=1)


def parse_classes(classes):
    """Labels that are written as `"0-4,7"`, or given as integers.

    Args:
        classes: str, or a sequence of int.

    Returns:
        A sorted tuple of int, each once.

    Raises:
        ValueError: If it is neither, or names fewer than two.

    Example:

    ```python
    parse_classes("0-2,7")  # (0, 1, 2, 7)
    ```
    """
    parts = classes.split(",") if isinstance(classes, str) else classes
    try:
        found = [label for part in parts for label in _labels(str(part))]
    except TypeError:
        found = []
    if len(found) < 2 or len(set(found)) < len(found) or None in found:
        raise ValueError(
            "`classes` must name at least two labels, each once, such as "
            f"0-4 or 0,2,7. Received: classes={classes!r}"
        )
    return tuple(sorted(found))


def _labels(part):
    """The labels in `"7"` or `"0-4"`; `None` among them if it is neither."""
    match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
    if not match:
        return [None]
    first, last = int(match[1]), int(match[2] or match[1])
    return range(first, last + 1) or [None]


def write_classes(classes):
    """Labels as `parse_classes` reads them, in the shortest form.

    Example:

    ```python
    write_classes((0, 1, 2, 7))  # "0-2,7"
    ```
    """
    parts, classes = [], list(classes)
    while classes:
        run = 1
        while run < len(classes) and classes[run] == classes[0] + run:
            run += 1
        first, last = classes[0], classes[run - 1]
        parts.append(str(first) if run == 1 else f"{first}-{last}")
        del classes[:run]
    return ",".join(parts)


def choose_classes(pair, classes):
    """The examples of some classes, which are numbered from 0 in their order.

    Args:
        pair: pair (x, y) of arrays.
        classes: sorted tuple of int, labels.

    Returns:
        Pair (x, y).
    """
    x, y = pair
    chosen = np.isin(y, classes)
    return x[chosen], np.searchsorted(classes, y[chosen]).astype(y.dtype)
