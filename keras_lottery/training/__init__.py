"""The compiled training loop: many short trainings of one network."""

from keras_lottery.backend import require_tensorflow

require_tensorflow("keras_lottery.training")

# ruff: noqa: E402
from keras_lottery.training.backends import BACKENDS
from keras_lottery.training.compiled import batch_indices
from keras_lottery.training.fit import unsupported
from keras_lottery.training.loop import Loop
from keras_lottery.training.recording import KeptWeights, Recorder, Training

__all__ = [
    "BACKENDS",
    "KeptWeights",
    "Loop",
    "Recorder",
    "Training",
    "batch_indices",
    "unsupported",
]
