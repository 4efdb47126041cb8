"""Training by Keras' `fit`, for what the compiled loop cannot train."""

import contextlib
import time

import keras
import tensorflow as tf

# How often a training tells how far it is, in seconds.
_TOLD_EVERY = 0.5


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
    rows = tf.data.Dataset.from_tensor_slices(batches)
    dataset = rows.map(
        lambda i: keras.tree.map_structure(lambda t: tf.gather(t, i), data)
    )
    stop = start + len(batches)
    between = _Between(start, stop, eval_every, evaluated, visits, progress)
    with _paused(model):
        model.fit(dataset, callbacks=[between], shuffle=False, verbose=0)


def evaluate(model, blocks):
    """Evaluates by Keras' `evaluate`, and leaves the metrics reset.

    Args:
        model: A compiled model.
        blocks: List of pairs of inputs and targets, of shape
            `(batches, batch_size, ...)` each.

    Returns:
        dict of metric name to float, over all blocks.
    """
    batches, *others = map(tf.data.Dataset.from_tensor_slices, blocks)
    for other in others:
        batches = batches.concatenate(other)
    results = model.evaluate(batches, verbose=0, return_dict=True)
    model.reset_metrics()
    return results


def _paused(model):
    """The `fit` of a wrapped model would be a round."""
    lottery = getattr(model, "lottery", None)
    return lottery.paused() if lottery else contextlib.nullcontext()


class _Between(keras.callbacks.Callback):
    """What is done between the steps of a training."""

    def __init__(self, start, stop, eval_every, evaluated, visits, progress):
        super().__init__()
        self.start, self.stop = start, stop
        self.eval_every, self.evaluated = eval_every, evaluated
        self.visits, self.progress = visits, progress
        self.told = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        iteration = self.start + batch + 1
        if iteration in self.visits:
            self.visits[iteration]()
        if iteration % self.eval_every == 0 or iteration == self.stop:
            self.model.stop_training = self.evaluated(iteration, logs["loss"])
        if self.progress and time.monotonic() - self.told > _TOLD_EVERY:
            self.told = time.monotonic()
            self.progress(iteration)
