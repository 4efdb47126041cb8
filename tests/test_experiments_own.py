"""Experiments with models and data of one's own."""

import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import HalfLoss

from keras_lottery import Ticket
from keras_lottery.datasets import Arrays
from keras_lottery.experiments import Experiment
from keras_lottery.experiments.results import COLUMNS


def examples(count=120, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 6)).astype("float32")
    return x, np.argmax(x[:, :classes], axis=1)


def arrays(seed=0):
    return Arrays(examples(seed=seed), examples(40, seed=seed + 1), 20)


def plain(input_shape, classes):
    """Takes no seed, names no layer and compiles nothing."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Dense(8, "relu"),
            keras.layers.Dense(classes),
        ]
    )


def distilled(classes, seed):
    keras.utils.set_random_seed(seed)
    model = HalfLoss(classes)
    model.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def two_inputs(seed):
    keras.utils.set_random_seed(seed)
    a, b = keras.Input((6,), name="a"), keras.Input((3,), name="b")
    joined = keras.layers.Concatenate()([a, keras.layers.Dense(4)(b)])
    model = keras.Model({"a": a, "b": b}, keras.layers.Dense(1)(joined))
    model.compile("adam", "mse")
    return model


def small(model, dataset=None, **changes):
    settings = {"rounds": 2, "iterations": 20, "eval_every": 10, **changes}
    return Experiment(dataset or arrays(), model=model, **settings)


def untimed(results):
    return [dataclasses.replace(result, seconds=0.0) for result in results]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of `plain`: its directory and results."""
    directory = tmp_path_factory.mktemp("plain")
    return directory, small(plain).run(directory)


@pytest.mark.parametrize("model", [plain, distilled])
def test_a_model_and_arrays_of_one_s_own(model, tmp_path):
    results = small(model, trials=2).run(tmp_path)
    assert len(results) == 2 * 2 * 3
    assert len({r.early_stop_val_loss for r in results}) == len(results)
    first, second = (
        Ticket.load(tmp_path / f"tickets/trial_0/level_{k:02d}.ticket")
        for k in (0, 1)
    )
    assert second.density == pytest.approx(0.8, abs=0.05)
    for path, array in first.rewind_point.weights.items():
        assert np.array_equal(array, second.rewind_point.weights[path])
    kept = json.loads((tmp_path / "experiment.json").read_text())
    assert kept["model"] == f"test_experiments_own.{model.__name__}"
    assert kept["dataset"] == f"arrays ({arrays().fingerprint})"
    choice = json.loads((tmp_path / "backend.json").read_text())
    assert (choice["backend"] == "fit") == (model is distilled), choice["why"]


def test_a_layer_that_lost_all_its_weights_is_named(tmp_path, caplog):
    small(plain, rounds=1, rate=0.999).run(tmp_path)
    assert "Level 1 of the arm 'ticket'" in caplog.text
    assert "has no connection left in" in caplog.text


def test_what_a_fresh_process_would_find_is_found(run, tmp_path):
    """Automatic names go on counting; the keys of trainings must not."""
    directory, results = run
    keras.layers.Dense(3)
    found = small(lambda input_shape, classes: plain(input_shape, classes))
    with pytest.raises(ValueError, match="model='test_experiments_own.plain"):
        found.run(directory)
    again = dataclasses.replace(small(plain), rounds=3)
    assert untimed(again.run(tmp_path))[:3] == untimed(results)[:3]
    keys = {p.name for p in (directory / "trainings").iterdir()}
    assert keys < {p.name for p in (tmp_path / "trainings").iterdir()}


def test_structures_of_arrays_and_a_loss_without_accuracy(tmp_path):
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(90, 6)), "b": rng.normal(size=(90, 3))}
    y = x["a"][:, :1] + x["b"][:, :1]
    data = Arrays((x, y), (x, y), name="sums")
    assert data.classes is None and data.split(0).input_shape == {
        "a": (6,),
        "b": (3,),
    }
    results = small(two_inputs, data, batch_size=10).run(tmp_path)
    assert all(np.isfinite(r.early_stop_val_loss) for r in results)
    assert all(np.isnan(r.early_stop_test_accuracy) for r in results)


def test_results_as_a_data_frame(run):
    _, results = run
    frame = results.to_pandas()
    assert list(frame.columns) == COLUMNS and len(frame) == len(results)
    assert frame.loc[1, "density"] == results[1].density
    means = frame.groupby(["arm", "level"])["early_stop_iteration"].mean()
    assert means["ticket", 2] == results[2].early_stop_iteration


@pytest.mark.slow
def test_workers_are_sent_the_model_and_the_arrays(run, tmp_path):
    assert untimed(small(plain).run(tmp_path, workers=2)) == untimed(run[1])


