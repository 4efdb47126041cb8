"""Protocol: everything that determines the numbers of an experiment."""

import contextlib
import dataclasses
import inspect
import json
import math
import zlib

import keras
import numpy as np

from keras_lottery import (
    criteria,
    datasets,
    models,
    patterns,
    recipes,
    reduction,
)
from keras_lottery.backend import NAME
from keras_lottery.backend.loop import stacks
from keras_lottery.checks import (
    check_choice,
    check_integer,
    check_positive,
    check_rate,
)
from keras_lottery.experiments import arms as arms_lib
from keras_lottery.experiments import model_builder
from keras_lottery.keras_internals import names_from_the_first
from keras_lottery.levels import EARLY_STOP_METRICS
from keras_lottery.recipes import WarmupAndDrops
from keras_lottery.training import BACKENDS
from keras_lottery.wrapping import wrap


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is trained on what, how, how often, and how it is pruned.

    What is left `None` is filled in from the recipe of the model, so that
    every attribute has the value that is used. `settings()` is what
    identifies a run, and `training_settings()` what identifies one training
    of it; nothing that leaves the numbers alone (where files are, how many
    processes train) is in either. See `Experiment` for the arguments.
    """

    dataset: object = "digits"
    data_dir: str | None = dataclasses.field(default=None, compare=False)
    image_size: int | None = None
    classes: str | None = None
    model: object = "lenet_300_100"
    rounds: int = 16
    rate: float | None = None
    output_rate: float | None = None
    rates: tuple | None = None
    scope: str | None = None
    criterion: str = "magnitude"
    block_size: str | None = "1x1"
    rewind_to: int = 0
    late_rewind_to: int | None = None
    iterations: int | None = None
    batch_size: int | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    warmup: float | None = None
    drops: tuple | None = None
    dropout: float | None = None
    weight_decay: float | None = None
    augment: bool | None = None
    standardize: bool | None = None
    network: tuple = ()
    eval_every: int | None = None
    early_stop_metric: str = "val_loss"
    trials: int = 1
    arms: tuple = ("ticket", "reinit")
    ticket_from: str | None = None
    instability: bool = False
    seed: int = 0
    backend: str = "auto"
    precision: str = "float32"
    stack: int = dataclasses.field(default=1, compare=False)

    def __post_init__(self):
        self._check_kinds()
        self._fill_in()
        for name in ("iterations", "batch_size", "eval_every", "trials"):
            check_integer(name, getattr(self, name), minimum=1)
        check_integer("stack", self.stack, minimum=1)
        own_loop = self.backend not in ("fit", "sparse")
        if self.stack > 1 and (stacks is None or not own_loop):
            raise ValueError(
                "`stack` above 1 needs Keras' JAX backend, which is set by "
                "the environment variable KERAS_BACKEND, and its compiled "
                f"loop. Received: stack={self.stack}, "
                f"backend={self.backend!r}, with Keras on {NAME}"
            )
        steps = ("rewind_to", "late_rewind_to", "warmup")
        for name in ("rounds", "seed", *steps):
            check_integer(name, getattr(self, name), minimum=0)
        for name in ("rate", "output_rate", "dropout", "momentum"):
            check_rate(name, getattr(self, name))
        check_choice("scope", self.scope, ("layerwise", "global"))
        check_choice("criterion", self.criterion, criteria.NAMES)
        block_size = patterns.to_text(patterns.get(self.block_size))
        self._set("block_size", block_size or "1x1")
        check_choice(
            "early_stop_metric", self.early_stop_metric, EARLY_STOP_METRICS
        )
        check_choice("backend", self.backend, BACKENDS)
        check_choice("precision", self.precision, model_builder.PRECISIONS)
        self._check_reduction()
        if self.learning_rate is not None:
            check_positive("learning_rate", self.learning_rate)
        self._check_steps()
        self._check_network()
        check_choice("instability", self.instability, (False, True))
        arms_lib.check(self)
        self.build_optimizer()

    def _check_kinds(self):
        """Refuses what is of another kind than the argument."""
        if not isinstance(self.dataset, (str, datasets.Arrays)):
            raise ValueError(
                "`dataset` must be the name of a data set or "
                "`keras_lottery.datasets.Arrays(train=(x, y), test=(x, y))`. "
                f"Received: dataset of type {type(self.dataset).__name__}"
                f"{datasets.advice_on_batches(self.dataset)}"
            )
        if callable(self.model):
            model_builder.check_function(self.model)
        if not isinstance(self.optimizer, (str, type(None))):
            raise ValueError(
                "`optimizer` must be the name of a Keras optimizer; a model "
                "that its function compiles keeps its own. "
                f"Received: optimizer={self.optimizer!r}"
            )
        for name in ("arms", "rates", "drops", "network"):
            value = getattr(self, name)
            optional = name in ("rates", "drops") and value is None
            if not optional and not isinstance(value, (tuple, list, dict)):
                raise ValueError(
                    f"`{name}` must be a tuple. Received: {name}={value!r}"
                )

    def _check_reduction(self):
        """Refuses a smaller data set that cannot be made."""
        if self.image_size is not None:
            reduction.check_image_size(self.image_size)
        if self.classes is not None:
            classes = reduction.parse_classes(self.classes)
            self._set("classes", reduction.write_classes(classes))
        for name in _OF_A_NAMED_SET:
            given = getattr(self, name) is not None
            if given and isinstance(self.dataset, datasets.Arrays):
                raise ValueError(
                    f"`{name}` must be left out for arrays of one's own: make "
                    "them smaller before. "
                    f"Received: {name}={getattr(self, name)!r}"
                )

    def _fill_in(self):
        recipe = self.recipe
        for name in _FROM_RECIPE:
            if getattr(self, name) is None:
                self._set(name, getattr(recipe, name))
        if self.output_rate is None:
            # 1803.03635, section 2: the output layer at half the rate.
            factor = 1.0 if self.scope == "global" else 0.5
            check_rate("rate", self.rate)
            self._set("output_rate", factor * self.rate)
        if self.iterations is None:
            digits = self.dataset == "digits"
            self._set("iterations", 1000 if digits else recipe.iterations)
        if self.eval_every is None and self.iterations:
            self._set("eval_every", max(1, min(100, self.iterations // 50)))
        if self.late_rewind_to is None and self.iterations:
            late = max(1, self.iterations // 50)
            self._set("late_rewind_to", min(late, self.iterations - 1))
        self._set("arms", tuple(self.arms))
        rates = self.rates
        pairs = rates.items() if isinstance(rates, dict) else rates
        self._set("rates", tuple(map(_named_rate, pairs)))
        options = self.network
        pairs = options.items() if isinstance(options, dict) else options
        self._set("network", tuple(map(_named_option, pairs)))
        budget = self.iterations
        self._set("warmup", _steps("warmup", self.warmup, budget, 0))
        drops = (_steps("drops", drop, budget, 1) for drop in self.drops)
        self._set("drops", tuple(drops))

    @property
    def recipe(self):
        """The `Recipe` of the model: the paper's, or that of one's own."""
        if callable(self.model):
            return recipes.OWN
        check_choice("model", self.model, models.NETWORKS)
        dropout = self.dropout and recipes.DROPOUT_RECIPES.get(self.model)
        return dropout or recipes.RECIPES[self.model]

    def _set(self, name, value):
        # The dataclass is frozen for everybody else.
        object.__setattr__(self, name, value)

    def _check_steps(self):
        for name in ("eval_every", "rewind_to", "late_rewind_to"):
            limit = self.iterations - (name != "eval_every")
            if getattr(self, name) > limit:
                raise ValueError(
                    f"`{name}` must be at most {limit} with "
                    f"iterations={self.iterations}. "
                    f"Received: {name}={getattr(self, name)}"
                )
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise ValueError(
                "`arms` must name at least one arm, each once. "
                f"Received: arms={self.arms!r}"
            )

    def _check_network(self):
        """Refuses an argument of networks that this one does not have."""
        known = []
        if not callable(self.model):
            parameters = inspect.signature(models.get(self.model)).parameters
            known = [p for p in parameters if p not in _OF_EVERY_NETWORK]
        for name, _ in self.network:
            if name in (*_OF_A_NETWORK, *_OF_EVERY_NETWORK):
                raise ValueError(
                    "`network` must name arguments that `Experiment` neither "
                    f"has nor sets itself. Received: {name!r}"
                )
        given = {name: getattr(self, name) for name in _OF_A_NETWORK}
        for name, value in (given | dict(self.network)).items():
            if value and name not in known:
                model = model_builder.name(self.model)
                raise ValueError(
                    f"`{name}` must be left out: model={model!r} takes "
                    f"{', '.join(known) or 'no such arguments'}. "
                    f"Received: {name}={value!r}"
                )

    # What identifies it.

    def settings(self):
        """All that identifies a run, a dict as JSON holds it.

        What few runs have, a smaller data set and tickets of another run, is
        in it only where it is given.
        """
        settings = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.compare
        }
        for name in _OF_FEW:
            if settings[name] is None:
                del settings[name]
        settings["dataset"] = str(self.dataset)
        settings["model"] = model_builder.name(self.model)
        return json.loads(json.dumps(settings))

    def training_settings(self):
        """All that identifies one training but its weights, masks and seeds."""
        settings = self.settings()
        return {n: settings[n] for n in _OF_A_TRAINING if n in settings}

    def equals_up_to_backend(self, other):
        """Whether another protocol has the same settings but the backend.

        Args:
            other: `Protocol`.
        """
        return all(
            getattr(self, field.name) == getattr(other, field.name)
            for field in dataclasses.fields(self)
            if field.compare and field.name != "backend"
        )

    def filled_in(self, settings):
        """The settings of an earlier run as this version knows them.

        A setting that it did not know had the default, and one that it left
        open the value of the recipe.

        Args:
            settings: dict, what `settings` returned then.

        Returns:
            A dict.
        """
        known = {
            name: value
            for name, value in settings.items()
            if value is not None and name != "data_dir"
        }
        absent = {
            field.name: field.default
            for field in dataclasses.fields(self)
            if field.name not in known
        }
        return {**dataclasses.replace(self, **absent).settings(), **known}

    @classmethod
    def from_settings(cls, settings, data_dir=None):
        """The protocol that `settings` described.

        Raises:
            ValueError: If it is of a model or of arrays of one's own.
        """
        if settings["model"] not in models.NETWORKS:
            raise ValueError(
                "`run_dir` must be of a network of `keras_lottery.models`: "
                "a file does not hold a function. Received: a run with "
                f"model={settings['model']!r}"
            )
        return cls(**{**settings, "data_dir": data_dir})

    def derive_seed(self, *purpose):
        """A seed for one purpose, independent of all others.

        Args:
            *purpose: ints and strings that name the use, such as a trial and
                `"order"`.

        Returns:
            An int in [0, 2**31).

        Example:

        ```python
        Experiment().derive_seed(3, "weights")  # initial weights of trial 3
        ```
        """
        words = [
            zlib.crc32(part.encode()) if isinstance(part, str) else part
            for part in purpose
        ]
        sequence = np.random.SeedSequence([self.seed, *words])
        return int(sequence.generate_state(1)[0] >> 1)

    # What it stands for.

    def check_data(self):
        """Refuses a data set that is not there, before any work."""
        if not isinstance(self.dataset, datasets.Arrays):
            datasets.check(
                self.dataset, self.data_dir, self.image_size, self.classes
            )

    def load_data(self, seed):
        """The `Dataset`, split by a seed."""
        if isinstance(self.dataset, datasets.Arrays):
            return self.dataset.split(seed)
        return datasets.load(
            self.dataset,
            self.data_dir,
            seed,
            image_size=self.image_size,
            classes=self.classes,
        )

    def build_model(self, data, seed):
        """The network for a data set, initialised by a seed."""
        with model_builder.in_precision(self.precision):
            if callable(self.model):
                return model_builder.build_own(self.model, data, seed)
            statistics = None
            if self.standardize:
                statistics = data.channel_statistics()
            return model_builder.call(
                models.get(self.model),
                input_shape=data.input_shape,
                classes=data.classes,
                seed=seed,
                standardize=statistics,
                **{name: getattr(self, name) for name in _OF_A_NETWORK},
                **dict(self.network),
            )

    def wrapped_model(self, data, seed=0):
        """The network wrapped and compiled, ready to be searched."""
        # The key of a training of one's own model has its optimizer's name.
        with names_from_the_first():
            model = self.build_model(data, seed)
            model = wrap(model, seed=self.seed, **self.pruning())
            self.compile(model)
        return model

    def check_fit(self, data):
        """Refuses a model and data of which one is not made for the other.

        A network and a set that come by name are.

        Args:
            data: `Dataset`.

        Raises:
            ValueError: If the model cannot be trained on the data.
        """
        own = isinstance(self.dataset, datasets.Arrays), callable(self.model)
        if not any(own):
            return
        with names_from_the_first():
            model, other = (self.build_model(data, seed=0) for _ in range(2))
            model_builder.check_new(self.model, model, other)
            if not model.compiled:
                model_builder.check_labels(model, data)
            self.compile(model)
            model_builder.check_loss(model, data)

    def trained_model(self, data, ticket):
        """The network with what a ticket was trained to.

        Args:
            data: `Dataset`, of the shape of its examples.
            ticket: `Ticket`, trained.

        Returns:
            A wrapped and compiled `keras.Model`, at the ticket's level.
        """
        model = self.wrapped_model(data)
        model.lottery.load(ticket)
        ticket.assign_trained(model)
        model.lottery.state.trained()
        return model

    def compile(self, model):
        """Compiles a model, unless it came compiled.

        Raises:
            ValueError: If it did, and the experiment is to train otherwise.
        """
        if not model.compiled:
            model.compile(
                self.build_optimizer(),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=["accuracy"],
            )
            return
        for name in _OF_AN_OPTIMIZER:
            if getattr(self, name):
                raise ValueError(
                    f"`{name}` must be left out for a model that comes "
                    "compiled: its own optimizer trains it. "
                    f"Received: {name}={getattr(self, name)!r}"
                )

    def build_optimizer(self):
        """A fresh optimizer, with the learning-rate schedule."""
        rate = self.learning_rate or _LEARNING_RATE
        if self.warmup or self.drops:
            rate = WarmupAndDrops(rate, self.warmup, self.drops)
        config = {"learning_rate": rate}
        if self.momentum:
            config["momentum"] = self.momentum
        try:
            name = "adam" if self.optimizer is None else self.optimizer
            return type(keras.optimizers.get(name))(**config)
        except (ValueError, TypeError) as error:
            raise ValueError(
                "`optimizer` must name a Keras optimizer that takes "
                f"{list(config)}. Received: optimizer={self.optimizer!r} "
                f"({str(error).splitlines()[0]})"
            ) from None

    def pruning(self):
        """The arguments of `wrap` that say how to prune, a dict."""
        whole = self.scope == "global" and self.output_rate == self.rate
        return {
            "rate": self.rate,
            "output_rate": None if whole else self.output_rate,
            "rates": {
                getattr(keras.layers, key, key): rate
                for key, rate in self.rates
            },
            "scope": self.scope,
            "criterion": self.criterion,
            "block_size": self.block_size,
        }


# Keras' own, for a model that has no recipe.
_LEARNING_RATE = 1e-3
_OF_AN_OPTIMIZER = (
    "optimizer",
    "learning_rate",
    "momentum",
    "warmup",
    "drops",
)
_OF_A_NAMED_SET = ("image_size", "classes")
_OF_FEW = (*_OF_A_NAMED_SET, "ticket_from")
_OF_A_NETWORK = ("dropout", "weight_decay", "augment")
_OF_EVERY_NETWORK = ("input_shape", "classes", "seed", "standardize")
_OF_A_TRAINING = (
    "dataset",
    *_OF_A_NAMED_SET,
    "model",
    *_OF_A_NETWORK,
    "network",
    "standardize",
    "iterations",
    "batch_size",
    *_OF_AN_OPTIMIZER,
    "eval_every",
    "early_stop_metric",
    "precision",
    "backend",
)
_FROM_RECIPE = (
    "rate",
    "output_rate",
    "rates",
    "scope",
    "batch_size",
    *_OF_AN_OPTIMIZER,
    *_OF_A_NETWORK,
    "standardize",
)


def _named_rate(pair):
    try:
        # On a command line a pair is NAME:RATE.
        name, rate = pair.rsplit(":", 1) if isinstance(pair, str) else pair
        name, rate = str(name), float(rate)
    except (TypeError, ValueError):
        raise ValueError(
            "`rates` must be pairs of a name and a rate, or NAME:RATE. "
            f"Received: {pair!r}"
        ) from None
    check_rate(f"rates[{name!r}]", rate)
    return name, rate


def _named_option(pair):
    try:
        # On a command line a pair is NAME:VALUE.
        name, value = pair.split(":", 1) if isinstance(pair, str) else pair
    except (TypeError, ValueError):
        raise ValueError(
            "`network` must be pairs of a name and a value, or NAME:VALUE. "
            f"Received: {pair!r}"
        ) from None
    with contextlib.suppress(TypeError, ValueError):
        value = float(value)
        value = int(value) if value.is_integer() else value
    return str(name), value


def _steps(name, given, budget, minimum):
    """Steps of a schedule, which may be given as a fraction of the budget."""
    try:
        number = float(given)
    except (TypeError, ValueError):
        number = math.nan
    if 0 < number < 1 and isinstance(budget, int):
        return max(minimum, round(number * budget))
    if number != round(number, 0) or number < minimum:
        raise ValueError(
            f"`{name}` must be steps, at least {minimum}, or a fraction of "
            f"`iterations`, below 1. Received: {given!r}"
        )
    return int(number)
