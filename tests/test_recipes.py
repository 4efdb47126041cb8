"""Recipes: the paper's numbers, and that they fit its networks."""

import dataclasses

import keras
import pytest

from keras_lottery import models, recipes, scopes
from keras_lottery.experiments import Experiment
from keras_lottery.recipes import WarmupAndDrops


def test_recipes_fit_their_networks():
    assert list(recipes.RECIPES) == list(models.NETWORKS)
    lenet = recipes.RECIPES["lenet_300_100"]
    assert (lenet.learning_rate, lenet.batch_size) == (1.2e-3, 60)
    assert lenet.pruning == {
        "rate": 0.2,
        "output_rate": None,
        "rates": {},
        "scope": "layerwise",
    }
    assert recipes.RECIPES["conv_6"].rates == ((r"conv\d", 0.15),)
    assert recipes.DROPOUT_RECIPES["conv_4"].iterations == 75_000
    assert recipes.DROPOUT_RECIPES["conv_4"].learning_rate == 2e-4
    for name in ("resnet_18", "vgg_19"):
        assert recipes.RECIPES[name].scope == "global"
        assert recipes.RECIPES[name].output_rate == 0.0
    assert not lenet.standardize and not recipes.OWN.standardize
    cifar10 = [r for r in recipes.RECIPES.values() if r.dataset == "cifar10"]
    assert len(cifar10) == 5 and all(r.standardize for r in cifar10)
    assert all(r.standardize for r in recipes.DROPOUT_RECIPES.values())


def test_recipes_prune_the_layers_that_the_paper_names():
    def rates(name):
        model, kinds = models.get(name)(), {}
        rates = scopes.Rates(**recipes.RECIPES[name].pruning)
        found = scopes.find_kernels(model)
        for path, schedule in rates.resolve(found, model).items():
            kinds.setdefault(path.removesuffix("/kernel"), schedule(0))
        return kinds

    conv = rates("conv_6")
    assert conv.pop("output") == 0.1
    assert (conv.pop("fc1"), conv.pop("fc2")) == (0.2, 0.2)
    assert len(conv) == 6 and set(conv.values()) == {0.15}
    for name, count in (("resnet_18", 19), ("vgg_19", 16)):
        deep = rates(name)
        assert len(deep) == count and set(deep.values()) == {0.2}
        assert not [p for p in deep if "shortcut" in p or "output" in p]


# The learning-rate schedule of the deep networks.


def rates(schedule, *steps):
    return [float(schedule(step)) for step in steps]


def test_rises_and_drops():
    schedule = WarmupAndDrops(0.03, warmup=20, drops=(20, 25))
    assert rates(schedule, 0, 10, 19, 20, 24, 25) == pytest.approx(
        [0.0, 0.015, 0.0285, 0.003, 0.003, 0.0003]
    )
    assert rates(WarmupAndDrops(0.1), 0, 10**6) == pytest.approx([0.1, 0.1])


def test_comes_back_from_its_configuration():
    schedule = WarmupAndDrops(0.03, warmup=20, drops=(20, 25))
    made = keras.saving.serialize_keras_object(schedule)
    assert made["registered_name"] == "keras_lottery>WarmupAndDrops"
    again = keras.saving.deserialize_keras_object(made)
    assert rates(again, 3, 21, 30) == rates(schedule, 3, 21, 30)


def test_schedules_go_with_the_budget():
    paper = Experiment(dataset="cifar10", model="resnet_18")
    assert (paper.warmup, paper.drops) == (20_000, (20_000, 25_000))
    tenth = dataclasses.replace(
        paper, iterations=3_000, warmup=None, drops=None
    )
    assert (tenth.warmup, tenth.drops) == (2_000, (2_000, 2_500))
    vgg = Experiment(dataset="cifar10", model="vgg_19")
    assert (vgg.warmup, vgg.drops) == (10_000, (56_240, 84_360))
    own = dataclasses.replace(
        paper, iterations=1_000, warmup=0.25, drops=("0.5", 750)
    )
    assert (own.warmup, own.drops) == (250, (500, 750))
    assert type(own.warmup) is int and type(own.drops[0]) is int
