"""Transfer: tickets of one run, trained on the data of another."""

import dataclasses
import shutil

import numpy as np
import pytest
from small import same

from keras_lottery.experiments import Experiment
from keras_lottery.experiments.plan import Place
from keras_lottery.experiments.progress import Silence
from keras_lottery.experiments.run import Run

ORIGIN = Experiment(
    classes="0-4",
    rounds=1,
    iterations=20,
    eval_every=10,
    arms=("ticket",),
    backend="graph",
)
ARMS = ("ticket", "transferred", "transferred_reinit")


def onto(directory, **changes):
    return dataclasses.replace(
        ORIGIN,
        **{
            "classes": "5-9",
            "seed": 1,
            "arms": ARMS,
            "ticket_from": str(directory),
            **changes,
        },
    )


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    directory = tmp_path_factory.mktemp("origin")
    ORIGIN.run(directory)
    return directory


@pytest.fixture(scope="module")
def run(origin, tmp_path_factory):
    """A run with transferred tickets that keeps every ticket: its directory,
    its results and what was told."""
    directory = tmp_path_factory.mktemp("target")
    progress, told = Silence(), []
    progress.note = told.append
    results = onto(origin, instability=True).run(directory, progress)
    return directory, results, told


def ticket(directory, arm, level):
    return Run(directory).load_ticket(0, arm, level)


@pytest.mark.parametrize("level", [0, 1])
def test_the_other_run_s_masks_and_weights_are_trained(origin, run, level):
    there, here = (
        ticket(origin, "ticket", level),
        ticket(run[0], "transferred", level),
    )
    assert same(there.masks, here.masks)
    assert same(there.rewind_point.weights, here.rewind_point.weights)
    # On other data, to other weights.
    assert not same(there.trained, here.trained)


def test_reinitialised_they_have_new_weights(origin, run):
    there = ticket(origin, "ticket", 1)
    here = ticket(run[0], "transferred_reinit", 1)
    assert same(there.masks, here.masks)
    kernel = here.rewind_point.weights["fc1/kernel"]
    assert np.mean(kernel == there.rewind_point.weights["fc1/kernel"]) < 0.001
    own = ticket(run[0], "ticket", 1)
    assert np.mean(kernel == own.rewind_point.weights["fc1/kernel"]) < 0.001


def test_the_hidden_arm_has_no_row_and_is_not_said_to_be_trained(run):
    rows = [(r.arm, r.level) for r in run[1]]
    assert rows == [(arm, level) for arm in ARMS for level in (0, 1)]
    assert not any("source" in line for line in run[2])


def test_a_run_is_identified_by_its_tickets_and_not_by_their_place(
    origin, run, tmp_path
):
    experiment = onto(origin, instability=True)
    shutil.copytree(origin, tmp_path / "moved")
    moved = dataclasses.replace(experiment, ticket_from=str(tmp_path / "moved"))
    assert moved.run(run[0]) == run[1]
    assert str(origin) not in (run[0] / "experiment.json").read_text()
    other = tmp_path / "other"
    dataclasses.replace(ORIGIN, seed=5).run(other)
    with pytest.raises(ValueError, match="other settings: ticket_from="):
        dataclasses.replace(experiment, ticket_from=str(other)).run(run[0])


def test_a_run_can_be_read_without_the_other_one(run):
    experiment = Run(run[0]).load_experiment()
    assert experiment.arms == ARMS and experiment.classes == "5-9"
    best = Run(run[0]).trained_model("last", arm="transferred")
    assert best.result.level == 1


def test_a_damaged_copy_is_taken_over_again(origin, run, tmp_path):
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    path = Run(tmp_path).ticket_path(0, "source", 1)
    with open(path, "r+b") as file:
        file.truncate(100)
    assert onto(origin, instability=True).run(tmp_path) == run[1]
    assert Run(tmp_path).read_ticket(path).level == 1
    assert Place(0, 1, "source") in Run(tmp_path).load_places()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rounds": 2}, "without level 2 of trial 0"),
        ({"trials": 2}, "without level 0 of trial 1"),
        ({"arms": ("ticket",)}, "must be left out where no arm"),
        ({"ticket_from": "nowhere"}, "must be the directory of a run"),
        pytest.param(
            {"model": "conv_2"},
            "The ticket does not fit the model",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_transferred_is_refused(
    origin, tmp_path, changes, message, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        onto(origin, **changes).run(tmp_path / "run")


def test_the_arms_need_a_run():
    with pytest.raises(ValueError, match="need `ticket_from`"):
        Experiment(arms=("transferred",))


def test_an_own_ticket_does_not_take_the_rewind_point_of_another(tmp_path):
    # Both begin with the same training, of which the other rewinds to step 10.
    dataclasses.replace(ORIGIN, rewind_to=10).run(tmp_path / "origin")
    same_data = onto(tmp_path / "origin", classes="0-4", seed=0, arms=ARMS[:2])
    same_data.run(tmp_path / "target")
    steps = [
        ticket(tmp_path / "target", arm, 0).rewind_point.step
        for arm in ("ticket", "source")
    ]
    assert steps == [0, 10]
