# %% [markdown]
# # Choose a pattern and put it to work
#
# A mask of single weights makes a file smaller once it is compressed and,
# above about 5 % density, hardly anything faster. What is pruned *as one*
# decides that. This guide prunes blocks for a phone and whole units for a
# server, and measures both.
#
# | your target | `block_size` |
# |---|---|
# | a small file alone | `None`, single weights |
# | LiteRT in float32 on a CPU, dense layers of 256 units and more | `"4x1"` |
# | LiteRT in int8 | `"16x1"` on wide layers, if it measures faster; else `"channel"` |
# | TensorFlow Serving, GPUs, convolutions, any runtime | `"channel"` |
# | the sparse tensor cores of NVIDIA | `"2:4"` |

# %%
import keras

import keras_lottery
from keras_lottery import datasets, export

digits = datasets.load("digits")
x, y = digits.train
x_test, y_test = digits.test


def build():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Flatten(),
            keras.layers.Dense(512, "relu", name="hidden"),
            keras.layers.Dense(512, "relu", name="hidden_2"),
            keras.layers.Dense(10, "softmax", name="digit"),
        ]
    )
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def search(block_size, rounds, rate):
    model = keras_lottery.wrap(build(), rate=rate, block_size=block_size)
    model.lottery.find(x, y, rounds=rounds, epochs=6, verbose=0)
    return model


# %% [markdown]
# ## A phone: LiteRT and blocks of 4 inputs
#
# LiteRT has sparse kernels for blocks of 4 inputs of one unit.
# `to_litert` writes a file, runs it, compares it with the Keras model, and
# says which kernel runs each layer. Zeros are left out of the file where that
# is measured to be no slower on this machine.

# %%
phone = search("4x1", rounds=2, rate=0.68)
file = export.to_litert(phone, "digits.tflite", examples=x_test)
print(file.summary())

# %% [markdown]
# The file as a function:

# %%
answers = file.load()(x_test)
f"{(answers.argmax(1) == y_test).mean():.1%} of the test set, from {file.path}"

# %% [markdown]
# For int8, give some hundred training examples, from which the ranges of the
# activations are taken: `to_litert(model, path, "int8",
# representative=x[:256])`.
#
# ## A server: whole units, and a smaller network
#
# Here a unit goes with everything that leads to it. (A warning says that the
# output layer stays whole: its units are the classes.) `compact` builds the
# network without the units that are gone. Its answers are the same.

# %%
server = search("channel", rounds=2, rate=0.5)
smaller = export.compact(server)
smaller.removed, server.count_params(), smaller.model.count_params()

# %%
served = export.to_serving(
    server, "served/digits", compact=True, examples=x_test
)
print(served.summary())

# %% [markdown]
# `served/digits/1/` appeared only after another process, in which neither Keras
# nor this library can be imported, had loaded it and agreed with the Keras
# model. How to serve it and how to ask it:

# %%
print(served.instructions())

# %% [markdown]
# ## Measure before you believe
#
# `measure_gains` exports a model in every form and measures size, latency and
# accuracy of each. The times are those of this machine.

# %%
dense = build()
dense.fit(x, y, epochs=6, verbose=0)
gains = export.measure_gains(
    server, (x_test, y_test), dense=dense, batch_sizes=(1,)
)
gains.to_pandas()[["form", "bytes", "milliseconds_at_1", "accuracy"]]

# %% [markdown]
# What a pattern costs in accuracy, measured over three trials on MNIST, is in
# [Results: patterns](../results/patterns.md). What it gains on wider layers and
# convolutions is in [Results: gains](../results/gains.md).
