"""Objectives: one number for a whole search, from validation alone.

Pure Python. Each objective picks a level, the one whose ticket it would have,
and says what that ticket is worth.
"""

import dataclasses
import math

# Accuracies come as float32: less than one example of a million is noise.
_NOISE = 1e-6


@dataclasses.dataclass(frozen=True)
class Objective:
    """How searches are compared.

    Args:
        metric: str, its name among a trial's metrics.
        direction: `"min"` or `"max"`.
        worst: float, what stands at the levels that were not picked.
        measure: function `(densities, accuracies, margin, density) ->
            (level, value)`.
    """

    metric: str
    direction: str
    worst: float
    measure: object

    def by_level(self, densities, accuracies, margin, density):
        """The value at the level picked, the worst value at all others.

        A tracker of metrics that keeps the best value and its step then keeps
        the objective and the level.

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
    enough = accuracies[0] - margin - _NOISE
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
    width: a mean accuracy, in which each halving of the density weighs the
    same. What a search does not reach counts as 0.

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
    places = [math.log(reached) for reached in densities]
    total = 0.0
    for k in range(1, len(places)):
        left, right = places[k - 1], max(places[k], end)
        if left <= right:
            continue
        share = (left - right) / (left - places[k])
        last = accuracies[k - 1] + share * (accuracies[k] - accuracies[k - 1])
        total += (left - right) * (accuracies[k - 1] + last) / 2
    level, _ = smallest_density(densities, accuracies, margin)
    return level, total / -end


OBJECTIVES = {
    "density": Objective("ticket_density", "min", 1.0, smallest_density),
    "accuracy": Objective("ticket_accuracy", "max", 0.0, accuracy_at),
    "area": Objective("area", "max", 0.0, area),
}
