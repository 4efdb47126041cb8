"""Error barriers: how far the error rises on the line between two networks.

Two networks that training brought to one basin have none between them: every
mean of their weights is about as good as they are. Those of a run are measured
on what it has stored: networks are evaluated, none is trained.
"""

import dataclasses
import io

import numpy as np
import pandas

from keras_lottery.training import Loop

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
    # Of a network that diverged, nothing may get into the other end.
    if share in (0, 1):
        return second if share else first
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


def instability(run):
    """The barriers between two trainings of the same start.

    Args:
        run: `Run` of an experiment with `instability`.

    Returns:
        A list of `Barrier`, by trial, arm and level: of those starts that
        were trained twice.

    Source: Frankle et al., 1912.05671, section 2.
    """
    return [Barrier.of(result, errors) for result, errors in run.load_lines()]


def measure_connectivity(run, data_dir=None):
    """The barriers between what successive levels were trained to.

    Test error, 30 networks a line. Measured are the arms of which the run has
    tickets: those that prune from level to level, and with `instability` all.

    Args:
        run: `Run`.
        data_dir: optional str, where TFDS has its data set.

    Returns:
        A list of `Barrier`, by trial, arm and level: the level is the later
        one of the two.

    Raises:
        ValueError: If the run is of a model or of arrays of one's own, which
            its files do not hold.

    Source: Paul et al., 2210.03044, section 3 (successive levels of iterative
    pruning are linearly connected).
    """
    experiment, loop, found = run.load_experiment(data_dir), None, []
    for trial in sorted({result.trial for result in run.results}):
        data = experiment.load_data(experiment.derive_seed(trial, "split"))
        sets = data.train, data.validation, data.test
        if loop is None:
            model = experiment.build_model(data, seed=0)
            experiment.compile(model)
            loop = Loop(
                model,
                *sets,
                batch_size=experiment.batch_size,
                backend=run.backend["backend"],
            )
        else:
            loop.set_data(*sets)
        found += _of_a_trial(run, trial, loop)
    return found


def _of_a_trial(run, trial, loop):
    def error(weights):
        return 1 - loop.evaluate("test", weights)[1]

    found, before = [], None
    for result in run.results:
        if result.trial != trial:
            continue
        ticket = run.load_ticket(trial, result.arm, result.level)
        weights = ticket and ticket.trained_weights(loop.model)
        place = result.arm, result.level - 1
        if weights and before and before[0] == place:
            errors = errors_between(before[1], weights, error)
            found.append(Barrier.of(result, errors))
        before = weights and ((result.arm, result.level), weights)
    return found


COLUMNS = [field.name for field in dataclasses.fields(Barrier)]


def to_csv(barriers):
    """Barriers as the text of a CSV file."""
    rows = [dataclasses.asdict(one) for one in barriers]
    return pandas.DataFrame(rows, columns=COLUMNS).to_csv(index=False)


def from_csv(text):
    """The list of `Barrier` in the text of a CSV file."""
    frame = pandas.read_csv(io.StringIO(text))
    return [Barrier(*row) for row in frame[COLUMNS].itertuples(index=False)]
