"""Models of layers that Keras 3 and tf_keras share."""

import keras
import numpy as np
from small import mlp

layers = keras.layers


def sparse(model, density=0.3, dense=()):
    """The model with random weights, few of them not zero."""
    draw = np.random.default_rng(0)
    for layer in model.layers:
        for weight in layer.weights:
            values = draw.uniform(0.1, 0.5, weight.shape)
            if len(weight.shape) > 1:
                values *= draw.choice([-1, 1], weight.shape)
                if layer.name not in dense:
                    values *= draw.random(weight.shape) < density
            weight.assign(values)
    return model


def residual():
    """Convolutions, normalised and not, an addition; its head is dense."""
    inputs = keras.Input((6, 6, 2), name="pixels")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    x = short = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D()(layers.Add()([x, short]))
    x = layers.Flatten()(layers.Dropout(0.2)(x))
    x = layers.Dense(12, "relu")(x)
    outputs = layers.Dense(3, name="head")(x)
    return sparse(keras.Model(inputs, outputs), dense=["head"])


def images(*between):
    return sparse(
        keras.Sequential(
            [
                keras.Input((8, 8, 2)),
                *between,
                layers.Flatten(),
                layers.Dense(3, "softmax"),
            ]
        )
    )


def sequence(*between):
    return sparse(
        keras.Sequential([keras.Input((5, 4)), *between, layers.Dense(3)])
    )


def shared():
    twice = layers.Dense(4, "tanh")
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(3)(twice(twice(inputs))))


def two_ends():
    one, other = keras.Input((4,)), keras.Input((4,))
    parts = [
        merge()([one, other])
        for merge in (
            layers.Subtract,
            layers.Multiply,
            layers.Average,
            layers.Maximum,
            layers.Minimum,
            layers.Concatenate,
        )
    ]
    both = layers.Concatenate()(parts)
    return sparse(
        keras.Model([one, other], [layers.Dense(3)(both), layers.Dense(2)(one)])
    )


def tokens():
    ids = keras.Input((5,), dtype="int32")
    return sparse(
        keras.Model(ids, layers.Flatten()(layers.Embedding(7, 4)(ids)))
    )


TWINS = {
    "mlp": mlp,
    "residual": residual,
    "shared": shared,
    "two_ends": two_ends,
    "tokens": tokens,
    "images": lambda: images(
        layers.Rescaling([0.5, 2.0], [0.1, -1.0]),
        layers.ZeroPadding2D(1),
        layers.DepthwiseConv2D(2, activation="elu"),
        layers.SeparableConv2D(4, 2, depthwise_initializer="he_normal"),
        layers.LeakyReLU(0.2),
        layers.Conv2DTranspose(3, 2, strides=2),
        layers.AveragePooling2D(2),
        layers.UpSampling2D(2),
        layers.Cropping2D(1),
        layers.LayerNormalization(),
        layers.SpatialDropout2D(0.1),
        layers.Activation("gelu"),
        layers.Permute((2, 1, 3)),
    ),
    "volumes": lambda: images(
        layers.Reshape((4, 4, 4, 2)),
        layers.Conv3D(2, 2, activation="selu"),
        layers.ELU(),
    ),
    "pooled": lambda: keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.GlobalAveragePooling2D(keepdims=True),
            layers.GlobalMaxPooling2D(),
            layers.Softmax(),
        ]
    ),
    "recurrent": lambda: sequence(
        layers.Conv1D(4, 2, kernel_regularizer="l2"),
        layers.AveragePooling1D(1),
        layers.MaxPooling1D(1),
        layers.LSTM(4, return_sequences=True),
        layers.GRU(4, return_sequences=True, kernel_constraint="max_norm"),
        layers.SimpleRNN(3, return_sequences=True),
        layers.GlobalMaxPooling1D(),
    ),
    "averaged": lambda: sequence(layers.GlobalAveragePooling1D()),
}


def inputs_of(model, count=4):
    draw = np.random.default_rng(0)
    return [
        draw.integers(0, 7, (count, *tensor.shape[1:])).astype(tensor.dtype)
        for tensor in model.inputs
    ]


def flat(outputs):
    return [np.asarray(part) for part in keras.tree.flatten(outputs)]
