"""The paper's six networks, and how the paper trained and pruned each.

Every function returns a plain, built, uncompiled functional `keras.Model`
whose outputs are logits: compile it with
`keras.losses.SparseCategoricalCrossentropy(from_logits=True)`. Layers have
explicit names, so two builds have the same weight paths. Architectures are
those of 1803.03635, Figure 2.

Kernels start from the paper's "Gaussian Glorot": a normal distribution of
standard deviation sqrt(2 / (fan_in + fan_out)), and not
`keras.initializers.GlorotNormal`, which has the same deviation but cuts the
tails off. Biases start at zero.
"""

import dataclasses
import zlib

import keras
import numpy as np
from keras import ops


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the paper trains and prunes one of its networks.

    `rate` is that of fully-connected layers where `rates`, pairs of regular
    expression and rate, give convolutions one of their own. The learning
    rate rises from 0 to `learning_rate` in `warmup` steps and is divided by
    10 at each step of `drops`. `iterations` are training steps per level;
    `dropout`, `weight_decay` and `augment` are arguments of the network.
    """

    dataset: str
    optimizer: str
    learning_rate: float
    batch_size: int
    iterations: int
    rate: float
    output_rate: float
    rates: tuple = ()
    scope: str = "layerwise"
    momentum: float = 0.0
    warmup: int = 0
    drops: tuple = ()
    dropout: float = 0.0
    weight_decay: float = 0.0
    augment: bool = False

    @property
    def pruning(self):
        """A dict of the arguments that `keras_lottery.wrap` takes."""
        return {
            "rate": self.rate,
            "output_rate": self.output_rate,
            "rates": dict(self.rates),
            "scope": self.scope,
        }


def _conv_recipe(learning_rate, iterations, conv_rate):
    return Recipe(
        dataset="cifar10",
        optimizer="adam",
        learning_rate=learning_rate,
        batch_size=60,
        iterations=iterations,
        rate=0.2,
        output_rate=0.1,
        rates=((r"conv\d", conv_rate),),
    )


def _deep_recipe(learning_rate, batch_size, iterations, **options):
    return Recipe(
        dataset="cifar10",
        optimizer="sgd",
        momentum=0.9,
        learning_rate=learning_rate,
        batch_size=batch_size,
        iterations=iterations,
        rate=0.2,
        output_rate=0.0,
        scope="global",
        weight_decay=1e-4,
        augment=True,
        **options,
    )


# 1803.03635, Figure 2. The two deep networks: the learning rate with warmup,
# the only high one at which the paper finds winning tickets (section 4).
RECIPES = {
    "lenet_300_100": Recipe(
        dataset="mnist",
        optimizer="adam",
        learning_rate=1.2e-3,
        batch_size=60,
        iterations=50_000,
        rate=0.2,
        output_rate=0.1,
    ),
    "conv_2": _conv_recipe(2e-4, 20_000, 0.10),
    "conv_4": _conv_recipe(3e-4, 25_000, 0.10),
    "conv_6": _conv_recipe(3e-4, 30_000, 0.15),
    "resnet_18": _deep_recipe(
        0.03,
        128,
        30_000,
        rates=(("shortcut", 0.0),),
        warmup=20_000,
        drops=(20_000, 25_000),
    ),
    # Epochs 80 and 120 of 160, at 703 steps of 64 out of 45,000 examples.
    "vgg_19": _deep_recipe(
        0.1, 64, 112_480, warmup=10_000, drops=(56_240, 84_360)
    ),
}

# The same with dropout: three times the iterations (1803.03635, section 3).
DROPOUT_RECIPES = {
    name: dataclasses.replace(
        RECIPES[name],
        learning_rate=learning_rate,
        iterations=3 * RECIPES[name].iterations,
        dropout=0.5,
    )
    for name, learning_rate in (
        ("conv_2", 3e-4),
        ("conv_4", 2e-4),
        ("conv_6", 2e-4),
    )
}


def lenet_300_100(input_shape=(28, 28, 1), classes=10, seed=None):
    """LeNet-300-100: two hidden layers; 266,200 kernel weights on MNIST.

    Args:
        input_shape: tuple, (height, width, channels) of one image.
        classes: int, number of logits.
        seed: int, of the initialisation; each layer derives its own from
            it. None: Keras' own randomness.

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
    inputs = keras.Input(input_shape, name="images")
    x = keras.layers.Flatten(name="flatten")(inputs)
    x = _dense(x, 300, "fc1", seed, activation="relu")
    x = _dense(x, 100, "fc2", seed, activation="relu")
    outputs = _dense(x, classes, "output", seed)
    return keras.Model(inputs, outputs, name="lenet_300_100")


