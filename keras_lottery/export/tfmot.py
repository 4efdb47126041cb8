"""To tfmot and back: a ticket goes on where only Keras 2 goes.

TensorFlow Model Optimization clusters weights and trains quantization-aware
without losing a ticket's zeros, and knows no Keras but tf_keras. So the ticket
is built once more there, in a process of its own.
"""

import dataclasses
import os
import sys

import keras
import numpy as np

from keras_lottery.checks import check_integer
from keras_lottery.export import legacy, litert, tfmot_training
from keras_lottery.export.legacy_process import call, check_installed
from keras_lottery.export.serving import weights_of
from keras_lottery.wrapping import wrap

# What tfmot both clusters and quantizes, or leaves as it is.
_LAYERS = (
    "Activation Add AveragePooling2D BatchNormalization Concatenate Conv2D "
    "Dense DepthwiseConv2D Dropout Flatten GlobalAveragePooling2D "
    "GlobalMaxPooling2D InputLayer LeakyReLU MaxPooling2D Permute ReLU "
    "Reshape Softmax SpatialDropout2D UpSampling2D ZeroPadding2D"
).split()
_ACTIVATIONS = "gelu linear relu sigmoid softmax tanh".split()
_BEFORE_NORMALIZATION = ("Conv2D", "Dense", "DepthwiseConv2D")


@dataclasses.dataclass(frozen=True)
class TfmotFile(litert.Written):
    """What `to_tfmot_litert` wrote, and what was measured.

    Args:
        path, bytes, compressed_bytes, weights, zeros: see `Written`.
        accuracy_before: float, the Keras model's on the test set, a fraction.
        accuracy: float, the file's, in the LiteRT interpreter.
    """

    accuracy_before: float
    accuracy: float

    def summary(self):
        """What was measured, one line."""
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

    A classifier: one input, one output of logits or probabilities, labels
    that are integers. It trains under tfmot's sparsity-preserving clustering,
    then under its sparsity- and cluster-preserving quantization-aware
    training; the file is refused unless each of the ticket's zeros is a zero
    in it. Training starts from the ticket's weights with a new Adam.

    Args:
        model: Sequential or functional `keras.Model` of built-in layers,
            wrapped or not. Batch normalization must follow a layer of
            weights that has no activation.
        path: str or path-like, of the file.
        x: array, training examples.
        y: array of int, their labels.
        test: pair (x, y) that accuracies are measured on.
        level: optional int, a trained level of a wrapped model's search, -1
            for the last.
        clusters: optional int, at least 3: how many different weights a
            layer may have, zero among them. Defaults to `None`, any number.
        quantize_aware: bool, whether it is trained for 8-bit weights and
            activations, and written with them; else with float32.
        epochs: int, of clustering and of quantization-aware training each.
        batch_size: int.
        learning_rate: float, Adam's.
        seed: int, of the order of the examples.

    Returns:
        A `TfmotFile`.

    Raises:
        ValueError: If an argument is wrong, or the model has a layer that
            tfmot cannot take. Nothing has started by then.
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
    check_installed()
    _check_numbers(clusters, quantize_aware, epochs, batch_size, seed)
    train, test = _examples("x", x, y), _examples("test", *test)
    with weights_of(model, level):
        description = legacy.describe(model, keras)
        check_layers(description)
        outputs = model.predict(train[0][: tfmot_training.SHOWN], verbose=0)
        _check_outputs(outputs, train[1])
        before = _accuracy(model.predict(test[0], verbose=0), test[1])
    job = tfmot_training.Job(
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
    content, outputs = call(tfmot_training.optimize, job)
    return TfmotFile(
        **litert.write(content, path),
        accuracy_before=before,
        accuracy=_accuracy(outputs, test[1]),
    )


def from_tfmot(model, **wrap_arguments):
    """Makes a pruned tf_keras model a wrapped Keras 3 model.

    Its exact zeros become the mask. Biases keep their values, zero or not. A
    table of `Embedding` has a mask if `rates` says that it is pruned:
    `rates={keras.layers.Embedding: 0.2}`.

    Args:
        model: what tfmot's `strip_pruning` returned, or the path it was saved
            to by tf_keras: `.keras`, `.h5` or a SavedModel directory. A
            Sequential or functional model of the layers of `legacy.LAYERS`;
            it comes out as a functional one, in float32 and not compiled.
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
        check_installed()
        path = os.path.abspath(model)
        if not os.path.exists(path):
            raise FileNotFoundError(f"There is no {path}.")
        description = call(tfmot_training.describe_file, path)
    else:
        library = sys.modules.get("tf_keras")
        if library is None or not isinstance(model, library.Model):
            raise ValueError(
                "`model` must be a tf_keras model, or the path of one. "
                f"Received: {type(model)}"
            )
        description = tfmot_training.describe_stripped(model)
    return wrap(
        legacy.build(description, keras), masks="zeros", **wrap_arguments
    )


def check_layers(description):
    """Refuses what tfmot cannot take, naming the layer.

    Args:
        description: `legacy.Description`.
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


def _check_outputs(outputs, labels):
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
