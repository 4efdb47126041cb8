"""Connectivity: error barriers between the trained networks of a run.

From what a run has stored: networks are evaluated, none is trained.
"""

from keras_lottery.experiments.barriers import Barrier, errors_between
from keras_lottery.training import Loop


def instability(run):
    """The barriers between two trainings of the same start.

    Args:
        run: `Run` of an experiment with `instability`.

    Returns:
        A list of `Barrier`, by trial, arm and level: of those starts that
        were trained twice.

    Source: Frankle et al., 1912.05671, section 2.
    """
    lines = ((result, run.load_line(result)) for result in run.results)
    return [Barrier.of(r, line) for r, line in lines if line is not None]


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
