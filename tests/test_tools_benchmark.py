"""The benchmark's arithmetic, its processes, and tiny runs of its subjects."""

import csv
import dataclasses
import json
import os
import sys
import time

import numpy as np
import pytest
import scripts

# Whatever imports TensorFlow is imported in the tests that need it: the
# processes of the subjects below import this module.
# The scripts import each other as Python runs them: from their directory.
sys.path.insert(0, str(scripts.ROOT / "tools"))

from benchmarks import pruning_subjects, summary  # noqa: E402
from benchmarks.measurement import (  # noqa: E402
    PeakMemory,
    Row,
    Subject,
    Unavailable,
    Worker,
    resident_mb,
    take_turns,
)
from benchmarks.problem import Problem, share_kept  # noqa: E402
from benchmarks.subjects import (  # noqa: E402
    EXPERIMENT,
    LOOP,
    PARTS,
    SUBJECTS,
    subjects_of,
)

LENET = "lenet_300_100"
TINY = Problem(
    LENET, 3, 4, "adam", 1e-3, examples=20, shape=(6, 6, 1)
)  # fmt: skip


# Subjects without a framework, for the processes to hold.


class Counting:
    about = {"version": "1"}

    def __init__(self, problem):
        self.runs, self.steps = 0, problem.steps

    def run(self):
        print("what frameworks say must not reach the terminal")
        self.runs += 1
        return {
            "step_ms": 10.0 * self.runs,
            "pid": os.getpid(),
            "frameworks": len({"tensorflow", "torch"} & set(sys.modules)),
        }

    def finish(self):
        return {"runs": self.runs}


class Lacking(Counting):
    def __init__(self, problem):
        raise Unavailable("no module named that")


class Failing(Counting):
    def run(self):
        raise ArithmeticError("on purpose")


class Cold(Counting):
    warm_up = False

    def run(self):
        return {**super().run(), "told": float(os.environ["TOLD"])}


def here(name, **options):
    return Subject(f"{__name__}:{name}", **options)


def test_subjects_take_turns_in_processes_of_their_own(capfd):
    told, skipped = [], []
    rows, about = take_turns(
        {
            "a": here("Counting"),
            "b": here("Cold", repetitions=1, env={"TOLD": "7"}),
            "c": here("Lacking"),
        },
        TINY,
        2,
        told.append,
        skipped.append,
    )
    assert about == {"a": {"version": "1"}, "b": {"version": "1"}}
    assert len(skipped) == 1 and "no module named that" in skipped[0]
    # A first run that warms up is not among them.
    times = [r for r in rows if r.metric == "step_ms"]
    assert [(r.subject, r.repetition, r.value) for r in times] == [
        ("a", 1, 20.0),
        ("b", 1, 10.0),
        ("a", 2, 30.0),
    ]
    assert [r.value for r in rows if r.metric == "told"] == [7.0]
    pids = {r.subject: r.value for r in rows if r.metric == "pid"}
    assert len({os.getpid(), *pids.values()}) == 3
    assert not any(r.value for r in rows if r.metric == "frameworks")
    once = {(r.subject, r.metric): r.value for r in rows if not r.repetition}
    assert once["a", "runs"] == 3 and once["b", "runs"] == 1
    assert once["b", "peak_rss_mb"] > 1
    assert once["a", "warm_up_seconds"] > 0
    assert ("b", "warm_up_seconds") not in once
    assert any("repetition 2 of 2, a" in line for line in told)
    assert "frameworks say" not in "".join(capfd.readouterr())


def test_a_failure_in_a_process_is_told():
    with pytest.raises(RuntimeError, match="on purpose"):
        with Worker(here("Failing")) as worker:
            worker.prepare(TINY)


# Arithmetic.


def rows_of(subject, values, metric="step_ms", network=LENET):
    return [
        Row(subject, network, metric, repetition, value)
        for repetition, value in enumerate(values, 1)
    ]


ROWS = [
    *rows_of(LOOP, [1.0, 2.0, 4.0]),
    *rows_of(LOOP, [1.5, 2.5, 4.5], "evaluated_step_ms"),
    *rows_of("Keras fit", [3.0, 4.0, 20.0]),
    *rows_of("matrix products alone", [0.5, 0.5, 0.8]),
    *rows_of(EXPERIMENT, [3.0]),
    *rows_of(EXPERIMENT, [1.0], "steps_ms"),
    *rows_of(EXPERIMENT, [0.5], "evaluation_ms"),
    *rows_of(EXPERIMENT, [1.5], "rest_ms"),
    Row("Keras fit", LENET, "peak_rss_mb", None, 1234.4),
    Row("Keras fit", LENET, "density", None, 1.0),
    *rows_of("Keras fit", [7.0], network="conv_2"),
]


