"""What each kind of layer does to channels.

A channel is one index of a tensor's last axis. Each channel of an edge has two
numbers: its constant value, if it has the same at every position and for every
example (NaN otherwise), and its owner, the call that needs it (0: none). A
rule has, for one call of one layer,

- `constants`: the values of the outputs that follow from those of the inputs;
- `claim`: marks the channels that are needed because others are;
- `make`: the smaller layer, without the channels that are not needed.

`rules_of` finds the rules of a graph. A kind of layer that is not in its table
has none, and neither has a subclass, which may compute anything: such layers
stay as they are, with all their inputs.
"""

import collections

import keras
import numpy as np
from keras import layers

from keras_lottery.graph import copied, only_tensors
from keras_lottery.normalization import BatchNormalization

# Owner of a unit that is kept only because no layer can have zero units.
PLACEHOLDER = 1


def unknown(edge):
    """The values of an edge without constant channels."""
    return np.full(edge.width, np.nan)


def claim(needed, where, owner):
    """Marks the channels `where` as needed by `owner`, if they have none."""
    np.copyto(needed, owner, where=where & (needed == 0))


class Opaque:
    """A layer that stays as it is, and why."""

    def __init__(self, call, reason):
        self.call, self.reason = call, reason

    def constants(self, values):
        return [unknown(edge) for edge in self.call.outputs]

    def claim(self, owner, inputs, outputs, values, ties):
        for needed in (*inputs, *outputs):
            claim(needed, True, owner)

    def make(self, inputs, outputs, values):
        return copied(self.call)


class Heads(Opaque):
    """Attention, of which heads that add nothing can be removed."""

    def make(self, inputs, outputs, values):
        kept = self.kept()
        layer = self.call.layer
        weights = []
        for dense in (layer.query_dense, layer.key_dense, layer.value_dense):
            kernel, *bias = dense.get_weights()
            weights.append(kernel.compress(kept, 1))
            weights += [b.compress(kept, 0) for b in bias]
        kernel, *bias = layer.output_dense.get_weights()
        weights += [kernel.compress(kept, 0), *bias]
        return copied(self.call, weights, num_heads=int(kept.sum()))

    def kept(self):
        """Boolean array: which heads the output depends on, or the first."""
        layer = self.call.layer
        value, *bias = layer.value_dense.get_weights()
        kept = value.any((0, 2))
        for b in bias:
            kept |= b.any(1)
        kept &= layer.output_dense.get_weights()[0].any((1, 2))
        return kept if kept.any() else np.arange(len(kept)) == 0


