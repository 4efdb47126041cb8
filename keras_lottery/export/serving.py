"""to_serving: a ticket becomes a directory that TensorFlow Serving loads.

The directory holds one function, its variables, and what goes with them:
warm-up requests, an example request, a `models.config` and a provenance file.
It was run in a process without Keras, and compared, before it has its name.
"""

import contextlib
import dataclasses
import json
import os
import re
import zlib

import keras
import numpy as np
import tensorflow as tf

from keras_lottery.export import asking, compaction, provenance, saving, warmup
from keras_lottery.export.checking import check
from keras_lottery.export.endpoint import Endpoint
from keras_lottery.export.examples import named_examples
from keras_lottery.export.sparse import sparsify
from keras_lottery.export.versions import NewVersion
from keras_lottery.rewinding import model_state
from keras_lottery.scopes import check_model
from keras_lottery.wrapping import LotteryModel

PROVENANCE_FILE = os.path.join("assets.extra", "provenance.json")
CONFIG_FILE = os.path.join("assets.extra", "models.config")


@dataclasses.dataclass(frozen=True)
class Served:
    """What `to_serving` wrote, and what was found when it was checked.

    Args:
        path: str, the version directory.
        version: int.
        name: str, the model is served by.
        inputs: dict, name -> `tf.TensorSpec`.
        outputs: dict, name -> `tf.TensorSpec`.
        examples: int, how many it was checked on.
        max_difference: float, the greatest one from the Keras model's
            outputs, absolute.
        weights: int, floating-point numbers in the file.
        zeros: int, those of them that are exactly zero.
        bytes: int, size of the directory.
        compressed_bytes: int, the same with each file compressed by zlib.
        warmup: int, warm-up requests.
    """

    path: str
    version: int
    name: str
    inputs: dict
    outputs: dict
    examples: int
    max_difference: float
    weights: int
    zeros: int
    bytes: int
    compressed_bytes: int
    warmup: int

    def load(self):
        """The function that is served, of a model with one input and output.

        Returns:
            A function from a batch, an array, to the array of outputs.
        """
        loaded = tf.saved_model.load(self.path)
        serve = loaded.signatures["serving_default"]
        (taken,), (given,) = self.inputs, self.outputs

        def answer(batch, loaded=loaded):  # Which the signature does not keep.
            return serve(**{taken: tf.constant(batch)})[given].numpy()

        return answer

    def summary(self):
        """The result of the check, one line."""
        return (
            f"verified: max difference {self.max_difference:.2g} on "
            f"{self.examples:,} examples; {self.zeros:,} of {self.weights:,} "
            f"weights are zero; {_megabytes(self.bytes)} on disk, "
            f"{_megabytes(self.compressed_bytes)} gzipped"
        )

    def __str__(self):
        return self.summary()

    @property
    def base_dir(self):
        """What TensorFlow Serving is pointed at."""
        return os.path.dirname(self.path)

    def instructions(self):
        """How to serve it and how to ask it, to copy."""
        config = asking.models_config(self.name).strip()
        request = asking.grpc_request(self.name, self.inputs, self.outputs)
        parts = {
            "Serve it": asking.docker_run(self.base_dir, self.name),
            "or as one of several models, by a models.config": config,
            "Ask by REST": asking.curl(self.path, self.name),
            "Ask by gRPC, in Python": request,
        }
        told = [f"# {title}\n{text}" for title, text in parts.items()]
        if not self.warmup:
            told.append(f"# {warmup.MISSING}")
        return "\n\n".join(told)


def to_serving(
    model,
    base_dir,
    version=None,
    *,
    level=None,
    compact=False,
    sparse=None,
    preprocess=None,
    softmax=False,
    examples=None,
    name=None,
    tolerance=1e-4,
    metadata=None,
):
    """Writes a model for TensorFlow Serving, and checks what it wrote.

    `<base_dir>/<version>/` appears in one step, after a process that can
    import neither Keras nor this library has loaded it, answered `examples`
    through the signature `serving_default`, and agreed with the Keras model.
    Loading it takes TensorFlow alone.

    Inputs and outputs are named by dictionary keys or by the layers, where
    these were given names; else `"inputs"` and `"outputs"`, or `"input_1"`,
    `"input_2"` where there are several. Batches may have any size.

    Args:
        model: `keras.Model`, wrapped or not. Its weights as they are now are
            written, unless `level` says otherwise.
        base_dir: str or path-like, the directory of the model's versions.
        version: optional int, at least 1. Defaults to the next one.
        level: optional int, a trained level of a wrapped model's search, -1
            for the last.
        compact: bool, whether units that are never used are removed first.
        sparse: `None`; `"auto"`: dense layers for which it is measured to be
            faster are multiplied as sparse matrices; or a tuple, the sizes
            of the batches to measure it at.
        preprocess: optional callable of TensorFlow or Keras operations, from
            raw inputs to the model's. It takes what `examples` are, or what
            its `input_signature` says if it is a `tf.function` with one.
        softmax: bool, whether a softmax goes after every output.
        examples: optional nest of arrays that the check runs on, as the
            model (or `preprocess`) takes them. Defaults to made-up ones.
        name: optional str, to serve it by: letters, digits, `_`, `-` and
            `.`. Defaults to that of `base_dir`.
        tolerance: float, the greatest difference allowed, as a fraction of
            the greatest absolute output (of 1 where that is less).
        metadata: optional dict, kept in the provenance file, such as
            measured accuracies.

    Returns:
        A `Served`.

    Raises:
        ValueError: If an argument is wrong, the model cannot be served, or
            the written one does not answer as the Keras model does. Nothing
            is left behind.
        OSError: If it cannot be written. Nothing is left behind.

    Example:

    ```python
    served = keras_lottery.export.to_serving(
        model, "served/digits", examples=x_test[:256], softmax=True
    )
    print(served.summary())
    print(served.instructions())
    ```
    """
    new = NewVersion(base_dir, version)
    name = _check_name(name, new.base_dir)
    _check_sparse(sparse)
    with weights_of(model, level) as index:
        endpoint = Endpoint(model, preprocess, softmax, examples)
        inputs = named_examples(endpoint.inputs, examples)
        # First of all, since it builds what is not built yet.
        expected = endpoint.answers(inputs)
        smaller, changes = _smaller(model, compact, sparse)
        function = endpoint.of(smaller).trace()
        saving.bare_module(function, holders=_layers(smaller, preprocess))
        story = provenance.describe(model, index)
        with new, _one_kind_of_error(new.base_dir):
            saving.save(
                function,
                new.part,
                {id(v.value): p for p, v in model_state(smaller).items()},
                _layers(smaller, preprocess),
            )
            checked = check(new.part, inputs, expected, tolerance)
            found = dataclasses.asdict(checked)
            story = {**story, **changes, **found, "metadata": metadata or {}}
            asked = _write_extras(new.part, name, inputs, story)
            size, compressed = sizes(new.part)
    return Served(
        path=new.path,
        version=new.version,
        name=name,
        inputs=endpoint.inputs,
        outputs=_specs(function.structured_outputs),
        **found,
        bytes=size,
        compressed_bytes=compressed,
        warmup=asked,
    )


