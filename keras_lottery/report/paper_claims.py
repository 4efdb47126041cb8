"""The claims of the paper: what each measures, and what it is held against.

Source: Frankle & Carbin, 1803.03635; the section is named with each claim.
"""

import dataclasses
import statistics

from keras_lottery.report.statistics import generalisation_gap


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Args:
        id: str, such as `"C4"`.
        text: str, what is claimed, in a line.
        paper: str, the value in the paper.
        models: tuple of the networks it is about.
        measure: function of a `claims.Trial`, the number or `None`.
        unit: str, `"%"`, `"points"` or `"x"`.
        above: float, the claim holds if the number is greater.
    """

    id: str
    text: str
    paper: str
    models: tuple
    measure: object
    unit: str
    above: float = 0.0


def _compare(number, first, second):
    """A measurement of two results, each named by its arm and density.

    Args:
        number: function of two `Result`.
        first: pair of str and float.
        second: pair of str and float.

    Returns:
        A function of a `claims.Trial`: the number, or `None` if the trial
        lacks one of the results.
    """

    def measure(trial):
        results = trial.at(*first), trial.at(*second)
        return None if None in results else number(*results)

    return measure


def _percent_sooner(one, other):
    return 100 * (1 - one.early_stop_iteration / other.early_stop_iteration)


def _times_sooner(one, other):
    return other.early_stop_iteration / one.early_stop_iteration


def _points_better(one, other, column="early_stop_test_accuracy"):
    return 100 * (getattr(one, column) - getattr(other, column))


def _points_better_at_the_end(one, other):
    return _points_better(one, other, "final_test_accuracy")


def _points_of_gap_less(one, other):
    return 100 * (generalisation_gap(other) - generalisation_gap(one))


def _lead_over_dense(extreme, arm, high, low):
    """The least or greatest lead over dense, between two densities."""

    def measure(trial):
        dense = trial.at(*_DENSE)
        levels = trial.within(arm, high, low)
        if dense is None or not levels:
            return None
        return extreme(_points_better(result, dense) for result in levels)

    return measure


def _mean_lead(arm, than, high, low):
    """Mean lead of one arm over another, between two densities."""

    def measure(trial):
        pairs = [
            (result, trial.at(than, result.density))
            for result in trial.within(arm, high, low)
        ]
        leads = [_points_better(*pair) for pair in pairs if None not in pair]
        return statistics.fmean(leads) if leads else None

    return measure


_DENSE = ("ticket", 1.0)
_LENET = ("lenet_300_100",)

CLAIMS = [
    Claim(
        "C1",
        "LeNet: at 21.1 % early stop comes before the dense network's "
        "(section 2)",
        "38 % earlier",
        _LENET,
        _compare(_percent_sooner, ("ticket", 0.211), _DENSE),
        "% earlier",
    ),
    Claim(
        "C2a",
        "LeNet: at 13.5 % accuracy at early stop is above dense (section 2)",
        "> +0.3 points",
        _LENET,
        _compare(_points_better, ("ticket", 0.135), _DENSE),
        "points",
    ),
    Claim(
        "C2b",
        "LeNet: at 3.6 % accuracy is back at the dense level (section 2); "
        "judged: no more than 0.2 points below",
        "about 0 points",
        _LENET,
        _compare(_points_better, ("ticket", 0.036), _DENSE),
        "points",
        above=-0.2,
    ),
    Claim(
        "C3",
        "LeNet: the gap between training and test accuracy at the end is "
        "smaller at 13.5 % than dense (section 2)",
        "smaller",
        _LENET,
        _compare(_points_of_gap_less, ("ticket", 0.135), _DENSE),
        "points",
    ),
    Claim(
        "C4a",
        "LeNet: at 21.1 % the ticket stops early sooner than its reinit "
        "(section 2)",
        "2.51 x",
        _LENET,
        _compare(_times_sooner, ("ticket", 0.211), ("reinit", 0.211)),
        "x",
        above=1.0,
    ),
    Claim(
        "C4b",
        "LeNet: at 21.1 % the ticket is more accurate than its reinit "
        "(section 2)",
        "0.5 points",
        _LENET,
        _compare(_points_better, ("ticket", 0.211), ("reinit", 0.211)),
        "points",
    ),
    Claim(
        "C5a",
        "LeNet: reinitialised, accuracy has declined from 21.1 % to 2.9 % "
        "(section 2)",
        "declines",
        _LENET,
        _compare(_points_better, ("reinit", 0.211), ("reinit", 0.029)),
        "points lost",
    ),
    Claim(
        "C5b",
        "LeNet: the ticket's accuracy holds until 2.9 % (section 2); judged: "
        "never 0.3 points below dense",
        "holds",
        _LENET,
        _lead_over_dense(min, "ticket", 0.52, 0.0287),
        "points",
        above=-0.3,
    ),
    Claim(
        "C6a",
        "LeNet: one-shot tickets stop early before dense, at 41 % (section 2)",
        "for 67.5 to 17.6 %",
        _LENET,
        _compare(_percent_sooner, ("one_shot", 0.41), _DENSE),
        "% earlier",
    ),
    Claim(
        "C6b",
        "LeNet: one-shot tickets are more accurate than dense somewhere "
        "between 95 and 5.17 % (section 2)",
        "for 95 to 5.17 %",
        _LENET,
        _lead_over_dense(max, "one_shot", 0.95, 0.0517),
        "points",
    ),
    Claim(
        "C6c",
        "LeNet: iterative pruning beats one-shot at 3.6 % (section 2)",
        "iterative finds smaller ones",
        _LENET,
        _compare(_points_better, ("ticket", 0.036), ("one_shot", 0.036)),
        "points",
    ),
    *(
        Claim(
            f"C7a {name}",
            f"{name}: early stop comes sooner than dense at {percent:g} % "
            "(section 3)",
            f"{paper} x",
            (name,),
            _compare(_times_sooner, ("ticket", percent / 100), _DENSE),
            "x",
            above=1.0,
        )
        for name, percent, paper in (
            ("conv_2", 8.8, 3.5),
            ("conv_4", 9.2, 3.5),
            ("conv_6", 15.1, 2.5),
        )
    ),
    *(
        Claim(
            f"C7b {name}",
            f"{name}: at {percent:g} % accuracy is above dense (section 3)",
            f"+{paper} points",
            (name,),
            _compare(_points_better, ("ticket", percent / 100), _DENSE),
            "points",
        )
        for name, percent, paper in (
            ("conv_2", 4.6, 3.4),
            ("conv_4", 11.1, 3.5),
            ("conv_6", 26.4, 3.3),
        )
    ),
    Claim(
        "C8",
        "With dropout the ticket is above dense at 9 % (section 3)",
        "the same pattern",
        ("conv_2+dropout", "conv_4+dropout", "conv_6+dropout"),
        _compare(_points_better, ("ticket", 0.09), _DENSE),
        "points",
    ),
    Claim(
        "C9a",
        "ResNet-18 with warmup: at 27.1 % accuracy at the end is no more "
        "than 0.5 points below dense (section 4)",
        "90.5 % at 27.1 %",
        ("resnet_18",),
        _compare(_points_better_at_the_end, ("ticket", 0.271), _DENSE),
        "points",
        above=-0.5,
    ),
    Claim(
        "C9b",
        "VGG-19 with warmup: at 2 % accuracy at the end is no more than 0.5 "
        "points below dense (section 4)",
        "for >= 1.5 %",
        ("vgg_19",),
        _compare(_points_better_at_the_end, ("ticket", 0.02), _DENSE),
        "points",
        above=-0.5,
    ),
    Claim(
        "C10",
        "Structure alone does not explain a ticket: reinitialised it is "
        "worse, mean over 21 to 3.5 % (section 5)",
        "worse",
        ("lenet_300_100", "conv_2", "conv_4", "conv_6"),
        _mean_lead("ticket", "reinit", 0.211, 0.035),
        "points",
    ),
]
