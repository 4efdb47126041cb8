"""What each kind of layer does to channels: the rules of compaction.

A channel is one place of a tensor's last axis. For each an edge has two
numbers: the value it is known to have, at every position and for every
example (NaN: it varies), and who needs it (0: nobody). A rule says, for one
call of one layer,

- `constants`: which values follow from those of the inputs;
- `claim`: which channels are needed, given those that are;
- `make`: the layer that is left once the others are gone.
"""

import keras
import numpy as np
from keras import layers

from keras_lottery.export.graph import copied

# Owner of a unit that stays for the shape alone: no one hears it.
PLACEHOLDER = 1


def unknown(edge):
    """Values of an edge of which nothing is known."""
    return np.full(edge.width, np.nan)


def claim(needed, where, owner):
    """Marks channels as needed by `owner`, unless they have one."""
    np.copyto(needed, owner, where=where & (needed == 0))


class Opaque:
    """A layer that is left as it is, for a reason."""

    def __init__(self, call, reason):
        self.call, self.reason = call, reason

    def constants(self, values):
        return [unknown(edge) for edge in self.call.outputs]

    def claim(self, owner, inputs, outputs, values, ties):
        for needed in (*inputs, *outputs):
            claim(needed, True, owner)

    def make(self, inputs, outputs, values):
        return copied(self.call)


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
            mine = source >= 0
            asked = np.zeros_like(needed)
            np.maximum.at(asked, source[mine], out[mine])
            claim(needed, asked > 0, owner if self.merges else asked)
            if ties:
                given = np.where(mine, needed[source], 0)
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
        """What the layer itself makes of constants; NaN where they vary."""
        probes = []
        for edge, value in zip(self.call.inputs, values):
            sizes = [size or _SIZE for size in edge.shape[1:-1]]
            filled = np.broadcast_to(
                np.nan_to_num(value), (1, *sizes, edge.width)
            )
            probes.append(keras.ops.convert_to_tensor(filled, "float32"))
        (result,) = self.call.apply(self.call.layer, probes)
        # Means of equal numbers differ by rounding.
        single = keras.backend.standardize_dtype(result.dtype) == "float32"
        tolerance = 1e-6 if single else 1e-2
        result = np.asarray(keras.ops.cast(result, "float32"), "float64")
        result = result.reshape(-1, self.call.outputs[0].width)
        low, high = result.min(0), result.max(0)
        size = np.maximum(np.abs(low), np.abs(high))
        return np.where(high - low <= tolerance * size, low, np.nan)


# Positions to try where a size is not known; more than any pool has.
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
    """A layer of kernels: every unit has a connection to every channel.

    Args:
        call: `Call`.
        units: str, the name of its number of units.
        axes: tuple, where the kernel has its channels and its units.
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
        heard = self.linked[:, out > PLACEHOLDER].any(1)
        claim(needed, ~absorbed & heard, owner)

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
        """(channels, units): sum of a connection's weights; whether any."""
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
    """The constants that stay constants under a layer's kernel.

    A padded one sees zeros beyond the border, and a transposed one not
    everywhere the same number of positions: only zeros stay what they are.
    """
    whole = isinstance(layer, layers.Dense) or (
        not isinstance(layer, _TRANSPOSED)
        and (layer.padding == "valid" or set(layer.kernel_size) == {1})
    )
    return value if whole else np.where(value == 0, value, np.nan)


def is_elementwise(activation):
    """Whether an activation looks at one channel at a time."""
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
