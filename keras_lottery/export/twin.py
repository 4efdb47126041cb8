"""Export from Keras' JAX and PyTorch backends, through a TensorFlow twin.

The twin is the same model with the same weights and search: Keras loads it
from the model's `.keras` file, in a process that runs on TensorFlow. It is
exported there once its outputs were found to be those of the model.
"""

import importlib.util
import os
import sys
import tempfile
import zipfile

import keras
import numpy as np

from keras_lottery import backend, processes
from keras_lottery.checks import missing
from keras_lottery.keras_internals import flatten_layers, training_argument
from keras_lottery.wrapping import LotteryModel

_BATCH = 256
_ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # The other backend may have taken all memory of a GPU.
    "CUDA_VISIBLE_DEVICES": "",
}


def to_serving(model, base_dir, version=None, **arguments):
    """Writes a model for TensorFlow Serving, and verifies what it wrote.

    TensorFlow must be installed. It runs in a process of its own, in which it
    writes a twin of the model: arguments, results and errors are those of
    `to_serving` under the TensorFlow backend. Layers of one's own must be
    written in operations that all backends have (`keras.ops`).

    Args:
        model: `keras.Model`, wrapped or not.
        base_dir: str or path-like, the directory of the model's versions.
        version: optional int, at least 1. Defaults to the next one.
        **arguments: `level`, `compact`, `preprocess`, `softmax`, `examples`,
            `name`, `tolerance` and `metadata`. The twin's outputs may differ
            from the model's by as much as `tolerance` allows what is written
            to differ from the twin.

    Returns:
        A `Served`.

    Raises:
        ImportError: If TensorFlow is not installed.
        ValueError: If an argument is wrong, the model cannot be served, or
            the twin or the written model does not answer as the model does.
            Nothing is left behind.
        OSError: If it cannot be written. Nothing is left behind.

    Example:

    ```python
    served = keras_lottery.export.to_serving(
        model, "served/digits", level=-1, examples=x_test[:256]
    )
    print(served.summary())
    ```
    """
    target = os.path.abspath(base_dir), version
    return export_twin("to_serving", model, target, **arguments)


def to_litert(model, path, quantize=None, **arguments):
    """Writes a model as a LiteRT file, and verifies what it wrote.

    TensorFlow must be installed, which writes a twin of the model: see
    `to_serving`.

    Args:
        model: `keras.Model`, wrapped or not.
        path: str or path-like, of the file.
        quantize: `None`, `"dynamic"` or `"int8"`.
        **arguments: `level`, `representative`, `sparse`, `batch_sizes`,
            `batch_size`, `examples` and `tolerance`, as under the TensorFlow
            backend.

    Returns:
        A `LitertFile`.

    Raises:
        ImportError: If TensorFlow is not installed.
        ValueError: If an argument is wrong, LiteRT cannot run the model, or
            the twin or the file does not answer as the model does. Nothing is
            left behind.
        OSError: If it cannot be written. Nothing is left behind.

    Example:

    ```python
    file = keras_lottery.export.to_litert(model, "ticket.tflite", level=-1)
    print(file.summary())
    ```
    """
    target = os.path.abspath(path), quantize
    return export_twin("to_litert", model, target, **arguments)


def export_twin(name, model, target, *, level=None, **arguments):
    """What an export returns for the TensorFlow twin of a model.

    Args:
        name: str, `"to_serving"` or `"to_litert"`.
        model: `keras.Model`, wrapped or not.
        target: tuple, the export's arguments after the model.
        level: optional int, a trained level of a wrapped model's search.
        **arguments: others of the export.

    Returns:
        What the export returns.

    Raises:
        ImportError: If TensorFlow is not installed.
        ValueError: If the twin cannot be made or does not answer as the model
            does, and as the export does.
    """
    _check_tensorflow(name)
    # They import TensorFlow, as does what is returned.
    from keras_lottery.export.saved_model import compare_outputs
    from keras_lottery.export.serving import weights_of

    examples = None
    for key in ("representative", "examples"):
        if arguments.get(key) is not None:
            examples = keras.tree.map_structure(np.asarray, arguments[key])
            arguments[key] = examples
    with (
        weights_of(model, level),
        tempfile.TemporaryDirectory() as directory,
        processes.Process(_ENVIRONMENT) as process,
    ):
        path = os.path.join(directory, "model.keras")
        model.save(path)
        twin = path, custom_objects(model, path)
        preprocess = arguments.get("preprocess")
        inputs, answers = process.call(answer, twin, preprocess, examples)
        tolerance = arguments.get("tolerance", 1e-4)
        expected = _outputs(model, inputs)
        try:
            for output, array in zip(answers, expected, strict=True):
                # PyTorch's arrays of bfloat16 are of float32.
                found = answers[output].astype(array.dtype)
                compare_outputs(output, found, array, tolerance)
        except ValueError as error:
            raise ValueError(
                "`model` must be one that computes the same on TensorFlow, "
                "from its `get_config` and its weights. Received one whose "
                f"twin does not, which was not written. {error}"
            ) from error
        return process.call(export, twin, name, target, arguments, sys.argv)


