"""The size, latency and accuracy that each form of a ticket has."""

import dataclasses
import os
import tempfile
from typing import Any

import keras
import numpy as np
import pandas
import tensorflow as tf

from keras_lottery import datasets, models
from keras_lottery.checks import check_integer
from keras_lottery.export.compaction import compact
from keras_lottery.export.endpoint import Endpoint, named_examples
from keras_lottery.export.litert import to_litert
from keras_lottery.export.serving import to_serving
from keras_lottery.export.timing import check_batch_sizes, latencies
from keras_lottery.wrapping import wrap

BATCH_SIZES = (1, 32, 256)
# Number of training examples that give int8 the ranges of activations.
_REPRESENTATIVE = 256
# Of an accuracy that says nothing.
_EXAMPLES = 256


@dataclasses.dataclass(frozen=True)
class Gain:
    """The measurements of one form of a model.

    Args:
        form: str.
        bytes: int, on disk: of the directory that TensorFlow Serving loads,
            or of the LiteRT file.
        compressed_bytes: int, the same compressed.
        seconds: dict, batch size -> median seconds of a request.
        accuracy: float, on the test set, a fraction.
        parameters: int, numbers in the model's weights.
        flops: int, floating-point operations for one example, two for each
            multiplication and addition, whether or not a weight is zero.
        note: str, what was changed for this form.
    """

    form: str
    bytes: int
    compressed_bytes: int
    seconds: dict
    accuracy: float
    parameters: int
    flops: int
    note: str = ""


def to_frame(measurements):
    """A `pandas.DataFrame` of dataclasses, a row each.

    Args:
        measurements: iterable of dataclasses with `seconds`, a dict from
            batch size to seconds, of which each becomes a column.
    """
    rows = []
    for one in measurements:
        row = dataclasses.asdict(one)
        for size, seconds in row.pop("seconds").items():
            row[f"milliseconds_at_{size}"] = 1e3 * seconds
        rows.append(row)
    return pandas.DataFrame(rows)


class Gains(list):
    """A list of `Gain`, the dense model's first if there is one.

    Attributes:
        title: str, the ticket that was measured, one line.
    """

    title = ""

    def to_pandas(self):
        """A `pandas.DataFrame`: a row each."""
        return to_frame(self)

    def to_csv(self, path):
        """Writes the same as a CSV file, in a directory that need not exist.

        Args:
            path: str.
        """
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        self.to_pandas().to_csv(path, index=False)

    def table(self):
        """The same as text, with the title above it if there is one."""
        frame = self.to_pandas().set_index("form").rename_axis(None)
        kilobytes = "{:,.0f} kB".format
        columns = {
            "bytes": ("on disk", lambda count: kilobytes(count / 1e3)),
            "compressed_bytes": (
                "gzipped",
                lambda count: kilobytes(count / 1e3),
            ),
            **{
                f"milliseconds_at_{size}": (f"batch {size}", "{:.3g} ms".format)
                for size in self[0].seconds
            },
            "parameters": ("parameters", "{:,}".format),
            "flops": ("MFLOPs", lambda count: f"{count / 1e6:,.2f}"),
            "accuracy": ("accuracy", "{:.2%}".format),
            "note": ("", "  {}".format),
        }
        frame = pandas.DataFrame(
            {
                name: frame[column].map(form)
                for column, (name, form) in columns.items()
            }
        )
        # Notes are aligned to the left.
        frame[""] = frame[""].str.ljust(frame[""].str.len().max())
        lines = frame.to_string(col_space=9).splitlines()
        title = [self.title] if self.title else []
        return "\n".join([*title, *(line.rstrip() for line in lines)])


