"""Chain: a model that the sparse backend can train, as it needs to know it.

Sparse kernels repeat by hand what Keras does, so they are only used where
every part of a model, of its loss and of its optimizer is known here. Whatever
is not is named, and such a model is trained by a dense backend.
"""

import dataclasses
import math

import keras
from keras import activations, layers, losses, metrics, optimizers

from keras_lottery import keras_internals as internals
from keras_lottery.backend.common import is_accuracy
from keras_lottery.backend.loop import FINDS_LOGITS
from keras_lottery.constraints import TicketMask

# What elementwise activations are called here, and their slope for negative
# values where they have one.
_ACTIVATIONS = {
    activations.linear: ("linear", 0.0),
    activations.relu: ("relu", 0.0),
    activations.leaky_relu: ("leaky_relu", 0.2),
    activations.elu: ("elu", 1.0),
    activations.tanh: ("tanh", 0.0),
    activations.sigmoid: ("sigmoid", 0.0),
    activations.softmax: ("softmax", 0.0),
}
# What a loss is called here, by its class and by the function of its name.
_LOSSES = {
    losses.SparseCategoricalCrossentropy: "sparse_softmax",
    losses.sparse_categorical_crossentropy: "sparse_softmax",
    losses.CategoricalCrossentropy: "softmax",
    losses.categorical_crossentropy: "softmax",
    losses.BinaryCrossentropy: "binary",
    losses.binary_crossentropy: "binary",
    losses.MeanSquaredError: "squared",
    losses.mean_squared_error: "squared",
}
# The activation of the outputs that a loss undoes, working on logits.
_UNDONE = {
    "sparse_softmax": "softmax",
    "softmax": "softmax",
    "binary": "sigmoid",
}
# Settings of losses that change nothing.
_PLAIN = {"label_smoothing": 0.0, "ignore_class": None, "axis": -1}
_ACCURACIES = {
    metrics.SparseCategoricalAccuracy: "sparse_class",
    metrics.CategoricalAccuracy: "class",
    metrics.BinaryAccuracy: "threshold",
}
_OPTIMIZERS = (optimizers.SGD, optimizers.Adam, optimizers.AdamW)
# Settings of optimizers that must be off.
_OFF = (
    "amsgrad",
    "use_ema",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)


class Unsupported(Exception):
    """Why the sparse backend does not train a model."""


@dataclasses.dataclass
class Link:
    """A dense layer and the activation after it.

    Args:
        layer: `keras.layers.Dense`.
        activation: str, a name of `_ACTIVATIONS`.
        slope: float, of the activation.
    """

    layer: layers.Dense
    activation: str = "linear"
    slope: float = 0.0

    @property
    def variables(self):
        """The kernel and the bias, which is `None` if there is none."""
        return self.layer.kernel, self.layer.bias


@dataclasses.dataclass
class Chain:
    """A model that is a chain of dense layers, with its loss.

    Args:
        rescalings: list of layers that come before the first dense one.
        links: list of `Link`.
        loss: str, a name of `_LOSSES`.
        accuracy: optional str, a name of `_ACCURACIES`.
        threshold: float, above which an output says yes.
        dtype: str, of all weights.
    """

    rescalings: list
    links: list
    loss: str
    accuracy: str | None
    threshold: float
    dtype: str

    @property
    def units(self):
        """List of int: how many inputs there are, and each layer's outputs."""
        kernels = [link.layer.kernel for link in self.links]
        return [kernels[0].shape[0], *(kernel.shape[1] for kernel in kernels)]

    @property
    def numbers(self):
        """How many numbers the target of an example has."""
        return 1 if self.loss == "sparse_softmax" else self.units[-1]

    def check_targets(self, targets):
        """Refuses targets that the loss would broadcast."""
        (targets,) = keras.tree.flatten(targets)
        if math.prod(targets.shape[1:]) != self.numbers:
            raise Unsupported(
                f"its targets have the shape {(None, *targets.shape[1:])}"
            )


