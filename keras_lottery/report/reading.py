"""Run: what a report needs of a run directory, read once."""

import collections
import dataclasses
import functools
import json
import os

import numpy as np

from keras_lottery import masks as masks_lib
from keras_lottery.experiments.places import Place
from keras_lottery.experiments.results import from_csv
from keras_lottery.experiments.store import Store
from keras_lottery.report.series import few


@dataclasses.dataclass
class Learning:
    """The learning curves of one level of one arm.

    Args:
        iterations: array of int, at which every trial was evaluated.
        values: dict, column -> list over trials of arrays.
        early_stops: list over trials of int.
    """

    iterations: np.ndarray
    values: dict
    early_stops: list


@dataclasses.dataclass
class Tickets:
    """What the ticket files of the arm `ticket` show.

    Args:
        keys: dict, `Place` -> key of its training.
        densities: dict, (level, layer) -> list over trials of fractions.
        layers: list of str, in the order of the model.
        masks: dict, a few levels -> the first layer's mask in one trial.
        survivors: dict, the same levels -> dict, layer -> its trained
            weights that were not pruned.
        trial: int, the trial of the masks and the survivors.
    """

    keys: dict
    densities: dict
    layers: list
    masks: dict
    survivors: dict
    trial: int | None


class Run:
    """A run directory; incomplete or older ones are read as far as they go.

    Args:
        directory: str or path-like.

    Raises:
        ValueError: If it holds no run.
    """

    def __init__(self, directory):
        self.directory = os.fspath(directory)
        for name in ("experiment.json", "results.csv"):
            if not os.path.exists(os.path.join(self.directory, name)):
                raise ValueError(
                    "`run_dir` must be the directory of a run. Received: "
                    f"run_dir={self.directory!r}, which has no {name}"
                )
        self.store = Store(self.directory)
        self.experiment = json.loads(self._text("experiment.json"))
        self.results = from_csv(self._text("results.csv"))
        if not self.results:
            raise ValueError(
                "`run_dir` must hold at least one trained level. Received: "
                f"run_dir={self.directory!r}"
            )
        self.environments = []
        if self.store.exists("environment.json"):
            self.environments = json.loads(self._text("environment.json"))

    def _text(self, name):
        with open(os.path.join(self.directory, name)) as file:
            return file.read()

    @functools.cached_property
    def arms(self):
        """The arms that have results, in the order they were asked for."""
        return list(dict.fromkeys(r.arm for r in self.results))

    @functools.cached_property
    def trials(self):
        """How many trials have results."""
        return len({r.trial for r in self.results})

    @property
    def planned(self):
        """How many results the whole run will have."""
        settings = self.experiment
        levels = settings["rounds"] + 1
        return settings["trials"] * levels * len(settings["arms"])

    def of(self, arm, level=None):
        """The results of an arm, or of one level of it."""
        return [
            r for r in self.results if r.arm == arm and level in (None, r.level)
        ]

    def levels(self, arm):
        """Dict, level -> mean density, of an arm."""
        grouped = collections.defaultdict(list)
        for result in self.of(arm):
            grouped[result.level].append(result.density)
        return {k: sum(v) / len(v) for k, v in sorted(grouped.items())}

    @functools.cached_property
    def keys(self):
        """Dict, `Place` -> key of its training, of those that are known."""
        # Stores once had no list of places; tickets name their training.
        return {**self.tickets.keys, **self.store.load_places()}

    def learning(self, arm, level):
        """The `Learning` of one level of an arm, or `None`."""
        found, stops = [], []
        for result in self.of(arm, level):
            key = self.keys.get(Place(result.trial, level, arm))
            curves = key and self.store.load_curves(key)
            if curves:
                found.append(curves)
                stops.append(result.early_stop_iteration)
        if not found:
            return None
        # A training that diverged ended early.
        common = functools.reduce(
            np.intersect1d, [curves["iterations"] for curves in found]
        )
        if not len(common):
            return None
        values = {
            name: [c[name][np.isin(c["iterations"], common)] for c in found]
            for name in ("val_accuracy", "val_loss")
        }
        return Learning(common, values, stops)

    @functools.cached_property
    def tickets(self):
        """The `Tickets` of the run; each file is read once."""
        found = Tickets({}, collections.defaultdict(list), [], {}, {}, None)
        results = self.of("ticket")
        shown = few(self.levels("ticket"))
        for result in results:
            ticket = self.store.load_ticket(
                result.trial, "ticket", result.level
            )
            if ticket is None:
                continue
            place = Place(result.trial, result.level, "ticket")
            if "key" in ticket.config:
                found.keys[place] = ticket.config["key"]
            for path, density in masks_lib.densities(ticket.masks).items():
                found.densities[result.level, layer(path)].append(density)
            found.layers = found.layers or [layer(p) for p in ticket.masks]
            if found.trial is None:
                found.trial = result.trial
            if result.trial == found.trial and result.level in shown:
                found.masks[result.level] = next(iter(ticket.masks.values()))
                found.survivors[result.level] = {
                    layer(path): ticket.trained[path][mask]
                    for path, mask in ticket.masks.items()
                }
        return found


def layer(path):
    """The layer of a weight: its path without model and kernel."""
    parts = path.split("/")
    if len(parts) > 2:
        parts = parts[1:]
    return "/".join(parts[:-1] if parts[-1] == "kernel" else parts)
