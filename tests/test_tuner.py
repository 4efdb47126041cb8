"""LotteryTuner: whole searches as trials of KerasTuner."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import keras
import keras_tuner
import numpy as np
import psutil
import pytest

import keras_lottery
from keras_lottery.experiments import Experiment
from keras_lottery.experiments.progress import Silence
from keras_lottery.experiments.run import Run
from keras_lottery.tuner import LotteryTuner, objectives
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


@pytest.fixture(scope="module")
def levels():
    """Lists of the levels that were trained and that were found."""

    class Levels(Silence):
        trained, found = [], []

        def done(self, place, result, found=False):
            (self.found if found else self.trained).append(place.level)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner_lib, "Silence", Levels)
        yield Levels


@pytest.fixture
def counted(levels):
    """The same, from now on."""
    levels.trained.clear()
    levels.found.clear()
    return levels


SEARCH = {"margin": 0.1, "seed": 3}
HELD = data(40, 1)


def search(made, **changes):
    # A test set of noise: whoever looked at it would see no accuracy.
    noise = HELD[0], np.roll(HELD[1], 7)
    arguments = {"validation_data": HELD, "test_data": noise, "verbose": 0}
    made.search(*data(), **{**arguments, **changes})
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory, levels):
    """A search that is over, and how many levels it trained and found."""
    levels.trained.clear()
    levels.found.clear()
    directory = tmp_path_factory.mktemp("finished")
    made = search(tuner(directory, **SEARCH))
    made.counts = len(levels.trained), len(levels.found)
    return made


def again(directory, **changes):
    """The tuner of `finished` once more."""
    return tuner(directory, **{**SEARCH, **changes})


@pytest.fixture
def copied(finished, tmp_path):
    """The directory of a copy of that search."""
    shutil.copytree(finished.directory, tmp_path, dirs_exist_ok=True)
    return tmp_path


# A search.


def test_trials_are_searches_and_share_the_dense_level(finished):
    trials = list(finished.oracle.trials.values())
    assert [trial.status for trial in trials] == ["COMPLETED"] * 3
    units = {trial.hyperparameters["units"] for trial in trials}
    # Two of them at most have a dense network of their own.
    assert finished.counts == (6 + len(units), 3 - len(units))
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
        directory = finished.get_trial_dir(trial.trial_id)
        saved = json.loads(open(f"{directory}/trial.json").read())
        metrics = saved["metrics"]["metrics"]["val_accuracy"]
        assert [o["step"] for o in metrics["observations"]] == [0, 1, 2]


def test_the_objective_is_of_validation_and_its_level_is_the_ticket(finished):
    best = finished.oracle.get_best_trials()[0]
    assert finished.oracle.objective.direction == "min"
    rows = Run(finished.get_trial_dir(best.trial_id)).results
    validation = [row.early_stop_val_accuracy for row in rows]
    assert validation != [row.early_stop_test_accuracy for row in rows]
    densities = [row.density for row in rows]
    level, density = objectives.smallest_density(densities, validation, 0.1)
    assert (best.best_step, best.score) == (level, pytest.approx(density))
    ticket = finished.get_best_tickets()[0]
    assert ticket.level == level
    assert ticket.density == pytest.approx(density)
    model = finished.get_best_models()[0]
    assert isinstance(model, keras.Sequential)
    assert model.lottery.level == level
    accuracy = model.evaluate(*HELD, verbose=0, return_dict=True)["accuracy"]
    assert accuracy == pytest.approx(rows[level].final_val_accuracy, abs=1e-6)
    for path, mask in model.lottery.masks.items():
        assert np.array_equal(mask, ticket.masks[path])


def test_the_table_has_a_row_for_each_trial_the_best_first(finished):
    frame = finished.to_pandas()
    best = finished.oracle.get_best_trials()[0]
    assert len(frame) == 3 and frame.trial[0] == best.trial_id
    assert frame.ticket_density[0] == frame.density[0] == best.score
    assert frame.ticket_density.is_monotonic_increasing
    assert set(frame) >= {"status", "dense_accuracy", "units", "output_rate"}
    lines = finished.table(1).splitlines()
    assert len(lines) == 2 and lines[0].split()[0] == "trial"
    assert f"{frame.density[0]:.2%}" in lines[1]


def test_it_is_found_again_and_refuses_other_settings(copied, finished, capsys):
    found = again(copied)
    assert found.table() == finished.table()
    assert found.remaining_trials == 0
    found.results_summary()
    out = capsys.readouterr().out
    assert 'name="ticket_density", direction="min"' in out
    assert out.count("lottery/rate: ") == 3
    with pytest.raises(ValueError, match="margin=0.1 before, 0.2 now"):
        again(copied, margin=0.2)
    with pytest.raises(ValueError, match="holds a search on arrays"):
        found.search(*data(seed=8), verbose=0)
    assert not again(copied, overwrite=True, margin=0.2).oracle.trials


@pytest.mark.slow
def test_models_are_built_again_without_examples(tmp_path):
    made = search(tuner(tmp_path, Unbuilt(), knobs=("rate",), max_trials=1))
    found = tuner(tmp_path, Unbuilt(), knobs=("rate",), max_trials=1)
    # From the shape of the examples alone.
    model, trained = (t.get_best_models()[0] for t in (found, made))
    for ours, theirs in zip(model.weights, trained.weights):
        assert np.array_equal(ours, theirs)
    hp = found.get_best_hyperparameters()[0]
    assert isinstance(found.hypermodel.build(hp), Subclassed)


def test_an_objective_of_keras_tuner_is_one_of_the_tuner(tmp_path):
    objective = keras_tuner.Objective("area", "max")
    made = tuner(tmp_path, compiled, objective=objective, overwrite=True)
    assert made.objective == "area" and made.oracle.objective == objective
    # The same search as by its name.
    assert tuner(tmp_path, compiled, objective="area").objective == "area"


@pytest.mark.parametrize(
    "x, y, message",
    [
        (np.full((60, 6), np.nan), np.arange(60) % 3, "finite numbers in x"),
        (np.zeros((60, 6)), np.arange(60) % 3 + 1, "in .0, 3.*from 1 to 3"),
        (np.zeros((60, 5)), np.arange(60) % 3, "evaluated on the examples"),
    ],
)
def test_examples_that_do_not_fit_are_refused(x, y, message, tmp_path):
    made = tuner(tmp_path, build)
    with pytest.raises(ValueError, match=message):
        made.search(x, y, validation_split=0.2, verbose=0)
    assert not made.oracle.trials


@pytest.mark.parametrize(
    "oracle, objective", [("bayesian", "accuracy"), ("grid", "area")]
)
@pytest.mark.slow
def test_other_oracles_and_objectives(oracle, objective, tmp_path):
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
        ({"density": 0}, "`density` must be greater than 0"),
        ({"workers": 0}, "`workers` must be an integer, at least 1"),
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
    model.compile("adam", "sparse_categorical_crossentropy")
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


def test_a_trial_that_fails_says_why_and_a_grid_goes_on(tmp_path, caplog):
    def tune(hp):
        wrong = hp.Choice("c", ["magnitude", "none"])
        return {"criterion": wrong}

    for trials in (2, 9):
        arguments = {"knobs": tune, "oracle": "grid", "max_trials": trials}
        made = search(tuner(tmp_path, compiled, **arguments))
    trials = made.oracle.trials.values()
    states = [trial.status for trial in trials]
    assert sorted(states) == ["COMPLETED"] * 2 + ["FAILED"] * 2
    values = {tuple(t.hyperparameters.values.items()) for t in trials}
    assert len(values) == 4
    assert "`criterion` must be one of" in caplog.text
    assert made.table().count("failed") == 2
    assert len(made.get_best_tickets(4)) == 2


# Several processes.


@pytest.mark.slow
def test_workers_come_to_the_same(tmp_path, finished):
    made = search(again(tmp_path, workers=2))
    # Cores that share a sum add it up in another order.
    names = ["ticket_density", "units", "rate", "criterion"]
    found, known = made.to_pandas(), finished.to_pandas()
    assert set(found.trial) == set(known.trial)
    assert found[names].to_string() == known[names].to_string()


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_dies_with_the_search(tmp_path):
    changes = {"workers": 2, "rounds": 9, "iterations": 5000}
    process = script(tmp_path, **changes)

    def in_trials():
        """The ids of the processes that are in a trial."""
        paths = tmp_path.glob("search/trial_*/.lock.owner")
        return {int(path.read_text()) for path in paths}

    def wait_until(condition):
        while not condition():
            assert process.poll() is None
            time.sleep(0.1)

    wait_until(lambda: len(in_trials()) == 2)
    first = in_trials()
    victim, survivor = first
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in in_trials())
    second = in_trials()
    assert survivor in second and len(second) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    while any(map(psutil.pid_exists, second)):
        time.sleep(0.1)


@pytest.mark.slow
def test_kerastuner_s_own_chief_and_a_worker(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    places = {
        "KERASTUNER_ORACLE_IP": "127.0.0.1",
        "KERASTUNER_ORACLE_PORT": port,
    }
    chief, worker = (
        script(tmp_path, {**places, "KERASTUNER_TUNER_ID": name}, max_trials=2)
        for name in ("chief", "tuner0")
    )
    try:
        tables = {p.communicate(timeout=300)[0] for p in (chief, worker)}
    finally:
        chief.kill(), worker.kill()
    made = tuner(tmp_path, max_trials=2)
    states = [trial.status for trial in made.oracle.trials.values()]
    assert states == ["COMPLETED"] * 2
    # Whoever asks, chief, worker or another process, gets the same.
    assert tables == {f"{made.table()}\n"}
    assert made.get_best_tickets()[0].level in (0, 1, 2)


def test_workers_are_not_for_kerastuner_s_chief(tmp_path, monkeypatch):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    with pytest.raises(ValueError, match="`workers` must be 1 with"):
        tuner(tmp_path, workers=2)


# Killed.

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import test_tuner
made = test_tuner.tuner({directory!r}, **{changes!r})
made.search(*test_tuner.data(), verbose=0)
print(made.table())
"""


