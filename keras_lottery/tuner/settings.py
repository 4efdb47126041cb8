"""Settings: what two processes must agree on to work on one search."""

import json

from keras_lottery.checks import check_rate
from keras_lottery.experiments import FIELDS
from keras_lottery.tuner import hypermodels

# Arguments of `Experiment` that are the tuner's own, or always the same.
_FIXED = ("model", "rounds", "iterations", "seed", "trials", "arms")


def check(arguments, margin, density):
    """Refuses arguments of `LotteryTuner` that cannot be.

    Args:
        arguments: dict, those that are of `Experiment`.
        margin: float in [0, 1).
        density: float in (0, 1).
    """
    for name, value in arguments.items():
        if name not in FIELDS or name in _FIXED:
            raise ValueError(
                f"`{name}` must be an argument of `LotteryTuner` or, but for "
                f"{list(_FIXED)}, of `Experiment`. Received: {name}={value!r}"
            )
    check_rate("margin", margin)
    check_rate("density", density)
    if not density:
        raise ValueError(
            f"`density` must be in (0, 1). Received: density={density!r}"
        )


def of(tuner, hypermodel, reference, oracle, knobs):
    """The settings of a tuner as JSON holds them.

    Args:
        tuner: `LotteryTuner`.
        hypermodel: what it was given as such.
        reference: `Experiment`, with the values of what is not tuned.
        oracle: `keras_tuner.Oracle`.
        knobs: `Knobs`.

    Returns:
        A dict. How many trials there may be is not in it: a search can be
        prolonged.
    """
    settings = {
        **reference.settings(),
        "model": hypermodels.name(hypermodel),
        "objective": tuner.objective,
        "margin": tuner.margin,
        "density": tuner.density,
        "oracle": type(oracle).__name__,
        "knobs": knobs.names(),
    }
    return json.loads(json.dumps(settings, default=str))


def refuse_others(directory, before, now):
    """Raises a `ValueError` that names the settings that differ."""
    differ = [
        f"{name}={before[name]!r} before, {value!r} now"
        for name, value in now.items()
        # A version to come may know more of them.
        if name in before and before[name] != value
    ]
    if differ:
        raise ValueError(
            f"{directory} holds a search with other settings: "
            f"{'; '.join(differ)}. Give the same settings, another "
            "`project_name` or `overwrite=True`."
        )
