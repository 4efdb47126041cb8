"""The paper's six networks.

Every function returns a plain, built, uncompiled functional `keras.Model`
whose outputs are logits: compile it with
`keras.losses.SparseCategoricalCrossentropy(from_logits=True)`. Layers have
explicit names, so two builds have the same weight paths. Architectures are
those of 1803.03635, Figure 2.

The networks take images in [0, 1], as `keras_lottery.datasets` returns them.
With the argument `standardize` the standardisation of the channels is the
first layer of the network, so that a served model takes the same images.

The two deep networks are trained as Keras' users train them. The authors' later
code (open_lth, PyTorch) differs in four points, each of which is an argument:

| argument | default | authors | what it does |
|---|---|---|---|
| `norm_epsilon` | 1e-3 | 1e-5 | is added to the variance of batch norm |
| `norm_momentum` | 0.99 | 0.9 | is kept of its averages at each step |
| `padding` | "same" | "symmetric" | pads strides on one side, or on both |
| `decayed` | "kernels" | "all" | "all": also biases and batch norm |

Kernels start from the paper's "Gaussian Glorot": a normal distribution of
standard deviation sqrt(2 / (fan_in + fan_out)), and not
`keras.initializers.GlorotNormal`, which has the same deviation but cuts the
tails off. Biases start at zero.
"""

import zlib

import keras
import numpy as np
from keras import ops

from keras_lottery.checks import (
    check_choice,
    check_integer,
    check_positive,
    check_rate,
    is_number,
)
from keras_lottery.normalization import BatchNormalization


def lenet_300_100(
    input_shape=(28, 28, 1), classes=10, seed=None, standardize=None
):
    """LeNet-300-100: two hidden layers; 266,200 kernel weights on MNIST.

    Args:
        input_shape: tuple, (height, width, channels) of one image.
        classes: int, number of logits.
        seed: int, of the initialisation; each layer derives its own from
            it. None: Keras' own randomness.
        standardize: optional pair (mean, deviation) of sequences with one
            float per channel, as `Dataset.channel_statistics` returns it. The
            first layer subtracts the mean and divides by the deviation.

    Returns:
        A built `keras.Model`: (batch, *input_shape) -> (batch, classes).

    Example:

    ```python
    from keras_lottery import models

    model = models.lenet_300_100(seed=0)
    model.compile(
        optimizer=keras.optimizers.Adam(1.2e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    ```
    """
    _check(input_shape, classes, seed)
    inputs, x = _images(input_shape, standardize)
    x = keras.layers.Flatten(name="flatten")(x)
    x = _dense(x, 300, "fc1", seed, activation="relu")
    x = _dense(x, 100, "fc2", seed, activation="relu")
    outputs = _dense(x, classes, "output", seed)
    return keras.Model(inputs, outputs, name="lenet_300_100")


def conv_2(
    input_shape=(32, 32, 3),
    classes=10,
    dropout=0.0,
    seed=None,
    standardize=None,
):
    """Conv-2: 2 x 64, pool; 256, 256. 4,300,992 kernel weights on CIFAR-10.

    Args:
        input_shape: tuple, (height, width, channels) of one image.
        classes: int, number of logits.
        dropout: float, in [0, 1): the fraction dropped after each hidden
            fully-connected layer. The paper's dropout variants have 0.5.
        seed: int, of initialisation and dropout; each layer derives its own
            from it. None: Keras' own randomness.
        standardize: optional pair (mean, deviation) of sequences with one
            float per channel, as `Dataset.channel_statistics` returns it. The
            first layer subtracts the mean and divides by the deviation.

    Returns:
        A built `keras.Model`: (batch, *input_shape) -> (batch, classes).
    """
    arguments = input_shape, classes, dropout, seed, standardize
    return _conv("conv_2", (64,), *arguments)


def conv_4(
    input_shape=(32, 32, 3),
    classes=10,
    dropout=0.0,
    seed=None,
    standardize=None,
):
    """Conv-4: Conv-2 and 2 x 128, pool. 2,425,024 weights on CIFAR-10.

    Args and returns are those of `conv_2`.
    """
    arguments = input_shape, classes, dropout, seed, standardize
    return _conv("conv_4", (64, 128), *arguments)


