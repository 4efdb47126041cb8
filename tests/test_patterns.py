"""Blocks of weights that are pruned as one, on plain arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lottery import masks as masks_lib
from keras_lottery import patterns
from keras_lottery.patterns import Blocks


@st.composite
def kernels(draw):
    """(blocks, mask made of whole blocks, scores) of some kernel."""
    axes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    positions = draw(st.integers(0, len(axes) - 1))
    inputs = draw(st.integers(0, len(axes) - 1 - positions))
    size = draw(
        st.one_of(
            st.none(),
            st.just("channel"),
            st.tuples(st.integers(1, 4), st.integers(1, 4)),
        )
    )
    blocks = Blocks(tuple(axes), positions, inputs, size)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = rng.normal(size=axes).astype("float32")
    kept = blocks.kept(np.ones(axes, bool))
    mask = blocks.mask(rng.random(kept.shape) < 0.7)
    return blocks, mask, scores


@given(kernels())
@settings(deadline=None)
def test_a_mask_of_whole_blocks_is_what_its_blocks_say(kernel):
    blocks, mask, _ = kernel
    assert mask.shape == blocks.shape and mask.dtype == bool
    np.testing.assert_array_equal(blocks.mask(blocks.kept(mask)), mask)


@given(kernels())
@settings(deadline=None)
def test_blocks_are_a_partition(kernel):
    blocks, _, _ = kernel
    count = blocks.kept(np.ones(blocks.shape, bool)).size
    seen = np.zeros(blocks.shape, int)
    for i in range(count):
        one = np.zeros(count, bool)
        one[i] = True
        shape = blocks.kept(np.ones(blocks.shape, bool)).shape
        part = blocks.mask(one.reshape(shape))
        assert part.any()
        seen += part
    assert (seen == 1).all()


@given(kernels(), st.floats(0, 0.9))
@settings(deadline=None)
def test_the_count_is_exact_in_blocks_and_the_lowest_mean_goes(kernel, rate):
    blocks, mask, scores = kernel
    kept = blocks.kept(mask)
    means = blocks.means(scores, mask)
    pruned = masks_lib.prune_layerwise(
        {"k": kept}, {"k": rate}, {"k": means}.get
    )["k"]
    after = blocks.mask(pruned)
    assert pruned.sum() == kept.sum() - round(rate * kept.sum())
    assert not (after & ~mask).any()
    gone = kept & ~pruned
    if gone.any() and pruned.any():
        assert means[gone].max() <= means[pruned].min()


def test_a_rest_at_the_edge_is_a_smaller_block():
    blocks = Blocks((5, 2), 0, 1, (4, 1))
    mask = blocks.mask(np.array([[[True, False], [False, True]]]))
    assert mask.astype(int).tolist() == [[1, 0]] * 4 + [[0, 1]]
    scores = np.arange(10.0).reshape(5, 2)
    means = blocks.means(scores, np.ones((5, 2), bool))
    assert means.tolist() == [[[3.0, 4.0], [8.0, 9.0]]]


def test_a_channel_is_all_that_leads_to_an_output():
    blocks = Blocks((3, 3, 4, 8), 2, 1, "channel")
    kept = blocks.kept(np.ones((3, 3, 4, 8), bool))
    assert kept.size == 8
    mask = blocks.mask(kept & (np.arange(8) != 5))
    assert not mask[..., 5].any() and mask.sum() == 3 * 3 * 4 * 7
    # Of a depthwise kernel: a filter of each input channel.
    blocks = Blocks((3, 3, 4, 2), 2, 0, "channel")
    assert blocks.kept(np.ones((3, 3, 4, 2), bool)).size == 8


def test_the_mean_is_of_the_weights_that_survive():
    blocks = Blocks((4, 1), 0, 1, (2, 1))
    mask = np.array([[True], [False], [False], [False]])
    means = blocks.means(np.array([[3.0], [np.nan], [1.0], [1.0]]), mask)
    assert means.ravel().tolist() == [3.0, 0.0]


@pytest.mark.parametrize(
    "size, expected",
    [
        (None, None),
        ("channel", "channel"),
        ((4, 1), (4, 1)),
        ("16x1", (16, 1)),
        ([2, 2], (2, 2)),
        ((1, 1), None),
    ],
)
def test_get(size, expected):
    got = patterns.get(size)
    assert got == expected
    assert patterns.get(patterns.to_text(got)) == expected


@pytest.mark.parametrize(
    "size", [4, (4,), (4, 1, 1), "4", "rows", (0, 1), (1.5, 1), "x", {}]
)
def test_get_refuses(size):
    with pytest.raises(ValueError, match=r"`block.*must be .*Received: block"):
        patterns.get(size)
