"""Geometry of a run: distances between masks, barriers between networks."""

import dataclasses
import functools
import itertools

import numpy as np
import pandas

from keras_lottery.report.statistics import layer_names

ALL_LAYERS = "all"


@dataclasses.dataclass(frozen=True)
class MaskDistance:
    """How far two masks of one layer, or of all, are from each other.

    Args:
        between: `"levels"`, a level and the one before; or `"trials"`, two
            trials at one level.
        arm: str.
        layer: str; `"all"`, all prunable weights together.
        trial: int.
        level: int.
        density: float, of the whole network at this level in this trial.
        other_trial: int.
        other_level: int.
        jaccard: float, weights that both keep / weights that one of them
            keeps: 1 for equal masks.
        hamming: float, weights that one keeps and the other does not / all.
        jaccard_by_chance: float, of masks that keep as many weights of each
            layer, but independent ones.
        hamming_by_chance: float, likewise.
    """

    between: str
    arm: str
    layer: str
    trial: int
    level: int
    density: float
    other_trial: int
    other_level: int
    jaccard: float
    hamming: float
    jaccard_by_chance: float
    hamming_by_chance: float


def mask_distances(run):
    """Distances of the masks of a run, between levels and between trials.

    Args:
        run: `experiments.Run`, of which the tickets are read, each once.

    Returns:
        A list of `MaskDistance`: of the arms that keep their tickets, each
        level and the one before it, and each pair of trials at each level.
    """
    arms = dict.fromkeys(result.arm for result in run.results)
    return [one for arm in arms for one in _distances_of_an_arm(run, arm)]


def to_csv(distances):
    """Distances as the text of a CSV file."""
    columns = [field.name for field in dataclasses.fields(MaskDistance)]
    rows = map(dataclasses.asdict, distances)
    return pandas.DataFrame(rows, columns=columns).to_csv(index=False)


def _distances_of_an_arm(run, arm):
    places = sorted(
        (result.level, result.trial)
        for result in run.results
        if result.arm == arm
    )
    before, level_before = {}, None
    for level, group in itertools.groupby(places, lambda place: place[0]):
        masks = {}
        for _, trial in group:
            ticket = run.load_ticket(trial, arm, level)
            if ticket is not None:
                masks[trial] = ticket.masks
        named = functools.partial(_compared, arm=arm)
        for trial in masks.keys() & before.keys():
            yield from named(
                "levels",
                (trial, level, masks[trial]),
                (trial, level_before, before[trial]),
            )
        for one, other in itertools.combinations(masks, 2):
            yield from named(
                "trials", (one, level, masks[one]), (other, level, masks[other])
            )
        before, level_before = masks, level


def _compared(between, one, other, arm):
    """The `MaskDistance` of each layer, and of all together."""
    trial, level, masks = one
    other_trial, other_level, other_masks = other
    layers = layer_names(masks)
    counts = {
        layers[path]: _counts(mask, other_masks[path])
        for path, mask in masks.items()
    }
    counts[ALL_LAYERS] = np.sum(list(counts.values()), axis=0)
    size, kept, *_ = counts[ALL_LAYERS]
    for layer, found in counts.items():
        yield MaskDistance(
            between,
            arm,
            layer,
            trial,
            level,
            float(kept / size),
            other_trial,
            other_level,
            *_indices(*found),
        )


def _counts(mask, other):
    """Size, kept by the one, by the other, by both, by both by chance."""
    kept, others = np.count_nonzero(mask), np.count_nonzero(other)
    both = np.count_nonzero(mask & other)
    return np.array([mask.size, kept, others, both, kept * others / mask.size])


def _indices(size, kept, others, both, by_chance):
    """Jaccard index and Hamming distance, measured and by chance."""
    return [
        float(index)
        for common in (both, by_chance)
        for index in (
            common / (kept + others - common) if kept + others else 1.0,
            (kept + others - 2 * common) / size,
        )
    ]