def test_ratios_are_taken_within_a_repetition():
    fit = summary.summarise(ROWS, LENET)["Keras fit"]
    assert fit["step_ms"]["median"] == 4.0
    assert fit["step_ms"]["low"] == 3.0
    assert fit["step_ms"]["high"] == 20.0
    # 3, 2 and 5: their median, which the ratio of medians, 2, is not.
    assert fit["step_ms"]["ratio"] == {"median": 3.0, "low": 2.0, "high": 5.0}
    assert fit["peak_rss_mb"]["median"] == 1234.4


ABOUT = {
    LOOP: {"backend": "xla"},
    EXPERIMENT: {"trainings": 18, "iterations": 3000, "dataset": "mnist"},
}


def test_the_table_shows_subjects_in_order_and_the_share_of_products():
    text = summary.table(summary.summarise(ROWS, LENET), LENET, ABOUT)
    head, *lines = text.splitlines()
    assert head.split()[:4] == ["step", "ms", "min", "-"]
    subjects = LOOP, EXPERIMENT, "Keras fit", "matrix products alone"
    for line, subject in zip(lines, subjects):
        assert line.startswith(f"{subject} ")
    assert lines[2].split()[2:] == (
        "4 3 - 20 3.00 2.00 - 5.00 1,234 100.0%".split()
    )
    assert "backend xla, takes 2.5 ms" in text
    assert "25% (20% - 50%)" in text


def test_the_whole_experiment_is_told_by_its_parts():
    text = summary.table(summary.summarise(ROWS, LENET), LENET, ABOUT)
    line = text.splitlines()[2]
    assert line.split()[2:] == "3 3 - 3 3.00 3.00 - 3.00".split()
    assert (
        "18 trainings of 3,000 steps on mnist, takes 3 ms a step, all "
        "included: steps 1, evaluation 0.5, rest 1.5."
    ) in text


def test_without_this_packages_subject_there_are_no_ratios():
    known = summary.summarise(ROWS, "conv_2")
    assert "ratio" not in known["Keras fit"]["step_ms"]
    assert "7" in summary.table(known, "conv_2")


def test_csv_and_figure_hold_everything(tmp_path):
    summary.write_csv(ROWS, tmp_path / "rows.csv")
    with open(tmp_path / "rows.csv") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(ROWS)
    assert lines[0] == {
        "subject": LOOP,
        "network": LENET,
        "metric": "step_ms",
        "repetition": "1",
        "value": "1.0",
    }
    summaries = {n: summary.summarise(ROWS, n) for n in (LENET, "conv_2")}
    summary.draw(summaries, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_products_are_the_gradients_of_a_linear_network():
    from benchmarks import other_subjects as products

    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 7))
    a, b = rng.normal(size=(7, 3)), rng.normal(size=(3, 2))
    # Of the loss |y|^2 / 2, whose gradient in y is y.
    first, second = products.step_products(x, [a, b], products.numpy_matmul)
    y = x @ a @ b
    np.testing.assert_allclose(second, (x @ a).T @ y)
    np.testing.assert_allclose(first, x.T @ (y @ b.T))


def test_flop_counts_every_product_once():
    from benchmarks import other_subjects as products

    counted = []

    def matmul(a, b, transpose_a=False, transpose_b=False):
        a, b = a.T if transpose_a else a, b.T if transpose_b else b
        counted.append(2 * a.shape[0] * a.shape[1] * b.shape[1])
        return a @ b

    weights = [np.ones(s) for s in ((784, 300), (300, 100), (100, 10))]
    products.step_products(np.ones((60, 784)), weights, matmul)
    assert len(counted) == 8
    assert sum(counted) == products.flop(60)


def test_vgg_19_has_the_shapes_of_the_model():
    from keras_lottery import models

    model = models.vgg_19()
    kernels = [
        tuple(layer.kernel.shape)
        for layer in model.layers
        if hasattr(layer, "kernel")
    ]
    assert pruning_subjects.vgg_19_shapes() == kernels


def test_sorting_prunes_what_prune_global_prunes():
    from keras_lottery import masks

    shapes = [(40, 30), (30, 5)]
    subjects = [
        subject(None, shapes)
        for subject in (
            pruning_subjects.Global,
            pruning_subjects.Sort,
            pruning_subjects.Argsort,
        )
    ]
    ours, *others = [subject.prune() for subject in subjects]
    assert masks.density(ours) == pytest.approx(0.8)
    for other in others:
        for path, mask in ours.items():
            np.testing.assert_array_equal(mask, other[path])
    layerwise = pruning_subjects.Layerwise(None, shapes).finish()
    assert layerwise["density"] == pytest.approx(0.8)
    assert layerwise["extra_mb"] > 0


def test_peak_memory_is_kept_when_the_memory_is_given_back():
    before = resident_mb()
    with PeakMemory(interval=0.001) as memory:
        held = np.ones(20_000_000)
        size = held.nbytes / 1e6
        while memory.peak_mb < before + 0.9 * size:
            time.sleep(0.001)
        del held
        time.sleep(0.01)
    assert memory.peak_mb >= before + 0.9 * size


def test_every_subject_runs_on_some_network():
    for name, subject in SUBJECTS.items():
        assert subject.networks
        assert subjects_of(subject.networks[0], [name]) == {name: subject}


