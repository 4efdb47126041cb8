"""Experiments: recipes filled in, wrong values refused."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_lottery.experiments import Experiment


def test_the_paper_s_recipe_fills_what_is_left_open():
    conv = Experiment(dataset="cifar10", model="conv_6")
    assert (conv.batch_size, conv.iterations) == (60, 30_000)
    assert conv.learning_rate == 3e-4 and conv.eval_every == 100
    rates = conv.pruning()
    assert rates["rate"] == 0.2 and rates["output_rate"] is None
    assert list(rates["rates"].values()) == [0.15]


def test_dropout_has_recipes_of_its_own():
    plain = Experiment(dataset="cifar10", model="conv_4")
    dropout = Experiment(dataset="cifar10", model="conv_4", dropout=0.5)
    assert dropout.iterations == 3 * plain.iterations
    assert dropout.learning_rate == 2e-4


def test_a_rate_of_one_s_own_replaces_the_recipe_s():
    rates = Experiment(model="conv_2", rate=0.5).pruning()
    assert rates["rate"] == 0.5 and "rates" not in rates


def test_the_schedule_of_the_deep_networks():
    resnet = Experiment(dataset="cifar10", model="resnet_18")
    optimizer = resnet.build_optimizer()
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert optimizer.momentum == 0.9
    schedule = optimizer._learning_rate
    steps = (0, 10_000, 19_999, 20_000, 25_000)
    rates = [float(schedule(step)) for step in steps]
    expected = [0, 0.015, 0.03, 0.003, 0.0003]
    assert rates == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(
    "iterations, step", [(1000, 20), (99, 1), (50, 1), (2, 1), (1, 0)]
)
def test_late_rewinding_is_to_a_fiftieth_of_the_iterations(iterations, step):
    assert Experiment(iterations=iterations).late_rewind_to == step


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"model": "lenet"}, "`model` must be one of"),
        ({"rounds": -1}, "`rounds` must be an integer, at least 0"),
        ({"rounds": 2.5}, "`rounds` must be an integer"),
        ({"rate": 1.0}, r"`rate` must be in \[0, 1\)"),
        ({"rate": -0.1}, r"`rate` must be in \[0, 1\)"),
        ({"output_rate": 2}, r"`output_rate` must be in \[0, 1\)"),
        ({"scope": "local"}, "`scope` must be one of"),
        ({"criterion": "size"}, "`criterion` must be one of"),
        ({"rewind_to": -5}, "`rewind_to` must be an integer, at least 0"),
        ({"rewind_to": 1000}, "`rewind_to` must be at most 999"),
        ({"late_rewind_to": -1}, "`late_rewind_to` must be an integer"),
        ({"late_rewind_to": 1000}, "`late_rewind_to` must be at most 999"),
        ({"iterations": 0}, "`iterations` must be an integer, at least 1"),
        ({"batch_size": 0}, "`batch_size` must be an integer, at least 1"),
        ({"optimizer": "adan"}, "`optimizer` must name a Keras optimizer"),
        ({"optimizer": "adam", "momentum": 0.9}, "that takes"),
        ({"learning_rate": 0.0}, "`learning_rate` must be greater than 0"),
        ({"eval_every": 0}, "`eval_every` must be an integer, at least 1"),
        ({"eval_every": 2000}, "`eval_every` must be at most 1000"),
        ({"early_stop_metric": "loss"}, "`early_stop_metric` must be one of"),
        ({"trials": 0}, "`trials` must be an integer, at least 1"),
        ({"arms": ()}, "`arms` must name at least one arm"),
        ({"arms": ("ticket", "ticket")}, "each once"),
        ({"arms": ("tiket",)}, "`arms` must be among"),
        ({"seed": -1}, "`seed` must be an integer, at least 0"),
        ({"warmup": -1}, "`warmup` must be an integer, at least 0"),
        ({"dropout": 1.0}, "`dropout` must be in"),
        ({"drops": ("a",)}, "`drops` must be"),
        ({"precision": "bfloat16"}, "`precision` must be one of"),
        (
            {"precision": "mixed_bfloat16", "arms": ("tfmot",)},
            "needs `precision` to be 'float32'",
        ),
    ],
)
def test_wrong_values_are_refused_before_anything_is_trained(wrong, message):
    with pytest.raises(ValueError, match=message):
        Experiment(**wrong)


def test_a_model_in_mixed_precision_has_the_same_initial_weights():
    exact = Experiment(rounds=0)
    mixed = dataclasses.replace(exact, precision="mixed_bfloat16")
    data = exact.load_data(0)
    models = [e.build_model(data, seed=3) for e in (exact, mixed)]
    assert models[1].layers[-1].compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"
    for a, b in zip(*(model.get_weights() for model in models)):
        assert a.dtype == b.dtype == np.float32 and (a == b).all()


def test_an_experiment_in_mixed_precision(tmp_path):
    experiment = Experiment(
        rounds=1, iterations=20, eval_every=10, precision="mixed_bfloat16"
    )
    results = experiment.run(tmp_path)
    assert all(r.early_stop_test_accuracy > 0.2 for r in results)
