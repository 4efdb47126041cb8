"""Law 4, count: each layer loses exactly round(rate * survivors)."""

import keras
import numpy as np
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_lottery
from keras_lottery import masks as masks_lib

rates = st.floats(0, 0.999)
# Few distinct values: ties are the rule.
weights = st.lists(st.integers(-3, 3), min_size=1, max_size=40)


def array(values):
    return np.array(values, "float32")


def expected(scores, mask, rate):
    """By a stable sort: the lowest first, and among equals the first."""
    alive = np.flatnonzero(mask)
    order = alive[np.argsort(scores[alive], kind="stable")]
    kept = mask.copy()
    kept[order[: round(rate * len(alive))]] = False
    return kept


@given(weights, rates, st.randoms())
def test_a_layer_loses_its_count_lowest_first_ties_by_position(
    values, rate, draw
):
    scores = np.abs(array(values))
    mask = np.array([draw.random() < 0.7 for _ in values])
    pruned = masks_lib.prune_layerwise(
        {"w": mask}, {"w": rate}, {"w": scores}.get
    )["w"]
    assert zoo.same(pruned, expected(scores, mask, rate))
    assert mask.sum() - pruned.sum() == round(rate * int(mask.sum()))


@given(st.lists(weights, min_size=1, max_size=4), rates)
def test_the_pool_loses_its_count_lowest_first_ties_by_position(pool, rate):
    scores = {str(i): np.abs(array(values)) for i, values in enumerate(pool)}
    masks = {name: np.ones(len(s), bool) for name, s in scores.items()}
    pruned = masks_lib.prune_global(masks, rate, scores.get)
    flat = np.concatenate(list(scores.values()))
    whole = expected(flat, np.ones(len(flat), bool), rate)
    assert zoo.same(np.concatenate(list(pruned.values())), whole)


@given(st.integers(1, 10**7), rates)
def test_no_rate_empties_or_overfills(survivors, rate):
    count = masks_lib.count_to_prune(rate, survivors)
    assert 0 <= count <= survivors
    assert count == round(rate * survivors)


def test_the_ladder_of_lenet():
    """The percentages that 1803.03635 prints, to the digits it prints."""
    shapes = {"a": (784, 300), "b": (300, 100), "c": (100, 10)}
    rate = {"a": 0.2, "b": 0.2, "c": 0.1}
    draw = np.random.default_rng(0)
    scores = {k: draw.random(s).astype("float32") for k, s in shapes.items()}
    masks = {name: np.ones(shape, bool) for name, shape in shapes.items()}
    ladder = {}
    for round_ in range(1, 17):
        masks = masks_lib.prune_layerwise(masks, rate, scores.get)
        ladder[round_] = round(100 * masks_lib.density(masks), 2)
    assert {r: ladder[r] for r in (3, 7, 9, 15, 16)} == {
        3: 51.28,
        7: 21.07,
        9: 13.52,
        15: 3.58,
        16: 2.87,
    }


def test_the_ladder_of_lenet_by_a_pruner():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(300, "relu"),
            keras.layers.Dense(100, "relu"),
            keras.layers.Dense(10),
        ]
    )
    pruner = keras_lottery.LotteryTicketPruner(model)
    ladder = {}
    for level in range(1, 17):
        pruner.prune()
        pruner.rewind()
        pruner.levels.clear()
        ladder[level] = round(100 * pruner.density, 2)
        assert pruner.level == level
    assert [ladder[r] for r in (3, 7, 9, 15, 16)] == [
        51.28,
        21.07,
        13.52,
        3.58,
        2.87,
    ]


@settings(max_examples=15, deadline=None)
@given(rates, rates)
def test_a_model_loses_its_counts(rate, output_rate):
    model = zoo.build()
    pruner = keras_lottery.LotteryTicketPruner(model, rate, output_rate)
    alive = {path: mask.size for path, mask in pruner.masks.items()}
    assert len(alive) in (2, 3) or rate == 0 or output_rate == 0
    for _ in range(3):
        pruner.prune()
        for path, mask in pruner.masks.items():
            own = output_rate if path.endswith("dense_2/kernel") else rate
            alive[path] -= round(own * alive[path])
            assert mask.sum() == alive[path]


def test_a_model_loses_its_counts_globally():
    model = zoo.build()
    pruner = keras_lottery.LotteryTicketPruner(model, 0.3, scope="global")
    alive = 6 * 8 + 8 * 7 + 7 * 3
    for _ in range(5):
        weights = np.concatenate(
            [
                np.abs(v.numpy()[pruner.masks[v.path]])
                for v in zoo.weighted(model, pruner)
            ]
        )
        pruner.prune()
        count = round(0.3 * alive)
        alive -= count
        kept = sum(int(mask.sum()) for mask in pruner.masks.values())
        assert kept == alive
        threshold = np.sort(weights)[count - 1]
        left = np.concatenate(
            [
                np.abs(v.numpy()[pruner.masks[v.path]])
                for v in zoo.weighted(model, pruner)
            ]
        )
        assert left.min() > threshold


def test_every_kind_of_model_loses_its_counts():
    for kind in ("sequential", "attention", "convolutions", "embedding"):
        search = zoo.search(kind)
        schedule = search.model.lottery.get_config()["rates"]
        for before, after in zip(
            search.wrapped.masks, search.wrapped.masks[1:]
        ):
            for path, mask in before.items():
                rate = schedule[path]
                if isinstance(rate, dict):  # half of 0.3 at outputs
                    rate = rate["factor"] * rate["schedule"]
                assert rate in (0.3, 0.15, 0.5)
                lost = mask.sum() - after[path].sum()
                assert lost == round(rate * int(mask.sum())) > 0
