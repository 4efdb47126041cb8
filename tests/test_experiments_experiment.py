"""Experiments: recipes filled in, wrong values refused; run and resumed."""

import dataclasses
import io
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lottery import Ticket
from keras_lottery.experiments import Arrays, Experiment, Progress, Result
from keras_lottery.experiments.arms import ARMS, arm
from keras_lottery.experiments.plan import Place
from keras_lottery.experiments.progress import Silence
from keras_lottery.experiments.results import from_csv
from keras_lottery.experiments.run import Run
from keras_lottery.processes import Serial


def test_the_paper_s_recipe_fills_what_is_left_open():
    conv = Experiment(dataset="cifar10", model="conv_6")
    assert (conv.batch_size, conv.iterations) == (60, 30_000)
    assert conv.learning_rate == 3e-4 and conv.eval_every == 100
    assert conv.standardize and not conv.augment
    rates = conv.pruning()
    assert rates["rate"] == 0.2 and rates["output_rate"] == 0.1
    assert list(rates["rates"].values()) == [0.15]


def test_dropout_has_recipes_of_its_own():
    plain = Experiment(dataset="cifar10", model="conv_4")
    dropout = Experiment(dataset="cifar10", model="conv_4", dropout=0.5)
    assert dropout.iterations == 3 * plain.iterations
    assert dropout.learning_rate == 2e-4


@pytest.mark.parametrize(
    "model, given, expected",
    [
        ("conv_2", {"rate": 0.5}, (0.5, 0.25, {r"conv\d": 0.1}, "layerwise")),
        ("conv_2", {"output_rate": 0.3}, (0.2, 0.3, {r"conv\d": 0.1}, None)),
        ("conv_2", {"rates": ()}, (0.2, 0.1, {}, None)),
        ("resnet_18", {"rate": 0.5}, (0.5, 0.0, {"shortcut": 0.0}, "global")),
        ("lenet_300_100", {"scope": "global"}, (0.2, None, {}, "global")),
    ],
)
def test_what_is_given_replaces_what_it_names_and_nothing_else(
    model, given, expected
):
    rate, output_rate, rates, scope = expected
    pruning = Experiment(model=model, **given).pruning()
    assert pruning["rate"] == rate and pruning["output_rate"] == output_rate
    assert pruning["rates"] == rates
    assert scope in (None, pruning["scope"])


def test_what_changes_a_number_is_in_the_key_of_a_training():
    resnet = Experiment(dataset="cifar10", model="resnet_18")
    for change in (
        {"weight_decay": 0.0},
        {"augment": False},
        {"standardize": False},
        {"backend": "graph"},
        {"precision": "mixed_bfloat16"},
    ):
        other = dataclasses.replace(resnet, **change)
        assert other.training_settings() != resnet.training_settings()
    elsewhere = dataclasses.replace(resnet, data_dir="elsewhere")
    assert elsewhere.settings() == resnet.settings()
    assert elsewhere == resnet


def test_a_smaller_data_set_is_another_experiment():
    whole = Experiment(model="conv_2", iterations=10)
    for change in ({"image_size": 4}, {"classes": "0-4"}):
        other = dataclasses.replace(whole, **change)
        assert other.settings() != whole.settings()
        assert other.training_settings() != whole.training_settings()
        # What was trained on the whole set is still found.
        assert not change.keys() & whole.training_settings().keys()
    one = dataclasses.replace(whole, classes="4,0-3", image_size=4)
    assert one == dataclasses.replace(whole, classes=range(5), image_size=4)
    data = one.load_data(0)
    assert data.input_shape == (4, 4, 1) and data.classes == 5
    model = one.build_model(data, 0)
    assert model.input_shape == (None, 4, 4, 1)
    assert model.output_shape == (None, 5)
    pair = np.zeros((9, 4)), np.arange(9)
    data = Arrays(pair, pair)
    with pytest.raises(ValueError, match="`image_size` must be left out"):
        Experiment(data, image_size=2)


def test_an_argument_that_the_network_lacks_is_refused():
    with pytest.raises(ValueError, match="`dropout` must be left out"):
        Experiment(dropout=0.5)
    with pytest.raises(ValueError, match="`weight_decay` must be left out"):
        Experiment(model="conv_2", weight_decay=1e-4)


