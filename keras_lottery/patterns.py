"""Patterns: which weights are pruned as one.

A kernel is seen as a matrix, its inputs by its outputs; a convolution's is one
such matrix at each position of its window. Pruning goes on in a smaller array
with one element for each block, and counts are exact there. `"channel"` prunes
units and filters, together with all that is added to them. Pure NumPy.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_lottery.checks import check_integer
from keras_lottery.masks import Mask, Masks, Score

CHANNEL = "channel"

BlockSize = tuple[int, int] | str | None
Cut = Callable[[Masks, Score], Masks]


class Pattern:
    """How the kernels of a model are pruned: the groups they form.

    A group has one element for each block; the kernels of a group are pruned
    in one. Its name is the path of its first kernel, whose rate it has.

    Args:
        groups: iterable of `Blocks` and `Channels`.

    Attributes:
        sizes: dict, path -> block size, of every kernel.
    """

    def __init__(self, groups: Iterable["Blocks | Channels"] = ()) -> None:
        self.groups = {group.paths[0]: group for group in groups}
        self.sizes: dict[str, BlockSize] = {
            path: group.size
            for group in self.groups.values()
            for path in group.paths
        }

    def prune(self, masks: Masks, score: Score, cut: Cut) -> Masks:
        """Prunes whole blocks.

        Args:
            masks: dict, path -> boolean array. Groups of which it lacks a
                kernel are left alone.
            score: function, path -> array of scores of weights.
            cut: function (masks, score) -> masks that prunes single elements:
                of arrays with one element a block, by the names of groups.

        Returns:
            A new dict, path -> boolean array, each nested in the old one.
        """
        groups = self._masked(masks)
        kept = {name: group.kept(masks) for name, group in groups.items()}
        left = cut(kept, lambda name: groups[name].scores(score, masks))
        pruned = dict(masks)
        for name, group in groups.items():
            pruned |= group.masks(left[name], masks, score)
        return pruned

    def count(self, masks: Masks) -> int:
        """How many blocks survive in all masks together."""
        return sum(
            int(np.count_nonzero(group.kept(masks)))
            for group in self._masked(masks).values()
        )

    def shuffled(self, masks: Masks, rng: np.random.Generator) -> Masks:
        """Random masks with as many blocks in each group."""
        shuffled: Masks = {}
        for group in self._masked(masks).values():
            shuffled |= group.shuffled(masks, rng)
        return {path: shuffled.get(path, mask) for path, mask in masks.items()}

    def _masked(self, masks: Masks) -> dict[str, "Blocks | Channels"]:
        """The groups whose kernels all have a mask: a frozen one has none."""
        return {
            name: group
            for name, group in self.groups.items()
            if masks.keys() >= set(group.paths)
        }

    @property
    def follower_paths(self) -> list[str]:
        """Paths of what is no kernel and is pruned with its channel."""
        return [
            member.path
            for group in self.groups.values()
            if isinstance(group, Channels)
            for member in group.followers
        ]

    def followers(self, masks: Masks) -> Masks:
        """The masks of what is no kernel and is pruned with its channel.

        Args:
            masks: dict, path -> boolean array, of all kernels.

        Returns:
            A dict, path -> boolean array: of biases, and of the scale and the
            offset of a normalisation.
        """
        return {
            member.path: member.spread(group.kept(masks))
            for group in self.groups.values()
            if isinstance(group, Channels)
            for member in group.followers
        }


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The blocks of one kernel.

    At the edges, where the size does not divide the kernel, blocks are
    smaller.

    Args:
        path: str, the kernel's.
        shape: tuple of ints, the kernel's.
        positions: int, how many of its axes are a convolution's window.
        inputs: int, how many of the axes after these are inputs; the others
            are outputs.
        size: a pair (inputs, outputs), or `None`, single weights.

    Example:

    ```python
    blocks = Blocks("kernel", (5, 2), 0, 1, (4, 1))
    masks = {"kernel": np.eye(5, 2, dtype=bool)}
    blocks.kept(masks)  # [[[True, True], [False, False]]]
    ```
    """

    path: str
    shape: tuple[int, ...]
    positions: int
    inputs: int
    size: BlockSize

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,)

    def kept(self, masks: Masks) -> Mask:
        """Boolean array, one element a block: whether any weight survives."""
        if self.size is None:
            return masks[self.path]
        return self._sums(masks[self.path].astype(np.int64)) > 0

    def scores(self, score: Score, masks: Masks) -> NDArray:
        """The mean score of the surviving weights of each block.

        Args:
            score: function, path -> array of scores of weights.
            masks: dict, path -> boolean array.

        Returns:
            An array of one element a block; 0 where nothing survives.
        """
        scores, mask = score(self.path), masks[self.path]
        if self.size is None:
            return scores
        count = self._sums(mask.astype(np.int64))
        total = self._sums(np.where(mask, scores, 0).astype(np.float64))
        return _means(total, count)

    def masks(self, left: Mask, masks: Masks, score: Score) -> Masks:
        """The kernel's mask once the blocks that are not `left` are pruned."""
        return {self.path: masks[self.path] & self.spread(left)}

    def shuffled(self, masks: Masks, rng: np.random.Generator) -> Masks:
        """A random mask with as many blocks."""
        kept = self.kept(masks)
        kept = rng.permutation(kept.ravel()).reshape(kept.shape)
        return {self.path: self.spread(kept)}

    def spread(self, kept: Mask) -> Mask:
        """Boolean array of the kernel's shape, from one element a block."""
        if self.size is None:
            return kept
        rows, columns = map(np.diff, self._edges())
        whole = np.repeat(np.repeat(kept, rows, axis=1), columns, axis=2)
        return whole.reshape(self.shape)

    def matrices(self) -> tuple[int, int, int]:
        """Shape: positions, inputs, outputs."""
        window = self.shape[: self.positions]
        inputs = self.shape[self.positions : self.positions + self.inputs]
        outputs = self.shape[self.positions + self.inputs :]
        sizes = [int(np.prod(axes)) for axes in (window, inputs, outputs)]
        return sizes[0], sizes[1], sizes[2]

    def _edges(self) -> list[NDArray[np.intp]]:
        """Where blocks begin and the last ends, along inputs and outputs."""
        assert isinstance(self.size, tuple)
        return [
            np.append(np.arange(0, whole, part), whole)
            for whole, part in zip(self.matrices()[1:], self.size)
        ]

    def _sums(self, array: NDArray) -> NDArray:
        rows, columns = self._edges()
        array = array.reshape(self.matrices())
        array = np.add.reduceat(array, rows[:-1], axis=1)
        return np.add.reduceat(array, columns[:-1], axis=2)


