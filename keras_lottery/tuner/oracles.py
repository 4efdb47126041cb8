"""Oracles: KerasTuner's, by name, with the objective of a search."""

import json
import os

import keras_tuner
from keras_tuner import oracles

from keras_lottery import files
from keras_lottery.tuner.objectives import OBJECTIVES

ORACLES = {
    "random": oracles.RandomSearchOracle,
    "bayesian": oracles.BayesianOptimizationOracle,
    "hyperband": oracles.HyperbandOracle,
    "grid": oracles.GridSearchOracle,
}


def get(oracle, objective, max_trials=None, rounds=8, seed=0):
    """An oracle that compares searches by an objective.

    Args:
        oracle: one of `ORACLES`, or a `keras_tuner.Oracle`.
        objective: one of `OBJECTIVES`.
        max_trials: optional int. Defaults to 10 of `"random"` and
            `"bayesian"`, and to no limit of the others.
        rounds: int, the most that `"hyperband"` gives a search.
        seed: int.

    Returns:
        A `keras_tuner.Oracle`.

    Raises:
        ValueError: If there is no such oracle or objective, or they do not go
            together.
        RuntimeError: If what `"bayesian"` needs is not installed.
    """
    if objective not in OBJECTIVES:
        raise ValueError(
            f"`objective` must be one of {list(OBJECTIVES)}. "
            f"Received: objective={objective!r}"
        )
    chosen = OBJECTIVES[objective]
    wanted = keras_tuner.Objective(chosen.metric, chosen.direction)
    if isinstance(oracle, keras_tuner.Oracle):
        return _with_objective(oracle, wanted, objective)
    if oracle not in ORACLES:
        raise ValueError(
            f"`oracle` must be one of {list(ORACLES)} or a "
            f"`keras_tuner.Oracle`. Received: oracle={oracle!r}"
        )
    # KerasTuner takes a seed of 0 for none.
    arguments = {"objective": wanted, "seed": seed + 1}
    if oracle == "hyperband":
        made = ORACLES[oracle](max_epochs=max(1, rounds), **arguments)
        made.max_trials = max_trials
        return _with_objective(made, wanted, objective)
    if max_trials is None and oracle != "grid":
        max_trials = 10
    if oracle == "bayesian":
        # KerasTuner's three for each dimension would often be all there are.
        arguments["num_initial_points"] = max(2, max_trials // 3)
    try:
        return ORACLES[oracle](max_trials=max_trials, **arguments)
    except ImportError as error:
        raise RuntimeError(
            f"The oracle {oracle!r} needs scikit-learn and scipy: pip install "
            f'"keras-tuner[bayesian]" ({str(error).splitlines()[0]})'
        ) from None


def _with_objective(oracle, wanted, objective):
    hyperband = isinstance(oracle, oracles.HyperbandOracle)
    if hyperband and objective == "accuracy":
        raise ValueError(
            '`oracle` must not be "hyperband" with objective="accuracy": it '
            "drops searches after few rounds, before they get to `density`. "
            'Take objective="density" or "area".'
        )
    if oracle.objective.name == "default_objective":
        oracle.objective = wanted
    if oracle.objective != wanted:
        raise ValueError(
            f"`oracle` must have the objective {wanted} or none. "
            f"Received: {oracle.objective}"
        )
    return oracle


def take_up(oracle):
    """Puts trials in order, and sends those not ended for another run.

    KerasTuner does so with those that its oracle's file tells. A process
    that was killed between the two files of a trial that begins leaves one
    that it does not.

    Args:
        oracle: `keras_tuner.Oracle`, just reloaded.
    """
    # They come in the order of the directory; of equals the first is best.
    oracle.trials = dict(sorted(oracle.trials.items()))
    for trial in oracle.trials.values():
        ended = trial.status in ("COMPLETED", "FAILED")
        if not ended and trial.trial_id not in oracle._retry_queue:
            oracle._record_values(trial)
            oracle._retry_queue.append(trial.trial_id)


def keep_whole(oracle):
    """Makes an oracle replace its files in one step.

    KerasTuner writes over them: what is killed meanwhile leaves half a file,
    with which the search could not be gone on with.

    Args:
        oracle: `keras_tuner.Oracle`.
    """

    def save():
        write(oracle._get_oracle_fname(), oracle.get_state())

    def save_trial(trial):
        directory = oracle._get_trial_dir(trial.trial_id)
        write(os.path.join(directory, "trial.json"), trial.get_state())

    oracle.save, oracle._save_trial = save, save_trial


def write(path, state):
    """Writes what JSON can hold to a file, in one step."""
    with files.atomic_file(path) as file:
        file.write(json.dumps(state).encode())
