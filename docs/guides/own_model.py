# %% [markdown]
# # Prune a model of your own
#
# `keras_lottery.wrap` takes any Keras 3 model: Sequential, functional, or a
# subclass of `keras.Model`. This guide shows one with two inputs, one with a
# `train_step` of its own, and a training loop without `fit`.
#
# ## A functional model with several inputs

# %%
import keras
import numpy as np

import keras_lottery

generator = np.random.default_rng(0)
image = generator.normal(size=(600, 8, 8, 1)).astype("float32")
facts = generator.normal(size=(600, 5)).astype("float32")
target = (image.mean((1, 2, 3)) + facts[:, 0] > 0).astype("int32")

pixels = keras.Input((8, 8, 1), name="image")
numbers = keras.Input((5,), name="facts")
a = keras.layers.Conv2D(8, 3, activation="relu", name="conv")(pixels)
a = keras.layers.GlobalAveragePooling2D()(a)
b = keras.layers.Dense(16, "relu", name="dense")(numbers)
joined = keras.layers.Concatenate()([a, b])
outputs = keras.layers.Dense(2, name="head")(joined)
model = keras.Model({"image": pixels, "facts": numbers}, outputs)
model.compile(
    "adam",
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)

# %% [markdown]
# Layers differ in how much they can lose. `rates` gives some of them a rate of
# their own, by name, by class, by layer, or by a regular expression that is
# searched for in the path of a weight. 0 leaves a layer alone.

# %%
model = keras_lottery.wrap(
    model,
    rate=0.3,
    rates={keras.layers.Conv2D: 0.1, "head": 0},
)
x = {"image": image, "facts": facts}
levels = model.lottery.find(
    x, target, rounds=3, epochs=4, validation_split=0.2, verbose=0
)
model.lottery

# %% [markdown]
# What is prunable? Kernels: weights with two or more axes. Biases and the
# parameters of normalisation are never pruned. Embeddings are pruned only if
# `rates` has a rate for them.
#
# ## A model with a `train_step` of its own
#
# The wrapped model is an instance of your class as before, and your
# `train_step` is used as it is.

# %%
import tensorflow as tf


class Denoiser(keras.Model):
    """Learns to give back its input, to which noise was added."""

    def __init__(self):
        super().__init__()
        self.encode = keras.layers.Dense(32, "relu")
        self.decode = keras.layers.Dense(64)

    def call(self, x):
        return self.decode(self.encode(x))

    def train_step(self, data):
        noisy = data + 0.1 * tf.random.normal(tf.shape(data))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(noisy, training=True) - data) ** 2)
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"error": loss}


model = keras_lottery.wrap(Denoiser(), rate=0.5, rounds=2)
model.compile("adam")
flat = image.reshape(-1, 64)
for _ in range(3):  # levels 0, 1 and 2
    model.fit(flat, epochs=2, verbose=0)
assert isinstance(model, Denoiser)
model.lottery.levels

# %% [markdown]
# With `rounds=2` the third `fit` trains the ticket and leaves it trained. A
# model that has not been built yet, as this one, is prepared by its first
# `fit`.
#
# ## A training loop of your own
#
# Without `fit`, use the object that stands behind `model.lottery`. Give it the
# optimizer, so that pruned weights get neither gradients nor momentum.

# %%
network = keras.Sequential(
    [
        keras.Input((5,)),
        keras.layers.Dense(16, "relu"),
        keras.layers.Dense(2),
    ]
)
pruner = keras_lottery.LotteryTicketPruner(network, rate=0.4)
optimizer = pruner.wrap_optimizer(keras.optimizers.Adam(0.01))
loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@tf.function
def step():
    with tf.GradientTape() as tape:
        loss = loss_function(target, network(facts, training=True))
    weights = network.trainable_variables
    optimizer.apply(tape.gradient(loss, weights), weights)
    return loss


for level in range(3):
    for _ in range(30):
        loss = step()
    print(f"level {level}: density {pruner.density:.1%}, loss {loss:.3f}")
    pruner.prune()
    pruner.rewind()
pruner.levels

# %% [markdown]
# ## What else works
#
# Callbacks, mixed precision, `jit_compile`, `steps_per_execution`, clipping,
# gradient accumulation, weight decay and exponential moving averages work as
# before; the [guarantees](../concepts.md#the-guarantees) are tested for every
# optimizer of Keras. What a callback such as `ReduceLROnPlateau` changes is set
# back by the rewind. [States of a wrapped model](../states.md) answers what
# `load_weights`, Ctrl-C or a frozen layer mean in the middle of a search.
