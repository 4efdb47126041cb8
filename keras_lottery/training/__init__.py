"""The compiled training loop: many short trainings of one network."""

from keras_lottery.training.compiled import BACKENDS
from keras_lottery.training.loop import Loop, Training
from keras_lottery.training.order import batch_indices
from keras_lottery.training.support import unsupported

__all__ = ["BACKENDS", "Loop", "Training", "batch_indices", "unsupported"]
