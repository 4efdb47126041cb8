"""The claims of the paper: what must have been run, and what is claimed of it.

Source: Frankle & Carbin, 1803.03635; the section is named with each claim. The
last ones ask of blocks and channels what the paper claims of single weights.
"""

import dataclasses
import math
import statistics

from keras_lottery import recipes
from keras_lottery.report.statistics import generalisation_gap
from keras_lottery.report.tables import percent


@dataclasses.dataclass(frozen=True)
class Needs:
    """What must have been run for a claim to be judged.

    Args:
        model: str, the network.
        dropout: bool, whether with dropout.
        learning_rate: optional float; `None` for that of the recipe, or at a
            smaller scale, which `image_size` says it is, for any.
        warmup: bool, whether the learning rate rises at first.
        block_size: str, what is pruned as one.
    """

    model: str
    dropout: bool = False
    learning_rate: float | None = None
    warmup: bool = False
    block_size: str = "1x1"

    @property
    def recipe(self):
        known = recipes.DROPOUT_RECIPES if self.dropout else recipes.RECIPES
        return known[self.model]

    def missing(self, experiment):
        """(how close it is, what is missing), or `None` if nothing is.

        Args:
            experiment: dict of `experiment.json`.
        """
        recipe = self.recipe
        rate = self.learning_rate or recipe.learning_rate
        # What an older run left open was that of the recipe.
        own = experiment.get("learning_rate") or recipe.learning_rate
        scaled = self.learning_rate is None and experiment.get("image_size")
        dropout = bool(experiment.get("dropout"))
        if experiment["model"] != self.model:
            return 9, f"no run of {self.model}"
        wrong = [
            text
            for is_wrong, text in (
                (
                    experiment["dataset"] != recipe.dataset,
                    f"is of {experiment['dataset']}, not {recipe.dataset}",
                ),
                (
                    dropout != self.dropout,
                    f"has {'no ' if self.dropout else ''}dropout",
                ),
                (
                    bool(experiment.get("classes")),
                    f"is of the classes {experiment.get('classes')} alone",
                ),
                (
                    not (scaled or math.isclose(own, rate)),
                    f"has the learning rate {own}, not {rate}",
                ),
                (
                    bool(experiment.get("warmup")) != self.warmup,
                    f"has {'no ' if self.warmup else ''}warmup",
                ),
                *(
                    (found != wanted, f"has {name}={found}, not {wanted}")
                    for name, found, wanted in self._others(experiment)
                ),
                (
                    (experiment.get("block_size") or "1x1") != self.block_size,
                    f"does not prune by block_size={self.block_size}",
                ),
                (
                    experiment.get("criterion", "magnitude") != "magnitude",
                    "does not prune by magnitude",
                ),
                (bool(experiment.get("rewind_to")), "rewinds to a later step"),
            )
            if is_wrong
        ]
        return (1 + len(wrong), f"the run {wrong[0]}") if wrong else None

    def _others(self, experiment):
        """Triples: a setting that no scale changes, its value, the paper's."""
        for name in ("scope", "optimizer", "batch_size", "momentum"):
            wanted = getattr(self.recipe, name)
            found = experiment.get(name)
            yield name, wanted if found is None else found, wanted
        metric = experiment.get("early_stop_metric", "val_loss")
        yield "early_stop_metric", metric, "val_loss"


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Args:
        id: str, such as `"C4"`.
        text: str, what is claimed, in a line.
        paper: str, the value in the paper.
        needs: `Needs`.
        measure: function of a `statistics.Trial`: a list of float, one for
            each level that the claim is about; or a str, what is missing.
        unit: str.
        holds: pair of float, the range in which the quantity lies if the
            claim holds: beyond the smallest effect that counts.
        effect: float, the quantity in the paper; where it prints none, what
            the simulations of the tests assume.
        spread: float, the standard deviation over trials that they assume: of
            the order of the paper's error bars, and of LeNet's here.
        shown: function, quantity -> number in `unit`.
    """

    id: str
    text: str
    paper: str
    needs: Needs
    measure: object
    unit: str
    holds: tuple
    effect: float
    spread: float
    shown: object = float


def _compare(number, first, second):
    """A measurement of two results, each named by its arm and density."""

    def measure(trial):
        results = trial.at(*first), trial.at(*second)
        for result, (arm, density) in zip(results, (first, second)):
            if result is None:
                return _no_level(trial, arm, density)
        return [number(*results)]

    return measure


def _no_level(trial, arm, density):
    if not trial.has(arm):
        return f"the run has no arm {arm}"
    return f"the run has no level of {arm} near {percent(density)}"


def _leads_over_dense(arm, high, low):
    """The lead over dense at each level between two densities."""

    def measure(trial):
        dense = trial.at(*_DENSE)
        if dense is None:
            return _no_level(trial, *_DENSE)
        for end in (high, low):
            if trial.at(arm, end) is None:
                return _no_level(trial, arm, end)
        return [
            _points_better(result, dense)
            for result in trial.within(arm, high, low)
        ]

    return measure


def _mean_lead(arm, than, high, low):
    """Mean lead of one arm over another, or over dense (`None`)."""

    def measure(trial):
        leads = []
        for end in (high, low):
            if trial.at(arm, end) is None:
                return _no_level(trial, arm, end)
        for result in trial.within(arm, high, low):
            place = (than, result.density) if than else _DENSE
            other = trial.at(*place)
            if other is None:
                return _no_level(trial, *place)
            leads.append(_points_better(result, other))
        return [statistics.fmean(leads)]

    return measure


def _log_times_sooner(one, other):
    stops = one.early_stop_iteration, other.early_stop_iteration
    return math.log(stops[1] / stops[0]) if min(stops) > 0 else math.nan


def _points_better(one, other, column="early_stop_test_accuracy"):
    return 100 * (getattr(one, column) - getattr(other, column))


def _points_better_at_the_end(one, other):
    return _points_better(one, other, "final_test_accuracy")


def _points_of_gap_less(one, other):
    return 100 * (generalisation_gap(other) - generalisation_gap(one))


def _to_percent(log_ratio):
    return 100 * (1 - math.exp(-log_ratio))


_DENSE = ("ticket", 1.0)
_LENET = Needs("lenet_300_100")
# Times sooner are compared as logarithms, in which 3.5 x and 1 / 3.5 x are
# equally far from 1. The least that counts as sooner at all: 5 %.
_SOONER = math.log(1.05)


def _sooner(times):
    """From half of the paper's value, as a logarithm."""
    return math.log(times) / 2, math.inf