def chain_of(model):
    """What a model is to the sparse backend.

    Args:
        model: `keras.Model`, compiled, its metrics and optimizer built.

    Returns:
        A `Chain`.

    Raises:
        Unsupported: If it is none that the sparse backend trains.
    """
    _check_device(model)
    rescalings, links = _links(model)
    dtypes = {_check_layer(link) for link in links}
    if len(dtypes) > 1:
        raise Unsupported("its layers have several dtypes")
    loss = _loss_of(model)
    last = links[-1]
    threshold = 0.5
    accuracy = _accuracy_of(model)
    if accuracy == "threshold":
        accuracy, threshold = "threshold", _accuracy(model).threshold
    if last.activation == _UNDONE.get(loss):
        if not FINDS_LOGITS:
            raise Unsupported("Keras computes its loss from probabilities")
        if last.activation == "sigmoid" and threshold != 0.5:
            raise Unsupported(f"its accuracy has the threshold {threshold}")
        threshold = 0.0 if last.activation == "sigmoid" else threshold
        last.activation = "linear"
    elif loss != "squared" and not _from_logits(model):
        raise Unsupported("its loss takes other outputs than logits")
    elif loss == "softmax" and not FINDS_LOGITS:
        # The gradients differ where targets do not add up to 1.
        raise Unsupported("its targets need not be one class")
    elif loss != "squared" and last.activation != "linear":
        raise Unsupported(f"its loss follows the activation {last.activation}")
    for link in links:
        if link.activation == "softmax":
            raise Unsupported("it has a softmax that its loss does not undo")
    if (loss == "sparse_softmax") != (accuracy == "sparse_class") and accuracy:
        raise Unsupported(f"its accuracy is {type(_accuracy(model)).__name__}")
    _check_optimizer(model.optimizer)
    return Chain(rescalings, links, loss, accuracy, threshold, dtypes.pop())


def _check_device(model):
    for variable in model.trainable_variables:
        if "cpu" not in str(variable.value.device).lower():
            raise Unsupported("it is not on a CPU")


# Layers.


def _links(model):
    functional = internals.functional_of(model)
    if functional is None:
        raise Unsupported("it is neither functional nor sequential")
    own = type(model)
    for method in ("compute_loss", "compute_metrics"):
        if getattr(own, method) is not getattr(keras.Model, method):
            raise Unsupported(f"it has a `{method}` of its own")
    rescalings, links, before = [], [], None
    for node in internals.nodes_in_order(functional):
        inputs, (output,) = node.input_tensors, node.outputs
        if [id(tensor) for tensor in inputs] != [id(before)] * (
            before is not None
        ):
            raise Unsupported("it is no chain of layers")
        _take(node.operation, output, rescalings, links)
        before = output
    if not links:
        raise Unsupported("it has no dense layer")
    if before is not functional.outputs[0] or len(functional.outputs) > 1:
        raise Unsupported("it is no chain of layers")
    if len({id(link.layer) for link in links}) < len(links):
        raise Unsupported("it calls a layer twice")
    return rescalings, links


def _take(layer, output, rescalings, links):
    """Notes what a layer does."""
    kind = type(layer)
    if kind is layers.Dense:
        if len(output.shape) != 2:
            raise Unsupported(f"{layer.name} has inputs of several axes")
        links.append(Link(layer))
        _activate(layer.activation, links, layer)
    elif kind is layers.Rescaling and not links:
        rescalings.append(layer)
    elif kind is layers.InputLayer:
        if "float" not in output.dtype:
            raise Unsupported(f"{layer.name} takes {output.dtype}")
    elif kind is layers.Flatten and _may_be_undone(links):
        # Keras would find the logits no more.
        raise Unsupported(f"{layer.name} follows {links[-1].activation}")
    elif kind in (layers.Flatten, layers.Identity):
        return
    elif kind is layers.Dropout:
        if layer.rate:
            # Keras draws them inside of its compiled step, from a stream of
            # random numbers that differs between XLA and a graph.
            raise Unsupported(f"{layer.name} draws random numbers")
    elif kind is layers.Activation and links:
        _activate(layer.activation, links, layer)
    elif kind is layers.ReLU and links:
        if layer.max_value is not None or layer.threshold:
            raise Unsupported(f"{layer.name} is not a plain ReLU")
        slope = float(layer.negative_slope)
        _set_activation(links, "leaky_relu" if slope else "relu", slope, layer)
    elif kind is layers.LeakyReLU and links:
        slope = float(layer.negative_slope)
        _set_activation(links, "leaky_relu", slope, layer)
    elif kind is layers.ELU and links:
        _set_activation(links, "elu", float(layer.alpha), layer)
    elif kind is layers.Softmax and links and layer.axis == -1:
        _set_activation(links, "softmax", 0.0, layer)
    else:
        raise Unsupported(f"it has a layer of the class {kind.__name__}")


def _may_be_undone(links):
    return bool(links) and links[-1].activation in _UNDONE.values()


