"""The prune step on large models: what it holds, and that it works at all."""

import tracemalloc

import keras
import numpy as np
import pytest
from keras import layers

from keras_lottery import LotteryTicketPruner
from keras_lottery import masks as masks_lib


def extra_memory(prune):
    """Peak bytes that `prune` allocates, those of its result included."""
    tracemalloc.start()
    try:
        prune()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("density", [1.0, 0.5])
@pytest.mark.parametrize("scope", ["layerwise", "global"])
def test_pruning_never_holds_the_scores_of_two_layers(scope, density):
    rng = np.random.default_rng(0)
    weights = {
        f"w{i}": rng.normal(size=(1000, 1000)).astype("float32")
        for i in range(4)
    }
    masks = {p: rng.random(w.shape) <= density for p, w in weights.items()}
    survivors = sum(int(mask.sum()) for mask in masks.values())

    def score(path):
        return np.abs(weights[path])

    def prune():
        if scope == "global":
            return masks_lib.prune_global(masks, 0.2, score)
        rates = dict.fromkeys(masks, 0.2)
        return masks_lib.prune_layerwise(masks, rates, score)

    kept = sum(mask.sum() for mask in prune().values())
    assert abs(kept - 0.8 * survivors) <= len(masks)
    layer = weights["w0"].nbytes
    # What is selected from: the pool, or one layer's part of it.
    pool = 4 * survivors // (1 if scope == "global" else len(masks))
    results = 4 * masks["w0"].nbytes
    # 5 %: the small parts, and the few ties.
    assert extra_memory(prune) <= 1.05 * (pool + layer + results)


@pytest.mark.parametrize("density", [1.0, 0.5])
def test_the_pool_is_gone_before_the_masks_are_made(density):
    rng = np.random.default_rng(0)
    weights = {
        f"w{i}": rng.normal(size=(500, 1000)).astype("float32")
        for i in range(8)
    }
    masks = {p: rng.random(w.shape) <= density for p, w in weights.items()}
    asked, held = [], []

    def score(path):
        held.append(tracemalloc.get_traced_memory()[0])
        asked.append(path)
        return np.abs(weights[path])

    extra_memory(lambda: masks_lib.prune_global(masks, 0.2, score))
    assert asked == [*weights, *weights]
    survivors = sum(int(mask.sum()) for mask in masks.values())
    first_of_second_pass = held[len(weights)]
    assert held[len(weights) - 1] > 4 * survivors
    assert first_of_second_pass < 0.1 * 4 * survivors


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["layerwise", "global"])
def test_a_hundred_million_weights(scope):
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(6900, use_bias=False) for _ in range(3)]
    model = keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(10)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)
    pruner = LotteryTicketPruner(model, rate=0.2, output_rate=0.2, scope=scope)
    initial = pruner.rewind_point.weights
    total = sum(mask.size for mask in pruner.masks.values())
    assert total > 100_000_000
    for variable in model.trainable_variables:
        variable.assign(variable * 2)
    for level in (1, 2):
        pruner.prune()
        pruner.rewind()
        masks = pruner.masks
        kept = sum(np.count_nonzero(mask) for mask in masks.values())
        assert abs(kept - 0.8**level * total) <= level * len(masks)
        for path, mask in masks.items():
            kernel = next(v for v in model.weights if v.path == path)
            np.testing.assert_array_equal(
                kernel.numpy(), np.where(mask, initial[path], np.float32(0))
            )
