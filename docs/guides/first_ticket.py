# %% [markdown]
# # A ticket in five minutes
#
# A trained network holds many weights that it does not need. The *lottery
# ticket hypothesis* says more: inside the untrained network there is a small
# subnetwork that learns as well as the whole, if it starts from the weights
# that it had at initialisation. That subnetwork is called a *winning ticket*.
#
# In this guide you find one in a small network, look at it, save it and load
# it again. You need to know Keras; you do not need to know pruning.
#
# ## Data and a model
#
# The package comes with a small set of handwritten digits, 8 by 8 pixels. It
# is already split into training, validation and test examples.

# %%
import keras

import keras_lottery
from keras_lottery import datasets

digits = datasets.load("digits")
x, y = digits.train
x_test, y_test = digits.test
x.shape, x_test.shape


# %%
def build():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(300, "relu", name="hidden"),
            keras.layers.Dense(10, "softmax", name="digit"),
        ]
    )
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


# %% [markdown]
# ## Wrap it
#
# `wrap` returns the same model. What changes is `fit`: from now on one call of
# `fit` is one *round*.
#
# 1. It trains the model, as before.
# 2. It removes the fifth of the weights of each layer that are closest to
#    zero (`rate=0.2`), and half as many of the output layer.
# 3. It sets all other weights back to the values they had before training.

# %%
model = keras_lottery.wrap(build(), rate=0.2)
history = model.fit(
    x, y, epochs=6, validation_data=digits.validation, verbose=0
)
history.history["val_accuracy"][-1]

# %% [markdown]
# `model.lottery` is the search. In a notebook it shows what is left of each
# weight. *Density* is the fraction that is left, here after one round.

# %%
model.lottery

# %% [markdown]
# ## Go on for a number of rounds
#
# `find` runs all the rounds and trains the last subnetwork as well, so that the
# model can be used afterwards. Rounds that were done already are not repeated.

# %%
levels = model.lottery.find(
    x,
    y,
    rounds=9,
    epochs=6,
    validation_data=digits.validation,
    verbose=0,
)
levels

# %% [markdown]
# Each row is a *level*: level 0 is the dense network, level 1 is what was left
# after one round, and so on. The numbers are those of the last epoch.
#
# Most of the weights are gone, and the accuracy is about where it was. On the
# test examples:

# %%
for level in (0, 4, 9):
    with model.lottery.trained(level):
        _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    density = levels.find(level).density
    print(f"level {level}: {density:6.1%} of the weights, {accuracy:.1%}")

# %% [markdown]
# `trained(level)` lends the model the weights that a level was trained to.
#
# Is this a *winning* ticket? Only a comparison can tell: the same subnetwork
# must do worse when it starts from other weights. The guide [Reproduce the
# paper's figure](paper_figure.md) makes that comparison.
#
# ## Save the ticket
#
# A ticket is two things: the *mask*, which says what is left, and the *rewind
# point*, the weights that training starts from. It is one file without pickle.

# %%
model.lottery.ticket().save("digits.ticket")
ticket = keras_lottery.Ticket.load("digits.ticket")
ticket

# %% [markdown]
# `apply` puts it onto a freshly built model, which can then be trained. Pruned
# weights stay exactly zero.

# %%
fresh = ticket.apply(build())
with fresh.lottery.paused():  # train only: no pruning, no rewinding
    fresh.fit(x, y, epochs=6, verbose=0)
fresh.evaluate(x_test, y_test, return_dict=True, verbose=0)

# %% [markdown]
# ## A plain Keras model again
#
# `unwrap` takes this library out of the model. The zeros stay.

# %%
plain = keras_lottery.unwrap(fresh)
kernel = plain.get_layer("hidden").kernel.numpy()
f"{(kernel != 0).mean():.1%} of the hidden layer's weights are not zero"

# %% [markdown]
# ## Where to go next
#
# - [Prune a model of your own](own_model.md): functional and subclassed models,
#   an own `train_step`, an own training loop.
# - [Choose a pattern and put it to work](deploy.md): a smaller and faster
#   model on a phone or on a server.
# - [Concepts](../concepts.md): the words, and what exactly is rewound.
