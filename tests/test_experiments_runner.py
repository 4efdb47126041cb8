"""Running, stopping and resuming; on the embedded digits."""

import dataclasses
import io
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from keras_lottery import Ticket
from keras_lottery.experiments import Experiment, Progress, Result
from keras_lottery.experiments.arms import ARMS, arm
from keras_lottery.experiments.plan import Place
from keras_lottery.experiments.progress import Silence
from keras_lottery.experiments.results import from_csv
from keras_lottery.experiments.run import Run

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


def test_a_damaged_ticket_is_trained_again(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tickets/trial_0/level_00.ticket"
    path.write_bytes(path.read_bytes()[:1000])
    assert untimed(SMALL.run(tmp_path)) == untimed(whole[1])
    assert Ticket.load(path).level == 0


def test_a_wrong_number_of_workers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`workers` must be an integer"):
        SMALL.run(tmp_path / "run", workers=0)
    assert not (tmp_path / "run").exists()


def test_progress_tells_the_time_left():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.begin(2, 100)
    for level in (0, 1):
        progress.training(Place(0, level, "ticket"))
        progress.iteration(50)
        progress.done(
            Place(0, level, "ticket"),
            Result(0, "ticket", level, 0.5, 100, 50, 1, 1, 1, 1, 1, 1, 2.0),
        )
    progress.end()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2 and lines[0].startswith("[1/2] trial 0 ticket")
    assert "00:00 left" in lines[0] and "density  50.00%" in lines[0]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_shows_all_that_is_trained_at_once():
    stream = Terminal()
    progress = Progress(stream)
    progress.begin(4, 100)
    places = [Place(trial, 0, "ticket") for trial in (0, 1)]
    for place in places:
        progress.training(place)
    result = Result(0, "ticket", 0, 1.0, 100, 50, 1, 1, 1, 1, 1, 1, 2.0)
    progress.done(places[0], result)
    progress.training(Place(2, 0, "ticket"))
    progress.iteration(50)
    progress.end()
    shown = stream.getvalue()
    assert "[1/4] trial 0 ticket" in shown
    assert "trial 0 ticket level 0, trial 1 ticket level 0" in shown


def test_the_backend_and_why_it_was_chosen_are_told(tmp_path):
    told = []

    class Notes(Silence):
        def note(self, line):
            told.append(line)

    dataclasses.replace(SMALL, trials=1, rounds=0).run(tmp_path, Notes())
    (line,) = told
    assert line.startswith(("Training by xla: ", "Training by sparse_or_xla: "))


def test_arms_that_others_need_are_told(tmp_path):
    told = []

    class Notes(Silence):
        def note(self, line):
            told.append(line)

    arms = ("reinit", "random_mask")
    few = dataclasses.replace(SMALL, trials=1, rounds=1, arms=arms)
    few.run(tmp_path, Notes())
    line = "reinit, random_mask need ticket, which is trained too, but not"
    assert any(note.startswith(line) for note in told)
    told.clear()
    few.run(tmp_path, Notes())
    assert not any("need" in note for note in told)


def test_a_run_that_trained_nothing_leaves_nothing(tmp_path):
    @arm
    def refused(bench, level):
        raise ValueError("refused")

    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes").write_text("mine")
    try:
        few = dataclasses.replace(SMALL, trials=1, arms=("refused",))
        for name in ("there", "new/run"):
            with pytest.raises(ValueError, match="refused"):
                few.run(tmp_path / name)
    finally:
        del ARMS["refused"], ARMS["refused_second"]
    assert [p.name for p in tmp_path.rglob("*")] == ["there", "notes"]


def test_a_second_process_on_the_same_directory_is_refused(tmp_path):
    # A lock taken twice in one process is refused like one of two processes.
    with Run(tmp_path).lock():
        with pytest.raises(RuntimeError, match=f"process {os.getpid()}"):
            SMALL.run(tmp_path)
    assert not (tmp_path / "experiment.json").exists()
    with Run(tmp_path).lock():
        pass


def test_an_entry_that_was_cut_short_costs_one_training(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "places.jsonl"
    path.write_text(path.read_text()[:-9])
    again = []

    class Counts(Silence):
        def training(self, place):
            again.append(place)

    assert untimed(SMALL.run(tmp_path, Counts())) == untimed(whole[1])
    assert again == [Place(1, 2, "reinit")]


@pytest.mark.slow
def test_curves_for_tensorboard(tmp_path):
    few = dataclasses.replace(SMALL, trials=1, rounds=1)
    few.run(tmp_path / "run", tensorboard_dir=tmp_path / "board")
    found = {
        str(path.parent.relative_to(tmp_path / "board"))
        for path in tmp_path.rglob("events*")
    }
    arms = ("trial_0/ticket", "trial_0/reinit")
    levels = {f"{arm}/level_{level:02d}" for arm in arms for level in (0, 1)}
    assert found == {*arms, *levels}
    (file,) = (tmp_path / "board/trial_0/ticket/level_01").iterdir()
    values = {}
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            values[value.tag, event.step] = tf.make_ndarray(value.tensor)
    assert sorted(step for tag, step in values if tag == "val_loss") == [
        10,
        20,
        30,
    ]
    place = Place(0, 1, "ticket")
    run = Run(tmp_path / "run")
    curves = run.load_curves(run.load_places()[place])
    assert values["val_loss", 20] == np.float32(curves["val_loss"][1])


def test_sparse_kernels_train_the_levels_at_which_they_are_faster(tmp_path):
    pytest.importorskip("numba")
    one = dataclasses.replace(SMALL, rounds=1, rate=0.7, trials=1)
    keys, backends = {}, {}
    for backend in ("xla", "sparse_or_xla"):
        run = Run(tmp_path / backend)
        changed = dataclasses.replace(one, backend=backend)
        results = changed.run(run.directory)
        backends[backend] = [r.backend for r in results if r.arm == "ticket"]
        keys[backend] = [
            run.load_places()[Place(0, level, "ticket")] for level in (0, 1)
        ]
        # What is found again is what was trained.
        assert untimed(changed.run(run.directory)) == untimed(results)
    assert backends == {
        "xla": ["xla", "xla"],
        "sparse_or_xla": ["xla", "sparse"],
    }
    # A level is one training, whatever chose what trains it.
    (dense, one), (same, other) = keys.values()
    assert dense == same and one != other
