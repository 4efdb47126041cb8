"""The networks in Keras 3, compiled, and half-pruned where wanted."""

import keras
import tensorflow as tf

import keras_lottery
from keras_lottery.models import get

ABOUT = {
    "tensorflow": tf.__version__,
    "keras": keras.__version__,
    "keras_lottery": keras_lottery.__version__,
    # 0: as many threads as there are cores.
    "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
    "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
}


def compiled(problem, wrapped=False, **compile_arguments):
    """The network of a problem, compiled with the paper's optimizer.

    Args:
        problem: `Problem`.
        wrapped: bool, whether it is wrapped and at level 1, half of each
            kernel pruned.
        **compile_arguments: passed on to `compile`.

    Returns:
        A `keras.Model`.
    """
    options = {"augment": True} if problem.augment else {}
    model = get(problem.network)(problem.shape, seed=0, **options)
    if wrapped:
        model = keras_lottery.wrap(model, rate=0.5, output_rate=0.5)
    model.compile(
        optimizer(problem),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **compile_arguments,
    )
    if wrapped:
        model.lottery.prune()
    return model


def optimizer(problem):
    """The paper's optimizer; its rate is constant: a schedule costs little."""
    if problem.optimizer == "adam":
        return keras.optimizers.Adam(problem.learning_rate)
    return keras.optimizers.SGD(problem.learning_rate, problem.momentum)


def kernels(model):
    """The kernels' values, as arrays."""
    return [
        layer.kernel.numpy()
        for layer in model.layers
        if hasattr(layer, "kernel")
    ]
