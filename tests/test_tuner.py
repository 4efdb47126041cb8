"""LotteryTuner: whole searches as trials of KerasTuner."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import keras
import keras_tuner
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lottery.datasets import Arrays
from keras_lottery.experiments import Experiment
from keras_lottery.experiments.progress import Silence
from keras_lottery.experiments.store import Store
from keras_lottery.tuner import LotteryTuner, examples, knobs, objectives
from keras_lottery.tuner import tuner as tuner_lib


def data(count=120, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 6)).astype("float32")
    return x, np.argmax(x[:, :3], axis=1)


def build(hp):
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(hp.Choice("units", [8, 12]), "relu"),
            keras.layers.Dense(3),
        ]
    )


def compiled(hp):
    model = build(hp)
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


class Subclassed(keras.Model):
    """Of unknown input shape until it is called."""

    def __init__(self, units):
        super().__init__()
        self.hidden = keras.layers.Dense(units, "relu")
        self.logits = keras.layers.Dense(3)

    def call(self, x):
        return self.logits(self.hidden(x))


class Unbuilt(keras_tuner.HyperModel):
    def build(self, hp):
        return Subclassed(hp.Int("units", 8, 12))


SMALL = {
    "rounds": 2,
    "iterations": 20,
    "eval_every": 10,
    "backend": "graph",
    "batch_size": 20,
}


def tuner(directory, hypermodel=build, **changes):
    return LotteryTuner(
        hypermodel,
        directory=directory,
        project_name="search",
        **{**SMALL, "max_trials": 3, **changes},
    )


@pytest.fixture
def counted(monkeypatch):
    """Which levels were trained and which were found, by all trials."""

    class Counts(Silence):
        trained, found = [], []

        def done(self, place, result, found=False):
            (self.found if found else self.trained).append(place.level)

    monkeypatch.setattr(tuner_lib, "Silence", Counts)
    return Counts


# Objectives.

LADDER = [1.0, 0.8, 0.64, 0.512]


@pytest.mark.parametrize(
    "accuracies, margin, level",
    [
        ([0.9, 0.92, 0.89, 0.8], 0.01, 2),
        ([0.9, 0.8, 0.91, 0.8], 0.0, 2),
        ([0.9, 0.8, 0.8, 0.8], 0.05, 0),
        ([0.9, 0.9, 0.9, 0.9], 0.0, 3),
    ],
)
def test_the_smallest_density_within_the_margin(accuracies, margin, level):
    found = objectives.smallest_density(LADDER, accuracies, margin)
    assert found == (level, LADDER[level])


def test_accuracy_at_a_density_or_nothing():
    accuracies = [0.9, 0.8, 0.7, 0.6]
    assert objectives.accuracy_at(LADDER, accuracies, 0, 0.7) == (2, 0.7)
    assert objectives.accuracy_at(LADDER, accuracies, 0, 0.512) == (3, 0.6)
    assert objectives.accuracy_at(LADDER, accuracies, 0, 0.5) == (3, 0.0)


@given(
    st.lists(st.floats(0.05, 0.6), min_size=1, max_size=9),
    st.floats(0.02, 0.9),
    st.floats(0, 1),
)
def test_the_area_of_a_constant_accuracy(rates, density, accuracy):
    densities = list(np.cumprod([1.0] + [1 - rate for rate in rates]))
    _, area = objectives.area(
        densities, [accuracy] * len(densities), 0, density
    )
    reached = min(1.0, math.log(densities[-1]) / math.log(density))
    assert area == pytest.approx(accuracy * reached, abs=1e-9)


def test_the_area_is_one_of_trapezoids_over_the_logarithm():
    _, area = objectives.area([1.0, 0.5, 0.25], [1.0, 0.5, 0.0], 0, 0.25)
    assert area == pytest.approx((0.75 + 0.25) / 2)
    # Cut within a step: at half of its width, on the logarithmic axis.
    _, area = objectives.area([1.0, 0.25], [1.0, 0.0], 0, 0.5)
    assert area == pytest.approx(0.75)
    # Levels of the same density have no width.
    _, area = objectives.area([1.0, 1.0, 0.5], [1.0, 0.2, 0.2], 0, 0.5)
    assert area == pytest.approx(0.2)


def test_the_objective_stands_at_the_level_picked():
    kind = objectives.OBJECTIVES["density"]
    accuracies = [0.9, 0.9, 0.9, 0.5]
    values = kind.by_level(LADDER, accuracies, 0.0, 0.5)
    assert values == [1.0, 1.0, 0.64, 1.0]


# A search.


def test_trials_are_searches_and_share_the_dense_level(tmp_path, counted):
    made = tuner(tmp_path, compiled, max_trials=4, seed=3)
    made.search(*data(), validation_data=data(40, 1), verbose=0)
    trials = list(made.oracle.trials.values())
    assert [trial.status for trial in trials] == ["COMPLETED"] * 4
    units = {trial.hyperparameters["units"] for trial in trials}
    # Two of them at most have a dense network of their own.
    assert counted.found == [0] * (4 - len(units))
    assert len(counted.trained) == 4 * 3 - len(counted.found)
    for trial in trials:
        values = trial.hyperparameters.values
        rate = values["lottery/rate"]
        density = [o.mean() for o in trial.metrics.get_history("density")]
        assert density[0] == 1.0
        hidden, out = 6 * values["units"], 3 * values["units"]
        kept = (hidden - round(rate * hidden)) + (
            out - round(values["lottery/output_rate"] * out)
        )
        assert density[1] == pytest.approx(kept / (hidden + out))
        directory = made.get_trial_dir(trial.trial_id)
        saved = json.loads(open(f"{directory}/trial.json").read())
        steps = [
            observation["step"]
            for observation in saved["metrics"]["metrics"]["val_accuracy"][
                "observations"
            ]
        ]
        assert steps == [0, 1, 2]


def test_the_objective_is_of_validation_and_its_level_is_the_ticket(tmp_path):
    made = tuner(tmp_path, max_trials=2, margin=0.1)
    x, y = data(40, 1)
    # A test set of noise: whoever looked at it would see no accuracy.
    made.search(
        *data(),
        validation_data=(x, y),
        test_data=(x, np.roll(y, 7)),
        verbose=0,
    )
    best = made.oracle.get_best_trials()[0]
    assert made.oracle.objective.direction == "min"
    store = Store(made.get_trial_dir(best.trial_id))
    rows = open(store.path("results.csv")).read().splitlines()
    header, rows = rows[0].split(","), [row.split(",") for row in rows[1:]]
    at = header.index
    validation = [float(row[at("early_stop_val_accuracy")]) for row in rows]
    tested = [float(row[at("early_stop_test_accuracy")]) for row in rows]
    assert validation != tested
    densities = [float(row[at("density")]) for row in rows]
    level, density = objectives.smallest_density(densities, validation, 0.1)
    assert (best.best_step, best.score) == (level, pytest.approx(density))
    ticket = made.get_best_tickets()[0]
    assert ticket.level == level
    assert ticket.density == pytest.approx(density)
    model = made.get_best_models()[0]
    assert isinstance(model, keras.Sequential)
    assert model.lottery.level == level
    accuracy = model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
    final = float(rows[level][at("final_val_accuracy")])
    assert accuracy == pytest.approx(final, abs=1e-6)
    for path, mask in model.lottery.masks.items():
        assert np.array_equal(mask, ticket.masks[path])


@pytest.mark.slow
def test_it_is_found_again_by_another_process_s_tuner(tmp_path, capsys):
    made = tuner(tmp_path, Unbuilt(), knobs=("rate",))
    made.search(*data(), verbose=0)
    again = tuner(tmp_path, Unbuilt(), knobs=("rate",))
    assert again.table() == made.table() and "units" in again.table()
    assert again.remaining_trials == 0
    again.results_summary()
    out = capsys.readouterr().out
    assert 'name="ticket_density", direction="min"' in out
    assert out.count("lottery/rate: ") == 3
    # Without examples, from their shape alone.
    model = again.get_best_models()[0]
    trained = made.get_best_models()[0]
    for ours, theirs in zip(model.weights, trained.weights):
        assert np.array_equal(ours, theirs)
    hp = again.get_best_hyperparameters()[0]
    assert isinstance(again.hypermodel.build(hp), Subclassed)
    with pytest.raises(ValueError, match="margin=0.005 before, 0.2 now"):
        tuner(tmp_path, Unbuilt(), knobs=("rate",), margin=0.2)
    with pytest.raises(ValueError, match="holds a search on arrays"):
        again.search(*data(seed=8), verbose=0)
    fresh = tuner(tmp_path, Unbuilt(), overwrite=True, margin=0.2)
    assert not fresh.oracle.trials


@pytest.mark.parametrize("oracle", ["random", "bayesian", "grid"])
@pytest.mark.parametrize("objective", ["accuracy", "area"])
@pytest.mark.slow
def test_any_oracle_and_objective(oracle, objective, tmp_path):
    made = tuner(
        tmp_path,
        "lenet_300_100",
        objective=objective,
        oracle=oracle,
        knobs={"rate": (0.3, 0.6), "criterion": ["magnitude", "movement"]},
        density=0.5,
        max_trials=4,
        iterations=4,
        eval_every=4,
        dataset="digits",
    )
    made.search(verbose=0)
    trials = made.oracle.get_best_trials(4)
    assert {trial.status for trial in trials} == {"COMPLETED"}
    scores = [trial.score for trial in trials]
    assert scores == sorted(scores, reverse=True) and scores[0] > 0
    model = made.hypermodel.build(made.get_best_hyperparameters()[0])
    assert model.output_shape == (None, 10)


@pytest.mark.slow
def test_hyperband_gives_more_rounds_and_finds_those_there_were(
    tmp_path, counted
):
    made = tuner(
        tmp_path,
        oracle="hyperband",
        objective="area",
        rounds=3,
        max_trials=None,
        knobs=("rate",),
    )
    made.search(*data(), verbose=0)
    trials = made.oracle.trials.values()
    assert {trial.status for trial in trials} == {"COMPLETED"}
    promoted = [t for t in trials if "tuner/trial_id" in t.hyperparameters]
    assert promoted
    for trial in trials:
        given = trial.hyperparameters["tuner/epochs"]
        levels = len(trial.metrics.get_history("density"))
        assert levels == 1 + given
    repeated = sum(2 for _ in promoted)
    assert len(counted.found) >= repeated


def test_two_searches_of_one_seed_are_one(tmp_path):
    tables = []
    for name in "ab":
        made = tuner(tmp_path / name, max_trials=2)
        made.search(*data(), verbose=0)
        tables.append(made.table())
    assert tables[0] == tables[1]


# Knobs.


def reference(**changes):
    return Experiment(**{"iterations": 100, **changes})


def test_all_knobs_have_ranges_around_the_experiment_s_values():
    names = (
        "output_rate",
        "scope",
        "rate",
        "rewind_to",
        "learning_rate",
        "warmup",
        "criterion",
        "rates.Dense",
    )
    hp = keras_tuner.HyperParameters()
    declared = knobs.Knobs(names, reference())
    found = declared(hp)
    assert found == {
        "scope": "layerwise",
        "rate": 0.2,
        "output_rate": 0.1,
        "rewind_to": 0,
        "learning_rate": pytest.approx(1.2e-3),
        "warmup": 0,
        "criterion": "magnitude",
        "rates": (("Dense", 0.2),),
    }
    hp.values["lottery/scope"] = "global"
    found = declared(hp)
    assert "output_rate" not in found and "rates" not in found
    reference(**found)


def test_a_scope_alone_takes_the_recipe_s_rate():
    hp = keras_tuner.HyperParameters()
    hp.values["lottery/scope"] = "global"
    found = knobs.Knobs("scope", reference())(hp)
    assert found == {"scope": "global", "rate": 0.2}


def test_ranges_of_one_s_own_and_a_function():
    hp = keras_tuner.HyperParameters()
    ranges = {"batch_size": (16, 64, "log"), "momentum": [0.5, 0.9]}
    found = knobs.Knobs(ranges, reference())(hp)
    assert found == {"batch_size": 60, "momentum": 0.5}

    def tune(hp):
        return {"rate": hp.Float("r", 0.4, 0.5)}

    assert knobs.Knobs(tune, reference())(hp) == {"rate": 0.4}


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"knobs": ("rat",)}, "`knobs` must be among"),
        ({"knobs": {"run": [1]}}, "`knobs` must be among"),
        ({"knobs": {"rate": (0.5, 0.1)}}, "A range of `knobs` must be"),
        ({"objective": "loss"}, "`objective` must be one of"),
        ({"oracle": "tarot"}, "`oracle` must be one of"),
        (
            {"oracle": "hyperband", "objective": "accuracy"},
            'must not be "hyperband"',
        ),
        (
            {"oracle": keras_tuner.oracles.RandomSearchOracle("val_loss")},
            "must have the objective",
        ),
        ({"margin": -1}, "`margin` must be in"),
        ({"density": 0}, "`density` must be in"),
        ({"arms": ("reinit",)}, "`arms` must be an argument"),
        ({"max_model_size": 3}, "`max_model_size` must be an argument"),
        ({"rate": 1.5}, "`rate` must be in"),
        ({"hypermodel": 3}, "`hypermodel` must be a function"),
    ],
)
def test_wrong_values_are_refused_at_once(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tuner(tmp_path, **wrong)
    assert not (tmp_path / "search").exists()


def no_accuracy(hp):
    model = build(hp)
    model.compile("adam", "mse")
    return model


@pytest.mark.parametrize(
    "changes, search, message",
    [
        ({}, {"epochs": 3}, r"Received: \['epochs'\]"),
        ({}, {"y": None}, "`x` and `y` must be arrays"),
        ({}, {"validation_split": 2}, r"must be in \(0, 1\)"),
        ({"dataset": "digits"}, {}, "must be given no examples"),
        ({"knobs": ("rates.Conv2D",)}, {}, "`rates` must name layers"),
        (
            {"hypermodel": compiled, "knobs": ("learning_rate",)},
            {},
            "`learning_rate` must be left out",
        ),
        ({"hypermodel": no_accuracy}, {}, "with an accuracy metric"),
    ],
)
def test_what_cannot_be_searched_is_refused_before(
    changes, search, message, tmp_path
):
    x, y = data()
    made = tuner(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        made.search(**{"x": x, "y": y, "verbose": 0, **search})
    assert not made.oracle.trials


def test_a_trial_that_fails_says_why_and_leaves_the_others(tmp_path, caplog):
    def tune(hp):
        wrong = hp.Choice("c", ["magnitude", "none"])
        return {"criterion": wrong}

    made = tuner(tmp_path, knobs=tune, oracle="grid", max_trials=None)
    made.search(*data(), verbose=0)
    states = [trial.status for trial in made.oracle.trials.values()]
    assert sorted(states) == ["COMPLETED"] * 2 + ["FAILED"] * 2
    assert "`criterion` must be one of" in caplog.text
    assert made.table().count("failed") == 2
    assert len(made.get_best_tickets(4)) == 2


# Examples.


def test_examples_as_keras_fit_takes_them():
    x, y = data()
    held = data(30, 1)
    split = examples.given(x, y, validation_data=held).split(5)
    assert np.array_equal(split.train[0], x) and split.classes == 3
    assert np.array_equal(split.validation[1], held[1])
    assert np.array_equal(split.test[0], held[0])
    split = examples.given(x, y, validation_split=0.25).split(0)
    assert np.array_equal(split.validation[0], x[90:])
    drawn = examples.given(x, y, seed=1).split(0)
    assert len(drawn.validation[1]) == 12
    assert not np.array_equal(drawn.validation[0], x[-12:])
    assert examples.given(x, y, validation_split=0.25) == examples.given(
        x[:90], y[:90], validation_data=(x[90:], y[90:])
    )
    assert examples.given(x, y, seed=1) != examples.given(x, y, seed=2)


def test_a_stand_in_has_the_shape_of_structures(tmp_path):
    x = {"a": np.zeros((9, 4, 2), "uint8"), "b": [np.zeros((9, 3))]}
    pair = Arrays((x, np.zeros(9)), (x, np.zeros(9)))
    examples.claim(tmp_path, pair, pair.split(0))
    stand_in = examples.stand_in(tmp_path)
    assert stand_in.input_shape == {"a": (4, 2), "b": [(3,)]}
    assert stand_in.train[0]["a"].dtype == "uint8"
    assert stand_in.classes is None
    assert examples.stand_in(tmp_path / "other") is None


# Killed.

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import test_tuner
made = test_tuner.tuner({directory!r}, iterations=400, rounds=3)
made.search(*test_tuner.data(), verbose=0)
print(made.table())
"""


