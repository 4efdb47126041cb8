"""The batches that the steps take: which examples each of them has."""

import functools

import keras
import numpy as np


def batch_indices(size, batch_size, seed, start, stop):
    """Indices of the examples in the batches of iterations `start` to `stop`.

    A pure function of seed and iteration. The examples form one endless
    stream, a new permutation of the training set for every epoch, cut into
    batches that run across the borders of epochs. Any stretch of it can be
    computed alone, so training can begin at any iteration and see the batches
    that an uninterrupted training would have seen.

    Args:
        size: Integer, the number of training examples.
        batch_size: Integer, examples per batch, at most `size`.
        seed: Integer >= 0. The same seed gives the same batches.
        start: Integer, the first iteration.
        stop: Integer, the iteration after the last.

    Returns:
        An int32 array of shape `(stop - start, batch_size)`.

    Example:

    ```python
    whole = batch_indices(1000, 60, seed=0, start=0, stop=40)
    tail = batch_indices(1000, 60, seed=0, start=25, stop=40)
    assert (whole[25:] == tail).all()
    ```
    """
    first, last = start * batch_size, stop * batch_size
    if first == last:
        return np.zeros((0, batch_size), np.int32)
    parts = [
        _permutation(size, seed, epoch)[
            max(first - epoch * size, 0) : last - epoch * size
        ]
        for epoch in range(first // size, (last - 1) // size + 1)
    ]
    return np.concatenate(parts).reshape(-1, batch_size)


# An epoch spans many stretches, and those of stacked trainings take turns.
@functools.lru_cache(maxsize=32)
def _permutation(size, seed, epoch):
    generator = np.random.default_rng((seed, epoch))
    permutation = generator.permutation(size).astype(np.int32)
    permutation.flags.writeable = False
    return permutation


def into_blocks(data, batch_size):
    """Cuts data into one block of equal batches and one for the remainder.

    Where TensorFlow can slice without a copy, as it can on the first axis of
    images, a block shares the memory of the data.

    Args:
        data: Pair of inputs and targets, as tensors.
        batch_size: Integer, examples per batch.

    Returns:
        List of one or two pairs of shape `(batches, batch_size, ...)`.
    """
    size = len(keras.tree.flatten(data)[0])
    whole = size - size % batch_size

    def cut(begin, end, rows):
        return keras.tree.map_structure(
            lambda t: keras.ops.reshape(t[begin:end], (-1, rows, *t.shape[1:])),
            data,
        )

    blocks = [cut(0, whole, batch_size)] if whole else []
    if whole < size:
        blocks.append(cut(whole, size, size - whole))
    return blocks
