# %% [markdown]
# # Tune the search
#
# `LotteryTuner` is a KerasTuner tuner. One trial of it is a whole lottery
# search: it trains the dense network, prunes, rewinds and so on for a number
# of rounds. It tunes your hypermodel together with the settings of the search.

# %%
import keras

from keras_lottery import datasets
from keras_lottery.tuner import LotteryTuner

digits = datasets.load("digits")
x, y = digits.train


def build(hp):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(hp.Choice("units", [50, 100]), "relu"),
            keras.layers.Dense(10, "softmax"),
        ]
    )
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


# %% [markdown]
# There are three objectives, all from validation data.
#
# - `"density"`: the smallest density whose accuracy is within `margin` of the
#   dense network's. Smaller is better.
# - `"accuracy"`: the accuracy at a density that you give.
# - `"area"`: the area under accuracy over density.
#
# `knobs` names what is tuned of the search itself. A dict sets the range.

# %%
tuner = LotteryTuner(
    build,
    "density",
    knobs={"rate": (0.3, 0.6), "output_rate": (0.1, 0.4)},
    max_trials=3,
    rounds=3,
    iterations=150,
    margin=0.01,
    directory="tuning",
    project_name="digits",
)
tuner.search(x, y, validation_split=0.1, verbose=0)
tuner.to_pandas()

# %% [markdown]
# The best trial gives back the trained model, wrapped at its level, and its
# ticket.

# %%
best = tuner.get_best_models()[0]
print(best.evaluate(*digits.test, return_dict=True, verbose=0))
tuner.get_best_tickets()[0].save("best.ticket")
best.lottery

# %% [markdown]
# - The same tuner on the same directory goes on where it was stopped, also
#   inside a trial.
# - Trials that differ only in how they prune share the dense network: it is
#   trained once.
# - `oracle=` takes `"random"`, `"bayesian"`, `"hyperband"`, `"grid"` or an
#   oracle of KerasTuner; `workers=2` runs two searches at a time.
# - `python tools/tune.py` does the same from the command line.
