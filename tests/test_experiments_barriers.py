"""Error barriers: by hand on lines of numbers, and on a run of the digits."""

import dataclasses

import numpy as np
import pytest
from small import same
from test_experiments_experiment import Stopper, untimed

from keras_lottery import report
from keras_lottery.experiments import Experiment
from keras_lottery.experiments.arms import second
from keras_lottery.experiments.barriers import (
    Barrier,
    barrier,
    errors_between,
    from_csv,
    instability,
    measure_connectivity,
    to_csv,
)
from keras_lottery.experiments.bench import Bench, train_places
from keras_lottery.experiments.plan import Place, plan
from keras_lottery.experiments.run import Run


def test_the_line_goes_from_the_first_network_to_the_second():
    first = [np.array([0.1, 0.3], "float32"), np.array([[1.0]], "float32")]
    second = [np.array([0.7, 0.3], "float32"), np.array([[3.0]], "float32")]
    seen = []

    def error(weights):
        seen.append(weights)
        return weights[0][0]

    errors = errors_between(first, second, error, points=5)
    assert all(a.dtype == np.float32 for weights in seen for a in weights)
    for end, weights in ((0, first), (-1, second)):
        assert all(map(np.array_equal, seen[end], weights))
    assert seen[2][1] == 2.0
    assert errors == pytest.approx([0.1, 0.25, 0.4, 0.55, 0.7])


def test_of_a_diverged_network_nothing_is_in_the_other_end():
    first, second = [np.zeros(2)], [np.full(2, np.nan)]

    def error(weights):
        return 0.9 if np.isnan(weights[0]).any() else 0.1

    errors = errors_between(first, second, error, points=4)
    assert errors == pytest.approx([0.1, 0.9, 0.9, 0.9])


@pytest.mark.parametrize(
    "errors, expected",
    [
        ([0.1, 0.1, 0.1], 0.0),
        ([0.02, 0.5, 0.04], 0.47),
        ([0.1, 0.0, 0.2], 0.05),
    ],
)
def test_the_barrier_is_the_highest_error_above_the_mean_of_the_ends(
    errors, expected
):
    assert barrier(np.array(errors)) == pytest.approx(expected)


def test_barriers_are_read_as_they_were_written():
    measured = [Barrier(0, "ticket", 1, 0.8, 0.1, 0.2, 0.5, 0.35)]
    assert from_csv(to_csv(measured)) == measured
    assert from_csv(to_csv([])) == []


# Of a run.

LATE = 4
ARMS = ("ticket", "random_mask", "late_rewind")
SMALL = Experiment(
    rounds=1,
    iterations=20,
    eval_every=10,
    late_rewind_to=LATE,
    arms=ARMS,
    instability=True,
    backend="graph",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("unstable")
    return Run(directory), SMALL.run(directory)


def test_each_start_is_trained_twice():
    places = plan(SMALL)
    for arm in ARMS:
        for level in (0, 1):
            again = Place(0, level, second(arm))
            assert again.needs == Place(0, level, arm) in places
            assert again in places


@pytest.mark.slow
def test_nothing_else_changes(run, tmp_path):
    plain = dataclasses.replace(SMALL, instability=False)
    assert untimed(plain.run(tmp_path)) == untimed(run[1])
    assert instability(Run(tmp_path)) == []


def test_the_line_ends_at_both_trainings(run):
    measured = instability(run[0])
    assert [(b.arm, b.level) for b in measured] == [
        (arm, level) for arm in ARMS for level in (0, 1)
    ]
    lines = list(run[0].load_lines())
    assert [result for result, _ in lines] == run[0].results
    for one, (result, line) in zip(measured, lines, strict=True):
        assert line.shape == (30,)
        final = 1 - result.final_test_accuracy
        assert line[0] == one.first_error == pytest.approx(final, abs=1e-6)
        key = run[0].load_places()[Place(0, one.level, second(one.arm))]
        again = run[0].load_record(key)["final_test_accuracy"]
        assert one.second_error == pytest.approx(1 - again, abs=1e-6)
        assert one.highest_error == line.max()


def test_two_trainings_differ_in_the_order_alone(run):
    level_0, again = Place(0, 0, "ticket"), Place(0, 0, second("ticket"))
    first = run[0].load_ticket(0, "ticket", 0)
    bench = Bench(SMALL)
    bench.open(0)
    bench.tickets["ticket", 0] = first
    start, own = bench.start(again.arm, 0), bench.start("ticket", 0)
    assert same(start.masks, own.masks)
    assert same(start.rewind_point.weights, own.rewind_point.weights)
    assert bench.key(again.arm, 0) != bench.key(level_0.arm, 0)
    tickets = {again.needs: first}
    ((key, trained),) = train_places(SMALL, [again], tickets, [set()])
    assert key == bench.key(again.arm, 0)
    assert trained.ticket is None
    assert not np.array_equal(trained.line[:1], trained.line[-1:])


def test_late_rewinding_is_measured_from_its_step(run):
    bench = Bench(SMALL)
    bench.open(0)
    for level in (0, 1):
        bench.tickets["late_rewind", level] = run[0].load_ticket(
            0, "late_rewind", level
        )
        start = bench.start(second("late_rewind"), level)
        assert start.rewind_point.step == LATE
    # Of the dense network, which both arms train, it is not the same.
    bench.tickets["ticket", 0] = run[0].load_ticket(0, "ticket", 0)
    keys = [bench.key(second(arm), 0) for arm in ("ticket", "late_rewind")]
    assert keys[0] != keys[1]


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_in_the_same_lines(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        SMALL.run(tmp_path, progress=Stopper(4))
    assert untimed(SMALL.run(tmp_path)) == untimed(run[1])
    assert instability(Run(tmp_path)) == instability(run[0])


def test_an_arm_that_trains_itself_is_refused():
    with pytest.raises(ValueError, match="`instability` needs arms"):
        dataclasses.replace(SMALL, arms=("tfmot",))


def test_successive_levels_are_compared_from_what_is_stored(run):
    measured = measure_connectivity(run[0])
    # Every arm has its tickets here.
    assert [(b.arm, b.level) for b in measured] == [(arm, 1) for arm in ARMS]
    errors = {(r.arm, r.level): 1 - r.final_test_accuracy for r in run[1]}
    for one in measured:
        ends = one.first_error, one.second_error
        expected = errors[one.arm, 0], errors[one.arm, 1]
        assert ends == pytest.approx(expected, abs=1e-6)
        assert one.barrier == pytest.approx(one.highest_error - sum(ends) / 2)


@pytest.mark.slow
def test_the_report_shows_all_of_it(run):
    report.write(run[0].directory, connectivity=True)
    figures = run[0].list("figures")
    assert {"instability.png", "connectivity.png"} <= set(figures)
    names = "instability.csv", "connectivity.csv", "mask_distances.csv"
    rows = [len(open(run[0].path(name)).readlines()) for name in names]
    # Three arms of two levels; of masks, three layers and all.
    assert rows == [7, 4, 1 + 3 * 4]
    # What was measured once is drawn again.
    report.write(run[0].directory)
    assert run[0].connectivity == measure_connectivity(run[0])