def conv_6(
    input_shape=(32, 32, 3),
    classes=10,
    dropout=0.0,
    seed=None,
    standardize=None,
):
    """Conv-6: Conv-4 and 2 x 256, pool. 2,261,184 weights on CIFAR-10.

    The paper prints 1.7M, which is not the network that it describes.
    Args and returns are those of `conv_2`.
    """
    arguments = input_shape, classes, dropout, seed, standardize
    return _conv("conv_6", (64, 128, 256), *arguments)


def resnet_18(
    input_shape=(32, 32, 3),
    classes=10,
    weight_decay=1e-4,
    augment=False,
    seed=None,
    standardize=None,
    norm_epsilon=1e-3,
    norm_momentum=0.99,
    padding="same",
    decayed="kernels",
    width=16,
):
    """What the paper calls ResNet-18: the ResNet-20 for CIFAR.

    A convolution and three stages of three blocks, 16, 32 and 64 wide, each
    convolution followed by batch normalisation; shortcuts are 1x1
    convolutions where the shape changes. 270,896 kernel weights.

    Args:
        input_shape: tuple, (height, width, channels) of one image.
        classes: int, number of logits.
        weight_decay: float, added to a kernel's gradient per unit of weight
            (so the loss has `weight_decay / 2` times the sum of squares).
        augment: bool, whether training flips and shifts images at random.
        seed: int, of initialisation and augmentation; each layer derives
            its own from it. None: Keras' own randomness.
        standardize: optional pair (mean, deviation) of sequences with one
            float per channel, as `Dataset.channel_statistics` returns it. The
            first layer subtracts the mean and divides by the deviation.
        norm_epsilon: float, added to the variance of batch norm.
        norm_momentum: float, kept of its moving averages at each step.
        padding: `"same"` or `"symmetric"`, of convolutions with strides.
        decayed: `"kernels"` or `"all"`, what weight decay acts on.
        width: int, filters of the first stage; the others keep their ratio
            to it. Other than the default, a network that is wider or
            narrower than the paper's.

    Returns:
        A built `keras.Model`: (batch, *input_shape) -> (batch, classes).
    """
    _check(input_shape, classes, seed, smallest=4)
    check_integer("width", width, minimum=1)
    options = _deep_options(
        seed, weight_decay, norm_epsilon, norm_momentum, padding, decayed
    )
    inputs, x = _images(input_shape, standardize)
    x = _augmented(x, seed) if augment else x
    x = _normalised(x, width, "conv1", **options)
    for stage, times in enumerate((1, 2, 4), 1):
        for block in (1, 2, 3):
            strides = 2 if stage > 1 and block == 1 else 1
            name = f"stage{stage}_block{block}"
            x = _residual(x, times * width, name, strides, **options)
    return _classifier(inputs, x, classes, "resnet_18", **options)


def vgg_19(
    input_shape=(32, 32, 3),
    classes=10,
    weight_decay=1e-4,
    augment=False,
    seed=None,
    standardize=None,
    norm_epsilon=1e-3,
    norm_momentum=0.99,
    padding="same",
    decayed="kernels",
    width=64,
):
    """VGG-19 for CIFAR: 2x64, 2x128, 4x256, 4x512, 4x512, average pool.

    Batch normalisation after each convolution. 20,024,000 kernel weights.
    Args and returns are those of `resnet_18`; `width` is that of the first
    block.
    """
    _check(input_shape, classes, seed, smallest=16)
    check_integer("width", width, minimum=1)
    options = _deep_options(
        seed, weight_decay, norm_epsilon, norm_momentum, padding, decayed
    )
    inputs, x = _images(input_shape, standardize)
    x = _augmented(x, seed) if augment else x
    blocks = ((2, 1), (2, 2), (4, 4), (4, 8), (4, 8))
    for block, (convolutions, times) in enumerate(blocks, 1):
        if block > 1:
            x = keras.layers.MaxPooling2D(name=f"pool{block - 1}")(x)
        for index in range(1, convolutions + 1):
            name = f"block{block}_conv{index}"
            x = _normalised(x, times * width, name, **options)
    return _classifier(inputs, x, classes, "vgg_19", **options)


