"""Library: what was trained, by its key, in a run and in those it shares with.

A training that another arm, or another run, has made is not made again: its
record is taken over, and its ticket where a later level continues from it.
"""

import collections
import contextlib
import os

from keras_lottery.experiments.arms import ARMS
from keras_lottery.experiments.store import Store

_RECORD = "record"


class Library:
    """Finds trainings for the places of an experiment.

    Args:
        experiment: `Experiment`.
        store: `Store` of the run.
        shared: optional str or path-like, a directory of trainings and
            tickets that several runs read and add to, also at once.
    """

    def __init__(self, experiment, store, shared=None):
        self.experiment = experiment
        self.store = store
        self.shared = Store(shared) if shared else None
        # Key -> path of its file, by trial, since two trials never have the
        # same key, and by kind. Trial `None` is what came of other runs.
        self._paths = collections.defaultdict(dict)
        for known in filter(None, (store, self.shared)):
            records = self._paths[None, _RECORD]
            for key in known.known_keys():
                records.setdefault(key, known.path(known.record_path(key)))
        for name in self.shared.list("tickets") if self.shared else ():
            key, _, kind = name.partition("_")
            self._paths[None, kind][key] = self.shared.path("tickets", name)

    def known(self, place):
        """The frozenset of keys whose training would serve a place."""
        kind = self._kind(place)
        return frozenset().union(
            self._paths[place.trial, kind], self._paths[None, kind]
        )

    def add(self, place, key):
        """Notes what was trained for a place, and shares it."""
        record = self.store.record_path(key)
        self._add(place.trial, _RECORD, key, record, record)
        kind = self._kind(place)
        if kind != _RECORD:
            path = self.store.ticket_path(place.trial, place.arm, place.level)
            self._add(place.trial, kind, key, path, f"tickets/{key}_{kind}")

    def fetch(self, place, key):
        """Puts what is known of a training where a place's belongs.

        Args:
            place: `Place`.
            key: str, one of `known(place)`.

        Returns:
            A bool: `False` if it is damaged and has to be trained again.
        """
        record = self.store.record_path(key)
        if self.shared and not self.store.exists(record):
            for content in self.shared.take([record]).values():
                self.store.put(record, content)
        kind = self._kind(place)
        if self.store.load_record(key) is None:
            self._forget(place.trial, _RECORD, key)
            self._forget(place.trial, kind, key)
            return False
        if kind == _RECORD:
            return True
        found = self._paths[place.trial, kind].get(key)
        ticket = self.store.read_ticket(found or self._paths[None, kind][key])
        if ticket is None:
            self._forget(place.trial, kind, key)
            return False
        # With a rate of 0, two levels are one training.
        ticket.level = place.level
        self.store.save_ticket(place.trial, place.arm, ticket)
        return True

    def _kind(self, place):
        """What of a training a place needs: its record, or a ticket too."""
        arm = ARMS[place.arm]
        if not arm.chain:
            return _RECORD
        # Tickets of one training differ by what they rewind to.
        return f"{arm.rewind_to(self.experiment)}.ticket"

    def _add(self, trial, kind, key, path, name):
        self._paths[trial, kind].setdefault(key, self.store.path(path))
        if self.shared and not self.shared.exists(name):
            for content in self.store.take([path]).values():
                self.shared.put(name, content)

    def _forget(self, trial, kind, key):
        # Files of the run's own places are theirs; what is shared goes, for
        # what is trained instead to be shared in its place.
        self._paths[trial, kind].pop(key, None)
        path = self._paths[None, kind].pop(key, None)
        if path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
