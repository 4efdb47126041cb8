"""Store: what was trained, found again by all that determines it.

A training is keyed by the hash of its settings, its masks, its starting
weights and its seeds. Whoever asks for the same training, in this run or after
it was killed, gets the record instead. Files appear whole or not at all, and
one that is damaged is named and trained again.
"""

import dataclasses
import hashlib
import json
import os

from absl import logging

from keras_lottery import files
from keras_lottery import masks as masks_lib
from keras_lottery.tickets import Ticket

_FORMAT = 1


class Store:
    """The files of one run directory.

    Args:
        directory: str or path-like, created if it is missing.

    Raises:
        OSError: If the directory cannot be written.
    """

    def __init__(self, directory):
        self.directory = os.fspath(directory)
        os.makedirs(self.directory, exist_ok=True)

    def path(self, *parts):
        """The path of a file in the run directory."""
        return os.path.join(self.directory, *parts)

    def key(self, settings, start, seeds):
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

    def save_record(self, key, record, run):
        """Writes a training's row and curves.

        Args:
            key: str.
            record: dict, the columns of `Result` that are measured.
            run: `training.Training`.
        """
        curves = ("iterations", "val_loss", "val_accuracy", "train_loss")
        files.write(
            self._record(key),
            {"record": record},
            [("curve", name, getattr(run, name)) for name in curves],
        )

    def load_record(self, key):
        """The dict that `save_record` wrote, or `None`."""
        found = _read(files.read, self._record(key))
        return found and found[0]["record"]

    def load_curves(self, key):
        """Dict of arrays: `iterations` and what was measured there."""
        found = _read(files.read, self._record(key))
        return found and {name: array for _, name, array in found[1]}

    def _record(self, key):
        return self.path("trainings", f"{key}.training")

    def save_ticket(self, trial, arm, ticket):
        """Writes the `Ticket` of a trained level."""
        ticket.save(self.ticket_path(trial, arm, ticket.level))

    def load_ticket(self, trial, arm, level):
        """The `Ticket` of a trained level, or `None`."""
        return _read(Ticket.load, self.ticket_path(trial, arm, level))

    def ticket_path(self, trial, arm, level):
        """Where the ticket of a level is."""
        parts = ["tickets", f"trial_{trial}"]
        if arm != "ticket":
            parts.append(arm)
        return self.path(*parts, f"level_{level:02d}.ticket")

    def write_text(self, name, text):
        """Writes a text file in one step."""
        with files.atomic_file(self.path(name)) as file:
            file.write(text.encode())

    def claim(self, experiment):
        """Makes the directory that of an experiment.

        Raises:
            ValueError: If it is another's, naming what differs.
        """
        flags = dataclasses.asdict(experiment)
        flags = json.loads(json.dumps(flags))
        path = self.path("experiment.json")
        if not os.path.exists(path):
            self.write_text("experiment.json", json.dumps(flags, indent=2))
            return
        with open(path) as file:
            before = json.load(file)
        differ = [
            f"{name}={before.get(name)!r} before, {flags.get(name)!r} now"
            for name in {**before, **flags}
            if before.get(name) != flags.get(name)
        ]
        if differ:
            raise ValueError(
                f"{self.directory} holds a run with other settings: "
                f"{'; '.join(differ)}. Give another `run_dir` or the same "
                "settings."
            )


def _read(load, path):
    """`load(path)`; `None` if there is no such file or it is damaged."""
    try:
        return load(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logging.warning("%s It is trained again.", error)
        return None
