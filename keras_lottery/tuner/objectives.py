"""Objectives: one number for a whole search, from validation data alone.

Each objective picks a level, whose ticket is the result of the search, and
gives that ticket a value. The oracles of KerasTuner compare searches by it.
"""

import dataclasses
import math

import keras_tuner
from keras_tuner import oracles

from keras_lottery.checks import check_integer, missing

# Accuracies are float32: less than one example in a million is rounding.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Objective:
    """How searches are compared.

    Args:
        metric: str, its name among a trial's metrics.
        direction: `"min"` or `"max"`.
        worst: float, the value of the levels that were not picked.
        measure: function `(densities, accuracies, margin, density) ->
            (level, value)`.
    """

    metric: str
    direction: str
    worst: float
    measure: object

    def by_level(self, densities, accuracies, margin, density):
        """The value at the level picked, and the worst value at all others.

        KerasTuner keeps the best value of a metric and its step, which then
        are the objective and the level.

        Args:
            densities: list of floats, by level, from 1 downwards.
            accuracies: list of floats, the validation accuracy of each.
            margin: float, how far below the dense level counts as equal.
            density: float in (0, 1), see the objectives.

        Returns:
            A list of floats, by level.
        """
        level, value = self.measure(densities, accuracies, margin, density)
        values = [self.worst] * len(densities)
        values[level] = value
        return values


def smallest_density(densities, accuracies, margin, density=None):
    """The smallest density within a margin of the search's own dense level.

    Level 0 is within any margin of itself, so there always is one.

    Args:
        densities: list of floats, by level.
        accuracies: list of floats, the validation accuracy of each.
        margin: float.
        density: ignored.

    Returns:
        A pair: level, its density.

    Example:

    ```python
    smallest_density([1.0, 0.8, 0.64], [0.95, 0.96, 0.90], margin=0.01)
    # (1, 0.8)
    ```
    """
    enough = accuracies[0] - margin - _ROUNDING
    level = min(
        (k for k, accuracy in enumerate(accuracies) if accuracy >= enough),
        key=lambda k: (densities[k], k),
    )
    return level, densities[level]


def accuracy_at(densities, accuracies, margin, density):
    """Validation accuracy at the first level at or below a density.

    A search that never gets there has 0.

    Args:
        densities: list of floats, by level.
        accuracies: list of floats, the validation accuracy of each.
        margin: ignored.
        density: float.

    Returns:
        A pair: level, its accuracy.
    """
    for level, reached in enumerate(densities):
        if reached <= density:
            return level, accuracies[level]
    return len(densities) - 1, 0.0


def area(densities, accuracies, margin, density):
    """Area under validation accuracy over the logarithm of density.

    From the dense network down to `density`, by trapezoids, divided by its
    width: a mean accuracy, in which each halving of the density has the same
    weight. What a search does not reach counts as 0.

    Args:
        densities: list of floats, by level.
        accuracies: list of floats, the validation accuracy of each.
        margin: float, for the level, which is that of `smallest_density`.
        density: float in (0, 1), where the area ends.

    Returns:
        A pair: level, the area.

    Example:

    ```python
    area([1.0, 0.5, 0.25], [1.0, 1.0, 0.5], margin=0.0, density=0.25)
    # (1, 0.875)
    ```
    """
    end = math.log(density)
    logs = [math.log(reached) for reached in densities]
    total = 0.0
    for k in range(1, len(logs)):
        left, right = logs[k - 1], max(logs[k], end)
        if left <= right:
            continue
        share = (left - right) / (left - logs[k])
        last = accuracies[k - 1] + share * (accuracies[k] - accuracies[k - 1])
        total += (left - right) * (accuracies[k - 1] + last) / 2
    level, _ = smallest_density(densities, accuracies, margin)
    return level, total / -end


OBJECTIVES = {
    "density": Objective("ticket_density", "min", 1.0, smallest_density),
    "accuracy": Objective("ticket_accuracy", "max", 0.0, accuracy_at),
    "area": Objective("area", "max", 0.0, area),
}

# The names that Keras gives such metrics: by them KerasTuner knows which
# direction is better.
_METRICS = {
    "density": "density",
    "val_accuracy": "early_stop_val_accuracy",
    "val_loss": "early_stop_val_loss",
    "early_stop_iteration": "early_stop_iteration",
    "final_val_accuracy": "final_val_accuracy",
    "final_train_accuracy": "final_train_accuracy",
    "seconds": "seconds",
}


