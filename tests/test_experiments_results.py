"""Rows of `results.csv`, and which level of them is meant."""

import pytest

from keras_lottery.experiments.results import (
    Result,
    Results,
    from_csv,
    to_csv,
)

COLUMNS = (
    "trial,arm,level,density,iterations,early_stop_iteration,"
    "early_stop_val_loss,early_stop_val_accuracy,early_stop_test_accuracy,"
    "final_train_accuracy,final_val_accuracy,final_test_accuracy,seconds,"
    "backend"
)


def result(**values):
    fields = {
        "trial": 0,
        "arm": "ticket",
        "level": 1,
        "density": 1 / 3,
        "iterations": 100,
        "early_stop_iteration": 40,
        "early_stop_val_loss": 0.1,
        "early_stop_val_accuracy": 0.9,
        "early_stop_test_accuracy": 0.91,
        "final_train_accuracy": 1.0,
        "final_val_accuracy": 0.92,
        "final_test_accuracy": 0.93,
        "seconds": 1.25,
    }
    return Result(**{**fields, **values})


def test_the_columns_are_those_that_others_read():
    assert to_csv([]).strip() == COLUMNS


def test_a_row_survives_the_round_trip():
    rows = [result(), result(trial=1, arm="reinit", density=0.1 + 0.2)]
    assert from_csv(to_csv(rows)) == rows


def test_rows_of_versions_without_a_backend_are_read():
    (row,) = rows = [result()]
    lines = to_csv(rows).splitlines()
    text = "\n".join(line.rsplit(",", 1)[0] for line in lines)
    assert from_csv(text) == [row] and row.backend == ""


def ladder(*accuracies):
    """Levels of one trial, by their validation accuracy at the end."""
    return Results(
        result(level=k, density=0.8**k, final_val_accuracy=accuracy)
        for k, accuracy in enumerate(accuracies)
    )


def test_best_is_the_smallest_that_validates_as_well_as_the_dense():
    assert ladder(0.9, 0.95, 0.92, 0.9, 0.89).choose("best").level == 3
    assert ladder(0.9, 0.8, 0.8).choose("best").level == 0
    with pytest.raises(ValueError, match="without accuracies"):
        ladder(float("nan"), 0.8).choose("best")
    assert ladder(0.9, 0.8, 0.8).choose("last").level == 2
    assert ladder(0.9, 0.8, 0.8).choose(1).level == 1


def test_a_level_that_is_not_there_is_refused():
    results = ladder(0.9, 0.8)
    with pytest.raises(ValueError, match=r'"last" or one of \[0, 1\]'):
        results.choose(3)
    with pytest.raises(ValueError, match="`trial` and `arm` must be of the"):
        results.choose("best", arm="reinit")
