"""A trained level of a run directory, as a model again."""

import dataclasses
import json
import os

import keras

from keras_lottery.datasets import Dataset
from keras_lottery.experiments import Experiment, Result
from keras_lottery.experiments.results import from_csv
from keras_lottery.experiments.seeds import derive
from keras_lottery.experiments.store import Store
from keras_lottery.wrapping import wrap


@dataclasses.dataclass(frozen=True, eq=False)
class RunModel:
    """One level of a run, ready to be exported.

    Args:
        model: wrapped `keras.Model` with the weights that the level was
            trained to, its mask and its rewind point.
        result: `Result`, the row of `results.csv`.
        data: `Dataset` that it was trained, chosen and tested on.
    """

    model: keras.Model
    result: Result
    data: Dataset


def model_of_run(run_dir, level="best", trial=0, arm="ticket"):
    """Builds the model of a level from what `tools/find_ticket.py` wrote.

    Args:
        run_dir: str or path-like.
        level: int; `"last"`; or `"best"`, the smallest density of which the
            validation accuracy at the end of training, whose weights these
            are, is not below that of level 0. The test set has no say in it.
        trial: int.
        arm: str, one that keeps its tickets.

    Returns:
        A `RunModel`.

    Raises:
        ValueError: If there is no such run, trial, arm or level.

    Example:

    ```python
    run = model_of_run("runs/lenet_mnist", level="best")
    x, y = run.data.test
    to_serving(run.model, "served/lenet", examples=x[:256])
    ```
    """
    experiment, results = _read(run_dir)
    if isinstance(level, str) and level.lstrip("-").isdigit():
        level = int(level)
    result = choose(results, level, trial, arm)
    store = Store(run_dir)
    ticket = store.load_ticket(trial, arm, result.level)
    if ticket is None:
        path = store.path(store.ticket_path(trial, arm, result.level))
        raise ValueError(
            f"`arm` must be one that keeps its tickets, and {path} is not "
            f"there. Received: arm={arm!r}"
        )
    data = experiment.load_data(derive(experiment.seed, trial, "split"))
    seed = derive(experiment.seed, trial, "weights")
    model = wrap(
        experiment.build_model(data, seed),
        seed=experiment.seed,
        **experiment.pruning(),
    )
    model.lottery.load(ticket)
    ticket.assign_trained(model)
    return RunModel(model, result, data)


def choose(results, level, trial=0, arm="ticket"):
    """The row of `results` that is meant.

    Args:
        results: list of `Result`.
        level: int, `"last"` or `"best"`, as in `model_of_run`.
        trial: int.
        arm: str.

    Returns:
        A `Result`.
    """
    rows = {r.level: r for r in results if (r.trial, r.arm) == (trial, arm)}
    if not rows:
        there = sorted({(r.trial, r.arm) for r in results})
        raise ValueError(
            "`trial` and `arm` must be of the run, which has trained "
            f"{there}. Received: trial={trial}, arm={arm!r}"
        )
    if level == "last":
        return rows[max(rows)]
    if level == "best" and 0 in rows:
        accuracy = rows[0].final_val_accuracy
        enough = [r for r in rows.values() if r.final_val_accuracy >= accuracy]
        return min(enough, key=lambda r: (r.density, r.level))
    if level not in rows:
        raise ValueError(
            '`level` must be "best", "last" or one of '
            f"{sorted(rows)}. Received: level={level!r}"
        )
    return rows[level]


def _read(run_dir):
    try:
        with open(os.path.join(run_dir, "experiment.json")) as file:
            experiment = Experiment(**json.load(file))
        with open(os.path.join(run_dir, "results.csv")) as file:
            return experiment, from_csv(file.read())
    except FileNotFoundError as error:
        raise ValueError(
            "`run_dir` must be a directory of tools/find_ticket.py with at "
            f"least one trained level: {error.filename} is not there."
        ) from None