class Channelwise:
    """A layer of which each channel depends on one of each input's.

    Args:
        call: `Call`.
        sources: list, per input, of the input channel that each output
            channel comes from; -1 where it comes from another input.
    """

    reason = "merges them with channels that are needed"

    def __init__(self, call, sources):
        self.call, self.sources = call, sources
        counts = sum((source >= 0).astype(int) for source in sources)
        self.merges = bool((counts > 1).any())

    def constants(self, values):
        known = np.ones(self.call.outputs[0].width, bool)
        for source, value in zip(self.sources, values):
            known &= (source < 0) | ~np.isnan(value[source])
        if not known.any():
            return [unknown(self.call.outputs[0])]
        return [np.where(known, self._probe(values), np.nan)]

    def claim(self, owner, inputs, outputs, values, ties):
        (out,) = outputs
        for source, needed in zip(self.sources, inputs):
            given_here = source >= 0
            owners = np.zeros_like(needed)
            np.maximum.at(owners, source[given_here], out[given_here])
            claim(needed, owners > 0, owner if self.merges else owners)
            if ties:
                given = np.where(given_here, needed[source], 0)
                claim(out, given > 0, owner if self.merges else given)

    def make(self, inputs, outputs, values):
        layer, weights = self.call.layer, self.call.layer.get_weights()
        config = {}
        if isinstance(layer, layers.Reshape):
            kept = int(outputs[0].sum())
            config["target_shape"] = (*layer.target_shape[:-1], kept)
        return copied(self.call, self._cut(weights, inputs, outputs), **config)

    def _cut(self, weights, inputs, outputs):
        # A parameter that is shared between channels is of size 1.
        (kept,) = outputs
        return [
            w.compress(kept, -1) if w.shape[-1] == kept.size else w
            for w in weights
        ]

    def _probe(self, values):
        """The layer's own outputs for constants; NaN where they vary."""
        probes = []
        for edge, value in zip(self.call.inputs, values):
            sizes = [size or _SIZE for size in edge.shape[1:-1]]
            filled = np.broadcast_to(
                np.nan_to_num(value), (1, *sizes, edge.width)
            )
            probes.append(keras.ops.convert_to_tensor(filled, "float32"))
        (result,) = self.call.apply(self.call.layer, probes)
        # The mean of equal numbers differs from them by rounding.
        single = keras.backend.standardize_dtype(result.dtype) == "float32"
        tolerance = 1e-6 if single else 1e-2
        result = np.asarray(keras.ops.cast(result, "float32"), "float64")
        result = result.reshape(-1, self.call.outputs[0].width)
        low, high = result.min(0), result.max(0)
        size = np.maximum(np.abs(low), np.abs(high))
        return np.where(high - low <= tolerance * size, low, np.nan)


# Number of positions to try where a size is free; more than any pool has.
_SIZE = 64


class Depthwise(Channelwise):
    """A convolution of each channel by itself."""

    def constants(self, values):
        return super().constants([_absorbed(self.call.layer, values[0])])

    def _cut(self, weights, inputs, outputs):
        kernel, *bias = weights
        kernel = kernel.compress(inputs[0], -2)
        return [kernel, *(b.compress(outputs[0], -1) for b in bias)]


class Linear:
    """A layer with kernels, whose units are connected to every channel.

    Args:
        call: `Call`.
        units: str, the argument of the layer that is its number of units.
        axes: pair of int, the axes of the kernel for channels and units.
    """

    reason = "pads, and a constant other than zero is none at the borders"

    def __init__(self, call, units, axes=(-2, -1)):
        self.call, self.units, self.axes = call, units, axes
        layer = call.layer
        weights = [np.asarray(w) for w in layer.get_weights()]
        self.kernels = weights[: -1 if layer.use_bias else None]
        self.bias = weights[-1].astype("float64") if layer.use_bias else 0.0
        self.summed, self.linked = self._matrices()
        self.elementwise = is_elementwise(layer.activation)

    def constants(self, values):
        (value,) = values
        absorbed = _absorbed(self.call.layer, value)
        known = ~np.isnan(absorbed)
        if not self.elementwise:
            return [unknown(self.call.outputs[0])]
        folded = self.bias + np.where(known, absorbed, 0) @ self.summed
        result = keras.ops.convert_to_tensor(folded[None], "float32")
        result = np.array(self.call.layer.activation(result))[0]
        varies = self.linked[~known].any(0) | ~np.isfinite(result)
        return [np.where(varies, np.nan, result)]

    def claim(self, owner, inputs, outputs, values, ties):
        (needed,), (out,), (value,) = inputs, outputs, values
        if not self.elementwise:
            claim(out, True, owner)
        absorbed = ~np.isnan(_absorbed(self.call.layer, value))
        connected = self.linked[:, out > PLACEHOLDER].any(1)
        claim(needed, ~absorbed & connected, owner)

    def make(self, inputs, outputs, values):
        (kept,), (units,), (value,) = inputs, outputs, values
        config = {self.units: int(units.sum())}
        absorbed = _absorbed(self.call.layer, value)
        folded = np.where(kept | np.isnan(absorbed), 0, absorbed)
        bias = self.bias + (folded @ self.summed)
        weights = self._cut(kept, units)
        if self.call.layer.use_bias or bias[units].any():
            config["use_bias"] = True
            weights.append(bias[units].astype(weights[0].dtype))
        return copied(self.call, weights, **config)

    def _matrices(self):
        """Two arrays of shape (channels, units): the sum of the weights of
        each connection, and whether any of them is not zero."""
        kernel = np.moveaxis(self.kernels[0], self.axes, (-2, -1))
        positions = tuple(range(kernel.ndim - 2))
        return kernel.sum(positions, dtype="float64"), kernel.any(positions)

    def _cut(self, kept, units):
        channels_at, units_at = self.axes
        kernel = self.kernels[0].compress(kept, channels_at)
        return [kernel.compress(units, units_at)]


