"""The public functions as a user calls them, for the type checker.

`mypy` reads this file and nothing runs it. Wrong uses carry an `ignore` that
names the error, and `warn_unused_ignores` refuses one that finds no error: so
each of them must be found.
"""

from typing import assert_type

import keras
import numpy as np
from numpy.typing import NDArray

import keras_lottery
from keras_lottery import (
    checks,
    constraints,
    criteria,
    export,
    masks,
    processes,
    schedules,
)
from keras_lottery.experiments import Experiment, Result
from keras_lottery.levels import Level, Levels
from keras_lottery.training import Loop


def a_search(model: keras.Model, x: NDArray, y: NDArray) -> None:
    model = keras_lottery.wrap(model, rate=0.2, rounds=3)
    model.fit(x, y)
    pruner = keras_lottery.LotteryTicketPruner(model, rate=0.2)
    pruner.find(x, y, rounds=3)
    ticket = pruner.ticket()
    ticket.save("model.ticket")
    assert_type(pruner.density, float)
    assert_type(pruner.find(x, y, rounds=3), Levels)
    assert_type(ticket.density, float)
    pruner.ticket("last")  # type: ignore[arg-type]
    keras_lottery.LotteryTicketPruner(model, rate="fast")  # type: ignore[arg-type]
    keras_lottery.Ticket.load("model.ticket").apply(model)
    keras_lottery.unwrap(model)


def its_levels(levels: Levels) -> None:
    level = levels[-1]
    assert_type(level, Level)
    assert_type(level.density, float)
    assert_type(level.early_stop_iteration, int | None)
    assert_type(level.masks, dict[str, NDArray[np.bool_]])
    assert_type(level.trained_weights, dict[str, NDArray])
    print(level.early_stop_iteration + 1)  # type: ignore[operator]
    print(level.accuracy)  # type: ignore[attr-defined]


def an_experiment() -> None:
    experiment = Experiment(dataset="digits", rounds=3, arms=("ticket",))
    experiment.run("runs/digits", workers=2)
    Experiment(rounds="3")  # type: ignore[arg-type]
    Experiment(round=3)  # type: ignore[call-arg]
    experiment.rounds = 4  # type: ignore[misc]


def its_results(result: Result) -> None:
    assert_type(result.final_test_accuracy, float)
    assert_type(result.level, int)
    print(result.accuracy)  # type: ignore[attr-defined]


def a_loop(model: keras.Model, x: NDArray, y: NDArray) -> None:
    loop = Loop(model, (x, y), (x, y), batch_size=60)
    loop.train(iterations=100, seed=0)
    loop.evaluate((x, y))


def an_export(model: keras.Model, x: NDArray) -> None:
    export.to_serving(model, "served/digits", examples=x, softmax=True)
    export.to_litert(model, "ticket.tflite", "int8", representative=x)
    export.compact(model)


def own_criterion(initial: NDArray, trained: NDArray) -> NDArray:
    return np.abs(trained)


def one_argument(trained: NDArray) -> NDArray:
    return np.abs(trained)


def criteria_and_schedules(x: NDArray) -> None:
    assert_type(criteria.get("magnitude"), criteria.Criterion)
    assert_type(criteria.scores(own_criterion, x, x, seed=0), NDArray)
    criteria.get(own_criterion)
    criteria.get(one_argument)  # type: ignore[arg-type]
    schedule = schedules.get(0.2)
    assert_type(schedule(0), float)
    schedules.get(lambda round: 0.2 if round < 3 else 0.1)
    schedules.get("fast")  # type: ignore[arg-type]
    assert_type(schedules.one_shot(0.1), schedules.ToDensity)
    schedules.ToDensity(0.1, rounds="7")  # type: ignore[arg-type]


def mask_arithmetic(mask: NDArray[np.bool_], x: NDArray) -> None:
    assert_type(masks.density({"kernel": mask}), float)
    assert_type(masks.pack(mask), NDArray[np.uint8])
    assert_type(masks.unpack(masks.pack(mask), (2, 3)), NDArray[np.bool_])
    pruned = masks.prune_global(
        {"kernel": mask}, 0.2, {"kernel": x}.__getitem__
    )
    assert_type(pruned, dict[str, NDArray[np.bool_]])
    masks.density(mask)  # type: ignore[arg-type]
    masks.prune_global({"kernel": mask}, "0.2", abs)  # type: ignore[arg-type]


def constraint_of(variable: keras.Variable) -> None:
    found = constraints.mask_of(variable)
    assert_type(found, constraints.TicketMask | None)
    found.numpy()  # type: ignore[union-attr]


def other_processes() -> None:
    assert_type(processes.call(len, "abc"), int)
    assert_type(processes.shares(2), list[list[int]])
    with processes.Processes(2) as executor:
        assert_type(executor.submit(len, "abc").result(), int)
    processes.Processes("2")  # type: ignore[arg-type]


def checked(value: object) -> None:
    assert_type(checks.check_integer("rounds", value, minimum=0), int)
    if checks.is_number(value):
        assert_type(value, float)
    checks.check_rate(0.2, "rate")  # type: ignore[arg-type]