def script(directory):
    tests = os.path.dirname(__file__)
    text = SCRIPT.format(tests=tests, directory=str(directory))
    return subprocess.Popen(
        [sys.executable, "-c", text],
        env={**os.environ, "PYTHONPATH": os.path.dirname(tests)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_search_goes_on_inside_its_trial(tmp_path, counted):
    process = script(tmp_path)
    tickets = tmp_path / "search/trial_1/tickets/trial_0"
    wait_for(tickets / "level_01.ticket", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    made = tuner(tmp_path, iterations=400, rounds=3)
    before = made.oracle.trials["1"].hyperparameters.values
    done = sum(1 for _ in tickets.iterdir())
    made.search(*data(), verbose=0)
    assert list(made.oracle.trials) == ["0", "1", "2"]
    assert made.oracle.trials["1"].hyperparameters.values == before
    # Of three trials only what was not there was trained.
    assert len(counted.trained) <= (4 - done) + 4
    whole = tuner(tmp_path / "whole", iterations=400, rounds=3)
    whole.search(*data(), verbose=0)
    assert made.table() == whole.table()


def test_a_trial_killed_as_it_began_is_not_lost(tmp_path):
    made = tuner(tmp_path)
    made.search(*data(), verbose=0)
    state = made.oracle.get_state()
    # As it was before the last trial, whose own file is there already.
    path = tmp_path / "search/oracle.json"
    state["start_order"].pop(), state["end_order"].pop()
    path.write_text(json.dumps(state))
    trial = tmp_path / "search/trial_2/trial.json"
    begun = {**json.loads(trial.read_text()), "status": "RUNNING"}
    begun |= {"score": None, "metrics": {"metrics": {}}}
    trial.write_text(json.dumps(begun))
    again = tuner(tmp_path)
    again.search(*data(), verbose=0)
    assert again.table() == made.table()


def test_a_kill_while_writing_leaves_the_file_there_was(tmp_path, monkeypatch):
    made = tuner(tmp_path, max_trials=1)
    made.search(*data(), verbose=0)
    path = tmp_path / "search/oracle.json"
    before = path.read_bytes()

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    for save in (made.oracle.save, made.save):
        with pytest.raises(KeyboardInterrupt):
            save()
    trial = made.oracle.trials["0"]
    with pytest.raises(KeyboardInterrupt):
        made.oracle._save_trial(trial)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert tuner(tmp_path, max_trials=1).table() == made.table()


def test_a_second_search_in_a_project_is_refused(tmp_path):
    made = tuner(tmp_path)
    with Store(tmp_path / "search").alone():
        with pytest.raises(RuntimeError, match="in use by process"):
            made.search(*data(), verbose=0)


def test_the_library_does_not_import_keras_tuner():
    code = "import keras_lottery, sys; sys.exit('keras_tuner' in sys.modules)"
    assert subprocess.call([sys.executable, "-c", code]) == 0
