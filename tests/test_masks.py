"""Mask arithmetic against a sort that anyone can check."""

import tracemalloc

import hypothesis.extra.numpy as hnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lottery import masks as masks_lib

FLOATS = (np.float16, np.float32, np.float64)
RATES = st.floats(0, 1, exclude_max=True)


def naive(rate, mask, scores):
    """Ranks survivors by (score, position) and drops the first."""
    survivors = [i for i in range(mask.size) if mask.flat[i]]
    ranked = sorted(survivors, key=lambda i: (scores.flat[i], i))
    kept = mask.copy()
    for i in ranked[: round(rate * len(survivors))]:
        kept.flat[i] = False
    return kept


@st.composite
def layers(draw, count=1):
    """Layers of scores full of ties, each with a mask."""
    dtype = draw(st.sampled_from(FLOATS))
    masks, scores = {}, {}
    for i in range(draw(st.integers(1, count))):
        shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=6))
        few = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0, np.inf, -np.inf])
        any_float = st.floats(width=16, allow_nan=False)
        values = draw(st.sampled_from([few, any_float, st.just(1.0)]))
        scores[f"w{i}"] = draw(hnp.arrays(dtype, shape, elements=values))
        masks[f"w{i}"] = draw(hnp.arrays(bool, shape))
    return masks, scores


@given(layers(), RATES)
def test_layerwise_is_a_sort(case, rate):
    masks, scores = case
    pruned = masks_lib.prune_layerwise(masks, {"w0": rate}, scores.get)
    np.testing.assert_array_equal(
        pruned["w0"], naive(rate, masks["w0"], scores["w0"])
    )


@given(layers(count=4), RATES)
def test_global_is_a_sort_of_all_layers_end_to_end(case, rate):
    masks, scores = case
    before = {path: mask.copy() for path, mask in masks.items()}
    pruned = masks_lib.prune_global(masks, rate, scores.get)
    flat = naive(
        rate,
        np.concatenate([m.ravel() for m in masks.values()]),
        np.concatenate([s.ravel() for s in scores.values()]),
    )
    got = np.concatenate([m.ravel() for m in pruned.values()])
    np.testing.assert_array_equal(got, flat)
    for path, mask in masks.items():
        np.testing.assert_array_equal(mask, before[path])
        assert pruned[path].shape == mask.shape
        assert not np.shares_memory(pruned[path], mask)


@pytest.mark.parametrize("dtype", [*FLOATS, ml_dtypes.bfloat16])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.999, np.nextafter(1, 0)])
def test_counts_are_exact_when_all_scores_are_equal(dtype, rate):
    scores, mask = np.ones((40, 50), dtype), np.ones((40, 50), bool)
    pruned = masks_lib.prune_layerwise(
        {"w": mask}, {"w": rate}, {"w": scores}.get
    )
    gone = round(rate * 2000)
    # Ties go by position: the first are pruned.
    np.testing.assert_array_equal(pruned["w"].ravel(), np.arange(2000) >= gone)


def test_ties_across_layers_go_in_the_order_of_the_layers():
    masks = {"late_name": np.ones(3, bool), "early": np.ones(3, bool)}
    scores = dict.fromkeys(masks, np.zeros(3))
    pruned = masks_lib.prune_global(masks, 4 / 6, scores.get)
    assert pruned["late_name"].tolist() == [False, False, False]
    assert pruned["early"].tolist() == [False, True, True]


def test_global_pool_of_mixed_precision_is_exact():
    rng = np.random.default_rng(0)
    scores = {
        "half": rng.random(1000).astype(np.float16),
        "single": rng.random(1000).astype(np.float32),
        "double": rng.random(1000),
    }
    masks = {path: np.ones(1000, bool) for path in scores}
    pruned = masks_lib.prune_global(masks, 0.5, scores.get)
    flat = naive(
        0.5, np.ones(3000, bool), np.concatenate(list(scores.values()))
    )
    np.testing.assert_array_equal(np.concatenate(list(pruned.values())), flat)


