"""sparsify: dense layers that compute with their surviving weights only.

The kernel of a chosen layer is stored as the indices and values of the weights
that are not zero, and multiplied by TensorFlow's operation for matrices in
compressed sparse rows (CSR), which is part of TensorFlow Serving. Whether that
is faster is measured on this machine.
"""

import dataclasses
import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_lottery.checks import check_integer
from keras_lottery.export.graph import copied, graph_of, rebuild

# A sparse layer must take at most this part of the dense one's time.
MARGIN = 0.9


@keras.saving.register_keras_serializable(package="keras_lottery")
class SparseDense(keras.layers.Layer):
    """A `keras.layers.Dense` that stores only the weights that are not zero.

    For inference: nothing in it is trainable. It computes in float32, on
    inputs of rank 2, outside XLA.

    Args:
        units: int, number of outputs.
        connections: int, number of weights that are not zero.
        activation: as for `keras.layers.Dense`.
        use_bias: bool. Defaults to `True`.

    Example:

    ```python
    dense = keras.layers.Dense(3)
    dense.build((None, 4))
    layer, weights = sparse_like(dense, name="sparse")
    layer.build((None, 4))
    layer.set_weights(weights)
    layer(np.ones((2, 4)))  # shape (2, 3)
    ```
    """

    def __init__(
        self, units, connections, activation=None, use_bias=True, **kwargs
    ):
        super().__init__(**kwargs)
        self.units, self.connections = units, connections
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.supports_jit = False

    def build(self, input_shape):
        def weight(name, *shape, dtype="float32"):
            return self.add_weight(
                shape, "zeros", dtype, trainable=False, name=name
            )

        self.places = weight("places", self.connections, 2, dtype="int32")
        self.values = weight("values", self.connections)
        self.bias = weight("bias", self.units) if self.use_bias else None

    def call(self, inputs):
        # A CSR matrix is not a tensor, so no variable can hold it. It is made
        # from its parts at every call, and the measurement includes that.
        kernel = tf.raw_ops.SparseTensorToCSRSparseMatrix(
            indices=tf.cast(self.places, tf.int64),
            values=tf.convert_to_tensor(self.values),
            dense_shape=(self.units, inputs.shape[-1]),
        )
        # The operation's own option to transpose takes longer.
        outputs = tf.transpose(
            tf.raw_ops.SparseMatrixMatMul(a=kernel, b=tf.transpose(inputs))
        )
        if self.use_bias:
            outputs = outputs + self.bias
        return self.activation(outputs)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        config = {
            "units": self.units,
            "connections": self.connections,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
        }
        return {**super().get_config(), **config}


@dataclasses.dataclass
class Choice:
    """The measurement of a dense layer, and what was decided.

    Args:
        name: str, the layer's.
        density: float, kept / total of its kernel.
        chosen: bool, whether it is sparse now.
        why: str, the reason.
        dense: dict, batch size -> seconds of the dense layer, if measured.
        sparse: dict, batch size -> seconds of the sparse one, if measured.
    """

    name: str
    density: float
    chosen: bool = False
    why: str = ""
    dense: dict = dataclasses.field(default_factory=dict)
    sparse: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Sparsified:
    """What `sparsify` returns.

    Args:
        model: a new `keras.Model`: plain, functional, not compiled.
        layers: list of `Choice`, one per `Dense` layer, in order.
    """

    model: keras.Model
    layers: list


