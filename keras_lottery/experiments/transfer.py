"""Transfer: tickets of another run, trained on the data of this one.

They are copied into the run before it begins, as trainings of a hidden arm
`source`, so that they are on every machine that trains for it.
"""

import dataclasses
import hashlib
import os

from keras_lottery import files
from keras_lottery.experiments.arms import arm
from keras_lottery.experiments.plan import Place, plan
from keras_lottery.experiments.run import Run
from keras_lottery.rewinding import model_state
from keras_lottery.tickets import match_weights


def find(experiment):
    """Finds the tickets of `ticket_from`.

    Args:
        experiment: `Protocol`.

    Returns:
        Pair: the experiment, of which `ticket_from` is now the hash of what
        the tickets came from, wherever they are; and a dict, `Place` -> triple
        of the key and the two files of its training.

    Raises:
        ValueError: If one of them is missing.
    """
    if experiment.ticket_from is None:
        return experiment, {}
    if not any(place.arm == source.__name__ for place in plan(experiment)):
        raise ValueError(
            "`ticket_from` must be left out where no arm transfers a ticket. "
            f"Received: ticket_from={experiment.ticket_from!r}, "
            f"arms={experiment.arms}"
        )
    origin, found = Run.open(experiment.ticket_from, "ticket_from"), {}
    keys = origin.load_places()
    for trial in range(experiment.trials):
        for level in range(experiment.rounds + 1):
            key = keys.get(Place(trial, level, "ticket"))
            ticket = origin.ticket_path(trial, "ticket", level)
            paths = origin.record_path(key), ticket
            if key is None or not all(map(os.path.exists, paths)):
                raise ValueError(
                    "`ticket_from` must be a run that has trained as many "
                    "trials and levels of the arm 'ticket' as this one. "
                    f"Received: ticket_from={origin.directory!r}, without "
                    f"level {level} of trial {trial}"
                )
            found[Place(trial, level, source.__name__)] = key, *paths
    text = " ".join(key for key, *_ in found.values())
    identity = hashlib.sha256(text.encode()).hexdigest()[:32]
    return dataclasses.replace(experiment, ticket_from=identity), found


def take_over(found, run):
    """Copies tickets into a run: whole again, should one be damaged.

    Args:
        found: dict, as `find` returns it.
        run: `Run`.
    """
    known = run.load_places()
    for place, (key, record, ticket) in found.items():
        files.copy(record, run.record_path(key))
        files.copy(ticket, run.ticket_path(place.trial, place.arm, place.level))
        if known.get(place) != key:
            run.add_place(place, key)


@arm(needs=None, chain=True, shown=False, taken_over=True)
def source(bench, level):
    """The tickets of the other run."""
    raise RuntimeError(
        f"The ticket of level {level} that was taken over from the run in "
        "`ticket_from` is damaged. The same command takes it over again."
    )


def _check(experiment):
    if experiment.ticket_from is None:
        raise ValueError(
            "The arms 'transferred' and 'transferred_reinit' need "
            "`ticket_from`, the directory of a run. Received: ticket_from=None"
        )


def _of_the_same_level(level):
    return source.__name__, level


@arm(needs=_of_the_same_level, check=_check)
def transferred(bench, level):
    """The ticket of another run, its masks and its initial weights.

    What is trained is the network that the run in `ticket_from` begins this
    level with: of another data set, or of other classes.

    Source: Morcos et al., 1906.02773, section 3.
    """
    masks, weights = _taken_over(bench, level)
    return bench.with_weights(masks, weights)


@arm(needs=_of_the_same_level, check=_check)
def transferred_reinit(bench, level):
    """The masks of another run's ticket, new weights drawn at each level.

    Source: Morcos et al., 1906.02773, section 3 (randomly reinitialised).
    """
    masks, _ = _taken_over(bench, level)
    weights = bench.new_weights("transferred_reinit", level)
    return bench.with_weights(masks, weights)


def _taken_over(bench, level):
    """Masks and weights of a ticket, by the paths of the bench's model."""
    ticket = bench.trained(source.__name__, level)
    weights = ticket.rewind_point.weights
    places = match_weights(weights, model_state(bench.model))
    masks = {places[path]: mask for path, mask in ticket.masks.items()}
    whole = bench.dense().masks
    others = [path for path in masks if path not in whole]
    if others:
        raise ValueError(
            "`ticket_from` must be a run that prunes the same layers. "
            f"Received: a ticket with masks of {others}"
        )
    # A layer that only the other run leaves alone is whole.
    masks = {path: masks.get(path, mask) for path, mask in whole.items()}
    weights = {places[path]: weight for path, weight in weights.items()}
    return masks, {**bench.initial, **weights}