@dataclasses.dataclass(frozen=True)
class Limited(Blocks):
    """Single weights, of which at most m of every n inputs survive.

    What is beyond these goes first, whatever the rate is; where the rate asks
    for more than that, the rest goes as single weights do.

    Args:
        size: str, `"m:n"`.
    """

    def kept(self, masks: Masks) -> Mask:
        return masks[self.path]

    def scores(self, score: Score, masks: Masks) -> NDArray:
        scores, mask = np.asarray(score(self.path)), masks[self.path]
        beyond = mask & ~self.best(scores, mask)
        return np.where(beyond, -np.inf, scores)

    def masks(self, left: Mask, masks: Masks, score: Score) -> Masks:
        left = left & masks[self.path]
        return {self.path: self.best(np.asarray(score(self.path)), left)}

    def shuffled(self, masks: Masks, rng: np.random.Generator) -> Masks:
        """A random mask with as many weights: every n inputs are shuffled
        among themselves, and then those of n with each other."""
        positions, inputs, outputs = self.matrices()
        n = self._limit()[1]
        whole = inputs // n * n
        mask = masks[self.path].reshape(positions, inputs, outputs)
        rest = rng.permuted(mask[:, whole:], axis=1)
        parts = mask[:, :whole].reshape(positions, -1, n, outputs)
        parts = parts.swapaxes(2, 3)
        flat = rng.permutation(rng.permuted(parts.reshape(-1, n), axis=1))
        parts = flat.reshape(parts.shape).swapaxes(2, 3)
        first = parts.reshape(positions, whole, outputs)
        mask = np.concatenate([first, rest], axis=1)
        return {self.path: mask.reshape(self.shape)}

    def best(self, scores: NDArray, mask: Mask) -> Mask:
        """The m highest-scored survivors of every n inputs.

        Args:
            scores: array of the kernel's shape.
            mask: boolean array of that shape.

        Returns:
            A boolean array of that shape, nested in the mask.
        """
        positions, inputs, outputs = self.matrices()
        m, n = self._limit()
        padding = (0, 0), (0, -inputs % n), (0, 0)
        ranked = np.where(mask, scores, -np.inf)
        ranked = np.pad(
            ranked.reshape(positions, inputs, outputs),
            padding,
            constant_values=-np.inf,
        ).reshape(positions, -1, n, outputs)
        # Of equal scores the first by position go, as everywhere.
        order = ranked.argsort(2, kind="stable").argsort(2, kind="stable")
        best = (order >= n - m).reshape(positions, -1, outputs)[:, :inputs]
        return mask & best.reshape(self.shape)

    def _limit(self) -> tuple[int, int]:
        assert isinstance(self.size, str)
        m, n = map(int, self.size.split(":"))
        return m, n


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """A variable of which some axes are channels of a group.

    Args:
        path: str, the variable's.
        shape: tuple of ints, the variable's.
        axes: tuple of ints, next to each other: those that number channels.
        labels: int array, for each of its channels the element of the group
            that it belongs to; -1 for one that is never pruned.
    """

    path: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    labels: NDArray[np.intp]

    def sums(self, array: NDArray, count: int) -> NDArray:
        """The sum over each of the `count` elements of the group."""
        others = tuple(
            axis for axis in range(len(self.shape)) if axis not in self.axes
        )
        channels = array.sum(others, dtype=np.float64).ravel()
        inside = self.labels >= 0
        return np.bincount(self.labels[inside], channels[inside], count)

    def spread(self, kept: Mask) -> Mask:
        """Boolean array of the variable's shape, from one element a channel."""
        whole = np.where(self.labels < 0, True, kept[self.labels])
        sizes = [
            size if axis in self.axes else 1
            for axis, size in enumerate(self.shape)
        ]
        return np.broadcast_to(whole.reshape(sizes), self.shape).copy()


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """Units and filters: all that leads to a channel is pruned as one.

    Channels that are added to each other, or computed from each other one by
    one, are one element, and so are pruned together.

    Args:
        count: int, the number of elements.
        members: tuple of `Member`: the kernels, of which the scores are.
        followers: tuple of `Member`: biases and the like, which are pruned
            with their channel and neither scored nor counted.
    """

    count: int
    members: tuple[Member, ...]
    followers: tuple[Member, ...] = ()

    size = CHANNEL

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(member.path for member in self.members)

    def kept(self, masks: Masks) -> Mask:
        """Boolean array, one element a channel: whether any weight survives."""
        return self._sums(lambda path: masks[path]) > 0

    def scores(self, score: Score, masks: Masks) -> NDArray:
        """The mean score of the surviving weights of each channel."""
        total = self._sums(lambda path: np.where(masks[path], score(path), 0))
        return _means(total, self._sums(lambda path: masks[path]))

    def masks(self, left: Mask, masks: Masks, score: Score) -> Masks:
        """The masks of the kernels once what is not `left` is pruned."""
        return {m.path: masks[m.path] & m.spread(left) for m in self.members}

    def shuffled(self, masks: Masks, rng: np.random.Generator) -> Masks:
        """Random masks with as many channels."""
        kept = rng.permutation(self.kept(masks))
        return {member.path: member.spread(kept) for member in self.members}

    def _sums(self, array: Callable[[str], NDArray]) -> NDArray:
        sums = [m.sums(array(m.path), self.count) for m in self.members]
        return np.sum(sums, axis=0)


