"""Models of every kind, tiny. Each function returns an uncompiled one."""

import dataclasses

import keras
import zoo_steps

layers = keras.layers


def sequential():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, "tanh"),
            layers.Dense(7, "relu"),
            layers.Dense(3),
        ]
    )


def functional():
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, "tanh")(inputs)
    outputs = layers.Dense(3)(layers.Concatenate()([hidden, inputs]))
    return keras.Model(inputs, outputs)


def unbuilt_sequential():
    return keras.Sequential(
        [layers.Dense(8, "tanh"), layers.Dropout(0.4), layers.Dense(3)]
    )


@keras.saving.register_keras_serializable("laws")
class OwnCall(keras.Model):
    """A subclass with a `call` of its own; unbuilt until it sees data."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(8, "tanh")
        self.dropout = layers.Dropout(0.4)
        self.out = layers.Dense(3)

    def call(self, inputs, training=None):
        hidden = self.dropout(self.hidden(inputs), training=training)
        return self.out(hidden)


@keras.saving.register_keras_serializable("laws")
class OwnTrainStep(keras.Model):
    """A functional model with a `train_step` of its own."""

    def train_step(self, *args):
        return zoo_steps.own_train_step(self, *args)


def own_train_step():
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, "tanh")(inputs)
    return OwnTrainStep(inputs, layers.Dense(3)(hidden))


@keras.saving.register_keras_serializable("laws")
class Adversaries(keras.Model):
    """Like a GAN: two networks, an optimizer for each, noise."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.Sequential(
            [keras.Input((4,)), layers.Dense(8, "tanh"), layers.Dense(6)]
        )
        self.critic = keras.Sequential(
            [keras.Input((6,)), layers.Dense(8, "tanh"), layers.Dense(1)]
        )
        self.noise = keras.random.SeedGenerator(5)
        self.built = True

    def compile(self, optimizer, critic_optimizer=None, **kwargs):
        super().compile(optimizer=optimizer, **kwargs)
        if critic_optimizer is None:
            critic_optimizer = keras.optimizers.RMSprop(0.01)
        self.critic_optimizer = critic_optimizer

    def call(self, inputs):
        return self.critic(inputs)

    def train_step(self, data):
        x, _ = data
        z = keras.random.normal((keras.ops.shape(x)[0], 4), seed=self.noise)

        def critic_loss():
            fake = self.critic(self.generator(z))
            return keras.ops.mean(fake - self.critic(x))

        def loss():
            return -keras.ops.mean(self.critic(self.generator(z)))

        parts = (
            (self.critic_optimizer, self.critic, critic_loss),
            (self.optimizer, self.generator, loss),
        )
        found = [
            zoo_steps.gradients(own, part.trainable_variables)
            for _, part, own in parts
        ]
        for (optimizer, part, _), (_, own) in zip(parts, found):
            zoo_steps.apply(optimizer, own, part.trainable_variables)
        return {"loss": found[1][0], "critic_loss": found[0][0]}


def nested():
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, "tanh"), layers.Dense(4)]
    )
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3)(inner(inputs)))


def shared():
    twice = layers.Dense(6, "tanh")
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3)(twice(twice(inputs))))


def lists():
    a, b = keras.Input((6,)), keras.Input((4,))
    hidden = layers.Concatenate()([layers.Dense(5, "tanh")(a), b])
    heads = [layers.Dense(3)(hidden), layers.Dense(2)(hidden)]
    return keras.Model([a, b], heads)


def dicts():
    a, b = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    hidden = layers.Concatenate()([layers.Dense(5, "tanh")(a), b])
    heads = {"p": layers.Dense(3)(hidden), "q": layers.Dense(2)(hidden)}
    return keras.Model({"a": a, "b": b}, heads)


def images(*between):
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            *between,
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )


def convolutions():
    return images(
        layers.Conv2D(4, 3, activation="relu"),
        layers.DepthwiseConv2D(2),
        layers.SeparableConv2D(4, 2),
        layers.Conv2DTranspose(3, 2),
    )


