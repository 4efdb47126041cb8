"""Arms: what is trained at each level.

An arm is a function `(bench, level) -> Ticket`: the masks and the weights that
training starts from. Through `bench` it sees the trial's initial weights and
what was trained before it.
"""

import dataclasses
import functools

import numpy as np

from keras_lottery import masks as masks_lib
from keras_lottery.tickets import Ticket

ARMS: dict[str, "Arm"] = {}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm and what the laboratory must know to train it.

    Args:
        name: str.
        start: function `(bench, level) -> Ticket`.
        needs: function, level -> (arm, level) that must be trained before,
            or `None`.
        chain: bool, whether what it trains to is kept for a later level.
        shown: bool, whether it is an arm of its own or serves another.
        rewind_to: function, `Experiment` -> what a level rewinds to: a
            training step, `"learning_rate"` or `None`.
        train: function `(bench, start) -> Training`, or `None`: the bench
            trains it.
        check: function of the `Experiment`, or `None`.
        taken_over: bool, whether its tickets are copied from another run.
        second_of: the arm of which this one is `second`, or `None`.
    """

    name: str
    start: object
    needs: object
    chain: bool
    shown: bool
    rewind_to: object
    train: object
    check: object
    taken_over: bool = False
    second_of: str | None = None

    @property
    def order(self):
        """The purpose of the seed of the order of its examples."""
        return "second order" if self.second_of else "order"


def arm(
    start=None,
    *,
    name=None,
    needs="ticket",
    chain=False,
    shown=True,
    rewind_to=lambda experiment: experiment.rewind_to,
    train=None,
    check=None,
    taken_over=False,
):
    """Registers a function as an arm, by its name.

    Args:
        start: function `(bench, level) -> Ticket`.
        name: optional str. Defaults to the function's name.
        needs: the arm of which the level before must be trained first, since
            this one uses its masks or weights; a function from the level,
            which may be 0, to (arm, level) or `None`; or `None`.
        chain: bool: each level continues from the one before.
        shown: bool: `False` if it only serves another arm.
        rewind_to: function, `Experiment` -> what a level rewinds to, as
            `keras_lottery.wrap` has it: a training step, at which a level
            that starts before it captures its rewind point;
            `"learning_rate"`; or `None`. Defaults to the experiment's.
        train: optional function `(bench, start) -> Training`, for what is
            not to be trained by the laboratory's own loop. It leaves the
            bench's model with the trained weights.
        check: optional function of the `Experiment` that raises a
            `ValueError` if the arm cannot be trained in it.
        taken_over: bool: its tickets are copied into the run from another
            one, so that none of them is trained.

    Returns:
        The function.

    Example:

    ```python
    @arm
    def doubled(bench, level):
        start = bench.start("ticket", level)
        weights = start.rewind_point.weights
        return bench.with_weights(
            start.masks, {path: 2 * w for path, w in weights.items()}
        )
    ```
    """
    if start is None:
        options = dict(locals())
        del options["start"]
        return functools.partial(arm, **options)
    name = name or start.__name__
    before = name if chain else needs

    def needed(level):
        if callable(before):
            return before(level)
        return (before, level - 1) if before and level else None

    ARMS[name] = Arm(
        name,
        start,
        needed,
        chain,
        shown,
        rewind_to,
        train,
        check,
        taken_over,
    )
    if shown and train is None:
        ARMS[second(name)] = _second(name)
    return start


def second(name):
    """The name of the arm that trains each start of an arm once more.

    In another order of the examples: what `instability` is measured by.
    """
    return f"{name}_second"


def _second(name):
    def start(bench, level):
        first = bench.trained(name, level)
        # From where both are one training, as after late rewinding.
        return Ticket(first.masks, first.rewind_point)

    return Arm(
        second(name),
        start,
        needs=lambda level: (name, level),
        chain=False,
        shown=False,
        rewind_to=lambda experiment: 0,
        train=None,
        check=None,
        second_of=name,
    )


def keeps_ticket(experiment, name):
    """Whether what an arm trains to is kept, for another training to use."""
    return ARMS[name].chain or (experiment.instability and ARMS[name].shown)


@arm(chain=True)
def ticket(bench, level):
    """Iterative pruning with rewinding.

    Source: Frankle & Carbin, 1803.03635, section 2 and appendix B
    (strategy 1).
    """
    return bench.next_level("ticket", level)


@arm(chain=True, rewind_to=lambda experiment: experiment.late_rewind_to)
def late_rewind(bench, level):
    """Iterative pruning with rewinding to a step after initialisation.

    The step is the experiment's `late_rewind_to`.

    Source: Frankle et al., 1912.05671, section 3 (IMP with rewinding to
    step k).
    """
    return bench.next_level("late_rewind", level)


@arm(chain=True, rewind_to=lambda experiment: "learning_rate")
def lr_rewind(bench, level):
    """Keeps the trained weights; optimizer and schedule start again.

    Source: Renda et al., 2003.02389, section 3 (learning rate rewinding).
    """
    return bench.next_level("lr_rewind", level)


@arm(chain=True, shown=False, rewind_to=lambda experiment: None)
def continued_search(bench, level):
    """Iterative pruning without rewinding: training goes on.

    Source: Frankle & Carbin, 1803.03635, appendix B (strategy 2).
    """
    return bench.next_level("continued_search", level)


@arm(needs="continued_search")
def continued(bench, level):
    """Masks found without rewinding, the initial weights.

    Source: Frankle & Carbin, 1803.03635, appendix B (strategy 2).
    """
    masks = bench.start("continued_search", level).masks
    return bench.with_weights(masks, bench.initial)


@arm
def reinit(bench, level, draw="reinit"):
    """The ticket's masks, new weights drawn anew at each level.

    Source: Frankle & Carbin, 1803.03635, section 2 (random
    reinitialisation).
    """
    masks = bench.start("ticket", level).masks
    return bench.with_weights(masks, bench.new_weights(draw, level))


@arm
def reinit_2(bench, level):
    """Another draw: the paper reinitialises each ticket three times."""
    return reinit(bench, level, "reinit_2")


@arm
def reinit_3(bench, level):
    """The third draw."""
    return reinit(bench, level, "reinit_3")


@arm
def reinit_signs(bench, level):
    """The ticket's masks, new weights that have the signs of the initial ones.

    The draw is that of `reinit`, of which it differs in the signs alone.

    Source: Zhou et al., 1905.01067, section 3 (the signs of the initial
    weights).
    """
    start = reinit(bench, level)
    weights = dict(start.rewind_point.weights)
    for path in start.masks:
        weights[path] = np.copysign(weights[path], bench.initial[path])
    return bench.with_weights(start.masks, weights)


def _after_the_ticket(level):
    """What an arm needs whose level 0 is the ticket's, to be found there.

    Trained at the same time, it would be trained twice.
    """
    return "ticket", max(level - 1, 0)


@arm(needs=_after_the_ticket)
def random_mask(bench, level):
    """Random masks with the ticket's counts per layer, the initial weights.

    Source: Frankle & Carbin, 1803.03635, section 3 and figure 4 (random
    sparse networks).
    """
    masks = shuffled(bench, level, "ticket", "random_mask", level)
    return bench.with_weights(masks, bench.initial)


@arm(needs=_after_the_ticket)
def shuffled_mask(bench, level):
    """The ticket's masks, each layer's in another order; the initial weights.

    One permutation per layer and trial, so that the masks of later levels
    are nested in earlier ones, as the ticket's are.

    Source: Frankle et al., 2009.08576, section 5 (shuffled within layers).
    """
    masks = shuffled(bench, level, "ticket", "shuffled_mask")
    return bench.with_weights(masks, bench.initial)


@arm
def random_ticket(bench, level):
    """Random masks with the ticket's counts per layer, and new weights."""
    masks = shuffled(bench, level, "ticket", "random_ticket", level)
    return bench.with_weights(masks, bench.new_weights("random_ticket", level))


