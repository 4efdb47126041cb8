"""Results: what each training came to, and the forms it is written in.

Rows of `results.csv`, a `pandas.DataFrame`, and curves for TensorBoard.
"""

import csv
import dataclasses
import functools
import io
import math
import os

from keras_lottery import display
from keras_lottery.backend import require_tensorflow


@dataclasses.dataclass(frozen=True)
class Result:
    """What one training came to. Accuracies are fractions.

    Args:
        trial: int, from 0.
        arm: str.
        level: int.
        density: float, kept / total of the mask it was trained under.
        iterations: int, the budget.
        early_stop_iteration: int, where the early-stop metric was best.
        early_stop_val_loss: float, there.
        early_stop_val_accuracy: float, there.
        early_stop_test_accuracy: float, there.
        final_train_accuracy: float, at the end, over all training examples.
        final_val_accuracy: float, at the end.
        final_test_accuracy: float, at the end.
        seconds: float, wall time of training and evaluation.
        backend: str, what trained it; empty in results of versions that did
            not note it.
    """

    trial: int
    arm: str
    level: int
    density: float
    iterations: int
    early_stop_iteration: int
    early_stop_val_loss: float
    early_stop_val_accuracy: float
    early_stop_test_accuracy: float
    final_train_accuracy: float
    final_val_accuracy: float
    final_test_accuracy: float
    seconds: float
    backend: str = ""


class Results(list):
    """A list of `Result`, by trial, arm and level.

    In a notebook it shows itself as a table and a chart.

    Example:

    ```python
    results = Experiment(rounds=3).run("runs/digits")
    results.choose("best").density
    results.to_pandas()
    results.plot().savefig("digits.png")
    ```
    """

    def __repr__(self):
        return display.results_text(self)

    def _repr_html_(self):
        return display.results_html(self)

    def choose(self, level="best", trial=0, arm="ticket"):
        """One level of one arm of one trial.

        Args:
            level: int; `"last"`; or `"best"`, the smallest density of which
                the validation accuracy at the end of training is not below
                that of level 0. The test set has no say in it.
            trial: int.
            arm: str.

        Returns:
            A `Result`.

        Raises:
            ValueError: If there is no such trial, arm or level.
        """
        rows = {r.level: r for r in self if (r.trial, r.arm) == (trial, arm)}
        if not rows:
            there = sorted({(r.trial, r.arm) for r in self})
            raise ValueError(
                "`trial` and `arm` must be of the run, which has trained "
                f"{there}. Received: trial={trial}, arm={arm!r}"
            )
        if level == "last":
            return rows[max(rows)]
        if level == "best" and 0 in rows:
            dense = rows[0].final_val_accuracy
            if math.isnan(dense):
                raise ValueError(
                    '`level` must be a number or "last" for a run without '
                    "accuracies: its model has no accuracy metric, or level 0 "
                    f"has diverged. Received: level={level!r}"
                )
            enough = [r for r in rows.values() if r.final_val_accuracy >= dense]
            return min(enough, key=lambda r: (r.density, r.level))
        if level not in rows:
            raise ValueError(
                '`level` must be "best", "last" or one of '
                f"{sorted(rows)}. Received: level={level!r}"
            )
        return rows[level]

    def to_pandas(self):
        """A `pandas.DataFrame`: a row each, the columns of `results.csv`."""
        import pandas

        rows = [dataclasses.asdict(result) for result in self]
        return pandas.DataFrame(rows, columns=COLUMNS)

    def plot(self, title=None):
        """Test accuracy and early-stop iteration against density.

        Points are means over trials; bars reach from the minimum to the
        maximum.

        Args:
            title: optional str.

        Returns:
            A `matplotlib.figure.Figure`, which a notebook shows.

        Raises:
            ValueError: If nothing was trained.
        """
        from keras_lottery.report import charts, figures

        if not self:
            raise ValueError("There must be results to plot. Received: none")
        figure = charts.accuracy_and_early_stop(self, title)
        # A notebook shows by itself the figures of pyplot alone.
        figure._repr_png_ = functools.partial(figures.render, figure, "png")
        return figure


COLUMNS = [field.name for field in dataclasses.fields(Result)]


def to_csv(results):
    """The text of `results.csv`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in results:
        row = dataclasses.asdict(result)
        row["seconds"] = round(row["seconds"], 3)
        writer.writerow(row.values())
    return text.getvalue()


def from_csv(text):
    """The `Results` in the text of a `results.csv`."""
    kinds = {field.name: field.type for field in dataclasses.fields(Result)}
    return Results(
        Result(**{n: kinds[n](row[n]) for n in COLUMNS if n in row})
        for row in csv.DictReader(io.StringIO(text))
    )


# TensorBoard.

_CURVES = ("val_loss", "val_accuracy", "train_loss")
_BY_LEVEL = (
    "density",
    "early_stop_iteration",
    "early_stop_val_loss",
    "early_stop_test_accuracy",
    "final_train_accuracy",
    "final_test_accuracy",
)


class Board:
    """Writes results for TensorBoard.

    Each training is a run of its own there, with its curves, and each arm is
    one by level.

    Args:
        directory: str or path-like.

    Raises:
        ImportError: Under another backend than TensorFlow, which writes them.
        tf.errors.OpError: If the directory cannot be created.
    """

    def __init__(self, directory):
        require_tensorflow("`tensorboard_dir`")
        import tensorflow as tf

        self.directory = os.fspath(directory)
        # What cannot be written is refused before anything is trained.
        tf.io.gfile.makedirs(self.directory)

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
        import tensorflow as tf

        # Without TensorBoard, which TensorFlow does not bring along.
        kind = tf.compat.v1.SummaryMetadata()
        kind.plugin_data.plugin_name = "scalars"
        writer = tf.summary.create_file_writer(
            os.path.join(self.directory, run)
        )
        with writer.as_default():
            for name, step, value in scalars:
                value = tf.constant(value, tf.float32)
                tf.summary.write(name, value, int(step), kind)
        writer.close()