def script(directory, environment=(), **changes):
    tests = os.path.dirname(__file__)
    text = SCRIPT.format(tests=tests, directory=str(directory), changes=changes)
    path = {"PYTHONPATH": os.path.dirname(tests), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        [sys.executable, "-c", text],
        env={**os.environ, **path, **dict(environment)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_killed_search_goes_on_inside_its_trial(tmp_path, counted):
    changes = {"iterations": 400, "rounds": 3}
    process = script(tmp_path, **changes)
    tickets = tmp_path / "search/trial_1/tickets/trial_0"
    while not (tickets / "level_01.ticket").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    made = tuner(tmp_path, **changes)
    before = made.oracle.trials["1"].hyperparameters.values
    done = sum(1 for _ in tickets.iterdir())
    made.search(*data(), verbose=0)
    assert list(made.oracle.trials) == ["0", "1", "2"]
    assert made.oracle.trials["1"].hyperparameters.values == before
    # Of three trials only what was not there was trained.
    assert len(counted.trained) <= (4 - done) + 4
    whole = tuner(tmp_path / "whole", **changes)
    whole.search(*data(), verbose=0)
    assert made.table() == whole.table()


def test_a_full_disk_strikes_no_trial_off(tmp_path, finished, monkeypatch):
    run, calls = Experiment.run, []

    def fail_once(experiment, *args, **kwargs):
        calls.append(experiment)
        if len(calls) == 2:
            raise OSError("No space left on device")
        return run(experiment, *args, **kwargs)

    monkeypatch.setattr(Experiment, "run", fail_once)
    with pytest.raises(OSError, match="No space left"):
        search(again(tmp_path))
    made = search(again(tmp_path))
    assert len(calls) == 4
    # Two searches of one seed are one.
    assert made.table() == finished.table()


def test_a_trial_killed_as_it_began_is_not_lost(copied, finished):
    path = copied / "search/oracle.json"
    state = json.loads(path.read_text())
    # As it was before the last trial, whose own file is there already.
    state["start_order"].pop(), state["end_order"].pop()
    path.write_text(json.dumps(state))
    trial = copied / "search/trial_2/trial.json"
    begun = {**json.loads(trial.read_text()), "status": "RUNNING"}
    begun |= {"score": None, "metrics": {"metrics": {}}}
    trial.write_text(json.dumps(begun))
    made = search(again(copied))
    assert made.table() == finished.table()


def test_a_kill_while_writing_leaves_the_file_there_was(
    copied, finished, monkeypatch
):
    made = again(copied)
    path = copied / "search/oracle.json"
    before = path.read_bytes()

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    for save in (made.oracle.save, made.save):
        with pytest.raises(KeyboardInterrupt):
            save()
    with pytest.raises(KeyboardInterrupt):
        made.oracle.update_trial("0", {"ticket_density": 0.5})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert again(copied).table() == finished.table()


def test_a_second_search_in_a_project_is_refused(tmp_path):
    made = tuner(tmp_path)
    with Run(tmp_path / "search").lock():
        with pytest.raises(RuntimeError, match="in use by process"):
            made.search(*data(), verbose=0)


def test_the_library_does_not_import_keras_tuner():
    package = pathlib.Path(keras_lottery.__file__).parent
    imports = re.compile(r"^(from|import) keras_(tuner|lottery\.tuner)", re.M)
    others = set(package.rglob("*.py")) - set(package.glob("tuner/*"))
    assert not [path for path in others if imports.search(path.read_text())]
