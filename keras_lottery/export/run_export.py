"""A trained level of a run: its model, its export, and what that gains."""

import dataclasses
import os

from keras_lottery.checks import check_choice
from keras_lottery.experiments import Result, Run
from keras_lottery.export import compaction
from keras_lottery.export.gains import BATCH_SIZES, accuracy, measure_gains
from keras_lottery.export.litert import LitertFile, to_litert
from keras_lottery.export.serving import Served, to_serving
from keras_lottery.files import check_directory

# Number of examples to verify an exported model on, and of those that give
# int8 the ranges of activations.
_EXAMPLES = 256
_BEST = (
    ", the smallest density whose validation accuracy at the end is not below "
    "level 0's"
)
# The arguments that only one format has, and their defaults.
_OPTIONS = {
    "serving": {"version": None, "softmax": False},
    "litert": {"quantize": None, "sparse": False},
}


@dataclasses.dataclass(frozen=True)
class ExportedRun:
    """What `export_run` wrote.

    Args:
        result: `Result` of the level.
        written: `Served` or `LitertFile`.
        accuracy_before: float, the Keras model's on the test set, a fraction.
        accuracy: float, the same of what was written.
        examples: int, number of test examples.
        level: int or str, as it was asked for.
    """

    result: Result
    written: Served | LitertFile
    accuracy_before: float
    accuracy: float
    examples: int
    level: int | str

    def summary(self):
        """What was written, as several lines of text."""
        row = self.result
        lines = [
            f"level {row.level} of arm {row.arm}, trial {row.trial}: "
            f"{100 * row.density:.2f} % of the prunable weights"
            f"{_BEST * (self.level == 'best')}",
            f"written: {self.written.path}",
            self.written.summary(),
            f"test accuracy: {100 * self.accuracy_before:.2f} % before, "
            f"{100 * self.accuracy:.2f} % after, of {self.examples:,} examples",
        ]
        if isinstance(self.written, Served):
            lines += ["", self.written.instructions()]
        return "\n".join(lines)


def model_of_run(run_dir, level="best", trial=0, arm="ticket", data_dir=None):
    """The model of a trained level of a run.

    Args:
        run_dir: str or path-like, a directory of `tools/find_ticket.py`.
        level: int, also as text; `"last"`; or `"best"`, the smallest density
            of which the validation accuracy at the end of training is not
            below that of level 0. The test set has no influence on it.
        trial: int.
        arm: str, one that keeps its tickets.
        data_dir: optional str, where TFDS has the data set.

    Returns:
        A `RunModel`: the wrapped `model` with the weights that the level was
        trained to, the `result` and the `data`.

    Raises:
        ValueError: If there is no such run, trial, arm or level.

    Example:

    ```python
    run = model_of_run("runs/lenet_mnist", level="best")
    x, y = run.data.test
    to_serving(run.model, "served/lenet", examples=x[:256])
    ```
    """
    if isinstance(level, str) and level.lstrip("-").isdigit():
        level = int(level)
    return Run.open(run_dir).trained_model(level, trial, arm, data_dir)


def export_run(
    run_dir,
    output_dir,
    format: str = "serving",
    *,
    level="best",
    trial: int = 0,
    arm: str = "ticket",
    version: int | None = None,
    quantize: str | None = None,
    compact: bool = False,
    sparse: bool = False,
    softmax: bool = False,
    name: str | None = None,
    data_dir: str | None = None,
):
    """Exports a trained level of a run, and measures its accuracy again.

    Args:
        run_dir: str or path-like, a directory of `tools/find_ticket.py`.
        output_dir: str or path-like, the directory of the model's versions,
            or the one to write `<name>.tflite` to.
        format: `"serving"` or `"litert"`.
        level: a number; `"last"`; or `"best"`, the smallest density at which
            training ends with a validation accuracy not below that of level
            0.
        trial: int.
        arm: str, one that keeps its tickets.
        version: optional int, with `"serving"`. Defaults to the next one.
        quantize: with `"litert"`: `None`, `"dynamic"` or `"int8"`.
        compact: bool, whether units that are never used are removed.
        sparse: bool, with `"litert"`: whether weights are stored without
            their zeros in any case, and not only where that is measured to be
            no slower.
        softmax: bool, with `"serving"`: probabilities instead of logits.
        name: optional str, the name to serve it by, or of the file. Defaults
            to that of `output_dir`.
        data_dir: optional str, where TFDS has the data set.

    Returns:
        An `ExportedRun`.

    Raises:
        ValueError: If there is no such run, trial, arm or level, an argument
            is wrong, or the level cannot be exported.
        OSError: If it cannot be written.

    Example:

    ```python
    print(export_run("runs/lenet_mnist", "served/lenet").summary())
    ```
    """
    _check_format(
        format,
        {
            "version": version,
            "softmax": softmax,
            "quantize": quantize,
            "sparse": sparse,
        },
    )
    check_directory("output_dir", output_dir)
    run = model_of_run(run_dir, level, trial, arm, data_dir)
    if format == "serving":
        written = to_serving(
            run.model,
            output_dir,
            version,
            compact=compact,
            softmax=softmax,
            examples=run.data.test[0][:_EXAMPLES],
            name=name,
            metadata={
                "run_dir": os.path.abspath(run_dir),
                **dataclasses.asdict(run.result),
            },
        )
    else:
        name = name or os.path.basename(os.path.abspath(output_dir))
        written = to_litert(
            compaction.compact(run.model).model if compact else run.model,
            os.path.join(output_dir, f"{name}.tflite"),
            quantize,
            representative=run.data.train[0][:_EXAMPLES],
            sparse=sparse or "auto",
        )
    x, y = run.data.test
    return ExportedRun(
        run.result,
        written,
        accuracy_before=accuracy(lambda batch: run.model(batch).numpy(), x, y),
        accuracy=accuracy(written.load(), x, y),
        examples=len(x),
        level=level,
    )


def measure_run_gains(
    run_dir,
    level="best",
    trial: int = 0,
    batch_sizes: tuple = BATCH_SIZES,
    data_dir: str | None = None,
):
    """Measures what a level of a run gains, compared with level 0.

    Args:
        run_dir: str or path-like, a directory of `tools/find_ticket.py`.
        level: a number; `"last"`; or `"best"`, the smallest density at which
            training ends with a validation accuracy not below that of level
            0.
        trial: int.
        batch_sizes: tuple of int.
        data_dir: optional str, where TFDS has the data set.

    Returns:
        `Gains`.

    Raises:
        ValueError: If there is no such run, trial or level.
    """
    run = model_of_run(run_dir, level, trial, data_dir=data_dir)
    dense = model_of_run(run_dir, 0, trial, data_dir=data_dir)
    gains = measure_gains(
        run.model,
        run.data.test,
        dense=dense.model,
        representative=run.data.train[0][:_EXAMPLES],
        batch_sizes=batch_sizes,
    )
    gains.title = (
        f"level {run.result.level}: {run.result.density:.2%} of the prunable "
        "weights"
    )
    return gains


def _check_format(format, options):
    check_choice("format", format, list(_OPTIONS))
    for other, defaults in _OPTIONS.items():
        for name, default in defaults.items():
            if other != format and options[name] != default:
                raise ValueError(
                    f"`{name}` must not be given with format={format!r}. "
                    f"Received: {name}={options[name]!r}"
                )
