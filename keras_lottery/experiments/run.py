"""Run: the directory of an experiment, its one reader and writer.

    experiment.json        the settings that identify the run, resolved
    backend.json           what trains it, and why
    environment.json       by which commands, with what and where it was run
    results.csv            a row for each training
    trainings/KEY.training its row and its curves, by the key of the training
    tickets/trial_0/...    the ticket of each level, with its trained weights
    places.jsonl           which training stands at which place of the plan
    tradeoff.csv           accuracy against latency, if that was measured
    connectivity.csv       barriers between levels, if they were measured

The report writes tables of its own beside them.

Files appear whole or not at all, and one that is damaged is named and
trained again.
"""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import warnings

import filelock
import keras
import pandas
from absl import logging

from keras_lottery import files
from keras_lottery.datasets import Dataset
from keras_lottery.experiments import barriers, environment
from keras_lottery.experiments.arms import keeps_ticket, second
from keras_lottery.experiments.plan import Place
from keras_lottery.experiments.protocol import Protocol
from keras_lottery.experiments.results import Result, from_csv, to_csv
from keras_lottery.tickets import Ticket

_EXPERIMENT, _BACKEND = "experiment.json", "backend.json"
_ENVIRONMENT, _RESULTS = "environment.json", "results.csv"
_PLACES, _TRADEOFF = "places.jsonl", "tradeoff.csv"
_CONNECTIVITY = "connectivity.csv"
_LOCK, _OWNER = ".lock", ".lock.owner"
_CURVES = ("iterations", "val_loss", "val_accuracy", "train_loss")


@dataclasses.dataclass(frozen=True, eq=False)
class RunModel:
    """One level of a run as a model again.

    Args:
        model: wrapped `keras.Model` with the weights that the level was
            trained to, its mask and its rewind point.
        result: `Result`, the row of `results.csv`.
        data: `Dataset` that it was trained, chosen and tested on.
    """

    model: keras.Model
    result: Result
    data: Dataset


