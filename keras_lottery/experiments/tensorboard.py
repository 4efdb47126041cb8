"""Board: the curves of an experiment as TensorBoard reads them."""

import os

import tensorflow as tf

_CURVES = ("val_loss", "val_accuracy", "train_loss")
_BY_LEVEL = (
    "density",
    "early_stop_iteration",
    "early_stop_val_loss",
    "early_stop_test_accuracy",
    "final_train_accuracy",
    "final_test_accuracy",
)
# Written without TensorBoard, which TensorFlow does not bring along.
_SCALAR = tf.compat.v1.SummaryMetadata()
_SCALAR.plugin_data.plugin_name = "scalars"


class Board:
    """Writes each training as a run of its own, and each arm by level.

    Args:
        directory: str or path-like.
    """

    def __init__(self, directory):
        self.directory = os.fspath(directory)

    def add(self, result, curves):
        """Writes what a training came to.

        Args:
            result: `Result`.
            curves: dict of arrays: `iterations` and what was measured there.
        """
        arm = os.path.join(f"trial_{result.trial}", result.arm)
        steps = curves["iterations"]
        self._write(
            os.path.join(arm, f"level_{result.level:02d}"),
            [
                (name, step, value)
                for name in _CURVES
                for step, value in zip(steps, curves[name])
            ],
        )
        self._write(
            arm,
            [
                (f"by level/{name}", result.level, getattr(result, name))
                for name in _BY_LEVEL
            ],
        )

    def _write(self, run, scalars):
        writer = tf.summary.create_file_writer(
            os.path.join(self.directory, run)
        )
        with writer.as_default():
            for name, step, value in scalars:
                value = tf.constant(value, tf.float32)
                tf.summary.write(name, value, int(step), _SCALAR)
        writer.close()