@arm(needs=lambda level: ("ticket", 0))
def one_shot(bench, level):
    """Straight from level 0 to the density of each level.

    Rounds on the same scores remove what one round of the sum of their
    counts removes.

    Source: Frankle & Carbin, 1803.03635, section 2 and figure 4.
    """
    start = bench.dense()
    if level == 0:
        return start
    dense = bench.trained("ticket", 0)
    start = Ticket(dense.masks, dense.rewind_point)
    for _ in range(level):
        masks = bench.next_masks(start, dense.trained)
        start = Ticket(masks, dense.rewind_point, start.level + 1)
    return start


@arm(name="global", chain=True)
def global_(bench, level):
    """Iterative pruning under one threshold for all layers.

    Each level keeps as many weights as the ticket; layers that are left
    alone stay out. With `scope="global"` it is the ticket.

    Source: Frankle & Carbin, 1803.03635, section 4 and appendix I.1.
    """
    if level == 0:
        return bench.dense()
    before = bench.trained("global", level - 1)
    scores = bench.scores(before)
    masks = keep_highest(before.masks, bench.kept(level), scores, bench.pattern)
    return Ticket(masks, before.rewind_point)


def keep_highest(masks, count, score, pattern):
    """Masks nested in these, the highest-scored of all layers together.

    Args:
        masks: dict, weight path -> boolean array.
        count: int, of blocks, at most as many as survive in `masks`.
        score: function, weight path -> array.
        pattern: `Pattern`.

    Returns:
        A dict, weight path -> boolean array, in which `count` blocks survive.
    """
    # Patterns may have pruned more than was asked for.
    rate = max(0.0, 1 - count / pattern.count(masks))
    return pattern.prune(
        masks,
        score,
        lambda kept, means: masks_lib.prune_global(kept, rate, means),
    )


def check(experiment):
    """Refuses arms that are not known, or not to be had in an experiment."""
    for name in experiment.arms:
        if name not in ARMS or not ARMS[name].shown:
            known = [arm.name for arm in ARMS.values() if arm.shown]
            raise ValueError(
                f"`arms` must be among {known}. Received: arms={name!r}"
            )
        if experiment.instability and ARMS[name].train:
            raise ValueError(
                "`instability` needs arms that `keras_lottery.training` "
                f"trains. Leave the others out. Received: arms={name!r}"
            )
        if ARMS[name].check:
            ARMS[name].check(experiment)


def shuffled(bench, level, name, *purpose):
    """The masks that an arm starts from, shuffled within each layer.

    Args:
        bench: `Bench`.
        level: int.
        name: str, the arm.
        *purpose: of the seed: without the level, the masks of later levels
            are nested in earlier ones where the arm's are.

    Returns:
        A dict, weight path -> boolean array.
    """
    rng = np.random.default_rng(bench.seed(*purpose))
    return bench.pattern.shuffled(bench.start(name, level).masks, rng)