def _above(least):
    return least, math.inf


_TITLES = {
    "lenet_300_100": "LeNet",
    "conv_2": "Conv-2",
    "conv_4": "Conv-4",
    "conv_6": "Conv-6",
    "resnet_18": "ResNet-18",
    "vgg_19": "VGG-19",
}
_CONVOLUTIONS = {
    # Density and times sooner, density and points better (section 3).
    "conv_2": (0.088, 3.5, 0.046, 3.4),
    "conv_4": (0.092, 3.5, 0.111, 3.5),
    "conv_6": (0.151, 2.5, 0.264, 3.3),
}

_PATTERNS = (
    ("4x1", "blocks of 4 inputs", 0.0868),
    ("channel", "whole units", 0.512),
)

CLAIMS = [
    Claim(
        "C1",
        "LeNet: at 21.1 % early stop comes before the dense network's "
        "(section 2)",
        "38 % earlier",
        _LENET,
        _compare(_log_times_sooner, ("ticket", 0.211), _DENSE),
        "% earlier",
        _above(_SOONER),
        effect=-math.log(1 - 0.38),
        spread=0.2,
        shown=_to_percent,
    ),
    Claim(
        "C2a",
        "LeNet: at 13.5 % accuracy at early stop is above dense (section 2)",
        "> +0.3 points",
        _LENET,
        _compare(_points_better, ("ticket", 0.135), _DENSE),
        "points",
        _above(0.15),
        effect=0.35,
        spread=0.1,
    ),
    Claim(
        "C2b",
        "LeNet: at 3.6 % accuracy is back at the dense level (section 2)",
        "about 0 points",
        _LENET,
        _compare(_points_better, ("ticket", 0.036), _DENSE),
        "points",
        (-0.25, 0.25),
        effect=0.0,
        spread=0.1,
    ),
    Claim(
        "C3",
        "LeNet: the gap between training and test accuracy at the end is "
        "smaller at 13.5 % than dense (section 2)",
        "smaller",
        _LENET,
        _compare(_points_of_gap_less, ("ticket", 0.135), _DENSE),
        "points less",
        _above(0.05),
        effect=0.3,
        spread=0.1,
    ),
    Claim(
        "C4a",
        "LeNet: at 21.1 % the ticket stops early sooner than its reinits "
        "(section 2)",
        "2.51 x",
        _LENET,
        _compare(_log_times_sooner, ("ticket", 0.211), ("reinit", 0.211)),
        "x sooner",
        _sooner(2.51),
        effect=math.log(2.51),
        spread=0.25,
        shown=math.exp,
    ),
    Claim(
        "C4b",
        "LeNet: at 21.1 % the ticket is more accurate than its reinits "
        "(section 2)",
        "0.5 points",
        _LENET,
        _compare(_points_better, ("ticket", 0.211), ("reinit", 0.211)),
        "points",
        _above(0.25),
        effect=0.5,
        spread=0.1,
    ),
    Claim(
        "C5a",
        "LeNet: reinitialised, accuracy has declined from 21.1 % to 2.9 % "
        "(section 2)",
        "declines",
        _LENET,
        _compare(_points_better, ("reinit", 0.211), ("reinit", 0.029)),
        "points lost",
        _above(0.3),
        effect=1.0,
        spread=0.2,
    ),
    Claim(
        "C5b",
        "LeNet: at each level from 51 to 2.9 % the ticket's accuracy is at "
        "most 0.3 points below dense (section 2)",
        "holds",
        _LENET,
        _leads_over_dense("ticket", 0.512, 0.0287),
        "points",
        _above(-0.3),
        effect=0.0,
        spread=0.1,
    ),
    Claim(
        "C6a",
        "LeNet: one-shot tickets stop early before dense, at 41 % (section 2)",
        "for 67.5 to 17.6 %",
        _LENET,
        _compare(_log_times_sooner, ("one_shot", 0.41), _DENSE),
        "% earlier",
        _above(_SOONER),
        effect=-math.log(1 - 0.3),
        spread=0.15,
        shown=_to_percent,
    ),
    Claim(
        "C6b",
        "LeNet: one-shot tickets are more accurate than dense, mean over the "
        "levels from 80 to 5.6 % (section 2)",
        "for 95 to 5.17 %",
        _LENET,
        _mean_lead("one_shot", None, 0.8, 0.0557),
        "points",
        _above(0.1),
        effect=0.25,
        spread=0.08,
    ),
    Claim(
        "C6c",
        "LeNet: at 5.6 %, the end of that range, they are not below dense "
        "(section 2)",
        "for 95 to 5.17 %",
        _LENET,
        _compare(_points_better, ("one_shot", 0.0557), _DENSE),
        "points",
        _above(-0.15),
        effect=0.0,
        spread=0.1,
    ),
    Claim(
        "C6d",
        "LeNet: iterative pruning beats one-shot at 3.6 % (section 2)",
        "iterative finds smaller ones",
        _LENET,
        _compare(_points_better, ("ticket", 0.036), ("one_shot", 0.036)),
        "points",
        _above(0.1),
        effect=0.5,
        spread=0.2,
    ),
    *(
        Claim(
            f"C7a {name}",
            f"{_TITLES[name]}: early stop comes sooner than dense at "
            f"{percent(density)} (section 3)",
            f"{times} x",
            Needs(name),
            _compare(_log_times_sooner, ("ticket", density), _DENSE),
            "x sooner",
            _sooner(times),
            effect=math.log(times),
            spread=0.2,
            shown=math.exp,
        )
        for name, (density, times, _, _) in _CONVOLUTIONS.items()
    ),
    *(
        Claim(
            f"C7b {name}",
            f"{_TITLES[name]}: at {percent(density)} accuracy is above dense "
            "(section 3)",
            f"+{points} points",
            Needs(name),
            _compare(_points_better, ("ticket", density), _DENSE),
            "points",
            _above(points / 2),
            effect=points,
            spread=0.6,
        )
        for name, (_, _, density, points) in _CONVOLUTIONS.items()
    ),
    *(
        Claim(
            f"C8 {name}",
            f"{_TITLES[name]} with dropout: at 9 % accuracy is above dense "
            "(section 3)",
            "the same pattern",
            Needs(name, dropout=True),
            _compare(_points_better, ("ticket", 0.09), _DENSE),
            "points",
            _above(0.5),
            effect=2.0,
            spread=0.6,
        )
        for name in _CONVOLUTIONS
    ),
    *(
        Claim(
            f"C9a {name}",
            f"{_TITLES[name]} with warmup: at {percent(density)} accuracy at "
            "the end is at most 0.5 points below dense (section 4)",
            paper,
            Needs(name, warmup=True),
            _compare(_points_better_at_the_end, ("ticket", density), _DENSE),
            "points",
            _above(-0.5),
            effect=0.0,
            spread=0.25,
        )
        for name, density, paper in (
            ("resnet_18", 0.271, "90.5 % at 27.1 %"),
            ("vgg_19", 0.0224, "for >= 1.5 %"),
        )
    ),
    *(
        Claim(
            f"C9b {name}",
            f"{_TITLES[name]} at 0.1 without warmup: at {percent(density)} the "
            "ticket is not more accurate at the end than its reinits "
            "(section 4)",
            "no winning ticket",
            Needs(name, learning_rate=0.1, warmup=False),
            _compare(
                _points_better_at_the_end,
                ("ticket", density),
                ("reinit", density),
            ),
            "points",
            (-math.inf, 0.5),
            effect=0.0,
            spread=0.25,
        )
        for name, density in (("resnet_18", 0.271), ("vgg_19", 0.0224))
    ),
    *(
        Claim(
            f"C10 {name}",
            f"{_TITLES[name]}: structure alone does not explain a ticket: "
            "reinitialised it is worse, mean over 21 to 3.6 % (section 5)",
            "worse",
            Needs(name),
            _mean_lead("ticket", "reinit", 0.211, 0.036),
            "points",
            _above(least),
            effect=effect,
            spread=spread,
        )
        for name, least, effect, spread in (
            ("lenet_300_100", 0.25, 0.5, 0.1),
            *((name, 1.0, 3.0, 0.6) for name in _CONVOLUTIONS),
        )
    ),
    *(
        Claim(
            f"P1 {size}",
            f"LeNet, pruned by {name}: at {percent(density)} the ticket is "
            "more accurate than its reinits",
            "not asked",
            Needs("lenet_300_100", block_size=size),
            _compare(_points_better, ("ticket", density), ("reinit", density)),
            "points",
            _above(0.25),
            effect=0.6,
            spread=0.15,
        )
        for size, name, density in _PATTERNS
    ),
    *(
        Claim(
            f"P2 {size}",
            f"LeNet, pruned by {name}: at {percent(density)} the ticket is at "
            "most 0.25 points below dense",
            "not asked",
            Needs("lenet_300_100", block_size=size),
            _compare(_points_better, ("ticket", density), _DENSE),
            "points",
            _above(-0.25),
            effect=0.0,
            spread=0.12,
        )
        for size, name, density in _PATTERNS
    ),
]
