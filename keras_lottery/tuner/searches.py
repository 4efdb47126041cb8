"""Searches: an experiment before it is run, and what came of it."""

import math

import keras
import numpy as np

from keras_lottery.tuner.objectives import OBJECTIVES
from keras_lottery.wrapping import wrap

# Keras' names for what is measured at the early-stop iteration: by them
# KerasTuner knows which way is better.
_METRICS = {
    "density": "density",
    "val_accuracy": "early_stop_val_accuracy",
    "val_loss": "early_stop_val_loss",
    "early_stop_iteration": "early_stop_iteration",
    "final_val_accuracy": "final_val_accuracy",
    "final_train_accuracy": "final_train_accuracy",
    "seconds": "seconds",
}


def check(experiment, data):
    """Refuses, before any work, what could not be searched.

    Args:
        experiment: `Experiment`.
        data: its `Dataset`.

    Raises:
        ValueError: If its model cannot be built, pruned or compiled so, or
            has no accuracy to be compared by.
    """
    model = wrapped_model(experiment, data)
    x, y = keras.tree.map_structure(lambda leaf: leaf[:1], data.validation)
    names = model.evaluate(x, y, verbose=0, return_dict=True)
    if not any(name.endswith(("acc", "accuracy")) for name in names):
        raise ValueError(
            "`hypermodel` must compile its model with an accuracy metric, by "
            f"which searches are compared. Received: {list(names)}"
        )


def wrapped_model(experiment, data):
    """A fresh model of an experiment, wrapped and compiled."""
    model = experiment.build_model(data, seed=0)
    model = wrap(model, seed=experiment.seed, **experiment.pruning())
    experiment.compile(model)
    return model


def trained_model(experiment, data, ticket):
    """The model of an experiment with what a ticket was trained to.

    Args:
        experiment: `Experiment`.
        data: `Dataset`, of the shape of its examples.
        ticket: `Ticket`, trained.

    Returns:
        A wrapped `keras.Model`, at the ticket's level.
    """
    model = wrapped_model(experiment, data)
    model.lottery.load(ticket)
    ticket.assign_trained(model)
    return model


def history(results, objective, margin, density):
    """The levels of a search in place of the epochs of a training.

    Args:
        results: list of `Result`, by level.
        objective: one of `OBJECTIVES`.
        margin: float.
        density: float.

    Returns:
        `keras.callbacks.History`.
    """
    levels = {
        name: [float(getattr(result, column)) for result in results]
        for name, column in _METRICS.items()
    }
    # A search that diverged is the worst, not beyond comparison.
    levels["val_accuracy"] = list(map(np.nan_to_num, levels["val_accuracy"]))
    kind = OBJECTIVES[objective]
    found = keras.callbacks.History()
    found.history = {
        kind.metric: kind.by_level(
            levels["density"], levels["val_accuracy"], margin, density
        ),
        **levels,
    }
    return found


def levels(history):
    """Yields (level, dict of metrics) of a `history`."""
    for level, values in enumerate(zip(*history.values())):
        # What diverged is left out: JSON has no NaN.
        yield (
            level,
            {
                name: float(value)
                for name, value in zip(history, values)
                if math.isfinite(value)
            },
        )
