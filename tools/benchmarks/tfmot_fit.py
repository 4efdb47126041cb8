"""Subject: tfmot's pruning under tf_keras, which is the only Keras it knows."""

import os

from benchmarks.clock import epoch_clock
from benchmarks.problem import share_kept
from benchmarks.processes import Unavailable


class TfmotFit:
    """`fit` of a model whose masks, of constant sparsity, are made in the
    first step and then stay: its steps, without further pruning."""

    def __init__(self, problem):
        # Read when TensorFlow is imported, so it must be set before.
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
        try:
            import tensorflow_model_optimization as tfmot
            import tf_keras
        except ImportError as error:
            raise Unavailable(str(error)) from None
        pruning = tfmot.sparsity.keras
        self._problem = problem
        self._data = problem.data()
        self.model = pruning.prune_low_magnitude(
            _network(problem, tf_keras),
            pruning.ConstantSparsity(0.5, 0, end_step=1, frequency=1),
        )
        self.model.compile(
            tf_keras.optimizers.Adam(problem.learning_rate),
            tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        self._clock = epoch_clock(tf_keras.callbacks.Callback)
        self._callbacks = [pruning.UpdatePruningStep(), self._clock]
        self._strip = pruning.strip_pruning
        self.about = {
            "tensorflow_model_optimization": tfmot.__version__,
            "tf_keras": tf_keras.__version__,
        }

    def run(self):
        self.model.fit(
            *self._data,
            batch_size=self._problem.batch_size,
            steps_per_epoch=self._problem.steps,
            verbose=0,
            callbacks=self._callbacks,
        )
        return {"step_ms": 1e3 * self._clock.seconds / self._problem.steps}

    def finish(self):
        weights = self._strip(self.model).get_weights()
        return {"density": share_kept(w for w in weights if w.ndim > 1)}


def _network(problem, tf_keras):
    """The same network as that of `keras_lottery.models`."""
    layers = tf_keras.layers

    def conv():
        return layers.Conv2D(64, 3, padding="same", activation="relu")

    def dense(units):
        return layers.Dense(units, activation="relu")

    hidden = {
        "lenet_300_100": [layers.Flatten(), dense(300), dense(100)],
        "conv_2": [
            conv(),
            conv(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            dense(256),
            dense(256),
        ],
    }[problem.network]
    inputs = tf_keras.Input(problem.shape)
    return tf_keras.Sequential([inputs, *hidden, layers.Dense(10)])
