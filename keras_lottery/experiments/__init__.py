"""The laboratory: seeded trials, control arms, early stopping, resuming."""

import dataclasses

from keras_lottery.experiments.experiment import Experiment
from keras_lottery.experiments.results import Result
from keras_lottery.experiments.runner import Progress

FIELDS = tuple(field.name for field in dataclasses.fields(Experiment))

__all__ = ["FIELDS", "Experiment", "Progress", "Result"]
