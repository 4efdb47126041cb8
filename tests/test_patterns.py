"""Blocks of weights that are pruned as one, on plain arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_lottery import patterns
from keras_lottery.masks import prune_layerwise
from keras_lottery.patterns import Blocks, Channels, Limited, Member, Pattern


def channels(shape, axes):
    """The channels of one kernel, which are tied to no other."""
    count = int(np.prod([shape[axis] for axis in axes]))
    member = Member("k", tuple(shape), axes, np.arange(count))
    return Channels(count, (member,))


@st.composite
def kernels(draw):
    """(group, mask made of whole blocks, scores) of some kernel."""
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
    group = Blocks("k", tuple(axes), positions, inputs, size)
    if size == "channel":
        group = channels(axes, tuple(range(len(axes)))[positions + inputs :])
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = rng.normal(size=axes).astype("float32")
    whole = {"k": np.ones(axes, bool)}
    left = rng.random(group.kept(whole).shape) < 0.7
    return group, group.masks(left, whole, None), {"k": scores}


@given(kernels())
@settings(deadline=None)
def test_a_mask_of_whole_blocks_is_what_its_blocks_say(kernel):
    group, masks, _ = kernel
    again = group.masks(group.kept(masks), masks, None)
    assert again["k"].dtype == bool
    np.testing.assert_array_equal(again["k"], masks["k"])


@given(kernels())
@settings(deadline=None)
def test_blocks_are_a_partition(kernel):
    group, masks, _ = kernel
    whole = {"k": np.ones(masks["k"].shape, bool)}
    shape = group.kept(whole).shape
    seen = np.zeros(masks["k"].shape, int)
    for i in range(int(np.prod(shape))):
        one = np.zeros(shape, bool)
        one.flat[i] = True
        part = group.masks(one, whole, None)["k"]
        assert part.any()
        seen += part
    assert (seen == 1).all()


@given(kernels(), st.floats(0, 0.9))
@settings(deadline=None)
def test_the_count_is_exact_in_blocks_and_the_lowest_mean_goes(kernel, rate):
    group, masks, scores = kernel
    kept, means = group.kept(masks), group.scores(scores.get, masks)
    pruned = Pattern([group]).prune(
        masks,
        scores.get,
        lambda kept, score: prune_layerwise(kept, {"k": rate}, score),
    )
    left = group.kept(pruned)
    assert left.sum() == kept.sum() - round(rate * kept.sum())
    assert not (pruned["k"] & ~masks["k"]).any()
    gone = kept & ~left
    if gone.any() and left.any():
        assert means[gone].max() <= means[left].min()


@given(kernels(), st.integers(0, 100))
@settings(deadline=None)
def test_random_masks_have_as_many_blocks(kernel, seed):
    group, masks, _ = kernel
    pattern = Pattern([group])
    random = pattern.shuffled(masks, np.random.default_rng(seed))
    assert pattern.count(random) == pattern.count(masks)
    again = group.masks(group.kept(random), random, None)
    np.testing.assert_array_equal(again["k"], random["k"])


def test_a_rest_at_the_edge_is_a_smaller_block():
    blocks = Blocks("k", (5, 2), 0, 1, (4, 1))
    mask = blocks.spread(np.array([[[True, False], [False, True]]]))
    assert mask.astype(int).tolist() == [[1, 0]] * 4 + [[0, 1]]
    scores = {"k": np.arange(10.0).reshape(5, 2)}
    means = blocks.scores(scores.get, {"k": np.ones((5, 2), bool)})
    assert means.tolist() == [[[3.0, 4.0], [8.0, 9.0]]]


def test_the_mean_is_of_the_weights_that_survive():
    blocks = Blocks("k", (4, 1), 0, 1, (2, 1))
    mask = np.array([[True], [False], [False], [False]])
    scores = {"k": np.array([[3.0], [np.nan], [1.0], [1.0]])}
    means = blocks.scores(scores.get, {"k": mask})
    assert means.ravel().tolist() == [3.0, 0.0]


# At most m of every n inputs.


@st.composite
def limited(draw):
    """(group, scores, rate) of some kernel."""
    n = draw(st.integers(2, 5))
    m = draw(st.integers(1, n - 1))
    axes = draw(st.lists(st.integers(1, 9), min_size=2, max_size=3))
    group = Limited("k", tuple(axes), len(axes) - 2, 1, f"{m}:{n}")
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    # Few values, for ties.
    scores = rng.integers(0, 6, axes).astype("float32")
    return group, m, n, {"k": scores}, draw(st.floats(0, 0.9))


def counts_of(mask, n):
    """How many survive of every n inputs, and of the rest."""
    rows = mask.reshape(-1, *mask.shape[-2:])
    starts = np.arange(0, rows.shape[1], n)
    return np.add.reduceat(rows.astype(int), starts, axis=1)


@given(limited())
@settings(deadline=None)
def test_at_most_m_of_n_survive_and_the_rate_counts_from_there(kernel):
    group, m, n, scores, rate = kernel
    pattern, shape = Pattern([group]), group.shape
    masks = {"k": np.ones(shape, bool)}
    allowed = int(np.minimum(counts_of(masks["k"], n), m).sum())
    for _ in range(3):
        before = int(masks["k"].sum())
        after = pattern.prune(
            masks,
            scores.get,
            lambda kept, score: prune_layerwise(kept, {"k": rate}, score),
        )
        assert not (after["k"] & ~masks["k"]).any()
        assert counts_of(after["k"], n).max() <= m
        expected = min(before - round(rate * before), allowed)
        assert after["k"].sum() == expected
        masks = after


@given(limited(), st.integers(0, 100))
@settings(deadline=None)
def test_random_masks_keep_the_limit(kernel, seed):
    group, m, n, scores, _ = kernel
    mask = group.best(scores["k"], np.ones(group.shape, bool))
    random = group.shuffled({"k": mask}, np.random.default_rng(seed))["k"]
    assert random.sum() == mask.sum()
    assert counts_of(random, n).max() <= m


def test_the_best_two_of_four():
    group = Limited("k", (6, 1), 0, 1, "2:4")
    scores = np.array([[1.0], [4.0], [3.0], [2.0], [1.0], [1.0]])
    mask = group.best(scores, np.ones((6, 1), bool))
    assert mask.ravel().tolist() == [False, True, True, False, True, True]


# Channels.


def test_channels_that_are_tied_are_one_element():
    # The first two of `a` are those of `b`; its third is never pruned.
    a = Member("a", (4, 3), (1,), np.array([0, 1, -1]))
    b = Member("b", (2, 2, 2), (2,), np.array([0, 1]))
    bias = Member("bias", (3,), (0,), np.array([0, 1, -1]))
    pattern = Pattern([Channels(2, (a, b), (bias,))])
    masks = {"a": np.ones((4, 3), bool), "b": np.ones((2, 2, 2), bool)}
    scores = {
        "a": np.array([[1.0, 3.0, 0.0]] * 4),
        "b": np.array([[[4.0, 1.0]] * 2] * 2),
    }
    pruned = pattern.prune(
        masks,
        scores.get,
        lambda kept, score: prune_layerwise(kept, {"a": 0.5}, score),
    )
    # Means of 2.5 and 2.
    assert pruned["a"].tolist() == [[True, False, True]] * 4
    assert pruned["b"].tolist() == [[[True, False]] * 2] * 2
    followers = pattern.followers(pruned)
    assert followers["bias"].tolist() == [True, False, True]
    assert pattern.count(pruned) == 1
    assert pattern.follower_paths == ["bias"]
    # A kernel of the group that is not given: it is left alone.
    assert pattern.prune({"a": masks["a"]}, scores.get, lambda k, s: k) == {
        "a": masks["a"]
    }


def test_two_axes_may_number_the_channels():
    # A depthwise kernel: channels times multiplier.
    depthwise = Member("k", (3, 3, 2, 2), (2, 3), np.array([0, 0, 1, 1]))
    group = Channels(2, (depthwise,))
    masks = group.masks(
        np.array([True, False]), {"k": np.ones((3, 3, 2, 2), bool)}, None
    )
    assert masks["k"][:, :, 0].all() and not masks["k"][:, :, 1].any()


@pytest.mark.parametrize(
    "size, expected",
    [
        (None, None),
        ("channel", "channel"),
        ((4, 1), (4, 1)),
        ("16x1", (16, 1)),
        ([2, 2], (2, 2)),
        ((1, 1), None),
        ("2:4", "2:4"),
    ],
)
def test_get(size, expected):
    got = patterns.get(size)
    assert got == expected
    assert patterns.get(patterns.to_text(got)) == expected


@pytest.mark.parametrize(
    "size",
    [4, (4,), (4, 1, 1), "4", "rows", (0, 1), (1.5, 1), "x", {}, "4:2", "0:4"],
)
def test_get_refuses(size):
    with pytest.raises(ValueError, match=r"`block.*must be .*Received: block"):
        patterns.get(size)


def test_a_kernel_without_a_mask_is_left_out():
    # A frozen one.
    pattern = Pattern([Blocks(name, (2, 2), 0, 1, (2, 1)) for name in "ab"])
    masks = {"b": np.array([[True, False], [True, False]])}
    assert pattern.count(masks) == 1
    drawn = pattern.shuffled(masks, np.random.default_rng(0))
    assert drawn.keys() == {"b"} and drawn["b"].sum() == 2
