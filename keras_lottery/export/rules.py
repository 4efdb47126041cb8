"""Which rule holds for which kind of layer: the table of compaction.

A kind that is not in the table has no rule, and neither has a subclass, which
may compute anything: such layers are left as they are, with all they read.
"""

import numpy as np
from keras import layers

from keras_lottery.export.channels import (
    Channelwise,
    Depthwise,
    Linear,
    Opaque,
    Separable,
    is_elementwise,
)
from keras_lottery.export.graph import only_tensors


def rule_of(call, calls):
    """The rule for one call.

    Args:
        call: `Call`.
        calls: int, how often its layer is called in all.

    Returns:
        `Linear`, `Channelwise`, or `Opaque` where nothing else is exact.
    """
    layer, kind = call.layer, type(call.layer)
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
    # Quantised layers and those with adapters have other weights as well.
    layer = call.layer
    whole = getattr(layer, "groups", 1) == 1
    return whole and len(layer.weights) == kernels + bool(layer.use_bias)


def _depthwise(call):
    if not is_elementwise(call.layer.activation):
        return None
    channels = np.arange(call.outputs[0].width)
    return Depthwise(call, [channels // call.layer.depth_multiplier])


def _same(call):
    """Every channel stays what it is, be there one input or several."""
    (out,) = call.outputs
    shapes = {(len(e.shape), e.width) for e in call.inputs}
    if len(shapes) > 1 or call.inputs[0].width != out.width:
        return None
    return Channelwise(call, [np.arange(out.width) for _ in call.inputs])


def _elementwise(call):
    return _same(call) if is_elementwise(call.layer) else None


def _normalised(call):
    last = len(call.inputs[0].shape) - 1
    return _same(call) if call.layer.axis in (-1, last) else None


def _reshaped(call):
    """Positions become channels: place p of channel c is p * width + c."""
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
    """Layer classes by name, those of this version of Keras."""
    return [getattr(layers, n) for n in names.split() if hasattr(layers, n)]


_TABLE = {
    _dense: "Dense",
    _convolution: "Conv1D Conv2D Conv3D",
    _transposed: "Conv1DTranspose Conv2DTranspose Conv3DTranspose",
    _separable: "SeparableConv1D SeparableConv2D",
    _depthwise: "DepthwiseConv1D DepthwiseConv2D",
    _normalised: "BatchNormalization",
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
