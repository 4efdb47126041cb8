"""The laboratory: seeded trials, control arms, early stopping, resuming."""

import dataclasses

from keras_lottery.datasets import Arrays
from keras_lottery.experiments import arms_at_initialisation, arms_tfmot
from keras_lottery.experiments.arms import arm
from keras_lottery.experiments.experiment import Experiment
from keras_lottery.experiments.progress import Progress
from keras_lottery.experiments.results import Result, Results
from keras_lottery.experiments.run import Run, RunModel
from keras_lottery.processes import Cluster

FIELDS = tuple(field.name for field in dataclasses.fields(Experiment))

__all__ = [
    "FIELDS",
    "Arrays",
    "Cluster",
    "Experiment",
    "Progress",
    "Result",
    "Results",
    "Run",
    "RunModel",
    "arm",
    # Whose arms are registered when they are imported.
    "arms_at_initialisation",
    "arms_tfmot",
]
