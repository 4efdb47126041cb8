"""Training: what a training measured, gathered evaluation by evaluation."""

import dataclasses
import time

import numpy as np
from absl import logging

MONITORS = ("val_loss", "val_accuracy")


@dataclasses.dataclass(frozen=True)
class Training:
    """What one training measured.

    Attributes:
        iterations: int array, the iterations after which the model was
            evaluated: every multiple of `eval_every`, and the last.
        val_loss: float array, the validation loss there.
        val_accuracy: float array, the validation accuracy there; NaN if the
            model was compiled without an accuracy metric.
        train_loss: float array, the mean training loss of the steps since
            the evaluation before.
        early_stop_iteration: The iteration of minimum validation loss (or
            of maximum accuracy, if that is monitored), the first of equals.
            The state before the first step is not eligible.
        early_stop_weights: The weights at that iteration, as
            `model.get_weights()` returns them.
        diverged: The iteration at which the validation loss was NaN and
            training ended; `None` if it was trained to the end.
        seconds: Wall time of training and evaluation, without the choice of
            the backend.
    """

    iterations: np.ndarray
    val_loss: np.ndarray
    val_accuracy: np.ndarray
    train_loss: np.ndarray
    early_stop_iteration: int
    early_stop_weights: list
    diverged: int | None
    seconds: float


class Recorder:
    """Gathers a `Training`; it keeps the weights of the best evaluation.

    Args:
        monitor: `"val_loss"` or `"val_accuracy"`.
        first: Integer, the iteration from which early stopping looks.
            Defaults to 1.
    """

    def __init__(self, monitor, first=1):
        self.monitor, self.first = monitor, first
        self.diverged = None
        self._rows, self._best, self._score = [], None, None
        self._began = time.perf_counter()

    def add(self, iteration, loss, accuracy, train_loss, get_weights):
        """Adds what was measured after an iteration.

        Args:
            iteration: Integer.
            loss: Float, of the validation set.
            accuracy: Float, of the validation set.
            train_loss: Float, since the evaluation before.
            get_weights: Function that returns the weights as they are; it
                is called only if they are the best so far.
        """
        self._rows.append((iteration, loss, accuracy, train_loss))
        score = loss if self.monitor == "val_loss" else -accuracy
        if iteration >= self.first and (
            self._best is None or score < self._score
        ):
            self._best, self._score = (iteration, get_weights()), score
        if self.diverged is None and np.isnan(loss):
            self.diverged = int(iteration)
            logging.warning("Loss is NaN at iteration %d.", iteration)

    def training(self):
        """The `Training`, of which the clock stops now."""
        steps, *curves = map(np.asarray, zip(*self._rows))
        seconds = time.perf_counter() - self._began
        return Training(steps, *curves, *self._best, self.diverged, seconds)