def test_rates_of_a_class_and_of_a_name():
    pairs = (("Dense", 0.3), ("fc2", 0.4))
    experiment = Experiment(rates=pairs)
    assert experiment.rates == pairs
    assert Experiment(rates=["Dense:0.3", "fc2:0.4"]) == experiment
    rates = experiment.pruning()["rates"]
    assert [getattr(k, "__name__", k) for k in rates] == ["Dense", "fc2"]
    for wrong in ((("Dense", 1.0),), (("Dense",),), ("Dense",)):
        with pytest.raises(ValueError, match="`rates"):
            Experiment(rates=wrong)


def test_arguments_of_the_network_are_numbers_or_words():
    given = ("norm_epsilon:1e-5", "width:8", "padding:symmetric")
    experiment = Experiment(model="resnet_18", network=given)
    options = dict(experiment.network)
    assert options == {
        "norm_epsilon": 1e-5,
        "width": 8,
        "padding": "symmetric",
    }
    assert isinstance(options["width"], int)


def test_seeds_of_every_purpose_are_their_own():
    purposes = [
        (t, p) for t in range(50) for p in ("weights", "order", "split")
    ]
    seeds = {Experiment().derive_seed(*purpose) for purpose in purposes}
    assert len(seeds) == len(purposes)
    assert 0 <= min(seeds) and max(seeds) < 2**31


def test_a_seed_is_a_pure_function_of_its_purpose():
    one, other = Experiment(seed=3), Experiment(seed=4)
    seed = one.derive_seed(1, "weights")
    assert one.derive_seed(1, "weights") == seed
    assert other.derive_seed(1, "weights") != seed


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
        ({"warmup": -1}, "`warmup` must be steps, at least 0, or a fraction"),
        ({"warmup": 1.5}, "`warmup` must be steps, at least 0, or a fraction"),
        ({"network": ("a",)}, "`network` must be pairs of a name"),
        ({"network": {"seed": 1}}, "`network` must name arguments that"),
        ({"network": {"padding": "same"}}, "`padding` must be left out"),
        ({"network": ("foo:1",)}, "model='lenet_300_100' takes no such arg"),
        (
            {"network": ("foo:1",), "model": "conv_2"},
            "`foo` must be left out: model='conv_2' takes dropout",
        ),
        ({"dropout": 1.0}, "`dropout` must be in"),
        ({"drops": ("a",)}, "`drops` must be"),
        ({"image_size": 0}, "`image_size` must be an integer, at least 1"),
        ({"classes": "3"}, "`classes` must name at least two labels"),
        ({"instability": 2}, "`instability` must be one of"),
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


@pytest.mark.slow
def test_an_experiment_in_mixed_precision(tmp_path):
    experiment = Experiment(
        rounds=1, iterations=20, eval_every=10, precision="mixed_bfloat16"
    )
    results = experiment.run(tmp_path)
    assert all(r.early_stop_test_accuracy > 0.2 for r in results)


def own(input_shape, classes):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Flatten(),
            keras.layers.Dense(4, "relu"),
            keras.layers.Dense(classes),
        ]
    )


def test_a_wrapped_model_has_the_names_of_a_new_process():
    experiment = Experiment(model=own, iterations=10, rate=0.3)
    data = experiment.load_data(0)
    keras.layers.Dense(1)
    first, second, other = (
        experiment.wrapped_model(data, seed) for seed in (0, 0, 1)
    )
    paths = [weight.path for weight in first.weights]
    assert [path.split("/")[-2] for path in paths] == [
        *("dense", "dense"),
        *("dense_1", "dense_1"),
    ]
    assert paths == [weight.path for weight in second.weights]
    assert first.compiled and first.optimizer.name == second.optimizer.name
    assert first.lottery.rate == 0.3
    kernels = [model.get_weights()[0] for model in (first, second, other)]
    assert np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_protocols_are_equal_up_to_what_trains_them():
    experiment = Experiment(iterations=50)
    for changes, equal in (
        ({}, True),
        ({"backend": "graph", "data_dir": "elsewhere"}, True),
        ({"seed": 1}, False),
        ({"model": own}, False),
    ):
        other = dataclasses.replace(experiment, **changes)
        assert other.equals_up_to_backend(experiment) is equal


# Running, stopping and resuming; on the embedded digits.

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


def test_an_executor_beside_a_scheduler_is_refused(tmp_path):
    with pytest.raises(ValueError, match="give one"):
        SMALL.run(
            tmp_path / "run", executor=Serial(), scheduler="tcp://127.0.0.1:9"
        )
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