class Separable(Linear):
    """A depthwise convolution and a pointwise one, in one layer."""

    def _matrices(self):
        positions = tuple(range(self.kernels[0].ndim - 2))
        channels = self.kernels[0].shape[-2]

        def chained(depthwise, pointwise):
            pointwise = pointwise.reshape(channels, depthwise.shape[-1], -1)
            return np.einsum("cm,cmu->cu", depthwise, pointwise)

        depthwise, pointwise = (k.astype("float64") for k in self.kernels)
        links = chained(
            depthwise.any(positions).astype(int), (pointwise != 0).astype(int)
        )
        return chained(depthwise.sum(positions), pointwise), links > 0

    def _cut(self, kept, units):
        depthwise, pointwise = self.kernels
        repeated = kept.repeat(depthwise.shape[-1])
        pointwise = pointwise.compress(repeated, -2).compress(units, -1)
        return [depthwise.compress(kept, -2), pointwise]


def _absorbed(layer, value):
    """The constants that give constants under a layer's kernel.

    A padded kernel meets zeros at the border, and a transposed one does not
    cover every position equally often: there, only zeros give constants.
    """
    whole = isinstance(layer, layers.Dense) or (
        not isinstance(layer, _TRANSPOSED)
        and (layer.padding == "valid" or set(layer.kernel_size) == {1})
    )
    return value if whole else np.where(value == 0, value, np.nan)


def is_elementwise(activation):
    """Whether an activation computes each channel from that alone."""
    if isinstance(activation, layers.Activation):
        return is_elementwise(activation.activation)
    return type(activation) in _ACTIVATIONS or activation in _ELEMENTWISE


_TRANSPOSED = (
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)
_ACTIVATIONS = (layers.ReLU, layers.LeakyReLU, layers.ELU)
_ELEMENTWISE = frozenset(
    getattr(keras.activations, name)
    for name in (
        "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu "
        "hard_tanh leaky_relu linear log_sigmoid mish relu relu6 selu sigmoid "
        "silu soft_shrink softplus softsign sparse_plus squareplus tanh "
        "tanh_shrink threshold"
    ).split()
)


def rules_of(graph):
    """The rule for each call of a graph.

    Args:
        graph: `Graph`.

    Returns:
        A dict, `Call` -> `Linear`, `Channelwise`, `Heads`, or `Opaque` where
        nothing else is exact.
    """
    calls = collections.Counter(id(call.layer) for call in graph.calls)
    return {call: _rule(call, calls[id(call.layer)]) for call in graph.calls}


def _rule(call, calls):
    """The rule for a call of a layer that is called so often in all."""
    layer, kind = call.layer, type(call.layer)
    if kind is layers.MultiHeadAttention and calls == len(call.outputs) == 1:
        return Heads(call, "mixes channels")
    if kind not in _RULES:
        return Opaque(call, f"has no rule for {kind.__name__}")
    if not only_tensors(call.arguments):
        return Opaque(call, "is called with arguments of its own")
    if calls > 1 and (layer.weights or kind is layers.Reshape):
        return Opaque(call, "is called more than once")
    if not all(edge.width for edge in (*call.inputs, *call.outputs)):
        return Opaque(call, "has no channels of a known number")
    # A flat tensor has no other axis for the channels to be on.
    spatial = any(len(edge.shape) > 2 for edge in call.inputs)
    if spatial and getattr(layer, "data_format", None) == "channels_first":
        return Opaque(call, "has its channels first")
    return _RULES[kind](call) or Opaque(call, "mixes channels")


