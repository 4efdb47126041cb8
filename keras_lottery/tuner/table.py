"""Table: the trials of a search as text, the best first."""

from keras_lottery.tuner.knobs import PREFIX


def table(oracle, num_trials=None):
    """A line for each trial.

    Args:
        oracle: `keras_tuner.Oracle`.
        num_trials: optional int. Defaults to all.

    Returns:
        A str: objective, accuracy of the dense level, density and accuracy
        of the ticket, all of them of validation, and the hyperparameters.
    """
    trials = oracle.get_best_trials(num_trials or len(oracle.trials))
    names = list(dict.fromkeys(n for t in trials for n in _shown(t)))
    head = ["trial", oracle.objective.name, "dense acc.", "density", "acc."]
    rows = [[*head, *(name.removeprefix(PREFIX) for name in names)]]
    for trial in trials:
        values = trial.hyperparameters.values
        cells = (_cell(values.get(name, "-")) for name in names)
        rows.append([trial.trial_id, *_measured(trial), *cells])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths))
        for row in rows
    )


def _shown(trial):
    names = trial.hyperparameters.values
    return [n for n in names if not n.startswith("tuner/")]


def _measured(trial):
    if trial.status != "COMPLETED":
        return [trial.status.lower(), "-", "-", "-"]
    accuracy = _by_level(trial, "val_accuracy")
    density = _by_level(trial, "density")
    return [
        f"{trial.score:.4f}",
        f"{accuracy[0]:.2%}",
        f"{density[trial.best_step]:.2%}",
        f"{accuracy[trial.best_step]:.2%}",
    ]


def _by_level(trial, name):
    history = trial.metrics.get_history(name)
    return {observation.step: observation.mean() for observation in history}


def _cell(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)
