"""Training by Keras' `fit`, for what the compiled loop cannot train."""

import contextlib
import time

import keras
import numpy as np

from keras_lottery import backend
from keras_lottery.backend import loop
from keras_lottery.backend.common import (
    ModelSteps,
    loss_and_accuracy,
    penalty,
)
from keras_lottery.keras_internals import overridden_by

# The seconds between two reports of progress.
_PROGRESS_EVERY = 0.5
_STOCK_METHODS = ("train_step", "test_step", "make_train_function")


def unsupported(model, x=None, y=None, callbacks=None, class_weight=None):
    """Says why a training must be left to `fit`, if it must.

    Args:
        model: The model.
        x: The training inputs, if known.
        y: The training targets, if known.
        callbacks: The callbacks `fit` would get. The compiled loop calls
            none.
        class_weight: The class weights `fit` would get.

    Returns:
        One reason as a string, or `None` if the compiled loop trains the
        model as `fit` would.

    Example:

    ```python
    reason = unsupported(model)
    if reason:
        print(f"Training with fit: {reason}")
    ```
    """
    if not getattr(model, "compiled", False):
        return "the model is not compiled"
    for method in _STOCK_METHODS:
        owner = overridden_by(model, method)
        if owner is not None:
            return f"{owner} has a `{method}` of its own"
    if model.run_eagerly:
        return "the model was compiled with `run_eagerly=True`"
    if backend.is_distributed(model):
        return "the model is distributed over several replicas"
    if class_weight is not None:
        return "`class_weight` is given"
    if callbacks:
        return "callbacks are given"
    for name, value in (("x", x), ("y", y)):
        if value is not None and not _is_arrays(value):
            return f"`{name}` is a {type(value).__name__}, not arrays"
    return None


def train(model, data, batches, start, eval_every, evaluated, visits, progress):
    """Trains a model on given batches, in one call of `fit`.

    One call and not one for each stretch between evaluations, because what
    `fit` does when it ends (such as to put the averages of `use_ema` in place
    of the weights) is to be done once.

    Args:
        model: A compiled model. Its `steps_per_execution` becomes 1, so that
            it can be visited after any step.
        data: Pair of inputs and targets, as tensors.
        batches: int array of shape `(steps, batch_size)`, indices of `data`.
        start: Integer, the iteration the model is at.
        eval_every: Integer, iterations between two evaluations.
        evaluated: Function `(iteration, train_loss)` that is called when an
            evaluation is due, and returns whether training is to end.
        visits: dict, iteration -> callable without arguments.
        progress: Callable of the iteration, or `None`.
    """
    if model.steps_per_execution != 1:
        model.steps_per_execution = 1
        model.train_function = model.test_function = None
    dataset = loop.batches_of_rows(data, batches)
    stop = start + len(batches)
    callback = _StepCallback(
        start, stop, eval_every, evaluated, visits, progress
    )
    with _paused(model):
        model.fit(dataset, callbacks=[callback], shuffle=False, verbose=0)


class FitSteps(ModelSteps):
    """The evaluation of a model that `train` trains.

    Args:
        model: A compiled model.
    """

    traces = 0
    kept_by = loop.KeptWeights

    def __init__(self, model):
        self._model = model

    def evaluate(self, blocks):
        """Evaluates by Keras' `evaluate`, and leaves the metrics reset.

        Args:
            blocks: List of pairs of inputs and targets, of shape
                `(batches, batch_size, ...)` each.

        Returns:
            Pair of floats, the loss without penalties of weights and the
            accuracy, over all blocks.
        """
        batches = loop.batches_of_blocks(blocks)
        results = self._model.evaluate(batches, verbose=0, return_dict=True)
        # Those are sorted by name, and these as they were compiled.
        names = dict.fromkeys([*self._model.get_metrics_result(), *results])
        self._model.reset_metrics()
        loss, accuracy = loss_and_accuracy(
            {name: results[name] for name in names if name in results}
        )
        return loss - penalty(self._model), accuracy


def _paused(model):
    """The `fit` of a wrapped model would be a round."""
    lottery = getattr(model, "lottery", None)
    return lottery.paused() if lottery else contextlib.nullcontext()


class _StepCallback(keras.callbacks.Callback):
    """Visits, evaluations and progress between the steps of a training."""

    def __init__(self, start, stop, eval_every, evaluated, visits, progress):
        super().__init__()
        self.start, self.stop = start, stop
        self.eval_every, self.evaluated = eval_every, evaluated
        self.visits, self.progress = visits, progress
        self.reported = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        iteration = self.start + batch + 1
        due = iteration % self.eval_every == 0 or iteration == self.stop
        if due or iteration in self.visits:
            # On some backends the variables are elsewhere between two steps.
            backend.sync(self.model)
        if iteration in self.visits:
            self.visits[iteration]()
        if due:
            self.model.stop_training = self.evaluated(iteration, logs["loss"])
        if self.progress and time.monotonic() - self.reported > _PROGRESS_EVERY:
            self.reported = time.monotonic()
            self.progress(iteration)


def _is_arrays(value):
    return all(
        isinstance(leaf, (np.ndarray, loop.TENSOR))
        for leaf in keras.tree.flatten(value)
    )
