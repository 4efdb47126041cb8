"""model_of_run: the level that is meant, with the weights it had."""

import dataclasses

import numpy as np
import pytest

from keras_lottery.experiments import Experiment, Result
from keras_lottery.export.runs import choose, model_of_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory and its results."""
    directory = tmp_path_factory.mktemp("run")
    experiment = Experiment(
        rounds=2, iterations=40, trials=2, backend="graph", rate=0.5
    )
    return directory, experiment.run(directory)


@pytest.mark.parametrize("trial, level", [(0, 0), (1, 2)])
def test_it_has_the_weights_that_the_level_was_trained_to(run, trial, level):
    directory, results = run
    found = model_of_run(directory, level, trial)
    (row,) = [
        r
        for r in results
        if (r.trial, r.arm, r.level) == (trial, "ticket", level)
    ]
    # Times are rounded in the file.
    assert dataclasses.replace(found.result, seconds=0) == dataclasses.replace(
        row, seconds=0
    )
    x, y = found.data.test
    right = np.argmax(found.model(x), -1) == y
    assert right.mean() == pytest.approx(row.final_test_accuracy, abs=1e-6)
    x, y = found.data.validation
    right = np.argmax(found.model(x), -1) == y
    assert right.mean() == pytest.approx(row.final_val_accuracy, abs=1e-6)
    assert found.model.lottery.density == pytest.approx(row.density)
    assert found.model.lottery.level == level


def test_last_and_best(run):
    directory, _ = run
    assert model_of_run(directory, "last").result.level == 2
    assert model_of_run(directory).result.level in (0, 1, 2)


def rows(*accuracies):
    return [
        Result(0, "ticket", k, 0.8**k, 9, 5, 0.1, 0.0, 0.0, 1.0, a, 1 - a, 1.0)
        for k, a in enumerate(accuracies)
    ]


def test_best_is_the_smallest_that_validates_as_well_as_the_dense():
    assert choose(rows(0.9, 0.95, 0.92, 0.9, 0.89), "best").level == 3
    assert choose(rows(0.9, 0.8, 0.8), "best").level == 0
    assert choose(rows(0.9, 0.8, 0.8), "last").level == 2
    assert choose(rows(0.9, 0.8, 0.8), 1).level == 1


def test_what_is_not_there(run, tmp_path):
    directory, _ = run
    for arguments, message in [
        ({"level": 3}, r'"last" or one of \[0, 1, 2\]. Received: level=3'),
        ({"level": "worst"}, "Received: level='worst'"),
        ({"trial": 2}, "`trial` and `arm` must be of the run"),
        ({"arm": "reinit"}, "one that keeps its tickets"),
        ({"arm": "one_shot"}, "`trial` and `arm` must be of the run"),
    ]:
        with pytest.raises(ValueError, match=message):
            model_of_run(directory, **arguments)
    with pytest.raises(ValueError, match="experiment.json is not there"):
        model_of_run(tmp_path)