# Tiny runs.


def test_the_problem_is_the_papers():
    problem = Problem.of("resnet_18", 200)
    assert problem.batch_size == 128
    assert problem.momentum == 0.9 and problem.augment
    assert problem.examples == 200 * 128
    x, y = dataclasses.replace(problem, examples=7).data()
    assert x.shape == (7, 32, 32, 3) and y.shape == (7,)
    assert share_kept([np.eye(2), np.ones((1, 4))]) == 0.75


@pytest.mark.parametrize(
    "name, density",
    [("CompiledLoop", 0.5), ("PlainFit", 1.0), ("WrappedFit", 0.5)],
)
def test_a_subject_trains_at_its_density(name, density):
    subject = Subject(f"benchmarks.keras_subjects:{name}").make(TINY)
    assert subject.run()["step_ms"] > 0
    assert subject.run()["step_ms"] > 0
    assert subject.finish()["density"] == pytest.approx(density, abs=1e-3)


SMALL = {"dataset": "digits", "iterations": 4, "rounds": 1, "arms": ["ticket"]}


def test_an_experiment_is_measured_as_a_whole():
    from benchmarks.keras_subjects import WholeExperiment, timed

    from keras_lottery.backend.loop import CompiledSteps

    train = CompiledSteps.train
    subject = WholeExperiment(dataclasses.replace(TINY, experiment=SMALL))
    assert subject.about["trainings"] == 2
    with timed() as calls:
        values = subject.run()
    assert CompiledSteps.train is train
    assert calls.steps == 2 * 4
    parts = {name: values[f"{name}_ms"] for name in PARTS}
    assert sum(parts.values()) == pytest.approx(values["step_ms"])
    assert all(value > 0 for value in parts.values())


def test_the_first_call_of_a_shape_compiles_and_is_not_timed():
    from benchmarks.keras_subjects import CallTimes

    def method(steps, count, indices, data):
        time.sleep(0.001)
        return 1.5

    times = CallTimes()
    train = times.of_train(method)
    assert train("steps", 3, np.zeros((4, 2)), None) == 1.5
    assert times.steps == 3 and times.train == 0.0
    train("steps", 4, np.zeros((4, 2)), None)
    assert times.steps == 7 and times.train > 0.0


def test_torch_trains_half_of_the_weights():
    pytest.importorskip("torch")
    from benchmarks.other_subjects import TorchLoop

    for network in (LENET, "conv_2"):
        subject = TorchLoop(dataclasses.replace(TINY, network=network))
        assert subject.run()["step_ms"] > 0
        density = subject.finish()["density"]
        assert density == pytest.approx(0.5, abs=1e-3)


@pytest.mark.slow
def test_a_wrong_value_is_one_line():
    code, _, error = scripts.finish("benchmark", "--networks=lenet")
    assert code == 2
    assert error.strip().startswith("benchmark.py: --networks must")
    assert error.count("\n") == 1


@pytest.mark.slow
def test_the_script_measures_every_subject(tmp_path):
    code, out, error = scripts.finish(
        "benchmark",
        *("--steps=2", "--repetitions=1", "--dataset=digits"),
        *("--iterations=4", "--rounds=1", f"--output_dir={tmp_path}"),
    )
    assert code == 0, error
    with open(tmp_path / "benchmark.csv") as file:
        rows = list(csv.DictReader(file))
    halves = [
        float(row["value"])
        for row in rows
        if row["metric"] == "density"
        and row["network"] != "vgg_19"
        and not row["subject"].startswith("Keras")
    ]
    assert halves == pytest.approx([0.5] * len(halves), abs=1e-3)
    facts = json.loads((tmp_path / "benchmark.json").read_text())
    assert facts["cores"] and facts["command"]
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000
    assert LOOP in out and "4 trainings of 4 steps on digits" in out
    parts = {row["metric"] for row in rows if row["subject"] == EXPERIMENT}
    assert parts >= {"step_ms", "steps_ms", "evaluation_ms", "rest_ms"}


@pytest.mark.slow
def test_steps_by_density_are_measured_and_drawn(tmp_path):
    pytest.importorskip("numba")
    code, out, error = scripts.finish(
        "benchmark_sparse",
        "--networks=lenet_300_100",
        "--densities=1,0.01",
        "--batch_sizes=60",
        "--repetitions=1",
        "--steps=2",
        "--iterations=2",
        f"--output_dir={tmp_path}",
    )
    assert code == 0, error
    assert "100.00%" in out and "sparse_or_xla:" in out
    with open(tmp_path / "by_density.csv") as file:
        rows = list(csv.DictReader(file))
    assert {float(row["density"]) for row in rows} == {1, 0.01}
    assert all(float(row["step_ms"]) > 0 for row in rows)
    subjects = {"xla", "sparse, 1 thread", "arithmetic limit"}
    assert subjects <= {row["subject"] for row in rows}
    for suffix in ("json", "png", "overview.png"):
        assert (tmp_path / f"by_density.{suffix}").exists()