def _dense(call):
    return _plain_weights(call, 1) and Linear(call, "units")


def _convolution(call):
    return _plain_weights(call, 1) and Linear(call, "filters")


def _transposed(call):
    return _plain_weights(call, 1) and Linear(call, "filters", (-1, -2))


def _separable(call):
    return _plain_weights(call, 2) and Separable(call, "filters")


def _plain_weights(call, kernels):
    # Quantised layers and those with LoRA have other weights as well.
    layer = call.layer
    whole = getattr(layer, "groups", 1) == 1
    return whole and len(layer.weights) == kernels + bool(layer.use_bias)


def _depthwise(call):
    if not is_elementwise(call.layer.activation):
        return None
    channels = np.arange(call.outputs[0].width)
    return Depthwise(call, [channels // call.layer.depth_multiplier])


def _same(call):
    """Each output channel comes from the same channel of every input."""
    (out,) = call.outputs
    shapes = {(len(e.shape), e.width) for e in call.inputs}
    if len(shapes) > 1 or call.inputs[0].width != out.width:
        return None
    return Channelwise(call, [np.arange(out.width) for _ in call.inputs])


def _elementwise(call):
    return _same(call) if is_elementwise(call.layer) else None


def _normalized(call):
    last = len(call.inputs[0].shape) - 1
    return _same(call) if call.layer.axis in (-1, last) else None


def _reshaped(call):
    """Position p of channel c becomes channel p * width + c."""
    width, out = call.inputs[0].width, call.outputs[0].width
    if out % width:
        return None
    return Channelwise(call, [np.arange(out) % width])


def _concatenated(call):
    (out,) = call.outputs
    if call.layer.axis not in (-1, len(out.shape) - 1):
        return _same(call)
    sources, end = [], 0
    for edge in call.inputs:
        source = np.full(out.width, -1)
        source[end : end + edge.width] = np.arange(edge.width)
        sources.append(source)
        end += edge.width
    return Channelwise(call, sources)


def _kinds(names):
    """Layer classes by name, as far as this version of Keras has them."""
    return [getattr(layers, n) for n in names.split() if hasattr(layers, n)]


_TABLE = {
    _dense: "Dense",
    _convolution: "Conv1D Conv2D Conv3D",
    _transposed: "Conv1DTranspose Conv2DTranspose Conv3DTranspose",
    _separable: "SeparableConv1D SeparableConv2D",
    _depthwise: "DepthwiseConv1D DepthwiseConv2D",
    _normalized: "BatchNormalization",
    _elementwise: "Activation",
    _reshaped: "Flatten Reshape",
    _concatenated: "Concatenate",
    _same: (
        "ReLU LeakyReLU ELU PReLU Identity ActivityRegularization "
        "Dropout AlphaDropout GaussianDropout GaussianNoise SpatialDropout1D "
        "SpatialDropout2D SpatialDropout3D RepeatVector "
        "MaxPooling1D MaxPooling2D MaxPooling3D "
        "AveragePooling1D AveragePooling2D AveragePooling3D "
        "GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D "
        "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D "
        "UpSampling1D UpSampling2D UpSampling3D "
        "ZeroPadding1D ZeroPadding2D ZeroPadding3D "
        "Cropping1D Cropping2D Cropping3D "
        "Add Subtract Multiply Average Maximum Minimum"
    ),
}
_RULES = {
    kind: rule for rule, names in _TABLE.items() for kind in _kinds(names)
}
_RULES[BatchNormalization] = _normalized
