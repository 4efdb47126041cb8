"""Many steps of a Keras model as one compiled function.

The step is the model's own `train_step` or `test_step`, so everything Keras
does in a step is done: loss scaling, clipping, constraints, batch statistics,
learning-rate schedules, metrics. Only the loop around it belongs to this
module, and there is no Python in it. Updating the metrics in every step costs
no measurable time (LeNet-300-100: within the noise of 0.7 ms a step).

Here are also the batches that the steps take: which examples each of them has.
"""

import contextlib
import functools

import keras
import numpy as np
import tensorflow as tf

COMPILED = ("graph", "xla", "xla_update")


class CompiledSteps:
    """The training and the evaluation of one model on one backend.

    Weights, masks and optimizer state are variables, and the data and its
    order are arguments: two trainings can differ in all of them and share what
    is compiled.

    Args:
        model: A compiled and built model.
        backend: `"graph"`: a TensorFlow graph; `"xla"`: all steps in one
            XLA program; `"xla_update"`: a graph in which the optimizer's
            update, which passes over every weight many times, is an XLA
            program, which passes over them once.
        data: Pair of inputs and targets, as tensors, of which the shapes
            and dtypes are taken.
    """

    def __init__(self, model, backend, data):
        self.traces = 0
        self._model = model
        self._backend = backend
        examples = keras.tree.map_structure(
            lambda t: tf.TensorSpec((None, *t.shape[1:]), t.dtype), data
        )
        batches = keras.tree.map_structure(
            lambda t: tf.TensorSpec((None, None, *t.shape[1:]), t.dtype), data
        )
        count = tf.TensorSpec((), tf.int32)
        indices = tf.TensorSpec((None, None), tf.int32)
        self._train = self._function(
            self._train_steps, [count, indices, examples]
        )
        # A function of its own: XLA divides by a constant count of examples in
        # another way than by one it reads, and the last bit differs.
        self._reset = _traced_once(model.reset_metrics)
        # By the number of blocks, of which `into_blocks` makes one or two.
        self._evaluate = {
            n: self._function(self._test_steps, [[batches] * n]) for n in (1, 2)
        }

    def train(self, count, indices, data):
        """Trains `count` steps, on the batches in the rows of `indices`.

        Args:
            count: Integer, at most the number of rows.
            indices: int32 array of shape `(rows, batch_size)`. XLA compiles
                anew for another shape, but not for another `count`.
            data: Pair of inputs and targets, as tensors.

        Returns:
            Float, the mean loss of all steps since the metrics were last
            reset.
        """
        count = tf.constant(count, tf.int32)
        indices = tf.convert_to_tensor(indices)
        return self._train()(count, indices, data).numpy().tolist()[0]

    def evaluate(self, blocks):
        """Evaluates, and leaves the metrics reset.

        Args:
            blocks: List of pairs of inputs and targets, of shape
                `(batches, batch_size, ...)` each, as `into_blocks` returns.

        Returns:
            Pair of floats, the loss and the accuracy over all blocks.
        """
        self._reset()()
        evaluate = self._evaluate[len(blocks)]()
        return tuple(evaluate(blocks).numpy().tolist())

    def variables(self):
        """All variables a training step reads or writes, as `tf.Variable`s."""
        return self._train().variables

    def _function(self, steps, signature):
        return _traced_once(
            steps,
            input_signature=signature,
            jit_compile=self._backend == "xla",
        )

    def _train_steps(self, count, indices, data):
        def batch(i):
            return keras.tree.map_structure(
                lambda t: tf.gather(t, indices[i]), data
            )

        update = contextlib.nullcontext()
        if self._backend == "xla_update":
            update = _update_under_xla(self._model.optimizer)
        with update:
            self._repeat(self._model.train_step, batch, count)
        return self._measured()

    def _test_steps(self, blocks):
        for block in blocks:

            def batch(i, block=block):
                return keras.tree.map_structure(lambda t: t[i], block)

            count = tf.shape(keras.tree.flatten(block)[0])[0]
            self._repeat(self._model.test_step, batch, count)
        measured = self._measured()
        self._model.reset_metrics()
        return measured

    def _repeat(self, step, batch, count):
        def body(i):
            step(batch(i))
            return (i + 1,)

        tf.while_loop(lambda i: i < count, body, (tf.constant(0),))

    def _measured(self):
        """Loss and accuracy, as one tensor: one transfer from the device."""
        self.traces += 1
        results = loss_and_accuracy(self._model.get_metrics_result())
        return tf.stack([tf.cast(value, tf.float64) for value in results])


