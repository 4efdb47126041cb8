"""Rows of `results.csv`."""

from keras_lottery.experiments.results import Result, from_csv, to_csv

COLUMNS = (
    "trial,arm,level,density,iterations,early_stop_iteration,"
    "early_stop_val_loss,early_stop_val_accuracy,early_stop_test_accuracy,"
    "final_train_accuracy,final_val_accuracy,final_test_accuracy,seconds"
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
