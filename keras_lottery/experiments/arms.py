"""Arms: what is trained at each level.

An arm is a function `(bench, level) -> Ticket`: the masks and the weights that
training starts from. Through `bench` it sees the trial's initial weights and
whatever was trained before; what is missing is trained when it is asked for.
"""

import numpy as np


def ticket(bench, level):
    """Iterative pruning with rewinding.

    Source: Frankle & Carbin, 1803.03635, section 2 and appendix B
    (strategy 1).
    """
    if level == 0:
        return bench.dense()
    return bench.pruned(bench.trained("ticket", level - 1))


def reinit(bench, level):
    """The ticket's masks, new weights drawn anew at each level.

    Source: Frankle & Carbin, 1803.03635, sections 2 and 3 (random
    reinitialisation).
    """
    masks = bench.start("ticket", level).masks
    return bench.with_weights(masks, bench.new_weights("reinit", level))


ARMS = {arm.__name__: arm for arm in (ticket, reinit)}


def check(names):
    """Refuses arms that are not known."""
    for name in names:
        if name not in ARMS:
            raise ValueError(
                f"`arms` must be among {list(ARMS)}. Received: arms={name!r}"
            )


def ones(masks):
    """Masks of the same shapes that keep everything."""
    return {path: np.ones_like(mask) for path, mask in masks.items()}