@contextlib.contextmanager
def weights_of(model, level=None):
    """Context manager: the model with the weights to be exported.

    Args:
        model: `keras.Model`, wrapped or not.
        level: optional int, a trained level of a wrapped model's search.

    Yields:
        The level, an int, or `None` where the model tells of none.

    Raises:
        ValueError: If there is no such level, if the model is not built, or
            if without `level` it holds but the weights it was rewound to.
    """
    if not isinstance(model, LotteryModel):
        check_model(model)
        if level is not None:
            raise ValueError(
                "`level` must be None for a model that is not wrapped. "
                f"Received: level={level!r}"
            )
        if not model.built:
            raise ValueError(
                "`model` must be built, and trained, to be exported. "
                f"Received: model={model.name!r}"
            )
        yield None
    elif level is None:
        _check_not_rewound(model.lottery)
        yield model.lottery.level
    else:
        with model.lottery.trained(level):
            if level == -1:
                level = model.lottery.levels[-1].index
            yield level


def sizes(directory):
    """Bytes of a directory's files, as they are and compressed by zlib."""
    size = compressed = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                content = file.read()
            size += len(content)
            compressed += len(zlib.compress(content))
    return size, compressed


def _smaller(model, compact, sparse):
    """The model as it is to be written, and what was changed for that."""
    changes = {}
    if compact:
        result = compaction.compact(model)
        model = result.model
        changes["removed"], changes["left"] = result.removed, result.left
    if sparse:
        sizes = {} if sparse == "auto" else {"batch_sizes": sparse}
        result = sparsify(model, **sizes)
        model, changes["sparse"] = result.model, result.layers
    return model, changes


def _write_extras(directory, name, inputs, story):
    """What goes with the model; returns the number of warm-up requests."""
    files = {
        PROVENANCE_FILE: json.dumps(story, indent=2, default=_plain),
        CONFIG_FILE: asking.models_config(name),
        asking.REQUEST_FILE: asking.rest_request(inputs),
    }
    os.makedirs(os.path.join(directory, "assets.extra"), exist_ok=True)
    for path, text in files.items():
        with open(os.path.join(directory, path), "w") as file:
            file.write(text)
    return warmup.write(directory, name, inputs)


def _plain(value):
    """What JSON knows no form for: NumPy's numbers, dataclasses."""
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    return value.item() if hasattr(value, "item") else str(value)


def _layers(model, preprocess):
    """Every layer, whose attributes may be lookup tables."""
    roots = [model]
    if isinstance(preprocess, keras.layers.Layer):
        roots.append(preprocess)
    return [layer for root in roots for layer in root._flatten_layers()]


def _specs(outputs):
    return {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name)
        for name, tensor in outputs.items()
    }


def _check_name(name, base_dir):
    if name is None:
        name = os.path.basename(base_dir)
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
        raise ValueError(
            "`name` must be letters, digits, `_`, `-` and `.`, since it goes "
            f"into an address. Received: name={name!r}"
        )
    return name


def _check_sparse(sparse):
    if sparse not in (None, "auto") and not isinstance(sparse, tuple):
        raise ValueError(
            '`sparse` must be None, "auto" or a tuple of batch sizes. '
            f"Received: sparse={sparse!r}"
        )


def _check_not_rewound(pruner):
    """A rewound model is never what is to be served."""
    if not pruner.levels:
        return
    masks, point = pruner.masks, pruner.rewind_point
    for path, variable in model_state(pruner.model).items():
        if path in masks:
            rewound = np.where(masks[path], point.weights[path], 0)
            if not np.array_equal(np.asarray(variable), rewound):
                return
    raise ValueError(
        "`level` must say which trained level is meant, since the model was "
        "rewound and holds the weights it started from. Trained: "
        f"{[level.index for level in pruner.levels]}. Received: level=None"
    )


@contextlib.contextmanager
def _one_kind_of_error(base_dir):
    """TensorFlow has errors of its own for a disk that is full."""
    try:
        yield
    except tf.errors.OpError as error:
        told = error.message.strip().partition("\n")[0]
        # Without the names of a node and an operation.
        told = re.sub(r"\{\{.*?\}\} | \[Op:\w+\]", "", told)
        raise OSError(f"{base_dir} could not be written: {told}") from error


def _megabytes(size):
    return f"{size / 1e6:.2f} MB"