def convolutions_1d_and_3d():
    return images(
        layers.Reshape((36, 2)),
        layers.Conv1D(4, 3),
        layers.Conv1DTranspose(2, 3),
        layers.SeparableConv1D(4, 3, padding="same"),
        layers.Reshape((4, 4, 3, 3)),
        layers.Conv3D(3, 2),
        layers.Conv3DTranspose(2, 2),
        layers.Reshape((8, 6, 2)),
    )


def normalised():
    return images(
        layers.Conv2D(4, 3, use_bias=False),
        layers.BatchNormalization(momentum=0.5),
        layers.Activation("relu"),
        layers.Dropout(0.3),
        layers.GaussianNoise(0.1),
        layers.LayerNormalization(),
    )


def recurrent():
    return keras.Sequential(
        [
            keras.Input((2, 6)),
            layers.LSTM(4, return_sequences=True, dropout=0.2),
            # Others are unrolled: loops take long to compile.
            layers.GRU(4, return_sequences=True, unroll=True),
            layers.Bidirectional(
                layers.SimpleRNN(3, return_sequences=True, unroll=True)
            ),
            layers.TimeDistributed(layers.Dense(4, "tanh")),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


@keras.saving.register_keras_serializable("laws")
class Positions(layers.Layer):
    """A position table, which is no connection."""

    def build(self, shape):
        self.table = self.add_weight(
            shape=shape[1:], initializer="random_normal", name="position"
        )

    def call(self, inputs):
        return inputs + self.table


@keras.saving.register_keras_serializable("laws")
class Bilinear(layers.Layer):
    """A user's own layer, its weight of rank 3."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.form = self.add_weight(
            shape=(shape[-1], shape[-1], self.units), name="form"
        )

    def call(self, x):
        return keras.ops.einsum("bi,bj,ijk->bk", x, x, self.form)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def attention():
    tokens = keras.Input((5,), dtype="int32")
    x = Positions()(layers.Embedding(11, 6)(tokens))
    x = x + layers.MultiHeadAttention(2, 3, dropout=0.2)(x, x)
    x = x + layers.GroupQueryAttention(3, 4, 2, use_bias=False)(x, x)
    x = layers.EinsumDense("btd,de->bte", (None, 5), bias_axes="e")(x)
    return keras.Model(tokens, layers.Dense(3)(x[:, 0]))


def embedding():
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(11, 6),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def own_layer():
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3)(Bilinear(4)(inputs)))


def constrained():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(
                8, "tanh", kernel_constraint=keras.constraints.MaxNorm(0.7)
            ),
            layers.Dense(
                7, "relu", kernel_constraint=keras.constraints.NonNeg()
            ),
            layers.Dense(3),
        ]
    )


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of model: how to build it and what to train it on."""

    build: object
    x: object = (6,)
    y: object = 3
    rates: object = None
    built: bool = True


TOKENS = "tokens"
KINDS = {
    "sequential": Kind(sequential),
    "functional": Kind(functional),
    "unbuilt_sequential": Kind(unbuilt_sequential, built=False),
    "own_call": Kind(OwnCall, built=False),
    "own_train_step": Kind(own_train_step),
    "adversaries": Kind(Adversaries),
    "nested": Kind(nested),
    "shared": Kind(shared),
    "lists": Kind(lists, [(6,), (4,)], [3, 2]),
    "dicts": Kind(dicts, {"a": (6,), "b": (4,)}, {"p": 3, "q": 2}),
    "convolutions": Kind(convolutions, (6, 6, 2)),
    "convolutions_1d_and_3d": Kind(convolutions_1d_and_3d, (6, 6, 2)),
    "normalised": Kind(normalised, (6, 6, 2)),
    "recurrent": Kind(recurrent, (2, 6)),
    "attention": Kind(attention, TOKENS),
    "embedding": Kind(embedding, TOKENS, rates={layers.Embedding: 0.5}),
    "own_layer": Kind(own_layer),
    "constrained": Kind(constrained),
}
