"""Law 5, nested: a pruned weight never returns."""

import numpy as np
import pytest
import zoo
from hypothesis import given
from hypothesis import strategies as st

import keras_lottery
from keras_lottery import masks as masks_lib


def assert_nested(masks):
    shrunk = 0
    for before, after in zip(masks, masks[1:]):
        assert before.keys() == after.keys()
        for path in before:
            assert not (after[path] & ~before[path]).any()
            shrunk += before[path].sum() - after[path].sum()
    assert shrunk


@pytest.mark.parametrize("kind", zoo.SOME_KINDS)
def test_every_kind_of_model(kind):
    assert_nested(zoo.search(kind).wrapped.masks)


CRITERIA = (
    "magnitude",
    "large_final",
    "small_final",
    "magnitude_increase",
    "movement",
    "random",
)


@pytest.mark.parametrize("scope", ["layerwise", "global"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_many_rounds_of_every_criterion(scope, criterion):
    model = zoo.build()
    pruner = keras_lottery.LotteryTicketPruner(
        model, 0.3, scope=scope, criterion=criterion, seed=1
    )
    draw, masks = np.random.default_rng(0), [pruner.masks]
    for _ in range(12):
        for variable in model.trainable_variables:
            # As training would: live weights move, and some become zero.
            noise = draw.normal(size=variable.shape).round(1)
            mask = pruner.masks.get(variable.path, True)
            variable.assign(np.where(mask, noise, 0))
        pruner.prune()
        masks.append(pruner.masks)
        pruner.rewind()
        for path, mask in pruner.masks.items():
            assert zoo.same(mask, masks[-1][path])
    assert_nested(masks)
    assert pruner.density < 0.05


@given(
    st.lists(st.floats(-2, 2, width=16), min_size=2, max_size=30),
    st.lists(st.floats(0, 0.9), min_size=1, max_size=6),
    st.booleans(),
)
def test_arrays(values, rates, pooled):
    scores = np.abs(np.array(values, "float32"))
    masks = {"w": np.ones(len(values), bool)}
    for rate in rates:
        if pooled:
            after = masks_lib.prune_global(masks, rate, {"w": scores}.get)
        else:
            after = masks_lib.prune_layerwise(
                masks, {"w": rate}, {"w": scores}.get
            )
        assert not (after["w"] & ~masks["w"]).any()
        masks, scores = after, -scores


def test_masks_given_at_the_start_are_never_outgrown():
    model = zoo.build()
    draw = np.random.default_rng(0)
    start = {
        v.path: draw.random(v.shape) < 0.6
        for v in model.trainable_variables
        if len(v.shape) == 2
    }
    pruner = keras_lottery.LotteryTicketPruner(model, masks=start)
    masks = [start]
    for _ in range(4):
        assert_nested([start, pruner.masks]) if pruner.level else None
        pruner.prune()
        masks.append(pruner.masks)
    assert_nested(masks)
