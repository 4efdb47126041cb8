"""The twin of a model in the other Keras: Keras 3 or tf_keras (Keras 2).

Neither loads the other's models, and importing tensorflow_model_optimization
turns a whole process to Keras 2. What both have in common is layers that
compute the same under the same names. `describe_model` turns a model into
plain data, which can be sent to another process, and `build_model` makes a
model of it again, in either Keras.
"""

import dataclasses
import importlib.util

from keras_lottery import keras_internals
from keras_lottery.normalization import BatchNormalization

# The environment of a process that tf_keras takes over.
ENVIRONMENT = {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
_PACKAGES = ("tf_keras", "tensorflow_model_optimization")


def missing_packages():
    """List of the packages of tf_keras and tfmot that are not installed."""
    return [p for p in _PACKAGES if importlib.util.find_spec(p) is None]


_FUNCTION = "initializer regularizer constraint".split()


def _of(part):
    return " ".join(f"{part}_{function}" for function in _FUNCTION)


_DENSE = f"activation use_bias {_of('kernel')} {_of('bias')}"
_WINDOW = "kernel_size strides padding data_format dilation_rate"
_CONV = f"filters groups {_WINDOW} {_DENSE}"
_DEPTHWISE = (
    f"depth_multiplier {_WINDOW} activation use_bias {_of('depthwise')} "
    f"{_of('bias')}"
)
_SEPARABLE = f"filters {_DEPTHWISE} {_of('pointwise')}"
_RECURRENT = (
    f"units {_DENSE} {_of('recurrent')} dropout recurrent_dropout "
    "return_sequences go_backwards unroll"
)
_GATED = f"{_RECURRENT} recurrent_activation"
_POOL = "pool_size strides padding data_format"
_AFFINE = (
    "axis epsilon center scale beta_initializer gamma_initializer "
    "beta_regularizer gamma_regularizer beta_constraint gamma_constraint"
)

# The layers that compute the same in both, each with the parts of its
# configuration that are kept.
LAYERS = {
    "Activation": "activation",
    "Add": "",
    "Average": "",
    "AveragePooling1D": _POOL,
    "AveragePooling2D": _POOL,
    "BatchNormalization": f"{_AFFINE} momentum moving_mean_initializer "
    "moving_variance_initializer",
    "Concatenate": "axis",
    "Conv1D": _CONV,
    "Conv2D": _CONV,
    "Conv2DTranspose": f"filters {_WINDOW} output_padding {_DENSE}",
    "Conv3D": _CONV,
    "Cropping2D": "cropping data_format",
    "Dense": f"units {_DENSE}",
    "DepthwiseConv2D": _DEPTHWISE,
    "Dropout": "rate seed",
    "ELU": "alpha",
    "Embedding": f"input_dim output_dim mask_zero {_of('embeddings')}",
    "Flatten": "data_format",
    "GRU": f"{_GATED} reset_after",
    "GlobalAveragePooling1D": "data_format keepdims",
    "GlobalAveragePooling2D": "data_format keepdims",
    "GlobalMaxPooling1D": "data_format keepdims",
    "GlobalMaxPooling2D": "data_format keepdims",
    "InputLayer": "",
    "LSTM": f"{_GATED} unit_forget_bias",
    "LayerNormalization": _AFFINE,
    "LeakyReLU": "negative_slope",
    "MaxPooling1D": _POOL,
    "MaxPooling2D": _POOL,
    "Maximum": "",
    "Minimum": "",
    "Multiply": "",
    "Permute": "dims",
    "ReLU": "max_value negative_slope threshold",
    "Rescaling": "scale offset",
    "Reshape": "target_shape",
    "SeparableConv2D": _SEPARABLE,
    "SimpleRNN": _RECURRENT,
    "Softmax": "axis",
    "SpatialDropout2D": "rate seed data_format",
    "Subtract": "",
    "UpSampling2D": "size data_format interpolation",
    "ZeroPadding2D": "padding data_format",
}

_MERGING = "Add Average Concatenate Maximum Minimum Multiply Subtract".split()

# Those that are the same function in both. `hard_sigmoid` is not.
ACTIVATIONS = (
    "elu exponential gelu linear relu selu sigmoid softmax softplus softsign "
    "tanh"
).split()

# The parts of a configuration that do not change what a layer computes.
_IGNORED = (
    "name trainable dtype batch_input_shape implementation input_length seed "
    "renorm_momentum"
).split()

# (layer, name in Keras 3) -> name in tf_keras, where they differ.
_TF_KERAS_NAMES = {("LeakyReLU", "negative_slope"): "alpha"}


@dataclasses.dataclass
class Description:
    """A Sequential or functional model as plain data.

    Args:
        name: str, the model's.
        layers: dict, layer name -> (class name, configuration).
        weights: dict, layer name -> list of arrays.
        calls: list of (layer name, list of the indices of the calls that its
            inputs come from), one per call of a layer.
        inputs: list of indices of calls.
        outputs: list of indices of calls.
    """

    name: str
    layers: dict = dataclasses.field(default_factory=dict)
    weights: dict = dataclasses.field(default_factory=dict)
    calls: list = dataclasses.field(default_factory=list)
    inputs: list = dataclasses.field(default_factory=list)
    outputs: list = dataclasses.field(default_factory=list)

    def kinds(self):
        """Dict, layer name -> class name."""
        return {name: kind for name, (kind, _) in self.layers.items()}


def describe_model(model, library):
    """Describes a model as plain data.

    Args:
        model: Sequential or functional model of built-in layers, built.
        library: the module it belongs to, `keras` or `tf_keras`.

    Returns:
        A `Description`.

    Raises:
        ValueError: Naming the first layer that the other Keras does not have.
    """
    if not getattr(model, "built", False) or not _graph_outputs(model):
        raise ValueError(
            "`model` must be a built Sequential or functional model of "
            f"built-in layers. Received: {model.name!r}, of type {type(model)}"
        )
    description, indices = Description(model.name), {}

    def visit(tensor):
        layer, index, node = keras_internals.node_of(tensor)
        if (layer.name, index) not in indices:
            _check_layer(layer, node, library)
            sources = [visit(source) for source in _sources(node)]
            _add_layer(description, layer, tensor, library)
            indices[layer.name, index] = len(description.calls)
            description.calls.append((layer.name, sources))
        return indices[layer.name, index]

    description.inputs = [visit(tensor) for tensor in model.inputs]
    description.outputs = [visit(tensor) for tensor in model.outputs]
    return description


def build_model(description, library, wrapper=None):
    """Builds a model from its description.

    Args:
        description: `Description`.
        library: the module to build it in, `keras` or `tf_keras`.
        wrapper: optional function of a new layer, not built, that returns the
            layer to call in its place: itself, or a wrapper around it.

    Returns:
        A functional model with the same weights. It computes in float32.

    Example:

    ```python
    twin = build_model(describe_model(model, keras), tf_keras)
    ```
    """
    layers, called, tensors = {}, {}, []
    for name, sources in description.calls:
        kind, config = description.layers[name]
        if kind == "InputLayer":
            tensors.append(library.Input(**config, name=name))
            continue
        if name not in layers:
            layers[name] = layer = _layer(name, kind, config, library)
            called[name] = wrapper(layer) if wrapper else layer
        given = [tensors[source] for source in sources]
        tensors.append(called[name](given if kind in _MERGING else given[0]))
    for name, arrays in description.weights.items():
        layers[name].set_weights(arrays)
    inputs = [tensors[call] for call in description.inputs]
    outputs = [tensors[call] for call in description.outputs]
    return library.Model(_one(inputs), _one(outputs), name=description.name)


def _graph_outputs(model):
    # Keras 3 raises where a Sequential model is not built.
    try:
        return getattr(model, "outputs", None)
    except ValueError:
        return None


def _sources(node):
    # In Keras 2 the input tensors of an input layer are its own outputs.
    if hasattr(node, "keras_inputs"):
        return node.keras_inputs
    return node.input_tensors


def _check_layer(layer, node, library):
    kind = type(layer).__name__
    # By identity: the operation `keras.ops.add` is of a class `Add` too.
    own = getattr(library.layers, kind, None), BatchNormalization
    if kind not in LAYERS or type(layer) not in own:
        raise ValueError(
            "`model` must be made of built-in layers that Keras 3 and "
            f"tf_keras share: {', '.join(LAYERS)}. Received: {layer.name!r}, "
            f"of type {type(layer)}"
        )
    options = getattr(node, "call_kwargs", None)
    if options is None:
        options = node.arguments.kwargs
    # `training=False`, which Keras 3 records, changes nothing at inference.
    given = [k for k, v in options.items() if v is not None and v is not False]
    if given:
        raise ValueError(
            "`model` must call its layers on tensors alone. Received: "
            f"{layer.name!r}, called with {', '.join(given)}"
        )


def _add_layer(description, layer, tensor, library):
    if layer.name in description.layers:
        return
    kind = type(layer).__name__
    if kind == "InputLayer":
        dtype = getattr(tensor.dtype, "name", tensor.dtype)
        config = {"shape": tuple(tensor.shape)[1:], "dtype": dtype}
    else:
        config = _config(layer, kind, library)
    description.layers[layer.name] = kind, config
    if layer.weights:
        # The twin computes in float32, whatever the type was.
        arrays = [array.astype("float32") for array in layer.get_weights()]
        description.weights[layer.name] = arrays


def _config(layer, kind, library):
    own = layer.get_config()
    config = {} if layer.trainable else {"trainable": False}
    for key in LAYERS[kind].split():
        value = own.pop(_name(kind, key, library), None)
        if value is not None:
            config[key] = _plain(layer, key, value)
    for key, value in own.items():
        if value and key not in _IGNORED:
            raise ValueError(
                "`model` must be made of layers as Keras 3 and tf_keras both "
                f"have them. Received: {layer.name!r} with {key}={value!r}"
            )
    return config


def _plain(layer, key, value):
    """A value of a configuration in the form that both Keras accept."""
    if key.endswith("activation") and value not in ACTIVATIONS:
        raise ValueError(
            f"`{key}` must be one of {', '.join(ACTIVATIONS)}, which are the "
            f"same in Keras 3 and tf_keras. Received: {layer.name!r} with "
            f"{value!r}"
        )
    if isinstance(value, dict):
        if value["module"].partition(".")[0] not in ("keras", "tf_keras"):
            raise ValueError(
                f"`{key}` must be built in to Keras. Received: "
                f"{layer.name!r} with {value['class_name']!r}"
            )
        # Arguments at their default of `None` differ between the two.
        given = {k: v for k, v in value["config"].items() if v is not None}
        return {**value, "config": given}
    if isinstance(value, (list, tuple)):
        # The axis of a normalisation is a list of one in Keras 2.
        plain = tuple(_plain(layer, key, part) for part in value)
        return plain[0] if key == "axis" and len(plain) == 1 else plain
    return value


def _layer(name, kind, config, library):
    config = {_name(kind, key, library): v for key, v in config.items()}
    return getattr(library.layers, kind).from_config({**config, "name": name})


def _name(kind, key, library):
    if library.__name__ == "tf_keras":
        return _TF_KERAS_NAMES.get((kind, key), key)
    return key


def _one(tensors):
    return tensors[0] if len(tensors) == 1 else tensors
