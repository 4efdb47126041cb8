"""Store: what was trained, found again by all that determines it.

A training is keyed by the hash of its settings, its masks, its starting
weights and its seeds. A training that another arm, or another run, has made is
not made again: its record is taken over, and its ticket where a later level
continues from it.
"""

import collections
import contextlib
import hashlib
import json
import os

from keras_lottery import files
from keras_lottery import masks as masks_lib
from keras_lottery.experiments.arms import ARMS, keeps_ticket
from keras_lottery.experiments.run import Run

_FORMAT = 2
_RECORD = "record"


def training_key(settings, start, seeds):
    """The key of a training.

    Args:
        settings: dict that JSON can hold.
        start: `Ticket`, what training starts from.
        seeds: list of ints.

    Returns:
        A str of 32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    head = [_FORMAT, settings, seeds, start.rewind_point.step]
    digest.update(json.dumps(head, sort_keys=True).encode())
    for path, mask in start.masks.items():
        digest.update(path.encode())
        digest.update(masks_lib.pack(mask))
    point = start.rewind_point
    for state in (point.weights, *point.optimizers.values()):
        for array in state.values():
            digest.update(array.data if array.ndim else array.tobytes())
    return digest.hexdigest()[:32]


class Store:
    """Finds trainings for the places of an experiment.

    Args:
        experiment: `Protocol`.
        run: `Run`, whose trainings and tickets it knows.
        shared: optional str or path-like, a directory of trainings and
            tickets that several runs read and add to, also at once.
    """

    def __init__(self, experiment, run, shared=None):
        self.experiment = experiment
        self.run = run
        self.shared = Run(shared, "shared") if shared else None
        # Key -> path of its file, by trial, since two trials never have the
        # same key, and by kind. Trial `None` is what came of other runs.
        self._paths = collections.defaultdict(dict)
        for known in filter(None, (run, self.shared)):
            records = self._paths[None, _RECORD]
            for key in known.keys():
                records.setdefault(key, known.record_path(key))
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
        record = self.run.record_path(key)
        name = os.path.relpath(record, self.run.directory)
        self._add(place.trial, _RECORD, key, record, name)
        kind = self._kind(place)
        if kind != _RECORD:
            path = self.run.ticket_path(place.trial, place.arm, place.level)
            name = os.path.join("tickets", f"{key}_{kind}")
            self._add(place.trial, kind, key, path, name)

    def fetch(self, place, key):
        """Puts what is known of a training where a place's belongs.

        Args:
            place: `Place`.
            key: str, one of `known(place)`.

        Returns:
            A bool: `False` if it is damaged and has to be trained again.
        """
        record = self.run.record_path(key)
        if self.shared and not os.path.exists(record):
            files.copy(self.shared.record_path(key), record)
        kind = self._kind(place)
        if self.run.load_record(key) is None:
            self._forget(place.trial, _RECORD, key)
            self._forget(place.trial, kind, key)
            return False
        if kind == _RECORD:
            return True
        found = self._paths[place.trial, kind].get(key)
        ticket = self.run.read_ticket(found or self._paths[None, kind][key])
        if ticket is None:
            self._forget(place.trial, kind, key)
            return False
        # With a rate of 0, two levels are one training.
        ticket.level = place.level
        self.run.save_ticket(place.trial, place.arm, ticket)
        return True

    def _kind(self, place):
        """What of a training a place needs: its record, or a ticket too."""
        if not keeps_ticket(self.experiment, place.arm):
            return _RECORD
        if ARMS[place.arm].taken_over:
            # It rewinds to where the run that it came from does.
            return f"{place.arm}.ticket"
        # Tickets of one training differ by what they can rewind to.
        rewind_to = ARMS[place.arm].rewind_to(self.experiment)
        step = 0 if rewind_to == "learning_rate" else rewind_to
        return f"{step}.ticket"

    def _add(self, trial, kind, key, path, name):
        self._paths[trial, kind].setdefault(key, path)
        if self.shared and not os.path.exists(self.shared.path(name)):
            files.copy(path, self.shared.path(name))

    def _forget(self, trial, kind, key):
        # Files of the run's own places are theirs; what is shared goes, for
        # what is trained instead to be shared in its place.
        self._paths[trial, kind].pop(key, None)
        path = self._paths[None, kind].pop(key, None)
        if path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
