"""Law 7, determinism: the same seed gives the same masks, bit for bit."""

import keras
import pytest
import zoo
from small import some

import keras_lottery

SEARCHES = {
    "layerwise": {"rate": 0.4},
    "global": {"rate": 0.4, "scope": "global"},
    "random": {"rate": 0.4, "criterion": "random", "seed": 5},
    "late": {"rate": 0.4, "rewind_to": 2},
}


def run(kind, arguments, seed=3):
    model = zoo.compiled(kind, wrap=arguments, seed=seed)
    x, y = zoo.data(kind)
    model.lottery.find(
        x, y, rounds=2, epochs=2, batch_size=zoo.BATCH, verbose=0
    )
    masks = [list(level.masks.values()) for level in model.lottery.levels]
    return masks, zoo.weights(model), zoo.optimizer_states(model)


@pytest.mark.parametrize("search", some(SEARCHES, "random", "late"))
def test_the_same_seed_gives_the_same_bits(search):
    first = run("normalised", SEARCHES[search])
    assert zoo.same(first, run("normalised", SEARCHES[search]))
    assert len(first[0]) == 3


@pytest.mark.parametrize("search", ["layerwise", "random"])
def test_another_seed_gives_other_masks(search):
    arguments = SEARCHES[search]
    masks, _, _ = run("sequential", arguments)
    if "seed" in arguments:
        others, _, _ = run("sequential", {**arguments, "seed": 6})
    else:
        others, _, _ = run("sequential", arguments, seed=4)
    assert not zoo.same(masks[1:], others[1:])


def test_rounds_by_fit_are_those_of_find():
    search = zoo.search("normalised")
    model = zoo.compiled("normalised", wrap={"rate": 0.3})
    x, y = zoo.data("normalised")
    levels = model.lottery.find(
        x, y, rounds=2, epochs=zoo.EPOCHS, batch_size=zoo.BATCH, verbose=0
    )
    for level, masks in zip(levels, search.wrapped.masks):
        assert zoo.same(level.masks, masks)
    assert [level.history for level in levels] == search.wrapped_histories
    assert zoo.same(zoo.weights(model), search.wrapped.ends[2][0])


def test_random_masks_do_not_depend_on_names():
    """A model's second build has other automatic names."""
    found = []
    for _ in range(2):
        inputs = keras.Input((6,))
        hidden = keras.layers.Dense(8, "tanh")(inputs)
        model = keras.Model(inputs, keras.layers.Dense(3)(hidden))
        pruner = keras_lottery.LotteryTicketPruner(
            model, criterion="random", seed=2
        )
        for _ in range(3):
            pruner.prune()
        found.append(pruner.masks)
    assert found[0].keys() != found[1].keys()
    assert zoo.same(*(list(masks.values()) for masks in found))


def test_rounds_draw_differently():
    """One seed is not the same noise at every level: ranks would persist."""
    model = zoo.build()
    pruner = keras_lottery.LotteryTicketPruner(
        model, 0.5, 0.5, criterion="random", seed=2
    )
    pruner.prune()
    once = pruner.masks
    pruner.prune()
    model = zoo.build()
    other = keras_lottery.LotteryTicketPruner(
        model, 0.75, 0.75, criterion="random", seed=2
    )
    other.prune()
    assert abs(other.density - pruner.density) < 0.02
    assert not zoo.same(other.masks, pruner.masks)
    assert once.keys() == other.masks.keys()