def _activate(function, links, layer):
    if function not in _ACTIVATIONS:
        name = getattr(function, "__name__", type(function).__name__)
        raise Unsupported(f"{layer.name} has the activation {name}")
    _set_activation(links, *_ACTIVATIONS[function], layer)


def _set_activation(links, name, slope, layer):
    link = links[-1]
    if name == "linear":
        return
    if link.activation != "linear":
        raise Unsupported(f"{layer.name} is a second activation")
    if name in ("leaky_relu", "elu") and slope <= 0:
        # The derivative could not be told from the value.
        raise Unsupported(f"{layer.name} has the slope {slope}")
    link.activation, link.slope = name, slope


def _check_layer(link):
    """The dtype of a layer, of which every setting is known."""
    layer = link.layer
    policy = layer.dtype_policy
    dtype = policy.variable_dtype
    if policy.compute_dtype != dtype or dtype not in ("float32", "float64"):
        raise Unsupported(f"{layer.name} computes in {policy.compute_dtype}")
    if layer.quantization_mode or layer.lora_enabled:
        raise Unsupported(f"{layer.name} is quantized or has LoRA")
    if layer.activity_regularizer is not None:
        raise Unsupported(f"{layer.name} has an activity regularizer")
    for variable in filter(None.__ne__, link.variables):
        if not variable.trainable:
            raise Unsupported(f"{variable.path} is not trained")
        constraint = variable.constraint
        if isinstance(constraint, TicketMask):
            constraint = constraint.constraint
        if constraint is not None:
            raise Unsupported(
                f"{variable.path} has a constraint of the class "
                f"{type(constraint).__name__}"
            )
        penalties(variable)
    return dtype


def penalties(variable):
    """The factors (l1, l2) of a variable's regularizer, two floats."""
    regularizer = variable.regularizer
    if regularizer is None:
        return 0.0, 0.0
    kinds = (
        keras.regularizers.L1,
        keras.regularizers.L2,
        keras.regularizers.L1L2,
    )
    if type(regularizer) not in kinds:
        raise Unsupported(
            f"{variable.path} has a regularizer of the class "
            f"{type(regularizer).__name__}"
        )
    config = regularizer.get_config()
    return float(config.get("l1", 0.0)), float(config.get("l2", 0.0))


# Losses and accuracies.


def _loss(model):
    loss = model.loss
    return losses.get(loss) if isinstance(loss, str) else loss


def _loss_of(model):
    loss = _loss(model)
    kind = (
        loss if callable(loss) and not isinstance(loss, losses.Loss) else None
    )
    name = _LOSSES.get(kind or type(loss))
    if name is None:
        told = getattr(kind, "__name__", type(loss).__name__)
        raise Unsupported(f"its loss is {told}")
    if internals.loss_weights(model) is not None:
        raise Unsupported("its loss is weighted")
    if kind is None:
        config = loss.get_config()
        for setting, plain in _PLAIN.items():
            if config.get(setting, plain) != plain:
                raise Unsupported(f"its loss has `{setting}`")
        if loss.reduction != "sum_over_batch_size":
            raise Unsupported(f"its loss has the reduction {loss.reduction}")
    return name


def _from_logits(model):
    loss = _loss(model)
    if isinstance(loss, losses.Loss):
        return bool(loss.get_config().get("from_logits"))
    return False


def _accuracy(model):
    """The metric that is recorded as the accuracy, or `None`."""
    _, compiled = internals.compiled_loss_and_metrics(model)
    for metric in compiled.metrics if compiled is not None else ():
        if is_accuracy(metric.name):
            return metric
    return None


def _accuracy_of(model):
    metric = _accuracy(model)
    if metric is None:
        return None
    if type(metric) not in _ACCURACIES:
        raise Unsupported(f"its accuracy is {type(metric).__name__}")
    return _ACCURACIES[type(metric)]


# Optimizers.


def _check_optimizer(optimizer):
    if type(optimizer) not in _OPTIMIZERS:
        raise Unsupported(f"its optimizer is {type(optimizer).__name__}")
    for setting in _OFF:
        if getattr(optimizer, setting, None):
            raise Unsupported(f"its optimizer has `{setting}`")
    rate = internals.learning_rate(optimizer)
    schedules = keras.optimizers.schedules.LearningRateSchedule
    if callable(rate) and not isinstance(rate, (schedules, keras.Variable)):
        raise Unsupported("its learning rate is a function")