def _traced_once(function, **options):
    """A function that returns the traced function, traced at the first call.

    Calling what was traced takes a third of the time that `tf.function` takes
    to find it by the types of the arguments.
    """
    traced = tf.function(function, autograph=False, **options)
    return functools.cache(traced.get_concrete_function)


@contextlib.contextmanager
def _update_under_xla(optimizer):
    """While a step is traced, its weight update is made an XLA program."""
    apply = optimizer.apply_gradients

    def apply_under_xla(grads_and_vars):
        gradients, variables = zip(*grads_and_vars)

        @tf.function(jit_compile=True, autograph=False)
        def update(*gradients):
            apply(zip(gradients, variables))

        update(*gradients)
        return optimizer.iterations

    # Past Keras' attribute tracking, which has no use for a function.
    attributes = vars(optimizer)
    replaced = attributes.get("apply_gradients")
    attributes["apply_gradients"] = apply_under_xla
    try:
        yield
    finally:
        del attributes["apply_gradients"]
        if replaced is not None:
            attributes["apply_gradients"] = replaced


def loss_and_accuracy(results):
    """Picks the two metrics that a training records.

    Args:
        results: dict of metric name to value, as Keras returns it.

    Returns:
        Pair of values; the accuracy is NaN if none was measured.
    """
    accuracies = [v for name, v in results.items() if is_accuracy(name)]
    return results["loss"], (accuracies or [float("nan")])[0]


def is_accuracy(name):
    """Whether a metric of this name is an accuracy."""
    return name == "acc" or name.endswith("accuracy")


# Examples in batches.


def batch_indices(size, batch_size, seed, start, stop):
    """Indices of the examples in the batches of iterations `start` to `stop`.

    A pure function of seed and iteration. The examples form one endless
    stream, a new permutation of the training set for every epoch, cut into
    batches that run across the borders of epochs. Any stretch of it can be
    computed alone, so training can begin at any iteration and see the batches
    that an uninterrupted training would have seen.

    Args:
        size: Integer, the number of training examples.
        batch_size: Integer, examples per batch, at most `size`.
        seed: Integer >= 0. The same seed gives the same batches.
        start: Integer, the first iteration.
        stop: Integer, the iteration after the last.

    Returns:
        An int32 array of shape `(stop - start, batch_size)`.

    Example:

    ```python
    whole = batch_indices(1000, 60, seed=0, start=0, stop=40)
    tail = batch_indices(1000, 60, seed=0, start=25, stop=40)
    assert (whole[25:] == tail).all()
    ```
    """
    first, last = start * batch_size, stop * batch_size
    if first == last:
        return np.zeros((0, batch_size), np.int32)
    parts = [
        _permutation(size, seed, epoch)[
            max(first - epoch * size, 0) : last - epoch * size
        ]
        for epoch in range(first // size, (last - 1) // size + 1)
    ]
    return np.concatenate(parts).reshape(-1, batch_size)


# An epoch spans many stretches; two are kept for a stretch across a border.
@functools.lru_cache(maxsize=2)
def _permutation(size, seed, epoch):
    generator = np.random.default_rng((seed, epoch))
    permutation = generator.permutation(size).astype(np.int32)
    permutation.flags.writeable = False
    return permutation


def into_blocks(data, batch_size):
    """Cuts data into one block of equal batches and one for the remainder.

    Where TensorFlow can slice without a copy, as it can on the first axis of
    images, a block shares the memory of the data.

    Args:
        data: Pair of inputs and targets, as tensors.
        batch_size: Integer, examples per batch.

    Returns:
        List of one or two pairs of shape `(batches, batch_size, ...)`.
    """
    size = len(keras.tree.flatten(data)[0])
    whole = size - size % batch_size

    def cut(begin, end, rows):
        return keras.tree.map_structure(
            lambda t: tf.reshape(t[begin:end], (-1, rows, *t.shape[1:])), data
        )

    blocks = [cut(0, whole, batch_size)] if whole else []
    if whole < size:
        blocks.append(cut(whole, size, size - whole))
    return blocks
