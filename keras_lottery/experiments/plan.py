"""The plan of an experiment: its trainings, and what each of them needs."""

import collections
import dataclasses
import heapq

from keras_lottery.experiments.arms import ARMS, second


@dataclasses.dataclass(frozen=True, order=True)
class Place:
    """Which training of an experiment: its trial, level and arm."""

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
                if experiment.instability:
                    _add(places, Place(trial, level, second(arm)))
    return list(places)


def _add(places, place):
    chain = []
    while place and place not in places:
        chain.append(place)
        place = place.needs
    places.update(dict.fromkeys(reversed(chain)))


class Queue:
    """The places that are still to be trained, in the order of a plan.

    Args:
        places: list of `Place`, as `plan` returns it.
        done: those of them that are trained already.
    """

    def __init__(self, places, done=()):
        done = set(done)
        self._order = {place: i for i, place in enumerate(places)}
        self._left = len(places) - len(done)
        self.ready = []
        self._blocked = collections.defaultdict(list)
        for place in places:
            if place in done:
                continue
            if place.needs is None or place.needs in done:
                self.again(place)
            else:
                self._blocked[place.needs].append(place)

    def __len__(self):
        """How many are not done: waiting, or taken by `next`."""
        return self._left

    def next(self):
        """Takes the first place of `ready`, a heap of (order, `Place`)."""
        return heapq.heappop(self.ready)[1]

    def again(self, place):
        """Queues a place, of which all that it needs is trained."""
        heapq.heappush(self.ready, (self._order[place], place))

    def done(self, place):
        """A place was trained: those that need it are ready."""
        self._left -= 1
        for waiting in self._blocked.pop(place, ()):
            self.again(waiting)
