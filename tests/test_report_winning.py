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