NETWORKS = {
    network.__name__: network
    for network in (lenet_300_100, conv_2, conv_4, conv_6, resnet_18, vgg_19)
}


def get(name):
    """The function that builds the network of this name.

    Args:
        name: str, a key of `NETWORKS`.

    Returns:
        The function, for instance `lenet_300_100`.

    Raises:
        ValueError: If there is no such network.
    """
    if name not in NETWORKS:
        raise ValueError(
            f"`name` must be one of {', '.join(NETWORKS)}. "
            f"Received: name={name!r}"
        )
    return NETWORKS[name]


def _conv(name, widths, input_shape, classes, dropout, seed, standardize):
    _check(input_shape, classes, seed, smallest=2 ** len(widths))
    check_rate("dropout", dropout)
    inputs, x = _images(input_shape, standardize)
    for block, width in enumerate(widths, 1):
        for index in (2 * block - 1, 2 * block):
            conv = f"conv{index}"
            x = _conv2d(x, width, conv, seed, activation="relu")
        x = keras.layers.MaxPooling2D(name=f"pool{block}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    for index in (1, 2):
        x = _dense(x, 256, f"fc{index}", seed, activation="relu")
        if dropout:
            drop = f"dropout{index}"
            x = keras.layers.Dropout(
                dropout, seed=_layer_seed(seed, drop), name=drop
            )(x)
    return keras.Model(inputs, _dense(x, classes, "output", seed), name=name)


@keras.saving.register_keras_serializable(package="keras_lottery")
class FlipAndCrop(keras.layers.Layer):
    """Mirrors each image at random, pads it with zeros and crops it back.

    Every image gets a corner of its own (`keras.layers.RandomCrop` draws
    one for the whole batch, and resizes the padded image at inference).
    Outside training images pass unchanged. Compiles under XLA.

    Args:
        padding: int, pixels on each side.
        seed: int or None, of the random numbers.
    """

    def __init__(self, padding=4, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.padding = padding
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        if not training:
            return images
        batch, pad = ops.shape(images)[0], self.padding
        height, width, channels = images.shape[1:]
        top, left = ops.unstack(self._draw((2, batch, 1), 2 * pad + 1))
        across = ops.where(
            self._draw((batch, 1), 2) == 1,
            ops.arange(width)[::-1],
            ops.arange(width),
        )
        rows, columns = top + ops.arange(height), left + across
        pixels = rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]
        images = ops.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        images = ops.take_along_axis(
            ops.reshape(images, (batch, -1, channels)),
            ops.reshape(pixels, (batch, -1, 1)),
            axis=1,
        )
        return ops.reshape(images, (batch, height, width, channels))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = {"padding": self.padding, "seed": self.seed}
        return {**super().get_config(), **config}

    def _draw(self, shape, below):
        return keras.random.randint(shape, 0, below, seed=self.seed_generator)


def _images(input_shape, standardize):
    """The input of a network, and its standardised images."""
    inputs = keras.Input(input_shape, name="images")
    if standardize is None:
        return inputs, inputs
    mean, deviation = _statistics(standardize, input_shape[-1])
    # Not `Normalization`, which the exporters do not know.
    rescaling = keras.layers.Rescaling(
        scale=[1 / d for d in deviation],
        offset=[-m / d for m, d in zip(mean, deviation)],
        name="standardize",
    )
    return inputs, rescaling(inputs)


def _statistics(standardize, channels):
    """The pair (mean, deviation) of tuples of float, or an error."""
    try:
        mean, deviation = (tuple(map(float, part)) for part in standardize)
        numbers = all(is_number(n) for n in mean + deviation)
        if numbers and len(mean) == len(deviation) == channels:
            if min(deviation) > 0:
                return mean, deviation
    except (TypeError, ValueError):
        pass
    raise ValueError(
        "`standardize` must be a pair (mean, deviation) of sequences, each "
        f"with a number for each of the {channels} channels, deviations "
        f"greater than 0. Received: standardize={standardize!r}"
    )


def _augmented(x, seed):
    # After the standardisation: zeros are then the mean of a channel. Of
    # smaller images it is as large a part as the usual 4 of 32 pixels.
    padding = min(x.shape[1:3]) // 8
    return FlipAndCrop(padding, _layer_seed(seed, "augment"), name="augment")(x)


def _residual(x, width, name, strides, **options):
    shortcut = x
    x = _normalised(x, width, f"{name}_conv1", strides=strides, **options)
    x = _normalised(x, width, f"{name}_conv2", relu=False, **options)
    if shortcut.shape[-1] != width:
        shortcut = _normalised(
            shortcut,
            width,
            f"{name}_shortcut",
            size=1,
            strides=strides,
            relu=False,
            **options,
        )
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _deep_options(seed, weight_decay, epsilon, momentum, padding, decayed):
    """What the layers of a deep network have in common, a dict."""
    check_choice("padding", padding, ("same", "symmetric"))
    check_choice("decayed", decayed, ("kernels", "all"))
    check_positive("norm_epsilon", epsilon)
    check_rate("norm_momentum", momentum)
    decay = _decay(weight_decay)
    others = decay if decayed == "all" else None
    return {
        "seed": seed,
        "weight_decay": decay,
        "padding": padding,
        "norm": {
            "epsilon": epsilon,
            "momentum": momentum,
            "gamma_regularizer": others,
            "beta_regularizer": others,
        },
    }


def _normalised(x, width, name, norm, relu=True, **options):
    # No bias: the normalisation that follows would take it away again.
    x = _conv2d(x, width, name, use_bias=False, **options)
    x = BatchNormalization(name=f"{name}_bn", **norm)(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _classifier(inputs, x, classes, name, seed, weight_decay, norm, padding):
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = _dense(
        x,
        classes,
        "output",
        seed,
        kernel_regularizer=weight_decay,
        bias_regularizer=norm["gamma_regularizer"],
    )
    return keras.Model(inputs, outputs, name=name)


def _conv2d(
    x,
    width,
    name,
    seed,
    size=3,
    weight_decay=None,
    padding="same",
    strides=1,
    **options,
):
    if padding == "symmetric" and strides > 1:
        # "same" would pad on one side only.
        padding = "valid"
        if size > 1:
            pad = keras.layers.ZeroPadding2D(size // 2, name=f"{name}_pad")
            x = pad(x)
    elif padding == "symmetric":
        padding = "same"
    return keras.layers.Conv2D(
        width,
        size,
        strides,
        padding=padding,
        kernel_initializer=_gaussian_glorot(seed, name),
        kernel_regularizer=weight_decay,
        name=name,
        **options,
    )(x)


def _dense(x, units, name, seed, **options):
    return keras.layers.Dense(
        units,
        kernel_initializer=_gaussian_glorot(seed, name),
        name=name,
        **options,
    )(x)


def _gaussian_glorot(seed, name):
    return keras.initializers.VarianceScaling(
        mode="fan_avg",
        distribution="untruncated_normal",
        seed=_layer_seed(seed, name),
    )


def _layer_seed(seed, name):
    # By name and not by position: adding dropout leaves the weights alone.
    if seed is None:
        return None
    words = np.random.SeedSequence([seed, zlib.crc32(name.encode())])
    return int(words.generate_state(1)[0] >> 1)


def _decay(weight_decay):
    if weight_decay < 0:
        raise ValueError(
            "`weight_decay` must not be negative. "
            f"Received: weight_decay={weight_decay!r}"
        )
    return keras.regularizers.L2(weight_decay / 2) if weight_decay else None


def _check(input_shape, classes, seed, smallest=1):
    if (
        len(input_shape) != 3
        or not all(isinstance(n, int) and n > 0 for n in input_shape)
        or min(input_shape[:2]) < smallest
    ):
        raise ValueError(
            "`input_shape` must be (height, width, channels), height and "
            f"width at least {smallest}. Received: input_shape={input_shape}"
        )
    check_integer("classes", classes, minimum=1)
    if seed is not None:
        check_integer("seed", seed, minimum=0)
