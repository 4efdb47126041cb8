"""The compiled training loop: many short trainings of one network."""

from keras_lottery.training.calibration import BACKENDS
from keras_lottery.training.loop import Loop
from keras_lottery.training.order import batch_indices
from keras_lottery.training.recording import Recorder, Training
from keras_lottery.training.support import unsupported

__all__ = [
    "BACKENDS",
    "Loop",
    "Recorder",
    "Training",
    "batch_indices",
    "unsupported",
]