def conv_2(input_shape=(32, 32, 3), classes=10, dropout=0.0, seed=None):
    """Conv-2: 2 x 64, pool; 256, 256. 4,300,992 kernel weights on CIFAR-10.

    Args:
        input_shape: tuple, (height, width, channels) of one image.
        classes: int, number of logits.
        dropout: float, in [0, 1): the fraction dropped after each hidden
            fully-connected layer. The paper says 0.5, and not where.
        seed: int, of initialisation and dropout; each layer derives its own
            from it. None: Keras' own randomness.

    Returns:
        A built `keras.Model`: (batch, *input_shape) -> (batch, classes).
    """
    return _conv("conv_2", (64,), input_shape, classes, dropout, seed)


def conv_4(input_shape=(32, 32, 3), classes=10, dropout=0.0, seed=None):
    """Conv-4: Conv-2 and 2 x 128, pool. 2,425,024 weights on CIFAR-10.

    Args and returns are those of `conv_2`.
    """
    return _conv("conv_4", (64, 128), input_shape, classes, dropout, seed)


def conv_6(input_shape=(32, 32, 3), classes=10, dropout=0.0, seed=None):
    """Conv-6: Conv-4 and 2 x 256, pool. 2,261,184 weights on CIFAR-10.

    The paper prints 1.7M, which is not the network that it describes.
    Args and returns are those of `conv_2`.
    """
    return _conv("conv_6", (64, 128, 256), input_shape, classes, dropout, seed)


def resnet_18(
    input_shape=(32, 32, 3),
    classes=10,
    weight_decay=1e-4,
    augment=False,
    seed=None,
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

    Returns:
        A built `keras.Model`: (batch, *input_shape) -> (batch, classes).
    """
    _check(input_shape, classes, seed, smallest=4)
    options = {"seed": seed, "weight_decay": _decay(weight_decay)}
    inputs, x = _images(input_shape, augment, seed)
    x = _normalised(x, 16, "conv1", **options)
    for stage, width in enumerate((16, 32, 64), 1):
        for block in (1, 2, 3):
            strides = 2 if stage > 1 and block == 1 else 1
            name = f"stage{stage}_block{block}"
            x = _residual(x, width, name, strides, **options)
    return _classifier(inputs, x, classes, "resnet_18", **options)


def vgg_19(
    input_shape=(32, 32, 3),
    classes=10,
    weight_decay=1e-4,
    augment=False,
    seed=None,
):
    """VGG-19 for CIFAR: 2x64, 2x128, 4x256, 4x512, 4x512, average pool.

    Batch normalisation after each convolution. 20,024,000 kernel weights.
    Args and returns are those of `resnet_18`.
    """
    _check(input_shape, classes, seed, smallest=16)
    options = {"seed": seed, "weight_decay": _decay(weight_decay)}
    inputs, x = _images(input_shape, augment, seed)
    blocks = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
    for block, (convolutions, width) in enumerate(blocks, 1):
        if block > 1:
            x = keras.layers.MaxPooling2D(name=f"pool{block - 1}")(x)
        for index in range(1, convolutions + 1):
            x = _normalised(x, width, f"block{block}_conv{index}", **options)
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


def _conv(name, widths, input_shape, classes, dropout, seed):
    _check(input_shape, classes, seed, smallest=2 ** len(widths))
    if not 0 <= dropout < 1:
        raise ValueError(
            f"`dropout` must be in [0, 1). Received: dropout={dropout!r}"
        )
    inputs = x = keras.Input(input_shape, name="images")
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


def _images(input_shape, augment, seed):
    inputs = x = keras.Input(input_shape, name="images")
    if augment:
        x = FlipAndCrop(seed=_layer_seed(seed, "augment"), name="augment")(x)
    return inputs, x


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


def _normalised(x, width, name, relu=True, **options):
    # No bias: the normalisation that follows would take it away again.
    x = _conv2d(x, width, name, use_bias=False, **options)
    x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _classifier(inputs, x, classes, name, seed, weight_decay):
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = _dense(
        x, classes, "output", seed, kernel_regularizer=weight_decay
    )
    return keras.Model(inputs, outputs, name=name)


def _conv2d(x, width, name, seed, size=3, weight_decay=None, **options):
    return keras.layers.Conv2D(
        width,
        size,
        padding="same",
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
    if classes < 1:
        raise ValueError(
            f"`classes` must be at least 1. Received: classes={classes!r}"
        )
    whole = isinstance(seed, (int, np.integer))
    if seed is not None and not (whole and seed >= 0):
        raise ValueError(
            "`seed` must be None or an integer of at least 0. "
            f"Received: seed={seed!r}"
        )
