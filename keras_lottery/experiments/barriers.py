"""Error barriers: how far the error rises on the line between two networks.

Two networks that training brought to one basin have none between them: every
mean of their weights is about as good as they are.
"""

import dataclasses
import io

import numpy as np
import pandas

# 1912.05671, section 2: points on the line, and the barrier below which a
# network counts as stable.
POINTS = 30
STABLE_BELOW = 0.02


def errors_between(first, second, error, points=POINTS):
    """Errors of the networks on the line between two.

    All weights are interpolated, the moving averages of batch normalisation
    included.

    Args:
        first: list of arrays, as `model.get_weights()` returns them.
        second: list of arrays, likewise.
        error: function of such a list, to a float.
        points: int, networks that are evaluated, both ends among them.

    Returns:
        An array of floats, from the first network to the second.

    Source: Frankle et al., 1912.05671, section 2 (instability analysis).
    """
    return np.array(
        [
            error([_between(a, b, share) for a, b in zip(first, second)])
            for share in np.linspace(0.0, 1.0, points)
        ]
    )


def _between(first, second, share):
    """The mean, with `share` as the weight of the second."""
    # In double precision, so that both ends are exactly the two networks.
    mean = (1 - share) * np.float64(first) + share * np.float64(second)
    return mean.astype(first.dtype)


def barrier(errors):
    """The highest error on a line minus the mean of those of its ends.

    Args:
        errors: array, as `errors_between` returns it.

    Returns:
        A float, at least 0 up to the difference of the ends.

    Example:

    ```python
    barrier(np.array([0.02, 0.5, 0.04]))  # 0.47
    ```

    Source: Frankle et al., 1912.05671, section 2 (linear interpolation
    instability).
    """
    return float(errors.max() - (errors[0] + errors[-1]) / 2)


@dataclasses.dataclass(frozen=True)
class Barrier:
    """The error barrier between two trained networks.

    Args:
        trial: int.
        arm: str.
        level: int, that of the second network.
        density: float, its density.
        first_error: float, test error of the first network, a fraction.
        second_error: float, of the second.
        highest_error: float, on the line between them.
        barrier: float, the highest error minus the mean of the two.
    """

    trial: int
    arm: str
    level: int
    density: float
    first_error: float
    second_error: float
    highest_error: float
    barrier: float

    @classmethod
    def of(cls, result, errors):
        """The barrier of a `Result` and the errors on its line."""
        return cls(
            result.trial,
            result.arm,
            result.level,
            result.density,
            float(errors[0]),
            float(errors[-1]),
            float(errors.max()),
            barrier(errors),
        )


COLUMNS = [field.name for field in dataclasses.fields(Barrier)]


def to_csv(barriers):
    """Barriers as the text of a CSV file."""
    rows = [dataclasses.asdict(one) for one in barriers]
    return pandas.DataFrame(rows, columns=COLUMNS).to_csv(index=False)


def from_csv(text):
    """The list of `Barrier` in the text of a CSV file."""
    frame = pandas.read_csv(io.StringIO(text))
    return [Barrier(*row) for row in frame[COLUMNS].itertuples(index=False)]
