"""Store: what was trained, found again by all that determines it.

A training is keyed by the hash of its settings, its masks, its starting
weights and its seeds. Whoever asks for the same training, in this run or after
it was killed, gets the record instead. Files appear whole or not at all, and
one that is damaged is named and trained again.
"""

import contextlib
import dataclasses
import hashlib
import json
import os

from absl import logging

from keras_lottery import files
from keras_lottery import masks as masks_lib
from keras_lottery.experiments.places import Place
from keras_lottery.tickets import Ticket

try:
    import fcntl
except ImportError:  # Windows, where nothing stops a second process.
    fcntl = None

_FORMAT = 1
_PLACES = "places.jsonl"
# Which backend was chosen, and why.
TIMINGS = "timings.json"


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
        return self.path(self.record_path(key))

    def record_path(self, key):
        """The path of a record within the run directory."""
        return f"trainings/{key}.training"

    def known_keys(self):
        """The set of keys that have a record."""
        names = self.list("trainings")
        return {name.removesuffix(".training") for name in names}

    def list(self, directory):
        """The names of the whole files in a directory of the run."""
        path = self.path(directory)
        if not os.path.isdir(path):
            return []
        return [name for name in os.listdir(path) if name[0] != "."]

    def load_places(self):
        """Dict, `Place` -> key of its training."""
        places = {}
        if self.exists(_PLACES):
            with open(self.path(_PLACES)) as file:
                for line in file:
                    # A line that was cut short is that of one training.
                    with contextlib.suppress(ValueError):
                        *place, key = json.loads(line)
                        places[Place(*place)] = key
        return places

    def add_place(self, place, key):
        """Notes the key of a place's training, for `load_places`."""
        row = [place.trial, place.level, place.arm, key]
        with open(self.path(_PLACES), "a") as file:
            file.write(f"{json.dumps(row)}\n")

    def save_ticket(self, trial, arm, ticket):
        """Writes the `Ticket` of a trained level."""
        path = self.ticket_path(trial, arm, ticket.level)
        ticket.save(self.path(path))

    def load_ticket(self, trial, arm, level):
        """The `Ticket` of a trained level, or `None`."""
        path = self.ticket_path(trial, arm, level)
        return self.read_ticket(self.path(path))

    def read_ticket(self, path):
        """The `Ticket` in a file; `None` if there is none or it is damaged."""
        return _read(Ticket.load, path)

    def ticket_is_of(self, place, key):
        """Whether a place's ticket is there, whole, and of this training."""
        ticket = self.load_ticket(place.trial, place.arm, place.level)
        return ticket is not None and ticket.config["key"] == key

    def ticket_path(self, trial, arm, level):
        """The path of a level's ticket within the run directory."""
        branch = "" if arm == "ticket" else f"{arm}/"
        return f"tickets/trial_{trial}/{branch}level_{level:02d}.ticket"

    def exists(self, path):
        """Whether the run directory has a file."""
        return os.path.exists(self.path(path))

    def take(self, paths):
        """Dict, path -> bytes, of those files that exist."""
        content = {}
        for path in filter(self.exists, paths):
            with open(self.path(path), "rb") as file:
                content[path] = file.read()
        return content

    def put(self, path, content):
        """Writes bytes to a file of the run directory, in one step."""
        with files.atomic_file(self.path(path)) as file:
            file.write(content)

    def write_text(self, path, text):
        """Writes a text file in one step."""
        self.put(path, text.encode())

    @contextlib.contextmanager
    def alone(self):
        """Keeps other processes from running in the directory.

        Raises:
            RuntimeError: If another one does.
        """
        with open(self.path(".lock"), "a+") as file:
            if fcntl:
                try:
                    # It ends with the process, however that ends.
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.seek(0)
                    raise RuntimeError(
                        f"{self.directory} is in use by process "
                        f"{file.read() or 'unknown'}. Wait for it, or give "
                        "another `run_dir`."
                    ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def claim(self, experiment):
        """Makes the directory that of an experiment.

        Settings that an older run did not know had today's defaults.

        Raises:
            ValueError: If it is another's, naming what differs.
        """
        flags = _flags(experiment)
        if self.exists("experiment.json"):
            with open(self.path("experiment.json")) as file:
                known = json.load(file)
            self._refuse_others(_with_defaults(known, experiment), flags)
        self.write_text("experiment.json", json.dumps(flags, indent=2))

    def _refuse_others(self, before, flags):
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


def _flags(experiment):
    """The settings as JSON gives them back."""
    return json.loads(json.dumps(experiment.settings()))


def _with_defaults(known, experiment):
    """Known settings and, of those they lack, the defaults."""
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(experiment)
        if field.name not in known
    }
    return {**_flags(dataclasses.replace(experiment, **defaults)), **known}


def _read(load, path):
    """`load(path)`; `None` if there is no such file or it is damaged."""
    try:
        return load(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logging.warning("%s It is trained again.", error)
        return None
