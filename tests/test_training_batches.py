"""Which examples are in which batch, and in which memory."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_lottery.training.batches import batch_indices, into_blocks


@given(
    size=st.integers(1, 40),
    data=st.data(),
    seed=st.integers(0, 2**63),
)
def test_any_stretch_equals_the_part_of_the_whole(size, data, seed):
    batch_size = data.draw(st.integers(1, size))
    stop = data.draw(st.integers(0, 50))
    start = data.draw(st.integers(0, stop))
    whole = batch_indices(size, batch_size, seed, 0, stop)
    part = batch_indices(size, batch_size, seed, start, stop)
    assert part.dtype == np.int32
    assert part.shape == (stop - start, batch_size)
    np.testing.assert_array_equal(part, whole[start:])


@given(size=st.integers(1, 40), data=st.data())
def test_every_epoch_is_a_permutation(size, data):
    batch_size = data.draw(st.integers(1, size))
    stream = batch_indices(size, batch_size, 3, 0, 3 * size).ravel()
    epochs = stream.reshape(-1, size)
    assert len(epochs) == 3 * batch_size
    for epoch in epochs:
        assert sorted(epoch) == list(range(size))


def test_seeds_and_epochs_differ():
    first = batch_indices(1000, 100, 0, 0, 20).reshape(2, 1000)
    other = batch_indices(1000, 100, 1, 0, 10).ravel()
    assert (first[0] != first[1]).mean() > 0.9
    assert (first[0] != other).mean() > 0.9


def test_negative_seed_is_refused():
    with pytest.raises(ValueError):
        batch_indices(10, 5, -1, 0, 1)


def test_evaluation_holds_no_second_copy_of_images():
    images, labels = tf.zeros((1203, 8, 8, 1)), tf.zeros((1203,))
    blocks = into_blocks((images, labels), 500)
    assert [len(x) for x, _ in blocks] == [2, 1]
    assert np.shares_memory(memoryview(images), memoryview(blocks[0][0]))
