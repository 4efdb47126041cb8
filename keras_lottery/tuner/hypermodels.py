"""Hypermodels: what KerasTuner builds, and what an experiment is given."""

import functools
import uuid

import keras_tuner

from keras_lottery import models
from keras_lottery.experiments import building
from keras_lottery.tuner.knobs import PREFIX


class LotteryHyperModel(keras_tuner.HyperModel):
    """A user's hypermodel with the knobs of the search.

    Args:
        model: function of `keras_tuner.HyperParameters` that returns a
            `keras.Model`, a `keras_tuner.HyperModel`, or a network of
            `keras_lottery.models` by name.
        knobs: `Knobs`.
    """

    def __init__(self, model, knobs):
        super().__init__()
        self.model = check(model)
        self.knobs = knobs
        # Of the examples, once they are known: a `Dataset`.
        self.data = None

    @property
    def own(self):
        """The function that builds, or `None` for a named network."""
        if isinstance(self.model, str):
            return None
        return getattr(self.model, "build", self.model)

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
        if self.own:
            return self.own(hp)
        if self.data is None:
            return None
        return building.call(
            models.get(self.model),
            input_shape=self.data.input_shape,
            classes=self.data.classes,
        )

    def at(self, hp):
        """What `Experiment` is to be given as its model.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            A network's name, or a `Built`.
        """
        return Built(self.model, hp) if self.own else self.model


class Built:
    """Builds a user's hypermodel at the values of one trial.

    Its name tells the values, those of the search left out: two trials that
    differ only there train the same dense network, which then is found
    instead of repeated. It can be sent to other processes, and is one with
    its copies there.

    Args:
        hypermodel: function or `keras_tuner.HyperModel`.
        hp: `keras_tuner.HyperParameters`.
    """

    def __init__(self, hypermodel, hp):
        self.hypermodel = hypermodel
        self.config = hp.get_config()
        self.identity = uuid.uuid4().hex
        module, _, last = name(hypermodel).rpartition(".")
        values = ", ".join(
            f"{key}={value!r}"
            for key, value in sorted(hp.values.items())
            if not key.startswith((PREFIX, "tuner/"))
        )
        # By these two an experiment names a function.
        self.__module__ = module
        self.__qualname__ = f"{last}({values})"

    def __call__(self):
        hp = keras_tuner.HyperParameters.from_config(self.config)
        return getattr(self.hypermodel, "build", self.hypermodel)(hp)

    def __eq__(self, other):
        return isinstance(other, Built) and self.identity == other.identity

    def __hash__(self):
        return hash(self.identity)

    def __repr__(self):
        return self.__qualname__


def check(model):
    """Refuses what is no hypermodel."""
    hypermodel = isinstance(model, keras_tuner.HyperModel) or callable(model)
    if hypermodel or model in models.NETWORKS:
        return model
    raise ValueError(
        "`hypermodel` must be a function of hyperparameters that returns a "
        "Keras model, a `keras_tuner.HyperModel` or one of "
        f"{list(models.NETWORKS)}. Received: hypermodel={model!r}"
    )


def name(model):
    """How a hypermodel is called in files: its own, or module and name."""
    if isinstance(model, str):
        return model
    while isinstance(model, functools.partial):
        model = model.func
    return building.name(model)
