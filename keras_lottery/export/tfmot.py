"""A ticket in TensorFlow Model Optimization (tfmot), and back.

tfmot clusters weights and trains quantization-aware without losing a ticket's
zeros, and works with tf_keras (Keras 2) alone. So the ticket is built again in
tf_keras, in a process of its own.
"""

import dataclasses
import os
import sys

import keras
import numpy as np

from keras_lottery import processes
from keras_lottery.checks import check_integer, missing
from keras_lottery.export.litert import WrittenFile, write_litert_file
from keras_lottery.export.serving import weights_of
from keras_lottery.export.tfmot_training import (
    COMPARED,
    Job,
    describe_file,
    describe_stripped,
    optimize,
)
from keras_lottery.tf_keras import (
    ENVIRONMENT,
    build_model,
    describe_model,
    missing_packages,
)
from keras_lottery.wrapping import wrap

# The layers that tfmot clusters and quantizes, or leaves as they are.
_LAYERS = (
    "Activation Add AveragePooling2D BatchNormalization Concatenate Conv2D "
    "Dense DepthwiseConv2D Dropout Flatten GlobalAveragePooling2D "
    "GlobalMaxPooling2D InputLayer LeakyReLU MaxPooling2D Permute ReLU "
    "Reshape Softmax SpatialDropout2D UpSampling2D ZeroPadding2D"
).split()
_ACTIVATIONS = "gelu linear relu sigmoid softmax tanh".split()
_BEFORE_NORMALIZATION = ("Conv2D", "Dense", "DepthwiseConv2D")


@dataclasses.dataclass(frozen=True)
class TfmotFile(WrittenFile):
    """What `to_tfmot_litert` wrote, and its accuracy.

    Args:
        path, bytes, compressed_bytes, weights, zeros: see `WrittenFile`.
        accuracy_before: float, the Keras model's on the test set, a fraction.
        accuracy: float, the file's, in the LiteRT interpreter.
    """

    accuracy_before: float
    accuracy: float

    def summary(self):
        """Its accuracy, weights, zeros and size, one line."""
        return (
            f"accuracy {self.accuracy:.2%}, before {self.accuracy_before:.2%}; "
            f"{super().summary()}"
        )