def measure_gains(
    model,
    test,
    *,
    dense=None,
    representative=None,
    batch_sizes: tuple = BATCH_SIZES,
):
    """Exports a ticket in every form and measures each of them.

    The forms are `dense`; `masked`, the ticket as it is; `compacted`, without
    dead units: SavedModels, called through `serving_default` as TensorFlow
    Serving does; and LiteRT files, run on one thread: `dense_litert`; the
    ticket as `litert` and as `int8`, compacted or with sparse kernels,
    whichever is measured to be faster. The forms are called in turn, each
    for a stretch of time.

    Args:
        model: `keras.Model`, wrapped or not: one image or vector in, one
            score for each class out. Functional or Sequential.
        test: pair (x, y) of arrays, y the classes.
        dense: optional `keras.Model`, trained without a mask, to compare
            with.
        representative: optional array of training examples for `int8`.
            Without them, this form is left out.
        batch_sizes: sequence of int.

    Returns:
        `Gains`.

    Raises:
        ValueError: If the model cannot be exported, or has a single score.

    Example:

    ```python
    print(measure_gains(model, (x_test, y_test)).table())
    ```
    """
    batch_sizes = check_batch_sizes(batch_sizes)
    if model.output_shape[-1] == 1:
        raise ValueError(
            "`model` must have a score for each class: the highest is taken. "
            f"Received: outputs of shape {model.output_shape}"
        )
    x, y = test
    smaller = compact(model)
    served: dict[str, Any] = {}
    files: dict[str, Any] = {}
    if dense is not None:
        served["dense"] = dense, ""
        files["dense_litert"] = dense, dense, None
    served["masked"] = model, ""
    served["compacted"] = smaller.model, _removed(smaller.removed)

    files["litert"] = model, smaller.model, None
    if representative is not None:
        representative = representative[:_REPRESENTATIVE]
        files["int8"] = model, smaller.model, "int8"
    chosen = {form: each for form, (each, _) in served.items()}
    with tempfile.TemporaryDirectory() as directory:
        exported = {
            form: (*_served(each, directory, form, x), note)
            for form, (each, note) in served.items()
        }
        for form, (whole, small, quantize) in files.items():
            chosen[form], file = fastest_litert(
                whole,
                small,
                os.path.join(directory, form),
                quantize,
                representative=representative,
                batch_sizes=batch_sizes,
            )
            size = file.bytes, file.compressed_bytes
            note = "compacted; " if chosen[form] is not whole else ""
            exported[form] = size, file.load(), note + file.encoding
        functions = [function for _, function, _ in exported.values()]
        seconds = latencies(functions, x, batch_sizes)
        return Gains(
            Gain(
                form=form,
                bytes=size[0],
                compressed_bytes=size[1],
                seconds=times,
                accuracy=accuracy(function, x, y),
                parameters=chosen[form].count_params(),
                flops=count_flops(chosen[form]),
                note=note,
            )
            for times, (form, (size, function, note)) in zip(
                seconds, exported.items()
            )
        )


def fastest_litert(model, smaller, path, quantize, **options):
    """Writes a model for LiteRT, compacted or not.

    Sparse kernels need blocks where they were pruned, and compaction moves
    them; so both files are written, and the faster one is kept.

    Args:
        model: `keras.Model`.
        smaller: `keras.Model`, the same compacted.
        path: str, of the file.
        quantize: as in `to_litert`.
        **options: further arguments of `to_litert`.

    Returns:
        A pair: the model that was chosen, and a `LitertFile`.
    """
    files = [
        (each, to_litert(each, f"{path}_{i}", quantize, **options))
        for i, each in enumerate({id(m): m for m in (model, smaller)}.values())
    ]
    if len(files) > 1:
        sizes = options["batch_sizes"]
        (x,) = named_examples(Endpoint(model).inputs).values()
        seconds = latencies([file.load() for _, file in files], x, sizes)
        # By the sum of ratios: each batch size counts the same.
        costs = [
            sum(one[size] / seconds[0][size] for size in sizes)
            for one in seconds
        ]
        best = files[int(np.argmin(costs))]
    else:
        best = files[0]
    os.replace(best[1].path, path)
    return best[0], dataclasses.replace(best[1], path=path)