class Run:
    """The files of one run directory.

    Args:
        directory: str or path-like, created if it is missing.
        argument: str, what an error calls it.

    Raises:
        ValueError: If it is a file.
        OSError: If the directory cannot be created.

    Example:

    ```python
    run = Run.open("runs/digits_lenet_300_100")
    run.results.to_pandas()
    x, y = run.trained_model(level="best").data.test
    ```
    """

    def __init__(self, directory, argument="run_dir"):
        files.check_directory(argument, directory)
        self.directory = os.fspath(directory)
        path = os.path.abspath(self.directory)
        self._made = files.missing_directories(path)
        os.makedirs(self.directory, exist_ok=True)

    @classmethod
    def open(cls, directory, argument="run_dir"):
        """The `Run` in a directory that has at least one trained level.

        Args:
            directory: str or path-like.
            argument: str, what an error calls it.

        Raises:
            ValueError: If there is none.
        """
        directory = os.fspath(directory)
        for name in (_EXPERIMENT, _RESULTS):
            if not os.path.exists(os.path.join(directory, name)):
                raise ValueError(
                    f"`{argument}` must be the directory of a run. Received: "
                    f"{argument}={directory!r}, which has no {name}"
                )
        run = cls(directory, argument)
        if not run.results:
            raise ValueError(
                f"`{argument}` must hold at least one trained level. "
                f"Received: {argument}={directory!r}"
            )
        return run

    def path(self, *parts):
        """The path of a file in the run directory."""
        return os.path.join(self.directory, *parts)

    # What identifies it.

    @property
    def experiment(self):
        """The settings that identify the run, a dict; `None` without."""
        return self._json(_EXPERIMENT)

    def load_experiment(self, data_dir=None):
        """The `Protocol` of the run, which builds its models and loads its
        data.

        Args:
            data_dir: optional str, where TFDS has its data set.

        Raises:
            ValueError: If it is of a model or of arrays of one's own, which a
                file does not hold.
        """
        return Protocol.from_settings(self.experiment, data_dir)

    def claim(self, experiment, choice):
        """Makes the directory that of an experiment.

        Args:
            experiment: `Experiment`, with the backend that was chosen.
            choice: dict, what trains it: see `backend`.

        Raises:
            ValueError: If it is another's, naming what differs.
        """
        settings, before = experiment.settings(), self.experiment
        if before is not None:
            before = experiment.filled_in(before)
            differ = [
                f"{name}={before.get(name)!r} before, "
                f"{settings.get(name)!r} now"
                for name in {**before, **settings}
                if before.get(name) != settings.get(name)
            ]
            if differ:
                raise ValueError(
                    f"{self.directory} holds a run with other settings: "
                    f"{'; '.join(differ)}. Give another `run_dir` or the same "
                    "settings."
                )
        self._write_json(_EXPERIMENT, settings)
        self._write_json(_BACKEND, choice)

    @property
    def backend(self):
        """What trains the run: a dict of `backend`, `why` and `asked`, the
        setting that it was chosen by; `None` before the first training."""
        return self._json(_BACKEND)

    @property
    def environments(self):
        """By which commands, with what and where it was run: list of dict."""
        return self._json(_ENVIRONMENT) or []

    def add_environment(self, workers=1):
        """Notes the environment of this process, unless the last entry is
        the same: a run may go on elsewhere, or by another command."""
        entries, now = self.environments, environment.describe(workers)
        same = {"started": None}
        if not entries or {**entries[-1], **same} != {**now, **same}:
            self._write_json(_ENVIRONMENT, [*entries, now])

    @contextlib.contextmanager
    def lock(self):
        """Keeps other processes from running in the directory.

        Raises:
            RuntimeError: If another one does.
        """
        # It ends with the process, however that ends.
        lock = filelock.FileLock(self.path(_LOCK), timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            owner = "unknown"
            with contextlib.suppress(OSError), open(self.path(_OWNER)) as file:
                owner = file.read()
            raise RuntimeError(
                f"{self.directory} is in use by process {owner}. Wait for it, "
                "or give another `run_dir`."
            ) from None
        try:
            self.write(_OWNER, str(os.getpid()))
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def restored(self):
        """Around a run: after an error before its first result, such as a
        setting that is refused, the directory is as it was.

        Else the corrected settings would be other ones than those of the run.
        """
        before = {*os.listdir(self.directory)} - {_LOCK, _OWNER}
        try:
            yield
        except Exception:
            if not self.results:
                self._remove_all_but(before)
            raise

    def _remove_all_but(self, names):
        for name in {*os.listdir(self.directory)} - names:
            path = self.path(name)
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(path)
        files.remove_empty(self._made)

    # What was measured.

    @property
    def results(self):
        """The `Results` in `results.csv`."""
        text = self._read_text(_RESULTS)
        return from_csv(text or "")

    def write_results(self, results):
        """Writes `results.csv`."""
        self.write(_RESULTS, to_csv(results))

    @property
    def tradeoff(self):
        """The `pandas.DataFrame` in `tradeoff.csv`; `None` without."""
        text = self._read_text(_TRADEOFF)
        return None if text is None else pandas.read_csv(io.StringIO(text))

    @property
    def connectivity(self):
        """The list of `Barrier` in `connectivity.csv`; `None` without."""
        text = self._read_text(_CONNECTIVITY)
        return None if text is None else barriers.from_csv(text)

    def write_connectivity(self, measured):
        """Writes `connectivity.csv`."""
        self.write(_CONNECTIVITY, barriers.to_csv(measured))

    def save_training(self, key, record, training, line=None):
        """Writes a training's row and curves.

        Args:
            key: str.
            record: dict, the columns of `Result` that are measured.
            training: `training.Training`.
            line: optional array, the test errors on the line to it from the
                first training of the same start.
        """
        arrays = [("curve", name, getattr(training, name)) for name in _CURVES]
        if line is not None:
            arrays.append(("line", "test_error", line))
        files.write(self.record_path(key), {"record": record}, arrays)

    def load_record(self, key):
        """The row that `save_training` wrote, a dict, or `None`."""
        found = _intact(files.read, self.record_path(key))
        return found and found[0]["record"]

    def load_curves(self, key):
        """Dict of arrays: `iterations` and what was measured there."""
        return self._arrays(key, "curve")

    def load_lines(self):
        """The test errors on the lines between two trainings of one start.

        Yields:
            Pairs of a `Result`, of the first training, and an array. Starts
            that were trained once are left out.
        """
        keys = self.load_places()
        for result in self.results:
            place = Place(result.trial, result.level, second(result.arm))
            arrays = place in keys and self._arrays(keys[place], "line")
            if arrays:
                yield result, arrays["test_error"]

    def _arrays(self, key, kind):
        """Dict of the arrays of a kind in a training's file, or `None`."""
        found = _intact(files.read, self.record_path(key))
        return found and {name: a for k, name, a in found[1] if k == kind}

    def record_path(self, key):
        """The path of a training's file."""
        return self.path("trainings", f"{key}.training")

    def keys(self):
        """The set of the keys of trainings that have a file."""
        names = self.list("trainings")
        return {name.removesuffix(".training") for name in names}

    def load_places(self):
        """Dict, `Place` -> key of its training."""
        places = {}
        for line in (self._read_text(_PLACES) or "").splitlines():
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

    # Tickets.

    def save_ticket(self, trial, arm, ticket):
        """Writes the `Ticket` of a trained level."""
        ticket.save(self.ticket_path(trial, arm, ticket.level))

    def load_ticket(self, trial, arm, level):
        """The `Ticket` of a trained level; `None` if there is none, or it is
        damaged."""
        return self.read_ticket(self.ticket_path(trial, arm, level))

    @staticmethod
    def read_ticket(path):
        """The `Ticket` in a file; `None` if there is none or it is damaged."""
        return _intact(Ticket.load, path)

    @property
    def prunable_share(self):
        """Prunable weights / weights of all kernels, a fraction.

        Below 1 where a layer is left alone, as the paper leaves shortcuts;
        `None` if no ticket is there.
        """
        for result in self.results:
            ticket = self.load_ticket(result.trial, "ticket", result.level)
            if ticket is not None:
                weights = ticket.rewind_point.weights.values()
                kernels = sum(a.size for a in weights if a.ndim > 1)
                return sum(m.size for m in ticket.masks.values()) / kernels
        return None

    def ticket_path(self, trial, arm, level):
        """The path of a level's ticket."""
        branch = () if arm == "ticket" else (arm,)
        name = f"level_{level:02d}.ticket"
        return self.path("tickets", f"trial_{trial}", *branch, name)

    def trained_model(self, level="best", trial=0, arm="ticket", data_dir=None):
        """A trained level as a model again.

        Args:
            level: int, `"last"` or `"best"`: see `Results.choose`.
            trial: int.
            arm: str, one that keeps its tickets.
            data_dir: optional str, where TFDS has the data set.

        Returns:
            A `RunModel`.

        Raises:
            ValueError: If there is no such trial, arm or level.
        """
        result = self.results.choose(level, trial, arm)
        experiment = self.load_experiment(data_dir)
        keeping = [a for a in experiment.arms if keeps_ticket(experiment, a)]
        if arm not in keeping:
            raise ValueError(
                "`arm` must be one that keeps its tickets, of which the run "
                f"has {keeping}. Received: arm={arm!r}"
            )
        path = self.ticket_path(trial, arm, result.level)
        try:
            ticket = Ticket.load(path)
        except (FileNotFoundError, ValueError) as error:
            damaged = isinstance(error, ValueError)
            raise ValueError(
                f"{error if damaged else f'{path} is missing.'} Run "
                "find_ticket.py with the same flags on this `run_dir` to "
                "train the level again, or choose another `level`."
            ) from None
        data = experiment.load_data(experiment.derive_seed(trial, "split"))
        with warnings.catch_warnings():
            # What the pattern leaves alone was told when it was trained.
            warnings.filterwarnings("ignore", "block_size=.* leaves")
            model = experiment.trained_model(data, ticket)
        return RunModel(model, result, data)

    # Files.

    def write(self, name, content):
        """Writes a file of the run directory, str or bytes, in one step."""
        if isinstance(content, str):
            content = content.encode()
        with files.atomic_file(self.path(name)) as file:
            file.write(content)

    def list(self, directory):
        """The names of the whole files in a directory of the run."""
        path = self.path(directory)
        if not os.path.isdir(path):
            return []
        return [name for name in os.listdir(path) if name[0] != "."]

    def _write_json(self, name, value):
        self.write(name, json.dumps(value, indent=2))

    def _json(self, name):
        text = self._read_text(name)
        try:
            return None if text is None else json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"{self.path(name)} is damaged: it is not JSON ({error}). "
                "Restore it from a copy, or give another `run_dir`."
            ) from None

    def _read_text(self, name):
        try:
            with open(self.path(name), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return None


def _intact(load, path):
    """`load(path)`; `None` if there is no such file or it is damaged."""
    try:
        return load(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logging.warning("%s It is trained again when the run goes on.", error)
        return None
