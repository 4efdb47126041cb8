"""Ticket: a mask and a rewind point, in one file."""

import dataclasses
import os
import re
from collections.abc import Callable
from typing import Any, ClassVar

import keras
from numpy.typing import NDArray

from keras_lottery import display, files, patterns, schedules
from keras_lottery import masks as masks_lib
from keras_lottery.keras_internals import flatten_layers
from keras_lottery.normalization import refresh_statistics
from keras_lottery.rewinding import RewindPoint, model_state
from keras_lottery.scopes import check_model, find_kernels


@dataclasses.dataclass(eq=False, repr=False)
class Ticket:
    """(mask, rewind point): what has to be kept of a lottery search.

    It is called winning only once retraining it has matched the dense
    network; the class does not claim it.

    Args:
        masks: dict, weight path -> boolean array.
        rewind_point: `RewindPoint`.
        level: int, the level it was found at. Defaults to 0.
        config: dict, the arguments of the search, as far as JSON holds them.
        trained: optional dict, path -> array: the weights after training.
        trained_optimizers: optional dict, name -> dict of arrays: the
            optimizers after training, kept where they are not rewound.

    Example:

    ```python
    ticket = model.lottery.ticket()
    ticket.save("lenet.ticket")
    fresh = keras_lottery.Ticket.load("lenet.ticket").apply(build_model())
    ```

    Source: Frankle & Carbin, 1803.03635, section 1.
    """

    masks: dict[str, NDArray]
    rewind_point: RewindPoint
    level: int = 0
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    trained: dict[str, NDArray] | None = None
    trained_optimizers: dict[str, dict[str, NDArray]] | None = None

    def __repr__(self) -> str:
        return display.ticket_text(self)

    def _repr_html_(self) -> str:
        return display.ticket_html(self)

    @property
    def density(self) -> float:
        """Kept / total over the prunable weights."""
        return masks_lib.density(self.masks)

    def densities(self) -> dict[str, float]:
        """Kept / total of each weight, by path."""
        return masks_lib.densities(self.masks)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the ticket atomically: a reader never sees half a file.

        Args:
            path: str or path-like.

        Raises:
            OSError: If it cannot be written; an older file then still stands.
        """
        header = {
            "level": self.level,
            "config": self.config,
            "step": self.rewind_point.step,
            "optimizers": list(self.rewind_point.optimizers),
            "trained": self.trained is not None,
            "trained_optimizers": list(self.trained_optimizers or ()),
        }
        files.write(path, header, self._arrays())

    def _arrays(self):
        yield from (("mask", p, m) for p, m in self.masks.items())
        point = self.rewind_point
        yield from (("weight", p, a) for p, a in point.weights.items())
        for name, state in point.optimizers.items():
            yield from ((f"optimizer {name}", k, a) for k, a in state.items())
        if self.trained is not None:
            yield from (("trained", p, a) for p, a in self.trained.items())
        for name, state in (self.trained_optimizers or {}).items():
            kind = f"trained optimizer {name}"
            yield from ((kind, k, a) for k, a in state.items())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Ticket":
        """Reads a ticket.

        Args:
            path: str or path-like.

        Returns:
            A `Ticket`.

        Raises:
            OSError: If there is no such file.
            ValueError: If it is not a ticket, was altered or cut short, or
                was written by a newer version.
        """
        header, arrays = files.read(path)
        parts: dict[str, dict[str, NDArray]] = {}
        for kind, name, array in arrays:
            parts.setdefault(kind, {})[name] = array
        point = RewindPoint(
            header["step"],
            parts.get("weight", {}),
            {
                name: parts.get(f"optimizer {name}", {})
                for name in header["optimizers"]
            },
        )
        trained = parts.get("trained", {}) if header["trained"] else None
        trained_optimizers = {
            name: parts.get(f"trained optimizer {name}", {})
            for name in header.get("trained_optimizers", ())
        }
        return cls(
            parts.get("mask", {}),
            point,
            header["level"],
            header["config"],
            trained,
            trained_optimizers or None,
        )

    def apply(
        self,
        model: keras.Model,
        names: dict[str, str] | None = None,
        **wrap_arguments: Any,
    ) -> keras.Model:
        """Puts masks and rewind point onto a freshly built model.

        Weights are matched by order and shape, since automatic names differ
        from one build to the next, or by `names`.

        Args:
            model: a built `keras.Model` of the same architecture.
            names: optional dict, a path of the ticket -> a path of `model`,
                for weights that are not in the same order.
            **wrap_arguments: arguments of `wrap` to replace those the ticket
                was found with. With `rate`, `output_rate` or `scope`, the
                rates of single layers go as well, except for layers that are
                left alone: give `rates` to change these.

        Returns:
            The model, wrapped at the ticket's level.

        Raises:
            ValueError: If a weight does not fit; the first is named, and the
                model is left as it was.
        """
        check_model(model)
        return type(self).wrapping(self, model, names, wrap_arguments)

    # The module `wrapping` stands above this one and puts its function here.
    wrapping: ClassVar[Callable[..., keras.Model]]

    def rewound(
        self, masks: dict[str, NDArray], rewind_to: int | str | None = 0
    ) -> "Ticket":
        """The ticket of the level after a trained one.

        Args:
            masks: dict, weight path -> boolean array: those of that level.
            rewind_to: what goes back: see `rewinding.parts_rewound`.

        Returns:
            A `Ticket`, of which the rewind point is where training starts.
        """
        point = self.rewind_point.after_training(
            rewind_to, self.trained, self.trained_optimizers
        )
        return Ticket(masks, point, self.level + 1)

    def assign_trained(self, model: keras.Model) -> None:
        """Gives a model the weights that the ticket was trained to.

        Args:
            model: a built `keras.Model` of the same architecture.

        Raises:
            ValueError: If a weight does not fit; the first is named. If the
                ticket was not trained.
        """
        state = model_state(model)
        for place, array in self._trained_by_place(model).items():
            state[place].assign(array)
        refresh_statistics(flatten_layers(model))

    def trained_weights(self, model: keras.Model) -> list[NDArray]:
        """What the ticket was trained to, as `model.get_weights()` lists it.

        Args:
            model: a built `keras.Model` of the same architecture.

        Returns:
            A list of arrays.

        Raises:
            ValueError: As `assign_trained`.
        """
        found = self._trained_by_place(model)
        places = {id(v): place for place, v in model_state(model).items()}
        return [found[places[id(variable)]] for variable in model.weights]

    def _trained_by_place(self, model):
        """Dict, path of the model -> what that weight was trained to."""
        if self.trained is None:
            raise ValueError(
                "The ticket must be of a trained level: it does not hold what "
                f"it was trained to. Received: the ticket of level {self.level}"
            )
        places = self.match(model)
        return {places[path]: self.trained[path] for path in places}

    def match(
        self, model: keras.Model, names: dict[str, str] | None = None
    ) -> dict[str, str]:
        """Dict from each path of the ticket to the model's, or an error."""
        if not model.built:
            raise ValueError(
                "`model` must be built to take a ticket: call it on a batch. "
                f"Received: model={model.name!r}"
            )
        return match_weights(
            self.rewind_point.weights, model_state(model), names
        )