def measure_width_gains(
    width: int,
    dataset: str = "digits",
    rounds: int = 3,
    rate: float = 0.7,
    epochs: int = 1,
    block_size: str | None = None,
    batch_sizes: tuple = BATCH_SIZES,
    verbose="auto",
    data_dir: str | None = None,
):
    """Measures what the ticket of a wide network gains.

    The network has two hidden layers of this width. It is pruned in a few
    large rounds.

    Args:
        width: int, units of each hidden layer.
        dataset: str, `"digits"` or a data set of TFDS.
        rounds: int, at least 1.
        rate: float, the fraction of the surviving weights that a round
            removes, and half of it in the output layer.
        epochs: int, of each training.
        block_size: optional str, what is pruned as one: `"4x1"`, `"channel"`.
        batch_sizes: tuple of int.
        verbose: as in `keras.Model.fit`.
        data_dir: optional str, where TFDS has the data set.

    Returns:
        `Gains`.
    """
    batch_sizes = check_batch_sizes(batch_sizes)
    check_integer("width", width, minimum=1)
    check_integer("rounds", rounds, minimum=1)
    check_integer("epochs", epochs, minimum=1)
    data = datasets.load(dataset, data_dir=data_dir)
    model, dense = _wide_network(width, data), _wide_network(width, data)
    wrap(model, rate=rate, output_rate=rate / 2, block_size=block_size)
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.lottery.find(
        *data.train,
        rounds=rounds,
        epochs=epochs,
        batch_size=100,
        verbose=verbose,
    )
    with model.lottery.trained(0):
        dense.set_weights(model.get_weights())
    gains = measure_gains(
        model,
        data.test,
        dense=dense,
        representative=data.train[0][:_REPRESENTATIVE],
        batch_sizes=batch_sizes,
    )
    gains.title = f"{model.lottery.density:.2%} of the prunable weights"
    return gains


def measure_network_gains(
    network: str,
    dataset: str = "cifar10",
    rate: float = 0.5,
    block_size: str | None = None,
    batch_sizes: tuple = BATCH_SIZES,
    data_dir: str | None = None,
):
    """Measures how fast a network of the paper is once it is pruned.

    It is pruned once, every kernel at one rate, and trained not at all: the
    speed does not depend on what the weights are, and the accuracy says
    nothing.

    Args:
        network: str, a name of `keras_lottery.models`.
        dataset: str, `"digits"` or a data set of TFDS, for its shapes.
        rate: float, the fraction of the weights that is removed.
        block_size: optional str, what is pruned as one: `"4x1"`, `"channel"`.
        batch_sizes: tuple of int.
        data_dir: optional str, where TFDS has the data set.

    Returns:
        `Gains`.
    """
    batch_sizes = check_batch_sizes(batch_sizes)
    data = datasets.load(dataset, data_dir=data_dir)
    dense, model = (
        models.get(network)(data.input_shape, data.classes, seed=0)
        for _ in range(2)
    )
    wrap(model, rate=rate, output_rate=rate, block_size=block_size)
    model.lottery.prune()
    x, y = data.test
    gains = measure_gains(
        model,
        (x[:_EXAMPLES], y[:_EXAMPLES]),
        dense=dense,
        representative=data.train[0][:_REPRESENTATIVE],
        batch_sizes=batch_sizes,
    )
    gains.title = (
        f"{model.lottery.density:.2%} of the prunable weights, not trained"
    )
    return gains


def _wide_network(width, data):
    return keras.Sequential(
        [
            keras.Input(data.input_shape, name="images"),
            keras.layers.Flatten(),
            keras.layers.Dense(width, "relu", name="hidden_1"),
            keras.layers.Dense(width, "relu", name="hidden_2"),
            keras.layers.Dense(data.classes, name="output"),
        ]
    )


def _served(model, directory, form, x):
    """(bytes, compressed bytes) and the function that is served."""
    served = to_serving(model, os.path.join(directory, form), examples=x[:32])
    return (served.bytes, served.compressed_bytes), served.load()


def count_flops(model):
    """Floating-point operations of a model for one example.

    Args:
        model: a built `keras.Model` with one input.

    Returns:
        An int: two for each multiplication and addition of a kernel, whether
        or not the weight is zero, and one for each other.
    """
    spec = tf.TensorSpec((1, *model.input_shape[1:]), model.inputs[0].dtype)
    function = tf.function(lambda x: model(x, training=False))
    graph = function.get_concrete_function(spec).graph
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(
        profiler.ProfileOptionBuilder.float_operation()
    ).with_empty_output()
    found = profiler.profile(graph, options=options.build())
    return int(found.total_float_ops)


def accuracy(function, x, y, batch_size=256):
    """The accuracy of a function from a batch to the scores of classes.

    Args:
        function: function of an array.
        x: array, examples on the first axis.
        y: array, their classes.
        batch_size: int. Defaults to 256.

    Returns:
        A float, a fraction.
    """
    scores = [
        function(x[i : i + batch_size]) for i in range(0, len(x), batch_size)
    ]
    return float((np.concatenate(scores).argmax(-1) == np.ravel(y)).mean())


def _removed(removed):
    units = ", ".join(f"{name} {count}" for name, count in removed.items())
    return f"units removed: {units}" if units else "no unit is dead"