def test_count_of_zero_asks_for_no_score_and_copies():
    def score(path):
        raise AssertionError("asked")

    mask = np.array([True, False, True])
    for pruned in (
        masks_lib.prune_layerwise({"w": mask}, {"w": 0.1}, score),
        masks_lib.prune_global({"w": mask}, 0.1, score),
    ):
        np.testing.assert_array_equal(pruned["w"], mask)
        assert pruned["w"] is not mask


def test_nothing_left_is_no_error():
    mask = np.zeros((2, 2), bool)
    score = {"w": np.ones((2, 2))}.get
    assert not masks_lib.prune_layerwise({"w": mask}, {"w": 0.9}, score)[
        "w"
    ].any()
    assert not masks_lib.prune_global({"w": mask}, 0.9, score)["w"].any()


@pytest.mark.parametrize("dtype", [*FLOATS, ml_dtypes.bfloat16])
def test_surviving_nan_is_refused(dtype):
    scores = np.arange(6).astype(dtype)
    scores[4] = np.nan
    masks, score = {"kernel": np.ones(6, bool)}, {"kernel": scores}.get
    with np.errstate(invalid="ignore"):
        with pytest.raises(ValueError, match="NaN in kernel"):
            masks_lib.prune_layerwise(masks, {"kernel": 0.5}, score)
        with pytest.raises(ValueError, match="NaN in the pool"):
            masks_lib.prune_global(masks, 0.5, score)


def test_nan_of_a_pruned_weight_is_nobodys_business():
    mask = np.array([True, False, True, True])
    score = {"w": np.array([3.0, np.nan, 1.0, 2.0])}.get
    pruned = masks_lib.prune_layerwise({"w": mask}, {"w": 1 / 3}, score)
    assert pruned["w"].tolist() == [True, False, False, True]
    pruned = masks_lib.prune_global({"w": mask}, 1 / 3, score)
    assert pruned["w"].tolist() == [True, False, False, True]


def test_integer_scores_are_ranked_too():
    score = {"w": np.array([5, 1, 3, 1])}.get
    masks = {"w": np.ones(4, bool)}
    for pruned in (
        masks_lib.prune_layerwise(masks, {"w": 0.25}, score),
        masks_lib.prune_global(masks, 0.25, score),
    ):
        assert pruned["w"].tolist() == [True, False, True, True]


def test_global_holds_at_most_two_copies_of_the_pool():
    sides = (1000, 800, 200)
    weights = {
        f"w{side}": np.random.default_rng(side).normal(size=(1000, side))
        for side in sides
    }
    weights = {path: w.astype(np.float32) for path, w in weights.items()}
    masks = {path: np.ones(w.shape, bool) for path, w in weights.items()}
    pool = sum(w.nbytes for w in weights.values())
    assert pool == 2_000_000 * 4
    tracemalloc.start()
    try:
        pruned = masks_lib.prune_global(
            masks, 0.2, lambda path: np.abs(weights[path])
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 2.1 * pool
    assert sum(m.sum() for m in pruned.values()) == 1_600_000


def test_densities():
    masks = {
        "a": np.array([True, False]),
        "b": np.array([[True, True], [True, True], [False, False]]),
    }
    assert masks_lib.densities(masks) == {"a": 0.5, "b": 4 / 6}
    # Over all weights, not the mean of the layers.
    assert masks_lib.density(masks) == 5 / 8


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=0, max_dims=4, max_side=7)))
def test_packing_round_trip_takes_one_bit_a_weight(mask):
    bits = masks_lib.pack(mask)
    assert bits.dtype == np.uint8 and bits.nbytes == -(-mask.size // 8)
    back = masks_lib.unpack(bits, mask.shape)
    assert back.dtype == bool and back.shape == mask.shape
    np.testing.assert_array_equal(back, mask)


def test_packing_of_a_transposed_mask():
    mask = np.random.default_rng(0).random((5, 3)) < 0.5
    back = masks_lib.unpack(masks_lib.pack(mask.T), (3, 5))
    np.testing.assert_array_equal(back, mask.T)
