"""Accuracy against latency and size: the picture to choose a pattern by."""

import dataclasses
import os
import statistics
import tempfile

import pandas
import tqdm.auto

from keras_lottery.checks import check_choice
from keras_lottery.experiments import Run
from keras_lottery.export.compaction import compact
from keras_lottery.export.gains import (
    BATCH_SIZES,
    accuracy,
    fastest_litert,
    to_frame,
)
from keras_lottery.export.timing import check_batch_sizes, latencies

_FORMS = {"float32": None, "int8": "int8"}
# Number of training examples that give int8 the ranges of activations.
_REPRESENTATIVE = 256


@dataclasses.dataclass(frozen=True)
class Point:
    """One level of one arm, as it is served.

    Args:
        run: str, the name of the run's directory.
        block_size: str, what the run prunes as one; `"1x1"`, single weights.
        form: str, `"float32"` or `"int8"`.
        arm: str.
        level: int.
        density: float, kept / total of the prunable weights.
        accuracy: float, on the test set at the end of training: the mean over
            trials, a fraction.
        lowest: float, the lowest of a trial.
        highest: float, the highest of a trial.
        trials: int.
        parameters: int, of the model that was written.
        bytes: int, of the LiteRT file of one trial's ticket.
        seconds: dict, batch size -> median seconds of it, on one thread.
        file_accuracy: float, what that file was measured to have.
        kernels: str, which kernels of LiteRT run it.
    """

    run: str
    block_size: str
    form: str
    arm: str
    level: int
    density: float
    accuracy: float
    lowest: float
    highest: float
    trials: int
    parameters: int
    bytes: int
    seconds: dict
    file_accuracy: float
    kernels: str


class Tradeoff(list):
    """A list of `Point`."""

    def to_pandas(self):
        """A `pandas.DataFrame`: a row each."""
        return to_frame(self)

    def to_csv(self, path):
        """Writes the same as a CSV file.

        Args:
            path: str.
        """
        self.to_pandas().to_csv(path, index=False, float_format="%.6g")

    def table(self):
        """The same as text, of the arm `ticket`."""
        frame = self.to_pandas()
        frame = frame[frame["arm"] == "ticket"]
        columns = {
            "pruned as one": frame["block_size"],
            "form": frame["form"],
            "density": frame["density"].map("{:.2%}".format),
            "accuracy": frame["accuracy"].map("{:.2%}".format),
            **{
                f"batch {size}": frame[f"milliseconds_at_{size}"].map(
                    "{:.3g} ms".format
                )
                for size in self[0].seconds
            },
            "on disk": frame["bytes"].map(lambda n: f"{n / 1e3:,.1f} kB"),
            "kernels": frame["kernels"],
        }
        return pandas.DataFrame(columns).to_string(index=False)


def measure_tradeoff(
    run_dirs: tuple,
    forms: tuple = ("float32",),
    batch_sizes: tuple = BATCH_SIZES,
    trial: int = 0,
    data_dir: str | None = None,
):
    """Measures what each level of some runs is worth where it is served.

    The ticket of each level is written for LiteRT, compacted or with sparse
    kernels, whichever is measured to be faster. Arms that keep the same masks,
    as `reinit` does, have the same latency and another accuracy. Files are
    called in turn, each for a stretch of time.

    Args:
        run_dirs: tuple of str, directories of runs of one network.
        forms: tuple of str, `"float32"` and `"int8"`.
        batch_sizes: tuple of int.
        trial: int, of which the tickets are written.
        data_dir: optional str, where TFDS has the data set.

    Returns:
        A `Tradeoff`: a `Point` for each level of the arms `ticket` and
        `reinit` of each run, in each form.

    Raises:
        ValueError: If there is no such run or trial, or a level cannot be
            exported.

    Example:

    ```python
    measure_tradeoff(("runs/single", "runs/blocks")).to_csv("tradeoff.csv")
    ```
    """
    for form in forms:
        check_choice("forms", form, list(_FORMS))
    batch_sizes = check_batch_sizes(batch_sizes)
    runs = [Run.open(path) for path in run_dirs]
    for run in runs:
        if not _of(run, "ticket", trial):
            raise ValueError(
                "`trial` must be one whose tickets every run has trained. "
                f"Received: trial={trial}, of {run.directory!r}"
            )
    places = [
        (run, level, form)
        for run in runs
        for form in forms
        for level in sorted({r.level for r in _of(run, "ticket", trial)})
    ]
    with tempfile.TemporaryDirectory() as directory:
        written = []
        # Shown on a terminal and in a notebook.
        shown = tqdm.auto.tqdm(places, unit="file", disable=None, leave=False)
        for i, (run, level, form) in enumerate(shown):
            path = os.path.join(directory, f"{i}.tflite")
            trained = run.trained_model(level, trial, data_dir=data_dir)
            written.append(_write(trained, path, form, batch_sizes))
        examples = trained.data.test[0]
        seconds = latencies(
            [file.load() for _, file, _ in written], examples, batch_sizes
        )
    return Tradeoff(
        point
        for (run, level, form), one, times in zip(places, written, seconds)
        for point in _points(run, level, form, one, times)
    )


def _of(run, arm, trial=None):
    return [
        result
        for result in run.results
        if result.arm == arm and trial in (None, result.trial)
    ]


def _write(trained, path, form, batch_sizes):
    """(parameters, the file, its accuracy) of a level."""
    data = trained.data
    model, file = fastest_litert(
        trained.model,
        compact(trained.model).model,
        path,
        _FORMS[form],
        representative=data.train[0][:_REPRESENTATIVE],
        batch_sizes=batch_sizes,
    )
    return model.count_params(), file, accuracy(file.load(), *data.test)


def _points(run, level, form, written, seconds):
    parameters, file, file_accuracy = written
    kinds = [layer.kernel for layer in file.layers]
    for arm in ("ticket", "reinit"):
        found = [r for r in _of(run, arm) if r.level == level]
        if not found:
            continue
        reached = [result.final_test_accuracy for result in found]
        yield Point(
            run=os.path.basename(os.path.abspath(run.directory)),
            block_size=run.experiment.get("block_size") or "1x1",
            form=form,
            arm=arm,
            level=level,
            density=found[0].density,
            accuracy=statistics.fmean(reached),
            lowest=min(reached),
            highest=max(reached),
            trials=len(reached),
            parameters=parameters,
            bytes=file.bytes,
            seconds=seconds,
            file_accuracy=file_accuracy,
            kernels=", ".join(
                f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))
            ),
        )
