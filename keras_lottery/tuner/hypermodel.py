"""Hypermodels: what KerasTuner builds, and what an experiment is given."""

import functools
import uuid

import keras_tuner

from keras_lottery import models
from keras_lottery.experiments import model_builder
from keras_lottery.tuner.knobs import PREFIX


class LotteryHyperModel(keras_tuner.HyperModel):
    """A user's hypermodel with the knobs of the search.

    Args:
        model: function of `keras_tuner.HyperParameters` that returns a
            `keras.Model`, a `keras_tuner.HyperModel`, or a network of
            `keras_lottery.models` by name.
        knobs: `Knobs`.

    Attributes:
        data: optional `Dataset`, of the shape of the examples.
    """

    def __init__(self, model, knobs):
        super().__init__()
        self.model = check_hypermodel(model)
        self.knobs = knobs
        self.data = None

    @property
    def is_network(self):
        """Whether it is a network of `keras_lottery.models`, by name."""
        return isinstance(self.model, str)

    def declare_hyperparameters(self, hp):
        """Declares the knobs, and what the user's hypermodel declares."""
        self.knobs(hp)
        if isinstance(self.model, keras_tuner.HyperModel):
            self.model.declare_hyperparameters(hp)

    def build(self, hp):
        """The user's model at these values: plain, dense, untrained.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            A `keras.Model`; `None` for a named network before the shape of
            its examples is known.
        """
        self.knobs(hp)
        if not self.is_network:
            return build_function(self.model)(hp)
        if self.data is None:
            return None
        return model_builder.call(
            models.get(self.model),
            input_shape=self.data.input_shape,
            classes=self.data.classes,
        )

    def builder(self, hp):
        """What `Experiment` takes as its model at these values.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            A network's name, or a `TrialBuilder`.
        """
        if self.is_network:
            return self.model
        return TrialBuilder(self.model, hp)


class TrialBuilder:
    """Builds a user's hypermodel at the values of one trial.

    Its name tells the values of the model and not those of the search: two
    trials that differ only in how they prune train the same dense network,
    which the second one finds. It can be sent to other processes, and equals
    its copies there.

    Args:
        hypermodel: function or `keras_tuner.HyperModel`.
        hp: `keras_tuner.HyperParameters`.
    """

    def __init__(self, hypermodel, hp):
        self.hypermodel = hypermodel
        self.config = hp.get_config()
        self.identity = uuid.uuid4().hex
        module, _, last = hypermodel_name(hypermodel).rpartition(".")
        values = ", ".join(
            f"{key}={value!r}"
            for key, value in sorted(hp.values.items())
            if not key.startswith((PREFIX, "tuner/"))
        )
        # An experiment names a function by these two.
        self.__module__ = module
        self.__qualname__ = f"{last}({values})"

    def __call__(self):
        hp = keras_tuner.HyperParameters.from_config(self.config)
        return build_function(self.hypermodel)(hp)

    def __eq__(self, other):
        return (
            isinstance(other, TrialBuilder) and self.identity == other.identity
        )

    def __hash__(self):
        return hash(self.identity)

    def __repr__(self):
        return self.__qualname__


def build_function(hypermodel):
    """The function of hyperparameters that builds; a named network's name."""
    return getattr(hypermodel, "build", hypermodel)


def check_hypermodel(model):
    """Refuses what is no hypermodel."""
    hypermodel = isinstance(model, keras_tuner.HyperModel) or callable(model)
    if hypermodel or model in models.NETWORKS:
        return model
    raise ValueError(
        "`hypermodel` must be a function of hyperparameters that returns a "
        "Keras model, a `keras_tuner.HyperModel` or one of "
        f"{list(models.NETWORKS)}. Received: hypermodel={model!r}"
    )


def hypermodel_name(model):
    """A named network's name, or the module and name of a hypermodel."""
    if isinstance(model, str):
        return model
    while isinstance(model, functools.partial):
        model = model.func
    return model_builder.name(model)
