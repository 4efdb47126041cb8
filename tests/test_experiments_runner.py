"""Running, stopping and resuming; on the embedded digits."""

import dataclasses
import io

import numpy as np
import pytest

from keras_lottery import Ticket
from keras_lottery.experiments import Experiment, Progress, Result
from keras_lottery.experiments.places import Place
from keras_lottery.experiments.progress import Silence
from keras_lottery.experiments.results import from_csv

SMALL = Experiment(rounds=2, iterations=30, eval_every=10, trials=2)


def untimed(results):
    return [dataclasses.replace(result, seconds=0.0) for result in results]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed: its directory and results."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, SMALL.run(directory)


def test_every_level_of_every_arm_of_every_trial(whole):
    directory, results = whole
    places = [(r.trial, r.arm, r.level) for r in results]
    assert places == [
        (trial, arm, level)
        for trial in (0, 1)
        for arm in ("ticket", "reinit")
        for level in (0, 1, 2)
    ]
    written = from_csv((directory / "results.csv").read_text())
    assert untimed(written) == untimed(results)
    assert all(result.seconds > 0 for result in written)


def test_arms_share_masks_and_trials_share_nothing(whole):
    directory, results = whole
    by_place = {(r.trial, r.arm, r.level): r for r in results}
    for level in range(3):
        densities = {r.density for r in results if r.level == level}
        assert len(densities) == 1
    losses = [r.early_stop_val_loss for r in by_place.values()]
    assert len(set(losses)) == len(losses)


def test_levels_start_at_mask_times_the_same_weights(whole):
    directory, _ = whole
    tickets = [
        Ticket.load(directory / f"tickets/trial_0/level_{k:02d}.ticket")
        for k in range(3)
    ]
    for earlier, later in zip(tickets, tickets[1:]):
        for path, mask in later.masks.items():
            assert not (mask & ~earlier.masks[path]).any()
            trained = later.trained[path]
            assert not trained[~mask].any() and trained[mask].all()
        for path, array in later.rewind_point.weights.items():
            assert np.array_equal(array, earlier.rewind_point.weights[path])


class Stopper(Silence):
    """Interrupts the training with the given number, half-way."""

    def __init__(self, number):
        self.left = number

    def iteration(self, iteration):
        if iteration == 20:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_to_the_same_results(whole, tmp_path):
    for number in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            SMALL.run(tmp_path, Stopper(number))
    assert untimed(SMALL.run(tmp_path)) == untimed(whole[1])


def test_what_is_there_is_not_trained_again(whole):
    class Refuses(Silence):
        def training(self, place):
            raise AssertionError(f"{place} was trained again")

    directory, results = whole
    assert untimed(SMALL.run(directory, Refuses())) == untimed(results)


def test_a_damaged_ticket_is_trained_again(tmp_path):
    few = dataclasses.replace(SMALL, trials=1, arms=("ticket",))
    results = few.run(tmp_path)
    path = tmp_path / "tickets/trial_0/level_00.ticket"
    path.write_bytes(path.read_bytes()[:1000])
    assert untimed(few.run(tmp_path)) == untimed(results)
    assert Ticket.load(path).level == 0


def test_progress_tells_the_time_left():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.begin(2, 100)
    for level in (0, 1):
        progress.training(Place(0, level, "ticket"))
        progress.iteration(50)
        progress.done(
            Result(0, "ticket", level, 0.5, 100, 50, 1, 1, 1, 1, 1, 1, 2.0)
        )
    progress.end()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2 and lines[0].startswith("[1/2] trial 0 ticket")
    assert "s left" in lines[0] and "density  50.00%" in lines[0]


def test_late_rewinding_starts_levels_at_the_step(tmp_path):
    late = dataclasses.replace(
        SMALL, trials=1, arms=("ticket",), rewind_to=7, rounds=1
    )
    late.run(tmp_path)
    first, second = (
        Ticket.load(tmp_path / f"tickets/trial_0/level_{k:02d}.ticket")
        for k in (0, 1)
    )
    assert first.rewind_point.step == second.rewind_point.step == 7
    (state,) = second.rewind_point.optimizers.values()
    assert state["0:iteration"] == 7
