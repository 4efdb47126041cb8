"""The compiled training loop: many short trainings of one network."""

from keras_lottery.backend.loop import KeptWeights
from keras_lottery.training.backends import BACKENDS
from keras_lottery.training.batches import batch_indices
from keras_lottery.training.fit import unsupported
from keras_lottery.training.loop import Loop
from keras_lottery.training.recording import Recorder, Training

__all__ = [
    "BACKENDS",
    "KeptWeights",
    "Loop",
    "Recorder",
    "Training",
    "batch_indices",
    "unsupported",
]
