# %% [markdown]
# # Write an arm and a criterion
#
# Two functions are all it takes to try an idea of your own: a *criterion* says
# which weights go, an *arm* says what training starts from.
#
# ## A criterion
#
# It is a function of two arrays, the weights at the rewind point and the
# weights after training. It returns a score for each weight; the lowest
# scores are pruned. This one prefers weights that moved much, compared with
# where they started.

# %%
import keras
import numpy as np

import keras_lottery
from keras_lottery import criteria, datasets
from keras_lottery.experiments import Experiment, arm

digits = datasets.load("digits")


def relative_change(initial, trained):
    return np.abs(trained - initial) / (np.abs(initial) + 1e-3)


def build():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(100, "relu"),
            keras.layers.Dense(10, "softmax"),
        ]
    )
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


for criterion in ("magnitude", "random", relative_change):
    model = keras_lottery.wrap(build(), rate=0.5, criterion=criterion, seed=0)
    model.lottery.find(*digits.train, rounds=4, epochs=5, verbose=0)
    _, accuracy = model.evaluate(*digits.test, verbose=0)
    name = getattr(criterion, "__name__", criterion)
    print(f"{name:16} {model.lottery.density:.1%} {accuracy:.1%}")

# %% [markdown]
# With a name it can be used in experiments and stored in files:

# %%
criteria.NAMES["relative_change"] = relative_change

# %% [markdown]
# ## An arm
#
# It is a function of the `bench` and the level. It returns the `Ticket` that
# training starts from: masks and weights. Through the bench it sees what the
# other arms start from. This one asks whether the *signs* of the initial
# weights are enough: each weight is replaced by its sign times the layer's
# standard deviation (Zhou et al., 1905.01067).


# %%
@arm
def signs(bench, level):
    start = bench.start("ticket", level)
    weights = {
        path: np.std(w) * np.sign(w) if w.ndim > 1 else w
        for path, w in start.rewind_point.weights.items()
    }
    return bench.with_weights(start.masks, weights)


experiment = Experiment(
    dataset="digits",
    arms=("ticket", "reinit", "signs"),
    rounds=6,
    iterations=200,
    eval_every=20,
)
results = experiment.run("runs/signs")
results

# %%
results.plot("Are the signs enough?")

# %% [markdown]
# One trial on a small set proves nothing. Before you believe it, add
# `trials=5` and a larger data set. [Contribute](../contributing.md) says how a
# criterion, an arm, a network or an exporter becomes part of the package.