def match_weights(arrays, variables, names=None):
    """Pairs saved arrays with a model's variables.

    By name if all names are equal, otherwise by order and shape, since
    automatic names differ between two builds. Seeds are no part of the
    architecture: they are left out where their number differs.

    Args:
        arrays: dict, saved path -> array.
        variables: dict, path -> `keras.Variable`.
        names: optional dict, saved path -> path.

    Returns:
        A dict, saved path -> path.

    Raises:
        ValueError: Naming the first that does not fit.
    """
    names = names or {}
    for saved, path in names.items():
        if saved not in arrays or path not in variables:
            raise ValueError(
                "`names` must map weights of the ticket to weights of the "
                f"model. Received: {saved!r}: {path!r}"
            )
    shapes = {path: tuple(v.shape) for path, v in variables.items()}
    if not names and shapes == {p: a.shape for p, a in arrays.items()}:
        return {path: path for path in arrays}
    seeds = [path for path in arrays if _is_seed(path)]
    own_seeds = [path for path in variables if _is_seed(path)]
    if len(seeds) != len(own_seeds):
        arrays = {p: a for p, a in arrays.items() if p not in seeds}
        shapes = {p: s for p, s in shapes.items() if p not in own_seeds}
    rest = iter([p for p in shapes if p not in names.values()])
    places = {s: names[s] if s in names else next(rest, None) for s in arrays}
    for saved, path in places.items():
        shape = arrays[saved].shape
        if path is None or shapes[path] != shape:
            found = (
                "the model has no such weight"
                if path is None
                else f"{path!r} has shape {shapes[path]}"
            )
            raise ValueError(
                "The ticket does not fit the model. The first weight that "
                f"differs is {saved!r} of shape {shape}: {found}."
            )
    left = next(rest, None)
    if left is not None:
        raise ValueError(
            "The ticket does not fit the model: it has no weight for "
            f"{left!r} of shape {shapes[left]}."
        )
    return places


def _is_seed(path):
    return path.rsplit("/", 1)[-1].startswith("seed_generator_state")


def search_config(pruner, attachment):
    """The arguments of a pruner, as far as a file can hold them.

    Args:
        pruner: `LotteryTicketPruner`.
        attachment: `Attachment`, which knows the kernels that have a mask.

    Returns:
        A dict that JSON can hold. Its `rates` and `block_size` are by weight
        path.
    """
    rates, alone = {}, schedules.Constant(0.0)
    if attachment.kernels:
        for kernel in find_kernels(pruner.model):
            schedule = attachment.schedules.get(kernel.path, alone)
            rates[kernel.path] = schedules.to_config(schedule)
        block_size = {
            path: patterns.to_text(size)
            for path, size in attachment.pattern.sizes.items()
            if size is not None
        }
    else:
        block_size = patterns.to_text(attachment.block_sizes.size)
    named = isinstance(pruner.criterion, str)
    return {
        "rate": schedules.to_config(schedules.get(pruner.rate)),
        "rates": rates,
        "scope": pruner.scope,
        "criterion": pruner.criterion if named else None,
        "rewind_to": pruner.rewind_to,
        "block_size": block_size or None,
        "rounds": pruner.rounds,
        "seed": pruner.seed,
    }


def search_arguments(config, places):
    """The arguments that `search_config` wrote down.

    Args:
        config: dict; an empty one is of no search.
        places: dict, a weight path of the config -> that of a model.

    Returns:
        A dict of arguments of `keras_lottery.wrap`.
    """
    if not config:
        return {}
    arguments = dict(config)
    arguments["rate"] = schedules.from_config(config["rate"])
    arguments["rates"] = {
        f"^{re.escape(places[path])}$": schedules.from_config(rate)
        for path, rate in config["rates"].items()
    }
    block_size = config.get("block_size")
    if isinstance(block_size, dict):
        arguments["block_size"] = {
            f"^{re.escape(places[path])}$": size
            for path, size in block_size.items()
        }
    if config["criterion"] is None:
        arguments["criterion"] = _not_in_the_file
    return arguments


def _not_in_the_file(initial, trained):
    raise ValueError(
        "The search was made with a `criterion` that is a callable, which no "
        "file holds. Give `criterion` again to prune further."
    )
