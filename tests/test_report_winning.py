import dataclasses

import pytest
from test_experiments_results import result

from keras_lottery.report import headline


def rows(accuracies, stops, arm="ticket", trial=0):
    return [
        result(
            arm=arm,
            trial=trial,
            level=level,
            density=0.8**level,
            early_stop_test_accuracy=accuracy,
            early_stop_iteration=stop,
        )
        for level, (accuracy, stop) in enumerate(zip(accuracies, stops))
    ]


@pytest.mark.parametrize(
    "accuracies, stops, says",
    [
        # Accurate enough and soon enough at 80 and 64 %: the smaller.
        ([0.9, 0.9, 0.91], [50, 50, 40], "smallest winning ticket has 64.0 %"),
        # Later than dense at 64 %.
        ([0.9, 0.9, 0.91], [50, 50, 60], "smallest winning ticket has 80.0 %"),
        ([0.9, 0.89, 0.91], [50, 40, 60], "no ticket was as accurate"),
    ],
)
def test_it_calls_winning_only_what_won(accuracies, stops, says):
    found, rule = headline(rows(accuracies, stops))
    assert says in found and found.startswith("One trial")
    assert "winning" in rule


def test_it_names_all_winning_levels():
    accuracies = [0.9, 0.91, 0.8, 0.91, 0.91, 0.91, 0.8, 0.91, 0.91]
    found, _ = headline(rows(accuracies, [50] * 9))
    assert found.endswith("Winning: levels 1, 3 to 5, 7, 8.")
    found, _ = headline(rows([0.9, 0.91], [50, 50]))
    assert found.endswith("Winning: level 1.")


def test_it_takes_the_means_of_trials():
    results = rows([0.9, 0.95], [50, 40]) + rows([0.9, 0.8], [50, 40], trial=1)
    found, _ = headline(results)
    assert found.startswith("Mean over 2 trials: no ticket was as accurate")


def test_it_sets_the_reinitialised_ticket_beside_it():
    results = rows([0.9, 0.91], [50, 40])
    results += rows([0.9, 0.85], [50, 70], arm="reinit")
    found, _ = headline(results)
    assert "Reinitialised, it has 85.00 % after 70." in found


def test_without_tickets_it_names_the_most_accurate():
    found, rule = headline(rows([0.9], [50], arm="reinit"))
    assert "Most accurate: reinit at 100 %" in found and not rule


NAN = float("nan")


def diverged(*rows):
    return [
        dataclasses.replace(
            row, early_stop_iteration=1, early_stop_val_loss=NAN
        )
        for row in rows
    ]


def test_a_training_that_diverged_wins_nothing():
    dense, ticket = rows([0.9, 0.9], [50, 50])
    found, rule = headline([dense, *diverged(ticket)])
    assert found.startswith("Most accurate: ticket at 100 %") and not rule
    found, rule = headline(diverged(dense, ticket))
    assert "No training has measured" in found and not rule


def test_a_model_without_an_accuracy_is_not_compared():
    found, rule = headline(rows([NAN, NAN], [50, 50]))
    assert "No training has measured" in found and not rule


def test_trials_are_compared_that_have_every_level():
    whole = rows([0.9, 0.92, 0.91], [50, 40, 40])
    begun = rows([0.99], [10], trial=1)
    broken = rows([0.99, 0.99, 0.99], [10, 10, 10], trial=2)
    broken[1:2] = diverged(broken[1])
    reinit = rows([0.1, 0.1, 0.1], [99, 99, 99], arm="reinit", trial=2)
    alone, _ = headline(whole)
    found, _ = headline(whole + begun + broken + reinit)
    assert found.startswith("One trial of 3, the others not having every")
    assert found.partition(": ")[2] == alone.partition(": ")[2]