def level_metrics(results, objective, margin, density):
    """The metrics of a search as an oracle takes them, by level.

    Args:
        results: list of `Result`, by level.
        objective: one of `OBJECTIVES`.
        margin: float.
        density: float.

    Returns:
        A list of dicts from name to float. Values that are not finite are
        left out, since JSON has none.
    """
    levels = [
        {name: float(getattr(r, column)) for name, column in _METRICS.items()}
        for r in results
    ]
    for metrics in levels:
        # A search that diverged is the worst, and can still be compared.
        if math.isnan(metrics["val_accuracy"]):
            metrics["val_accuracy"] = 0.0
    chosen = OBJECTIVES[objective]
    values = chosen.by_level(
        [metrics["density"] for metrics in levels],
        [metrics["val_accuracy"] for metrics in levels],
        margin,
        density,
    )
    return [
        {
            name: number
            for name, number in {chosen.metric: value, **metrics}.items()
            if math.isfinite(number)
        }
        for value, metrics in zip(values, levels)
    ]


ORACLES = {
    "random": oracles.RandomSearchOracle,
    "bayesian": oracles.BayesianOptimizationOracle,
    "hyperband": oracles.HyperbandOracle,
    "grid": oracles.GridSearchOracle,
}


def objective_name(objective):
    """The name of an objective.

    Args:
        objective: one of `OBJECTIVES`; or a `keras_tuner.Objective` of such a
            name, or of the metric that stands for it, and of its direction.

    Returns:
        A str.

    Raises:
        ValueError: If there is no such objective.
    """
    if isinstance(objective, str) and objective in OBJECTIVES:
        return objective
    for name, known in OBJECTIVES.items():
        accepted = [
            keras_tuner.Objective(word, known.direction)
            for word in (name, known.metric)
        ]
        if type(objective) is keras_tuner.Objective and objective in accepted:
            return name
    directions = {name: o.direction for name, o in OBJECTIVES.items()}
    raise ValueError(
        f"`objective` must be one of {list(OBJECTIVES)}, or a "
        "`keras_tuner.Objective` of such a name and its direction, "
        f"{directions}. Received: objective={objective!r}"
    )


def make_oracle(oracle, objective, max_trials=None, rounds=8, seed=0):
    """An oracle that compares searches by an objective.

    Args:
        oracle: one of `ORACLES`, or a `keras_tuner.Oracle`.
        objective: as `objective_name` takes it.
        max_trials: optional int. Defaults to 10 with `"random"` and
            `"bayesian"`, and to no limit with the others.
        rounds: int, the most that `"hyperband"` gives a search.
        seed: int.

    Returns:
        A `keras_tuner.Oracle`.

    Raises:
        ValueError: If there is no such oracle or objective, if they do not go
            together, or if `max_trials` is below 1.
        RuntimeError: If what `"bayesian"` needs is not installed.
    """
    if max_trials is not None:
        check_integer("max_trials", max_trials, minimum=1)
    objective = objective_name(objective)
    chosen = OBJECTIVES[objective]
    wanted = keras_tuner.Objective(chosen.metric, chosen.direction)
    if not isinstance(oracle, keras_tuner.Oracle):
        oracle = _named_oracle(oracle, wanted, max_trials, rounds, seed)
    if isinstance(oracle, oracles.HyperbandOracle) and objective == "accuracy":
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


def _named_oracle(name, wanted, max_trials, rounds, seed):
    if not isinstance(name, str) or name not in ORACLES:
        raise ValueError(
            f"`oracle` must be one of {list(ORACLES)} or a "
            f"`keras_tuner.Oracle`. Received: oracle={name!r}"
        )
    # KerasTuner takes a seed of 0 for none.
    arguments = {"objective": wanted, "seed": seed + 1}
    if name == "hyperband":
        oracle = ORACLES[name](max_epochs=max(1, rounds), **arguments)
        oracle.max_trials = max_trials
        return oracle
    if max_trials is None and name != "grid":
        max_trials = 10
    if name == "bayesian":
        # KerasTuner's three for each dimension would often be all there are.
        arguments["num_initial_points"] = max(2, max_trials // 3)
    try:
        return ORACLES[name](max_trials=max_trials, **arguments)
    except ImportError as error:
        raise RuntimeError(
            missing(f"oracle={name!r}", "scikit-learn and scipy", "bayesian")
            + f" ({str(error).splitlines()[0]})"
        ) from None