def _means(total: NDArray, count: NDArray) -> NDArray:
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)


def get(size: Any, name: str = "block_size") -> BlockSize:
    """The block size that a value stands for.

    Args:
        size: `None`; a pair of integers; a str such as `"4x1"` or `"2:4"`;
            or `"channel"`.
        name: str, the argument's name in an error.

    Returns:
        `None`, a pair of ints, `"m:n"` or `"channel"`.

    Raises:
        ValueError: If it is none of these.
    """
    if size is None or size == CHANNEL:
        return size
    if isinstance(size, str) and (limit := re.fullmatch(r"(\d+):(\d+)", size)):
        m, n = map(int, limit.groups())
        if not 1 <= m < n:
            raise ValueError(
                f"`{name}` must be such that at least 1 and fewer than all of "
                f"every n inputs survive, as '2:4'. Received: {name}={size!r}"
            )
        return f"{m}:{n}"
    pair = size.split("x") if isinstance(size, str) else size
    try:
        rows, columns = (int(n) if isinstance(n, str) else n for n in pair)
    except (TypeError, ValueError):
        raise ValueError(
            f"`{name}` must be None (single weights), a pair such as (4, 1) "
            "(4 inputs of one output), '2:4' (single weights, at most 2 of "
            "every 4 inputs), or 'channel' (all that leads to one output). "
            f"Received: {name}={size!r}"
        ) from None
    rows = check_integer(f"{name}[0]", rows, minimum=1)
    columns = check_integer(f"{name}[1]", columns, minimum=1)
    return None if rows == columns == 1 else (rows, columns)


def to_text(size: BlockSize) -> str | None:
    """What a file and a flag hold of a block size; `get` reads it."""
    return "x".join(map(str, size)) if isinstance(size, tuple) else size