def test_a_report_of_it(run):
    from keras_lottery import report

    page = open(report.write(run[0])).read()
    assert "test_experiments_own.plain on arrays" in page


def test_arrays_are_what_is_in_them():
    assert arrays() == arrays() and hash(arrays()) == hash(arrays())
    assert arrays() != arrays(seed=5) and arrays() != "arrays"
    split, other = arrays().split(0), arrays().split(1)
    assert len(split.train[1]) == 100 and len(split.validation[1]) == 20
    assert not np.array_equal(split.validation[0], other.validation[0])
    both = np.concatenate([split.train[0], split.validation[0]])
    assert sorted(map(tuple, both)) == sorted(map(tuple, examples()[0]))


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: Arrays(examples()[0], examples()), "`train` must be a pair"),
        (lambda: Arrays(((), ()), examples()), "at least 1"),
        (
            lambda: Arrays(examples(), (examples()[0], examples(9)[1])),
            "`test` must have the same number",
        ),
        (lambda: Arrays(examples(), examples(), 120), r"\[1, 120\)"),
        (lambda: Experiment(arrays(), model=plain), "`iterations` must be"),
        (
            lambda: small(plain, arms=("snip",)),
            "need `model` to be a network of",
        ),
        (lambda: small(plain, arms=("tfmot",)), "needs `model` to be one of"),
        (lambda: small("plain"), "`model` must be one of"),
        (
            lambda: small(plain((6,), 3)),
            "`model` must be a function that builds.*the model 'sequential",
        ),
        (
            lambda: small(lambda units, seed: None),
            r"needs no other arguments.*also needs \['units'\]",
        ),
        (
            lambda: small(plain, tf.data.Dataset.range(9)),
            "`dataset` must be the name.*as_numpy_iterator",
        ),
        (lambda: small(plain, examples()), "`dataset` must .*type tuple"),
        (
            lambda: small(plain, optimizer=keras.optimizers.SGD()),
            "`optimizer` must be the name",
        ),
        (lambda: small(plain, arms="ticket"), "`arms` must be a tuple"),
        (lambda: small(plain, rates=0.1), "`rates` must be a tuple"),
        (lambda: small(plain, drops=10), "`drops` must be a tuple"),
        (
            lambda: small(plain).run("run", progress=True),
            "`progress` must be a `Progress`",
        ),
        (
            lambda: small(plain).run("run", executor="threads"),
            "`executor` must be",
        ),
    ],
)
def test_wrong_values_are_refused_where_they_are_given(
    wrong, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        wrong()


def test_wrong_models_are_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match="returned None"):
        small(lambda: None).run(tmp_path / "none")
    with pytest.raises(ValueError, match="`learning_rate` must be left out"):
        small(two_inputs, learning_rate=0.1).run(tmp_path / "compiled")
    x, y = examples()
    halves = Arrays(train=(x, y / 2), test=(x, y / 2))
    with pytest.raises(ValueError, match="y must be integer labels"):
        small(plain, halves).run(tmp_path / "halves")
    body = keras.layers.Dense(8)

    def transferred():
        layers = [keras.Input((6,)), body, keras.layers.Dense(3)]
        return keras.Sequential(layers)

    with pytest.raises(ValueError, match="share the weights.*/kernel"):
        small(transferred).run(tmp_path / "shared")


@pytest.mark.slow
def test_wrong_models_are_refused_by_workers(tmp_path):
    with pytest.raises(ValueError, match="returned None"):
        small(lambda: None).run(tmp_path, workers=2)


def test_rates_may_be_a_dict():
    assert small(plain, rates={"dense": 0.1}).rates == (("dense", 0.1),)


def exploding(seed):
    keras.utils.set_random_seed(seed)
    model = plain((6,), 3)
    model.compile(
        keras.optimizers.SGD(1e30),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def test_a_training_that_diverged_is_told(tmp_path):
    with pytest.raises(ValueError, match="Level 0 of the arm 'ticket'.*diverg"):
        small(exploding).run(tmp_path)


@pytest.mark.slow
def test_workers_need_no_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    command = [sys.executable, script, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # Once: no worker runs the script again.
    assert done.stdout.splitlines() == ["levels 4"]


_SCRIPT = """
import sys

import keras
import numpy as np

from keras_lottery.datasets import Arrays
from keras_lottery.experiments import Experiment


def build(input_shape, classes):
    return keras.Sequential(
        [keras.Input(input_shape), keras.layers.Dense(classes)]
    )


x, y = np.random.rand(90, 6), np.arange(90) % 3
data = Arrays(train=(x[:60], y[:60]), test=(x[60:], y[60:]))
experiment = Experiment(
    data, model=build, rounds=1, iterations=4, batch_size=10
)
print("levels", len(experiment.run(sys.argv[1], workers=2)))
"""
