"""to_serving: exports a ticket to a directory that TensorFlow Serving loads.

The directory holds one function, its variables, and the files that go with
them. It gets its name after it was run in a process without Keras, and its
outputs were compared with the Keras model's.
"""

import contextlib
import dataclasses
import os
import re
import zlib

import keras
import tensorflow as tf

from keras_lottery.export import compaction, serving_files
from keras_lottery.export.endpoint import Endpoint, named_examples
from keras_lottery.export.saved_model import (
    bare_module,
    verify_saved_model,
    write_saved_model,
)
from keras_lottery.keras_internals import flatten_layers
from keras_lottery.rewinding import model_state
from keras_lottery.scopes import check_model
from keras_lottery.wrapping import LotteryModel


@dataclasses.dataclass(frozen=True)
class Served:
    """What `to_serving` wrote, and the result of its verification.

    Args:
        path: str, the version directory.
        version: int.
        name: str, the name the model is served by.
        inputs: dict, name -> `tf.TensorSpec`.
        outputs: dict, name -> `tf.TensorSpec`.
        examples: int, number of examples it was verified on.
        max_difference: float, the greatest one from the Keras model's
            outputs, absolute.
        weights: int, floating-point numbers in variables of rank 2 or more.
        zeros: int, those of them that are exactly zero.
        bytes: int, size of the directory.
        compressed_bytes: int, the same with each file compressed by zlib.
        warmup: int, number of warm-up requests.
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
        (given,), (returned,) = self.inputs, self.outputs
        dtype = serve.structured_input_signature[1][given].dtype

        # The signature alone does not keep the loaded variables alive.
        def predict(batch, loaded=loaded):
            batch = tf.constant(batch, dtype)
            return serve(**{given: batch})[returned].numpy()

        return predict

    def summary(self):
        """The result of the verification, one line."""
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
        """The directory to point TensorFlow Serving at."""
        return os.path.dirname(self.path)

    def instructions(self):
        """How to serve the model and how to send requests, to be copied."""
        config = serving_files.models_config(self.name).strip()
        parts = {
            "Serve it": serving_files.docker_run(self.base_dir, self.name),
            "or as one of several models, by a models.config": config,
            "Ask by REST": serving_files.curl(self.path, self.name),
            "Ask by gRPC, in Python": serving_files.grpc_request(
                self.name, self.inputs, self.outputs
            ),
        }
        lines = [f"# {title}\n{text}" for title, text in parts.items()]
        if not self.warmup:
            lines.append(f"# {serving_files.WARMUP_MISSING}")
        return "\n\n".join(lines)


def to_serving(
    model,
    base_dir,
    version=None,
    *,
    level=None,
    compact=False,
    preprocess=None,
    softmax=False,
    examples=None,
    name=None,
    tolerance=1e-4,
    metadata=None,
):
    """Writes a model for TensorFlow Serving, and verifies what it wrote.

    `<base_dir>/<version>/` appears in one step, after a process that can
    import neither Keras nor this library has loaded it, computed the outputs
    for `examples` through the signature `serving_default`, and these were
    found to be the Keras model's. Loading it takes TensorFlow alone.

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
        preprocess: optional callable of TensorFlow or Keras operations, from
            raw inputs to the model's. The raw inputs are specified by its
            `input_signature` if it is a `tf.function` that has one, else by
            `examples`.
        softmax: bool, whether softmax is applied to every output.
        examples: optional nest of arrays that the model is verified on, as
            it (or `preprocess`) takes them. Defaults to random ones.
        name: optional str, the name to serve it by: letters, digits, `_`,
            `-` and `.`. Defaults to that of `base_dir`.
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
    new = serving_files.VersionDirectory(base_dir, version)
    name = _checked_name(name, new.base_dir)
    with weights_of(model, level) as index:
        endpoint = Endpoint(model, preprocess, softmax, examples)
        inputs = named_examples(endpoint.inputs, examples)
        # First of all, since it builds what is not built yet.
        expected = endpoint.answers(inputs)
        smaller, changes = _smaller(model, compact)
        function = endpoint.of(smaller).trace()
        holders = _layers(smaller, preprocess)
        bare_module(function, holders=holders)
        provenance = serving_files.describe_provenance(model, index)
        with new, _disk_errors(new.base_dir):
            paths = {id(v.value): p for p, v in model_state(smaller).items()}
            write_saved_model(function, new.part, paths, holders)
            verified = dataclasses.asdict(
                verify_saved_model(new.part, inputs, expected, tolerance)
            )
            provenance.update(changes, **verified, metadata=metadata or {})
            warmup = serving_files.write_extra_files(
                new.part, name, inputs, provenance
            )
            size, compressed = sizes(new.part)
    return Served(
        path=new.path,
        version=new.version,
        name=name,
        inputs=endpoint.inputs,
        outputs=_specs(function.structured_outputs),
        **verified,
        bytes=size,
        compressed_bytes=compressed,
        warmup=warmup,
    )


@contextlib.contextmanager
def weights_of(model, level=None):
    """Context manager: the model with the weights to be exported.

    Args:
        model: `keras.Model`, wrapped or not.
        level: optional int, a trained level of a wrapped model's search.

    Yields:
        The level, an int, or `None` for a model that is not wrapped.

    Raises:
        ValueError: If there is no such level, if the model is not built, or
            if `level` is `None` and the model was rewound.
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
        model.lottery.state.check_export()
        yield model.lottery.state.held_level()
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


def _smaller(model, compact):
    """The compacted model, and what was removed, for provenance."""
    if not compact:
        return model, {}
    result = compaction.compact(model)
    return result.model, {"removed": result.removed, "left": result.left}


def _layers(model, preprocess):
    """List of all layers, whose attributes may be lookup tables."""
    roots = [model]
    if isinstance(preprocess, keras.layers.Layer):
        roots.append(preprocess)
    return [layer for root in roots for layer in flatten_layers(root)]


def _specs(outputs):
    return {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name)
        for name, tensor in outputs.items()
    }


def _checked_name(name, base_dir):
    if name is None:
        name = os.path.basename(base_dir)
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
        raise ValueError(
            "`name` must be letters, digits, `_`, `-` and `.`, since it is "
            f"part of an address. Received: name={name!r}"
        )
    return name


@contextlib.contextmanager
def _disk_errors(base_dir):
    """Turns TensorFlow's own errors, of a full disk, into `OSError`."""
    try:
        yield
    except tf.errors.OpError as error:
        message = error.message.strip().partition("\n")[0]
        # Without the names of a node and an operation.
        message = re.sub(r"\{\{.*?\}\} | \[Op:\w+\]", "", message)
        raise OSError(f"{base_dir} could not be written: {message}") from error


def _megabytes(size):
    return f"{size / 1e6:.2f} MB"
