"""Places: which trainings an experiment has, and what each needs."""

import dataclasses

from keras_lottery.experiments.arms import ARMS


@dataclasses.dataclass(frozen=True, order=True)
class Place:
    """Where a training stands in an experiment."""

    trial: int
    level: int
    arm: str

    @property
    def needs(self):
        """The `Place` that must be trained before, or `None`."""
        before = ARMS[self.arm].needs(self.level)
        return before and Place(self.trial, before[1], before[0])


def plan(experiment):
    """Every `Place` of an experiment, those that others need included.

    Returns:
        A list in the order in which one worker should train them.
    """
    places = {}
    for trial in range(experiment.trials):
        for level in range(experiment.rounds + 1):
            for arm in experiment.arms:
                _add(places, Place(trial, level, arm))
    return list(places)


def _add(places, place):
    if place.needs:
        _add(places, place.needs)
    places.setdefault(place)
