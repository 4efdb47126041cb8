"""What was trained is found, whoever asks, and never trusted when damaged."""

import dataclasses

import numpy as np
import pytest
from small import ticket

from keras_lottery import Ticket
from keras_lottery.experiments import Experiment
from keras_lottery.experiments.plan import Place
from keras_lottery.experiments.progress import Silence
from keras_lottery.experiments.store import training_key

SMALL = Experiment(
    rounds=2, iterations=20, eval_every=10, arms=("ticket",), backend="graph"
)


class Counts(Silence):
    """Notes which places were trained and which were found."""

    def __init__(self):
        self.trained, self.found = [], []

    def done(self, place, result, found=False):
        (self.found if found else self.trained).append(place)


def run(experiment, run_dir, **options):
    counts = Counts()
    results = experiment.run(run_dir, counts, **options)
    untimed = [dataclasses.replace(r, seconds=0.0) for r in results]
    return untimed, counts


def changed(**changes):
    return dataclasses.replace(SMALL, **changes)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A directory in which one run has shared what it trained."""
    directory = tmp_path_factory.mktemp("shared")
    SMALL.run(tmp_path_factory.mktemp("first"), shared=directory)
    return directory


def test_another_run_finds_it_all(shared, tmp_path):
    results, counts = run(SMALL, tmp_path / "a", shared=shared)
    assert not counts.trained and len(counts.found) == 3
    alone, counts = run(SMALL, tmp_path / "b")
    assert not counts.found and results == alone
    tickets = [
        (tmp_path / place / "tickets/trial_0/level_02.ticket").read_bytes()
        for place in "ab"
    ]
    assert (
        tickets[0] != b""
        and Ticket.load(
            tmp_path / "a/tickets/trial_0/level_02.ticket"
        ).masks.keys()
    )
    # They differ in the seconds that the training took.
    assert len(tickets[0]) == pytest.approx(len(tickets[1]), abs=64)


def test_another_rate_shares_the_dense_level(shared, tmp_path):
    faster = changed(rate=0.5)
    results, counts = run(faster, tmp_path / "a", shared=shared)
    assert counts.found == [Place(0, 0, "ticket")]
    assert len(counts.trained) == 2
    assert results == run(faster, tmp_path / "b")[0]


def test_tickets_of_another_rewind_point_are_not_taken(shared, tmp_path):
    late = changed(arms=("late_rewind",), late_rewind_to=5)
    results, counts = run(late, tmp_path / "a", shared=shared)
    assert len(counts.trained) == 3
    assert results == run(late, tmp_path / "b")[0]
    path = tmp_path / "a/tickets/trial_0/late_rewind/level_00.ticket"
    assert Ticket.load(path).rewind_point.step == 5


def test_arms_of_one_run_share_what_is_the_same(tmp_path):
    both = changed(arms=("ticket", "lr_rewind", "one_shot"), rounds=1)
    results, counts = run(both, tmp_path)
    assert set(counts.found) == {
        Place(0, 0, "lr_rewind"),
        Place(0, 0, "one_shot"),
        Place(0, 1, "one_shot"),
    }
    dense = [r for r in results if r.level == 0]
    assert len({r.early_stop_val_loss for r in dense}) == 1


def test_levels_that_are_one_training_keep_their_numbers(tmp_path):
    _, counts = run(changed(rate=0.0, output_rate=0.0), tmp_path)
    assert len(counts.trained) == 1 and len(counts.found) == 2
    for level in range(3):
        path = tmp_path / f"tickets/trial_0/level_{level:02d}.ticket"
        assert Ticket.load(path).level == level


@pytest.mark.parametrize("kind", ["trainings", "tickets"])
def test_what_is_damaged_is_trained_again(kind, tmp_path):
    shared = tmp_path / "shared"
    results, _ = run(SMALL, tmp_path / "a", shared=shared)
    for path in (shared / kind).iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    again, counts = run(SMALL, tmp_path / "b", shared=shared)
    assert again == results
    assert len(counts.trained) == 3


def test_the_key_depends_on_all_that_determines_a_training():
    same = training_key({"iterations": 10}, ticket(), [1, 2])
    assert training_key({"iterations": 10}, ticket(), [1, 2]) == same
    others = {
        training_key({"iterations": 11}, ticket(), [1, 2]),
        training_key({"iterations": 10}, ticket(), [1, 3]),
        *(
            training_key({"iterations": 10}, ticket(**change), [1, 2])
            for change in (
                {"mask": np.array([True, True])},
                {"weight": np.array([1.0, 3.0], np.float32)},
                {"slot": np.ones(2, np.float32)},
            )
        ),
    }
    assert len(others) == 5 and same not in others
