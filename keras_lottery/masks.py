"""Mask arithmetic: exact counts, ties, densities, bit packing.

Pure NumPy, so that every number here can be checked by hand. A mask is a
boolean array, `True` where a weight survives. Masks travel in dicts from the
weight's path to its mask, in the order of the model's weights; that order is
what breaks ties across layers.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Masks = dict[str, Mask]
Score = Callable[[str], NDArray]


def count_to_prune(rate: float, survivors: int) -> int:
    """Number of weights that one round at `rate` removes from `survivors`."""
    return round(rate * survivors)


def prune_layerwise(
    masks: Mapping[str, Mask], rates: Mapping[str, float], score: Score
) -> Masks:
    """Removes from each layer its own share of lowest-scored survivors.

    Args:
        masks: dict, path -> boolean array.
        rates: dict, path -> float in [0, 1), fraction of survivors to remove.
        score: function, path -> array of the mask's shape. Low scores go.

    Returns:
        A new dict, path -> boolean array, each nested in the old one.

    Raises:
        ValueError: If a surviving score is NaN.

    Example:

    ```python
    masks = {"kernel": np.array([True, True, True, False])}
    weights = {"kernel": np.array([3.0, 1.0, 2.0, 0.0])}
    prune_layerwise(masks, {"kernel": 0.4}, weights.get)
    # {'kernel': array([ True, False,  True, False])}
    ```

    Source: Frankle & Carbin, 1803.03635, section 2 (layer-wise pruning).
    """
    pruned = {}
    for path, mask in masks.items():
        count = count_to_prune(rates[path], int(np.count_nonzero(mask)))
        if not count:
            pruned[path] = mask.copy()
            continue
        pruned[path] = _prune_one(np.asarray(score(path)), mask, count, path)
    return pruned


def _prune_one(scores: NDArray, mask: Mask, count: int, path: str) -> Mask:
    # A function, so that the scores are gone before the next are asked for.
    return _Cut(scores[mask], count, path).apply(scores, mask)


def prune_global(masks: Mapping[str, Mask], rate: float, score: Score) -> Masks:
    """Removes the lowest-scored survivors of all layers under one threshold.

    One flat copy of the surviving scores is held while the threshold is
    found; the scores themselves are asked for twice, layer by layer, rather
    than kept.

    Args:
        masks: dict, path -> boolean array: the pool.
        rate: float in [0, 1), fraction of the pool's survivors to remove.
        score: function, path -> array of the mask's shape. Low scores go.

    Returns:
        A new dict, path -> boolean array, each nested in the old one.

    Raises:
        ValueError: If a surviving score is NaN.

    Source: Frankle & Carbin, 1803.03635, section 4 (deep networks are pruned
    globally).
    """
    survivors = sum(int(np.count_nonzero(mask)) for mask in masks.values())
    count = count_to_prune(rate, survivors)
    if not count:
        return {path: mask.copy() for path, mask in masks.items()}
    cut = _Cut(_pool(masks, survivors, score), count, "the pool")
    return {
        path: cut.apply(np.asarray(score(path)), mask)
        for path, mask in masks.items()
    }


def _pool(masks: Mapping[str, Mask], survivors: int, score: Score) -> NDArray:
    """The surviving scores of all layers, end to end."""
    pool: Any = None
    end = 0
    for path, mask in masks.items():
        scores = np.asarray(score(path))
        if pool is None:
            pool = np.empty(survivors, scores.dtype)
        # Never narrower than a layer's scores: rounding would move the cut.
        dtype = np.result_type(pool.dtype, scores.dtype)
        pool = pool.astype(dtype, copy=False)
        end = _fill(pool, end, scores, mask)
        # Before the next are asked for.
        del scores
    return pool


def _fill(pool: NDArray, start: int, scores: NDArray, mask: Mask) -> int:
    """Writes the surviving scores to `pool` and returns where they end."""
    for part, kept in zip(_parts(scores), _parts(mask)):
        end = start + int(np.count_nonzero(kept))
        pool[start:end] = part[kept]
        start = end
    return start


def _parts(array: NDArray) -> list[NDArray]:
    """Flat views of an array: selecting from a whole one would copy it."""
    return np.array_split(array.ravel(), array.size // 2**16 + 1)


class _Cut:
    """Where the `count` lowest of `pool` end, ties going by position.

    A selection, not a sort: linear in the number of survivors. `pool` is
    reordered in place.
    """

    def __init__(self, pool: NDArray, count: int, where: str) -> None:
        if np.isnan(np.min(pool)):
            raise ValueError(
                "`criterion` must give scores that can be ranked. Received: "
                f"NaN in {where}. If the weights are finite, the criterion "
                "divides by zero; else training diverged: set a smaller "
                "learning rate."
            )
        pool.partition(count - 1)
        self.threshold = pool[count - 1]
        # Among weights that equal the threshold the first by position go,
        # as many as are still owed once all below it have gone.
        self.ties_owed = count - np.count_nonzero(pool < self.threshold)

    def apply(self, scores: NDArray, mask: Mask) -> Mask:
        """The mask without what is cut; layers must come in order."""
        kept = mask & (scores >= self.threshold)
        if self.ties_owed:
            ties = kept & (scores == self.threshold)
            first = np.flatnonzero(ties)[: self.ties_owed]
            kept.flat[first] = False
            self.ties_owed -= len(first)
        return kept


def density(masks: Mapping[str, Mask]) -> float:
    """Kept / total over all masks, a fraction."""
    total = sum(mask.size for mask in masks.values())
    kept = sum(int(np.count_nonzero(mask)) for mask in masks.values())
    return kept / total


def densities(masks: Mapping[str, Mask]) -> dict[str, float]:
    """Kept / total of each mask, a dict from path to fraction."""
    return {
        path: int(np.count_nonzero(mask)) / mask.size
        for path, mask in masks.items()
    }


def pack(mask: Mask) -> NDArray[np.uint8]:
    """One bit a weight: a uint8 array of ceil(size / 8) bytes."""
    return np.packbits(np.ascontiguousarray(mask).ravel())


def unpack(bits: NDArray[np.uint8], shape: tuple[int, ...]) -> Mask:
    """The boolean array of `shape` that `pack` packed."""
    size = int(np.prod(shape))
    return np.unpackbits(bits, count=size).astype(bool).reshape(shape)