def to_tfmot_litert(
    model,
    path,
    x,
    y,
    test,
    *,
    level=None,
    clusters=None,
    quantize_aware=True,
    epochs=5,
    batch_size=64,
    learning_rate=1e-4,
    seed=0,
):
    """Clusters and quantizes a ticket by tfmot, and writes it for LiteRT.

    The model must be a classifier: one input, one output of logits or
    probabilities, integer labels. It is trained with tfmot's
    sparsity-preserving clustering, then with its sparsity- and
    cluster-preserving quantization-aware training. The file is refused unless
    each of the ticket's zeros is a zero in it. Training starts from the
    ticket's weights with a new Adam.

    Args:
        model: Sequential or functional `keras.Model` of built-in layers,
            wrapped or not. Batch normalization must follow a layer of
            weights that has no activation.
        path: str or path-like, of the file.
        x: array, training examples.
        y: array of int, their labels.
        test: pair (x, y) to measure accuracies on.
        level: optional int, a trained level of a wrapped model's search, -1
            for the last.
        clusters: optional int, at least 3: how many different weights a
            layer may have, zero among them. Defaults to `None`, any number.
        quantize_aware: bool, whether it is trained for, and written with,
            8-bit weights and activations; else with float32.
        epochs: int, of clustering and of quantization-aware training each.
        batch_size: int.
        learning_rate: float, Adam's.
        seed: int, of the order of the examples.

    Returns:
        A `TfmotFile`.

    Raises:
        ValueError: If an argument is wrong, or the model has a layer that
            tfmot cannot take. No training has started by then.
        ImportError: If tf_keras or tfmot is not installed.
        RuntimeError: If a zero was lost. Nothing is written.

    Example:

    ```python
    file = keras_lottery.export.to_tfmot_litert(
        model, "ticket.tflite", x, y, test=(x_test, y_test), clusters=16
    )
    print(file.summary())
    ```

    Source: tfmot's collaborative optimization, PQAT and PCQAT.
    """
    _check_installed()
    _check_numbers(clusters, quantize_aware, epochs, batch_size, seed)
    train, test = _examples("x", x, y), _examples("test", *test)
    with weights_of(model, level):
        description = describe_model(model, keras)
        check_layers(description)
        outputs = model.predict(train[0][:COMPARED], verbose=0)
        _check_classes(outputs, train[1])
        before = _accuracy(model.predict(test[0], verbose=0), test[1])
    job = Job(
        description,
        outputs=outputs,
        train=train,
        test=test,
        from_logits=not _ends_in_softmax(description),
        clusters=clusters,
        quantize_aware=quantize_aware,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    content, outputs = processes.call(optimize, job, env=ENVIRONMENT)
    return TfmotFile(
        **write_litert_file(content, path),
        accuracy_before=before,
        accuracy=_accuracy(outputs, test[1]),
    )


def from_tfmot(model, **wrap_arguments):
    """Turns a pruned tf_keras model into a wrapped Keras 3 model.

    Its exact zeros become the mask. Biases keep their values, zero or not. The
    table of an `Embedding` is masked only if `rates` has a rate for it:
    `rates={keras.layers.Embedding: 0.2}`.

    Args:
        model: what tfmot's `strip_pruning` returned, or the path it was saved
            to by tf_keras: `.keras`, `.h5` or a SavedModel directory. It must
            be a Sequential or functional model of the layers in
            `keras_lottery.tf_keras.LAYERS`. The new model is functional, in
            float32 and not compiled.
        **wrap_arguments: those of `keras_lottery.wrap`, apart from `masks`.

    Returns:
        A `keras.Model` with its `model.lottery`.

    Raises:
        ValueError: If the model was not stripped, or has a layer that Keras
            3 and tf_keras do not share.
        ImportError: If `model` is a path, and tf_keras is not installed.
        OSError: If there is no such file.

    Example:

    ```python
    model = keras_lottery.export.from_tfmot("pruned.h5", rate=0.2)
    print(model.lottery.density)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y)
    ```
    """
    if isinstance(model, (str, os.PathLike)):
        _check_installed()
        path = os.path.abspath(model)
        if not os.path.exists(path):
            raise FileNotFoundError(f"There is no {path}.")
        description = processes.call(describe_file, path, env=ENVIRONMENT)
    else:
        library = sys.modules.get("tf_keras")
        if library is None or not isinstance(model, library.Model):
            raise ValueError(
                "`model` must be a tf_keras model, or the path of one. "
                f"Received: {type(model)}"
            )
        description = describe_stripped(model)
    model = build_model(description, keras)
    return wrap(model, masks="zeros", **wrap_arguments)


def check_layers(description):
    """Refuses a model that tfmot cannot take, naming the layer.

    Args:
        description: `Description` of the model.
    """
    called = [name for name, _ in description.calls]
    for name, sources in description.calls:
        kind, config = description.layers[name]
        before = [called[source] for source in sources]
        if kind not in _LAYERS:
            _refuse(name, f"a {kind}", f"tfmot takes {', '.join(_LAYERS)}")
        if called.count(name) > 1:
            _refuse(name, "used twice", "tfmot takes no shared layers")
        activation = config.get("activation", "linear")
        if activation not in _ACTIVATIONS:
            _refuse(
                name,
                f"with activation {activation!r}",
                f"tfmot takes {', '.join(_ACTIVATIONS)}",
            )
        if kind == "BatchNormalization" and not _folds(
            description, called, before[0]
        ):
            _refuse(
                name,
                f"after {before[0]!r}",
                "batch normalization must directly follow, and alone, a "
                f"{', '.join(_BEFORE_NORMALIZATION)} without activation",
            )
        if kind == "DepthwiseConv2D" and not description.weights[name][0].all():
            _refuse(
                name,
                "a DepthwiseConv2D with zeros",
                "tfmot does not preserve them; leave it alone by `rates`",
            )
    if len(description.inputs) != 1 or len(description.outputs) != 1:
        raise ValueError(
            "`model` must have one input and one output. Received: "
            f"{len(description.inputs)} and {len(description.outputs)}"
        )


def _folds(description, called, name):
    kind, config = description.layers[name]
    place = called.index(name)
    consumers = sum(place in sources for _, sources in description.calls)
    return (
        kind in _BEFORE_NORMALIZATION
        and config.get("activation", "linear") == "linear"
        and consumers == 1
    )


def _refuse(name, what, reason):
    raise ValueError(
        "`model` must be one that tfmot can optimize without losing zeros: "
        f"{reason}. Received: layer {name!r}, {what}"
    )


def _check_installed():
    for package in missing_packages():
        raise ImportError(missing("What tfmot and tf_keras do", package))


def _ends_in_softmax(description):
    name, _ = description.calls[description.outputs[0]]
    kind, config = description.layers[name]
    return kind == "Softmax" or config.get("activation") == "softmax"


def _accuracy(outputs, labels):
    return float(np.mean(np.argmax(outputs, -1) == labels))


def _examples(name, x, y):
    x, y = np.asarray(x, "float32"), np.asarray(y)
    if (
        len(x) != len(y)
        or not len(x)
        or y.ndim != 1
        or y.dtype.kind not in "iu"
    ):
        raise ValueError(
            f"`{name}` must be examples with one integer label each. "
            f"Received: {len(x)} examples, labels of shape {y.shape} and "
            f"type {y.dtype}"
        )
    return x, y


def _check_classes(outputs, labels):
    if outputs.ndim != 2 or outputs.shape[1] <= labels.max():
        raise ValueError(
            "`model` must have an output for each class. Received: outputs "
            f"of shape {outputs.shape[1:]} and labels up to {labels.max()}"
        )


def _check_numbers(clusters, quantize_aware, epochs, batch_size, seed):
    if clusters is None and not quantize_aware:
        raise ValueError(
            "`clusters` must be given if `quantize_aware` is False: nothing "
            "is left to do. Received: clusters=None, quantize_aware=False"
        )
    if clusters is not None:
        check_integer("clusters", clusters, minimum=3)
    check_integer("epochs", epochs, minimum=1)
    check_integer("batch_size", batch_size, minimum=1)
    check_integer("seed", seed, minimum=0)