def sparsify(model, batch_sizes=(1, 32, 256), which="auto", repetitions=20):
    """Stores the kernels of dense layers sparse, where that is faster.

    A layer becomes sparse if at *every* one of `batch_sizes` it takes at most
    90 % of the dense layer's time, by the median of alternating runs on this
    machine. Give the batch sizes that will be served. A layer in another
    precision than float32, or with inputs of a rank other than 2, stays
    dense.

    Args:
        model: a built functional or Sequential `keras.Model`, wrapped or not,
            whose pruned weights are zeros. It is not changed.
        batch_sizes: sequence of int, to measure at.
        which: `"auto"`, as measured; `"all"`, every layer that can be sparse;
            or a list of names of layers. The last two measure nothing.
        repetitions: int, runs per layer and batch size.

    Returns:
        A `Sparsified`.

    Raises:
        ValueError: If an argument is wrong, if a layer that `which` names
            cannot be sparse, or if the model is neither functional nor
            Sequential.

    Example:

    ```python
    model = keras.Sequential([keras.Input((512,)), keras.layers.Dense(512)])
    for choice in sparsify(model, batch_sizes=[32]).layers:
        print(choice.name, choice.density, choice.chosen, choice.why)
    ```
    """
    for size in (batch_sizes := tuple(batch_sizes)):
        check_integer("batch_sizes", size, minimum=1)
    check_integer("repetitions", repetitions, minimum=1)
    graph = graph_of(model)
    layers, obstacles = {}, {}
    for call in graph.calls:
        if type(call.layer) is keras.layers.Dense:
            layers[call.name] = call.layer
            obstacles[call.name] = obstacles.get(call.name) or _obstacle(call)
    _check_which(which, obstacles)

    choices = {}
    for name, layer in layers.items():
        choice = choices[name] = Choice(name, _density(layer))
        if obstacles[name]:
            choice.why = obstacles[name]
        elif which == "auto":
            _decide(choice, layer, batch_sizes, repetitions)
        else:
            choice.chosen = which == "all" or name in which
            choice.why = "asked for" if choice.chosen else "not asked for"
        kind = "sparse" if choice.chosen else "dense"
        logging.info(
            "%s, density %.2g: %s (%s).", name, choice.density, kind, choice.why
        )

    def make(call):
        chosen = call.name in choices and choices[call.name].chosen
        return sparse_like(call.layer, call.name) if chosen else copied(call)

    return Sparsified(rebuild(graph, make), list(choices.values()))


def sparse_like(layer, name):
    """The sparse layer that computes what a dense one does.

    Args:
        layer: a built `keras.layers.Dense`.
        name: str, the new layer's.

    Returns:
        (`SparseDense`, not built; the list of its weights).
    """
    kernel = keras.ops.convert_to_numpy(layer.kernel).T
    places = np.argwhere(kernel).astype("int32")
    weights = [places, kernel[tuple(places.T)]]
    if layer.use_bias:
        weights.append(keras.ops.convert_to_numpy(layer.bias))
    sparse = SparseDense(
        layer.units,
        len(places),
        layer.activation,
        layer.use_bias,
        name=name,
        dtype=layer.dtype_policy,
    )
    return sparse, weights


def median_seconds(functions, x, repetitions):
    """List of the median seconds of each function on `x`, run alternately."""
    seconds = [[] for _ in functions]
    for function in functions:
        function(x)
    for _ in range(repetitions):
        for measured, function in zip(seconds, functions):
            start = time.perf_counter()
            np.asarray(function(x))
            measured.append(time.perf_counter() - start)
    return [statistics.median(measured) for measured in seconds]


def _decide(choice, layer, batch_sizes, repetitions):
    width = layer.kernel.shape[0]
    sparse, weights = sparse_like(layer, layer.name)
    sparse.build((None, width))
    sparse.set_weights(weights)
    functions = [tf.function(layer), tf.function(sparse)]
    draw = np.random.default_rng(0)
    for size in batch_sizes:
        x = tf.constant(draw.normal(size=(size, width)), tf.float32)
        seconds = median_seconds(functions, x, repetitions)
        choice.dense[size], choice.sparse[size] = seconds
    gains = {s: choice.dense[s] / choice.sparse[s] for s in batch_sizes}
    choice.chosen = all(gain * MARGIN >= 1 for gain in gains.values())
    choice.why = ", ".join(
        f"{gain:.2g} times as fast at batch {size}"
        for size, gain in gains.items()
    )


def _obstacle(call):
    """Why a dense layer cannot be sparse, or an empty string."""
    layer = call.layer
    if any(v.dtype != "float32" for v in layer.weights) or (
        layer.compute_dtype != "float32"
    ):
        return f"it computes in {layer.compute_dtype}"
    if len(layer.weights) != 1 + bool(layer.use_bias):
        return "it has weights besides kernel and bias"
    if len(call.inputs[0].shape) != 2:
        return "its inputs are not of rank 2"
    return ""


def _density(layer):
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    return np.count_nonzero(kernel) / kernel.size


def _check_which(which, obstacles):
    if which in ("auto", "all"):
        return
    if isinstance(which, str) or not isinstance(which, (list, tuple, set)):
        raise ValueError(
            '`which` must be "auto", "all" or a list of names of layers. '
            f"Received: which={which!r}"
        )
    for name in which:
        why = obstacles.get(name, "there is no Dense layer of that name")
        if why:
            raise ValueError(
                "`which` must name layers that can be sparse. "
                f"Received: {name!r}; {why}."
            )