def custom_objects(model, path):
    """What a process needs to load a model, and Keras does not have.

    Args:
        model: `keras.Model`, wrapped or not.
        path: str, its `.keras` file.

    Returns:
        A dict, the name by which Keras knows it -> class or function.
    """
    with zipfile.ZipFile(path) as file:
        config = file.read("config.json").decode()
    kinds = {type(layer) for layer in flatten_layers(model)}
    if isinstance(model, LotteryModel):
        kinds = kinds - {type(model)} | {type(model).unwrapped_class}
    objects = {keras.saving.get_registered_name(kind): kind for kind in kinds}
    return {
        name: value
        for name, value in (keras.saving.get_custom_objects() | objects).items()
        if f'"{name}"' in config
        and value.__module__.split(".")[0] not in ("keras", "keras_lottery")
    }


def _check_tensorflow(name):
    if importlib.util.find_spec("tensorflow") is None:
        what = f"`{name}` beside Keras' {backend.NAME} backend"
        raise ImportError(
            f"{missing(what, 'tensorflow')}. Or save the model (`model.save`) "
            "or its ticket (`Ticket.save`), and export it where TensorFlow is "
            "installed."
        )


def _outputs(model, inputs):
    """List of the arrays that a model answers."""
    count, parts = len(keras.tree.flatten(inputs)[0]), []
    for start in range(0, count, _BATCH):
        x = keras.tree.map_structure(
            lambda array, start=start: keras.ops.convert_to_tensor(
                array[start : start + _BATCH]
            ),
            inputs,
        )
        y = model(x, **training_argument(model, False))
        parts.append(keras.tree.flatten(y))
    return [
        np.concatenate([keras.ops.convert_to_numpy(y) for y in part])
        for part in zip(*parts)
    ]


# What follows runs in the process, on TensorFlow.


def load(path, objects):
    """The twin.

    Args:
        path: str, the model's `.keras` file.
        objects: dict, of `custom_objects`.

    Returns:
        A `keras.Model`, wrapped if the model is.
    """
    try:
        with keras.saving.custom_object_scope(objects):
            # The file is this package's own: a lambda in it is the model's.
            return keras.models.load_model(path, compile=False, safe_mode=False)
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no reason given"]
        raise ValueError(
            "`model` must be one that Keras saves, and loads on TensorFlow. "
            f"Received one that fails with {type(error).__name__}: {lines[0]}"
        ) from error


def answer(twin, preprocess, examples):
    """What a twin is given for examples, and what it answers.

    Args:
        twin: tuple, the arguments of `load`.
        preprocess, examples: as in `to_serving`.

    Returns:
        A pair: nest of arrays, and dict, name -> array.
    """
    from keras_lottery.export.endpoint import Endpoint, named_examples

    endpoint = Endpoint(load(*twin), preprocess, examples=examples)
    inputs = named_examples(endpoint.inputs, examples)
    return endpoint.given(inputs), endpoint.answers(inputs)


def export(twin, name, target, arguments, command):
    """Exports a twin.

    Args:
        twin: tuple, the arguments of `load`.
        name, target, arguments: see `export_twin`.
        command: list of str, of the process that has the model.
    """
    import keras_lottery.export

    # For the provenance of what is written.
    sys.argv = command
    exporter = getattr(keras_lottery.export, name)
    return exporter(load(*twin), *target, **arguments)
