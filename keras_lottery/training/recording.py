"""Training: what one training measured, recorded evaluation by evaluation."""

import dataclasses
import math
import time

import numpy as np
from absl import logging

from keras_lottery.levels import early_stop


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
            of maximum accuracy, if that is the metric), the first of equals.
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
    """Records a `Training`, and keeps the weights of the best evaluation.

    Args:
        early_stop_metric: `"val_loss"` or `"val_accuracy"`.
        kept: `KeptWeights` of the weights to keep.
        first: Integer, the iteration from which early stopping looks.
            Defaults to 1.

    Attributes:
        diverged: The iteration of the first validation loss that was NaN, or
            `None`.
    """

    def __init__(self, early_stop_metric, kept, first=1):
        self.diverged = None
        self._metric, self._kept, self._first = early_stop_metric, kept, first
        self._rows, self._eligible = [], []
        self._began = time.perf_counter()

    def add(self, iteration, loss, accuracy, train_loss):
        """Adds what was measured after an iteration.

        Args:
            iteration: Integer.
            loss: Float, of the validation set.
            accuracy: Float, of the validation set.
            train_loss: Float, since the evaluation before.
        """
        self._rows.append((iteration, loss, accuracy, train_loss))
        if iteration >= self._first:
            value = loss if self._metric == "val_loss" else accuracy
            self._eligible.append((iteration, value))
            if self._best() == iteration:
                self._kept.keep()
        if self.diverged is None and math.isnan(loss):
            self.diverged = int(iteration)
            logging.warning(
                "Loss is NaN at iteration %d: training diverged. Set a smaller "
                "learning rate.",
                iteration,
            )

    def training(self):
        """The `Training`, of which the clock stops now."""
        iterations, *curves = map(np.asarray, zip(*self._rows))
        seconds = time.perf_counter() - self._began
        return Training(
            iterations,
            *curves,
            self._best(),
            self._kept.fetch(),
            self.diverged,
            seconds,
        )

    def _best(self):
        """The iteration at which early stopping would have stopped."""
        iterations, values = zip(*self._eligible)
        return iterations[early_stop(values, self._metric)]
