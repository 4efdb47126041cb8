"""What was gained: size, latency and accuracy of every form of a ticket."""

import dataclasses
import os
import statistics
import tempfile
import time

import numpy as np

from keras_lottery.checks import check_integer
from keras_lottery.export import interpreting
from keras_lottery.export.compaction import compact
from keras_lottery.export.litert import to_litert
from keras_lottery.export.serving import to_serving
from keras_lottery.export.sparse import sparsify

# A measurement is repeated for so long, in seconds, but not too often.
_SECONDS = 1.0
_REPETITIONS = (5, 200)


@dataclasses.dataclass(frozen=True)
class Gain:
    """What was measured of one form of a model.

    Args:
        form: str.
        bytes: int, on disk: of the directory that TensorFlow Serving loads,
            or of the LiteRT file.
        compressed_bytes: int, the same compressed.
        seconds: dict, batch size -> median seconds of a request.
        accuracy: float, on the test set, a fraction.
        note: str, what was done.
    """

    form: str
    bytes: int
    compressed_bytes: int
    seconds: dict
    accuracy: float
    note: str = ""


class Gains(list):
    """A list of `Gain`, the dense model's first if there is one."""

    def to_pandas(self):
        """A `pandas.DataFrame`: a row each."""
        import pandas

        rows = []
        for gain in self:
            row = dataclasses.asdict(gain)
            for size, seconds in row.pop("seconds").items():
                row[f"milliseconds_at_{size}"] = 1e3 * seconds
            rows.append(row)
        return pandas.DataFrame(rows)

    def table(self):
        """The same as lines of text."""
        batches = list(self[0].seconds)
        head = "".join(f"{f'batch {size}':>13}" for size in batches)
        lines = [
            f"{'':<10}{'on disk':>11}{'gzipped':>11}{head}{'accuracy':>10}"
        ]
        for gain in self:
            times = "".join(
                f"{1e3 * gain.seconds[size]:>10.3g} ms" for size in batches
            )
            lines.append(
                f"{gain.form:<10}{_kilobytes(gain.bytes)}"
                f"{_kilobytes(gain.compressed_bytes)}{times}"
                f"{gain.accuracy:>10.2%}  {gain.note}".rstrip()
            )
        return "\n".join(lines)


def measure_gains(
    model,
    test,
    *,
    dense=None,
    representative=None,
    batch_sizes=(1, 32, 256),
):
    """Exports a ticket in every form and measures each of them.

    The forms: `dense`; `masked`, the ticket as it is; `compacted`, without
    dead units; `sparse`, compacted, with those layers sparse for which it is
    faster; and `int8`, a LiteRT file of the compacted model. All but the last
    are SavedModels, called through `serving_default` as TensorFlow Serving
    does; requests to the forms take turns.

    Args:
        model: `keras.Model`, wrapped or not: one image or vector in, one
            score for each class out. Functional or Sequential.
        test: pair (x, y) of arrays, y the classes.
        dense: optional `keras.Model`, trained without a mask, to compare
            with.
        representative: optional array of training examples for `int8`.
            Defaults to `None`: this form is left out.
        batch_sizes: sequence of int.

    Returns:
        `Gains`.

    Raises:
        ValueError: If the model cannot be exported.

    Example:

    ```python
    print(measure_gains(model, (x_test, y_test)).table())
    ```
    """
    for size in batch_sizes:
        check_integer("batch_sizes", size, minimum=1)
    x, y = test
    smaller = compact(model)
    sparse = sparsify(smaller.model, batch_sizes)
    forms = {"dense": (dense, "")} if dense is not None else {}
    forms["masked"] = model, ""
    forms["compacted"] = smaller.model, _removed(smaller.removed)
    forms["sparse"] = sparse.model, _sparse(sparse.layers)
    with tempfile.TemporaryDirectory() as directory:
        made = {
            form: (*_served(each, directory, form, x), note)
            for form, (each, note) in forms.items()
        }
        if representative is not None:
            path = os.path.join(directory, "int8.tflite")
            made["int8"] = (
                *_lite(smaller.model, path, representative),
                "LiteRT, one thread",
            )
        answers = {form: answer for form, (_, answer, _) in made.items()}
        seconds = _latencies(answers, x, batch_sizes)
        return Gains(
            Gain(form, *size, seconds[form], accuracy(answer, x, y), note)
            for form, (size, answer, note) in made.items()
        )


def _served(model, directory, form, x):
    """(bytes, compressed bytes) and the function that is served."""
    served = to_serving(model, os.path.join(directory, form), examples=x[:32])
    return (served.bytes, served.compressed_bytes), served.load()


def _lite(model, path, representative):
    written = to_litert(
        model, path, "int8", representative=representative[:256]
    )
    with open(path, "rb") as file:
        content = file.read()
    (name,) = interpreting.names(content)
    prepared = {}

    def answer(batch):
        # An interpreter makes room for batches of one size.
        if len(batch) not in prepared:
            prepared[len(batch)] = interpreting.runner(content)
        return next(iter(prepared[len(batch)](**{name: batch}).values()))

    return (written.bytes, written.compressed_bytes), answer


def _latencies(answers, x, batch_sizes):
    """Dict, form -> dict, batch size -> median seconds."""
    seconds = {form: {} for form in answers}
    for size in batch_sizes:
        batch = np.resize(x, (size, *x.shape[1:]))
        _once(answers, batch)  # Warms up.
        rounds = [_once(answers, batch)]
        low, high = _REPETITIONS
        count = _SECONDS / sum(rounds[0].values())
        for _ in range(int(min(max(count, low), high))):
            rounds.append(_once(answers, batch))
        for form in answers:
            seconds[form][size] = statistics.median(r[form] for r in rounds)
    return seconds


def _once(answers, batch):
    taken = {}
    for form, answer in answers.items():
        began = time.perf_counter()
        answer(batch)
        taken[form] = time.perf_counter() - began
    return taken


def accuracy(answer, x, y, batch_size=256):
    """The accuracy of a function from a batch to the scores of classes.

    Args:
        answer: function of an array.
        x: array, examples on the first axis.
        y: array, their classes.
        batch_size: int. Defaults to 256.

    Returns:
        A float, a fraction.
    """
    scores = [
        answer(x[i : i + batch_size]) for i in range(0, len(x), batch_size)
    ]
    return float((np.concatenate(scores).argmax(-1) == np.ravel(y)).mean())


def _removed(removed):
    units = ", ".join(f"{name} {count}" for name, count in removed.items())
    return f"units removed: {units}" if units else "no unit is dead"


def _sparse(layers):
    chosen = [choice.name for choice in layers if choice.chosen]
    if chosen:
        return f"sparse: {', '.join(chosen)}"
    return "no layer is faster sparse at every batch size"


def _kilobytes(count):
    return f"{count / 1e3:>8,.0f} kB"
