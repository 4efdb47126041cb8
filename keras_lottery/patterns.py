"""Patterns: which weights of a kernel are pruned as one.

A kernel is seen as a matrix, its inputs by its outputs; a convolution's is one
such matrix at each position of its window. Pruning goes on in a smaller array
with one element for each block, and counts are exact there. Pure NumPy.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_lottery.checks import check_integer
from keras_lottery.masks import Mask, Masks, Score

CHANNEL = "channel"

BlockSize = tuple[int, int] | str | None


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The blocks of one kernel.

    At the edges, where the size does not divide the kernel, blocks are
    smaller.

    Args:
        shape: tuple of ints, the kernel's.
        positions: int, how many of its axes are a convolution's window.
        inputs: int, how many of the axes after these are inputs; the others
            are outputs.
        size: a pair (inputs, outputs); `"channel"`, all that leads to one
            output; or `None`, single weights.

    Example:

    ```python
    blocks = Blocks((5, 2), 0, 1, (4, 1))
    blocks.kept(np.eye(5, 2, dtype=bool))  # [[True, True], [False, False]]
    ```
    """

    shape: tuple[int, ...]
    positions: int
    inputs: int
    size: BlockSize

    def kept(self, mask: Mask) -> Mask:
        """Boolean array, one element a block: whether any weight survives."""
        if self.size is None:
            return mask
        return self._sums(mask.astype(np.int64)) > 0

    def means(self, scores: NDArray, mask: Mask) -> NDArray:
        """The mean score of the surviving weights of each block.

        Args:
            scores: array of the kernel's shape.
            mask: boolean array of that shape.

        Returns:
            An array of one element a block; 0 where nothing survives.
        """
        if self.size is None:
            return scores
        count = self._sums(mask.astype(np.int64))
        total = self._sums(np.where(mask, scores, 0).astype(np.float64))
        return np.divide(
            total, count, out=np.zeros_like(total), where=count > 0
        )

    def mask(self, kept: Mask) -> Mask:
        """Boolean array of the kernel's shape, from one element a block."""
        if self.size is None:
            return kept
        rows, columns = map(np.diff, self._edges())
        whole = np.repeat(np.repeat(kept, rows, axis=1), columns, axis=2)
        return whole.reshape(self.shape)

    def _matrices(self) -> tuple[int, int, int]:
        """Shape: positions, inputs, outputs."""
        window = self.shape[: self.positions]
        inputs = self.shape[self.positions : self.positions + self.inputs]
        outputs = self.shape[self.positions + self.inputs :]
        sizes = [int(np.prod(axes)) for axes in (window, inputs, outputs)]
        if self.size == CHANNEL:
            # All positions and inputs stand in one column.
            sizes[:2] = [1, sizes[0] * sizes[1]]
        return sizes[0], sizes[1], sizes[2]

    def _edges(self) -> list[NDArray[np.intp]]:
        """Where blocks begin and the last ends, along inputs and outputs."""
        _, *sizes = self._matrices()
        block = self.size if isinstance(self.size, tuple) else (sizes[0], 1)
        return [
            np.append(np.arange(0, whole, part), whole)
            for whole, part in zip(sizes, block)
        ]

    def _sums(self, array: NDArray) -> NDArray:
        rows, columns = self._edges()
        array = array.reshape(self._matrices())
        array = np.add.reduceat(array, rows[:-1], axis=1)
        return np.add.reduceat(array, columns[:-1], axis=2)


def prune(
    blocks: Mapping[str, Blocks],
    masks: Mapping[str, Mask],
    score: Score,
    cut: Callable[[Masks, Score], Masks],
) -> Masks:
    """Prunes whole blocks.

    Args:
        blocks: dict, path -> `Blocks`.
        masks: dict, path -> boolean array.
        score: function, path -> array of scores of weights.
        cut: function (masks, score) -> masks that prunes single elements: of
            arrays with one element a block.

    Returns:
        A new dict, path -> boolean array, each nested in the old one.
    """
    kept = {path: blocks[path].kept(mask) for path, mask in masks.items()}
    pruned = cut(
        kept, lambda path: blocks[path].means(score(path), masks[path])
    )
    return {
        path: masks[path] & blocks[path].mask(left)
        for path, left in pruned.items()
    }


def count(blocks: Mapping[str, Blocks], masks: Mapping[str, Mask]) -> int:
    """How many blocks survive in all masks together."""
    return sum(
        int(np.count_nonzero(blocks[path].kept(mask)))
        for path, mask in masks.items()
    )


def get(size: Any, name: str = "block_size") -> BlockSize:
    """The block size that a value stands for.

    Args:
        size: `None`; a pair of integers; a str such as `"4x1"`; or
            `"channel"`.
        name: str, the argument's name in an error.

    Returns:
        `None`, a pair of ints or `"channel"`.

    Raises:
        ValueError: If it is none of these.
    """
    if size is None or size == CHANNEL:
        return size
    pair = size.split("x") if isinstance(size, str) else size
    try:
        rows, columns = (int(n) if isinstance(n, str) else n for n in pair)
    except (TypeError, ValueError):
        raise ValueError(
            f"`{name}` must be None (single weights), a pair such as (4, 1) "
            "(4 inputs of one output), or 'channel' (all that leads to one "
            f"output). Received: {name}={size!r}"
        ) from None
    rows = check_integer(f"{name}[0]", rows, minimum=1)
    columns = check_integer(f"{name}[1]", columns, minimum=1)
    return None if rows == columns == 1 else (rows, columns)


def to_text(size: BlockSize) -> str | None:
    """What a file and a flag hold of a block size; `get` reads it."""
    return "x".join(map(str, size)) if isinstance(size, tuple) else size
