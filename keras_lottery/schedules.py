"""Schedules: the rate of each round. Pure Python.

A schedule is any callable from the round's index (0 for the round that leads
from level 0 to level 1) to the rate of that round: the fraction of the
surviving weights it removes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from keras_lottery.checks import check_integer, check_rate, is_number

Schedule = Callable[[int], float]


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same rate every round: density after n rounds is (1 - rate) ** n.

    Args:
        rate: float in [0, 1).

    Source: Frankle & Carbin, 1803.03635, section 2 (20 % a round).
    """

    rate: float

    def __post_init__(self) -> None:
        check_rate("rate", self.rate)

    def __call__(self, round: int) -> float:
        return self.rate


@dataclasses.dataclass(frozen=True)
class ToDensity:
    """Equal rates that reach a density in a number of rounds, then stop.

    The rate of each round is 1 - density ** (1 / rounds).

    Args:
        density: float in (0, 1], what is left of each layer at the end.
        rounds: int, at least 1. With 1 it is one-shot pruning.

    Example:

    ```python
    ToDensity(0.2097152, rounds=7)(0)  # 0.2, for seven rounds
    ```
    """

    density: float
    rounds: int

    def __post_init__(self) -> None:
        if not is_number(self.density) or not 0 < self.density <= 1:
            raise ValueError(
                f"`density` must be in (0, 1]. Received: density={self.density}"
            )
        check_integer("rounds", self.rounds, minimum=1)

    def __call__(self, round: int) -> float:
        if round >= self.rounds:
            return 0.0
        return 1.0 - self.density ** (1.0 / self.rounds)


def one_shot(density: float) -> ToDensity:
    """The whole target in one round.

    Source: Frankle & Carbin, 1803.03635, section 2 (one-shot pruning).
    """
    return ToDensity(density, rounds=1)


@dataclasses.dataclass(frozen=True)
class FromSparsity:
    """A tfmot `PruningSchedule`, its steps counted in rounds.

    Such a schedule maps a step to (whether to prune, target sparsity). Round
    r asks it for step r + 1, and its rate is what leads from the sparsity
    reached so far to the new target; a target that does not rise prunes
    nothing.

    Args:
        schedule: callable, step -> (bool, sparsity in [0, 1)).
    """

    schedule: Callable[[int], Any]

    def __call__(self, round: int) -> float:
        before = self._density(round)
        return max(0.0, 1.0 - self._density(round + 1) / before)

    def _density(self, step: int) -> float:
        density = 1.0
        for past in range(1, step + 1):
            prunes, sparsity = self.schedule(past)
            if prunes:
                density = min(density, 1.0 - float(sparsity))
        return density


@dataclasses.dataclass(frozen=True)
class Scaled:
    """Another schedule at `factor` times its rate."""

    schedule: Schedule
    factor: float

    def __call__(self, round: int) -> float:
        return self.factor * self.schedule(round)


def get(rate: float | Schedule, name: str = "rate") -> Schedule:
    """The schedule that `rate` stands for.

    Args:
        rate: float in [0, 1), a schedule of this module, a tfmot
            `PruningSchedule`, or any callable from the round's index to a
            rate.
        name: str, the argument's name in an error.

    Returns:
        A callable, round -> float.

    Raises:
        ValueError: If it is none of these.
    """
    if is_number(rate):
        check_rate(name, rate)
        return Constant(float(rate))
    if callable(rate) and not isinstance(rate, type):
        kinds = [kind.__name__ for kind in type(rate).__mro__]
        if "LearningRateSchedule" in kinds:
            raise ValueError(
                f"`{name}` must be a function of the round, and a Keras "
                "learning-rate schedule is one of the training step. "
                f"Received: {name}={rate!r}"
            )
        schedule = FromSparsity(rate) if "PruningSchedule" in kinds else rate
        if schedule is not _not_in_the_file:
            # Before a level is trained for nothing.
            rate_at(schedule, 0, name)
        return schedule
    raise ValueError(
        f"`{name}` must be a float in [0, 1) or a schedule (a callable from "
        f"the round's index to a rate). Received: {name}={rate!r}"
    )


def to_config(schedule: Schedule) -> float | dict[str, Any] | None:
    """What a file can hold of a schedule: `None` stands for a callable."""
    if isinstance(schedule, Constant):
        return float(schedule.rate)
    if isinstance(schedule, ToDensity):
        density, rounds = float(schedule.density), int(schedule.rounds)
        return {"density": density, "rounds": rounds}
    if isinstance(schedule, Scaled):
        inner = to_config(schedule.schedule)
        return inner and {"schedule": inner, "factor": schedule.factor}
    return None


def from_config(config: float | dict[str, Any] | None) -> Schedule:
    """The schedule that `to_config` described."""
    if config is None:
        return _not_in_the_file
    if not isinstance(config, dict):
        return Constant(config)
    if "factor" in config:
        return Scaled(from_config(config["schedule"]), config["factor"])
    return ToDensity(**config)


def _not_in_the_file(round: int) -> float:
    raise ValueError(
        "The search was made with a `rate` that is a callable, which no file "
        "holds. Give `rate` (and `rates`) again to prune further."
    )


def rate_at(schedule: Schedule, round: int, where: str) -> float:
    """`schedule(round)`, refused if a callable returned no rate."""
    rate = schedule(round)
    check_rate(f"rate of {where} in round {round}", rate)
    return float(rate)
