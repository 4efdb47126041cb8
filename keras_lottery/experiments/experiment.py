"""Experiment: everything that determines a run."""

import dataclasses

import keras

from keras_lottery import criteria, datasets, models, recipes
from keras_lottery.checks import (
    check_choice,
    check_integer,
    check_positive,
    check_rate,
)
from keras_lottery.experiments import arms as arms_lib
from keras_lottery.experiments import building
from keras_lottery.experiments.learning_rates import WarmupAndDrops
from keras_lottery.training import BACKENDS


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A comparison of arms over levels and trials.

    What is left `None` is taken from the paper's recipe for the model. A model
    of one's own has the recipe `keras_lottery.recipes.OWN`.

    Args:
        dataset: str, `"digits"` or a TFDS image classification set; or
            `keras_lottery.datasets.Arrays`.
        data_dir: optional str, where TFDS has it.
        model: str, a network of `keras_lottery.models`; or a function that
            returns a Keras model, and is called with those of the arguments
            `input_shape`, `classes` and `seed` that it has. A model that it
            compiles keeps its optimizer, loss and metrics; another is
            compiled for classification by logits.
        rounds: int, levels 0 to `rounds` are trained. Defaults to 16.
        rate: optional float, of survivors, per round.
        output_rate: optional float, of output layers.
        rates: optional tuple of pairs (str, float): the rates of the weights
            of a layer of this name, of a class of `keras.layers`, or of a
            path in which this regular expression is found.
        scope: optional str, `"layerwise"` or `"global"`.
        criterion: str, of `keras_lottery.criteria`.
        rewind_to: int, the training step of the rewind point.
        late_rewind_to: optional int, that of the arm `late_rewind`. Defaults
            to a fiftieth of `iterations`, at least 1.
        iterations: optional int, the budget of each training; on `digits`
            1,000. A model of one's own has no other default.
        batch_size: optional int.
        optimizer: optional str, a name that Keras knows.
        learning_rate: optional float.
        momentum: optional float, of `"sgd"` and `"rmsprop"`.
        warmup: optional int, steps in which the learning rate rises from 0.
        drops: optional tuple of int, steps at which it is divided by 10.
        dropout: optional float, of the Conv networks.
        eval_every: optional int, iterations between evaluations. Defaults to
            a fiftieth of `iterations`, at most 100.
        early_stop_metric: `"val_loss"` or `"val_accuracy"`.
        trials: int.
        arms: tuple of str.
        seed: int, from which all other seeds are derived.
        backend: `"auto"`, which measures, or a backend of
            `keras_lottery.training`. Backends differ in the last bits.
        precision: str, the dtype policy of the model: `"float32"`,
            `"mixed_bfloat16"` or `"mixed_float16"`.

    Example:

    ```python
    experiment = Experiment(dataset="digits", rounds=3)
    results = experiment.run("runs/digits")
    results.to_pandas().groupby(["arm", "level"]).mean()
    ```

    With a model and data of one's own:

    ```python
    def build(seed):
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [
                keras.Input((20,)),
                keras.layers.Dense(64, "relu"),
                keras.layers.Dense(3),
            ]
        )

    x, y = np.random.rand(500, 20), np.random.randint(0, 3, 500)
    data = Arrays(train=(x[100:], y[100:]), test=(x[:100], y[:100]))
    experiment = Experiment(data, model=build, rounds=3, iterations=200)
    ```

    Source: Frankle & Carbin, 1803.03635, section 2 and figure 2.
    """

    dataset: object = "digits"
    data_dir: str | None = None
    model: object = "lenet_300_100"
    rounds: int = 16
    rate: float | None = None
    output_rate: float | None = None
    scope: str | None = None
    criterion: str = "magnitude"
    rewind_to: int = 0
    iterations: int | None = None
    batch_size: int | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    warmup: int | None = None
    drops: tuple | None = None
    dropout: float | None = None
    eval_every: int | None = None
    early_stop_metric: str = "val_loss"
    trials: int = 1
    arms: tuple = ("ticket", "reinit")
    seed: int = 0
    backend: str = "auto"
    late_rewind_to: int | None = None
    rates: tuple | None = None
    precision: str = "float32"

    def __post_init__(self):
        self._fill_in()
        for name in ("iterations", "batch_size", "eval_every", "trials"):
            check_integer(name, getattr(self, name), minimum=1)
        steps = ("rewind_to", "late_rewind_to", "warmup")
        for name in ("rounds", "seed", *steps):
            check_integer(name, getattr(self, name), minimum=0)
        for name in ("rate", "output_rate", "dropout", "momentum"):
            if getattr(self, name) is not None:
                check_rate(name, getattr(self, name))
        check_choice("scope", self.scope, ("layerwise", "global"))
        check_choice("criterion", self.criterion, criteria.NAMES)
        metrics = ("val_loss", "val_accuracy")
        check_choice("early_stop_metric", self.early_stop_metric, metrics)
        check_choice("backend", self.backend, BACKENDS)
        check_choice("precision", self.precision, building.PRECISIONS)
        if self.learning_rate is not None:
            check_positive("learning_rate", self.learning_rate)
        self._check_sizes()
        arms_lib.check(self)
        self.build_optimizer()

    def _fill_in(self):
        recipe = self.recipe
        for name in _FROM_RECIPE:
            if getattr(self, name) is None:
                self._set(name, getattr(recipe, name))
        if self.iterations is None:
            digits = self.dataset == "digits"
            self._set("iterations", 1000 if digits else recipe.iterations)
        if self.eval_every is None and self.iterations:
            self._set("eval_every", max(1, min(100, self.iterations // 50)))
        if self.late_rewind_to is None and self.iterations:
            late = max(1, self.iterations // 50)
            self._set("late_rewind_to", min(late, self.iterations - 1))
        self._set("arms", tuple(self.arms))
        if self.rates is not None:
            self._set("rates", tuple(map(_named_rate, self.rates)))
        self._set("drops", tuple(_step(drop) for drop in self.drops))

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

    def _check_sizes(self):
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

    # What it stands for.

    def load_data(self, seed):
        """The `Dataset`, split by a seed."""
        if isinstance(self.dataset, datasets.Arrays):
            return self.dataset.split(seed)
        return datasets.load(self.dataset, self.data_dir, seed)

    def build_model(self, data, seed):
        """The network for a data set, initialised by a seed."""
        with building.in_precision(self.precision):
            if callable(self.model):
                return building.own(self.model, data, seed)
            return building.call(
                models.get(self.model),
                input_shape=data.input_shape,
                classes=data.classes,
                seed=seed,
                dropout=self.dropout,
                weight_decay=self.recipe.weight_decay,
                augment=self.recipe.augment,
            )

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
            found = type(keras.optimizers.get(self.optimizer or "adam"))
            return found(**config)
        except (ValueError, TypeError) as error:
            raise ValueError(
                "`optimizer` must name a Keras optimizer that takes "
                f"{list(config)}. Received: optimizer={self.optimizer!r} "
                f"({str(error).splitlines()[0]})"
            ) from None

    def pruning(self):
        """The arguments of `wrap` that say how to prune."""
        arguments = self.recipe.pruning if self.rate is None else {}
        for name in ("rate", "output_rate", "scope"):
            if getattr(self, name) is not None:
                arguments[name] = getattr(self, name)
        if self.rates is not None:
            arguments["rates"] = {
                getattr(keras.layers, key, key): rate
                for key, rate in self.rates
            }
        return {**arguments, "criterion": self.criterion}

    def training(self):
        """All that determines one training but weights, masks and seeds."""
        settings = self.settings()
        return {name: settings[name] for name in _OF_A_TRAINING}

    def settings(self):
        """A dict of the arguments, as JSON holds them."""
        settings = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
        }
        settings["dataset"] = str(self.dataset)
        if callable(self.model):
            settings["model"] = building.name(self.model)
        return settings

    def run(
        self,
        run_dir,
        progress=None,
        workers=1,
        executor=None,
        tensorboard_dir=None,
        shared=None,
    ):
        """Trains whatever of it is not in the run directory yet.

        Args:
            run_dir: str or path-like. The same experiment on the same
                directory goes on where it was stopped.
            progress: optional `Progress`. Defaults to silence.
            workers: int, processes to train in. Defaults to 1, this process.
            executor: optional `concurrent.futures.Executor` to train on
                instead.
            tensorboard_dir: optional str or path-like, to write the curves
                to for TensorBoard.
            shared: optional str or path-like, a directory of trainings that
                several runs share: what one has trained the others find.

        Returns:
            `Results`: a list of `Result` by trial, arm and level.
        """
        from keras_lottery.experiments.runner import run

        return run(
            self, run_dir, progress, workers, executor, tensorboard_dir, shared
        )


# Keras' own, for a model that has no recipe.
_LEARNING_RATE = 1e-3
_OF_A_TRAINING = (
    "dataset",
    "model",
    "dropout",
    "iterations",
    "batch_size",
    "optimizer",
    "learning_rate",
    "momentum",
    "warmup",
    "drops",
    "eval_every",
    "early_stop_metric",
    "precision",
)
_OF_AN_OPTIMIZER = (
    "optimizer",
    "learning_rate",
    "momentum",
    "warmup",
    "drops",
)
_FROM_RECIPE = (
    "scope",
    "batch_size",
    "optimizer",
    "learning_rate",
    "momentum",
    "warmup",
    "drops",
    "dropout",
)


def _named_rate(pair):
    try:
        name, rate = pair
        name, rate = str(name), float(rate)
    except (TypeError, ValueError):
        raise ValueError(
            f"`rates` must be pairs of a name and a rate. Received: {pair!r}"
        ) from None
    check_rate(f"rates[{name!r}]", rate)
    return name, rate


def _step(drop):
    try:
        return check_integer("drops", int(drop), minimum=1)
    except ValueError:
        raise ValueError(
            f"`drops` must be steps, at least 1. Received: {drop!r}"
        ) from None
