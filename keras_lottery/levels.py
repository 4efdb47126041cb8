"""Level: the record of one trained level; its weights spill to disk."""

import contextlib
import dataclasses
import itertools
import math
import os
import tempfile
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keras_lottery import display
from keras_lottery import masks as masks_lib

EARLY_STOP_METRICS = ("val_loss", "val_accuracy")


class Weights:
    """Arrays by path: in memory, or in a file once `spill` was called."""

    def __init__(self, arrays: dict[str, NDArray]) -> None:
        self._arrays: dict[str, NDArray] | None = arrays
        self._file = ""
        self._dtypes: dict[str, np.dtype] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return sum(a.nbytes for a in (self._arrays or {}).values())

    def spill(self, directory: str) -> None:
        """Moves the arrays to a file of `directory`."""
        number = next(_numbers)
        self._file = os.path.join(directory, f"{number}.npz")
        # Numbered members: a path may hold what a file name may not.
        arrays = self._arrays or {}
        try:
            np.savez(self._file, *arrays.values())
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(self._file)
            raise
        self._dtypes = {p: a.dtype for p, a in arrays.items()}
        self._arrays = None

    def load(self) -> dict[str, NDArray]:
        """Dict, path -> array."""
        if self._arrays is not None:
            return self._arrays
        with np.load(self._file) as file:
            # NumPy's format forgets bfloat16: only its bytes come back.
            return {
                path: file[f"arr_{i}"].view(dtype)
                for i, (path, dtype) in enumerate(self._dtypes.items())
            }


_numbers = itertools.count()


@dataclasses.dataclass(eq=False)
class Level:
    """What became of one level when it was trained.

    Args:
        index: int, 0 for the dense network.
        density: float, kept / total it was trained at.
        history: dict, what Keras' `History` holds, or `{}`.
        metrics: dict, the last epoch's logs.
        early_stop_iteration: int or `None`: training steps up to the end of
            the epoch with the lowest validation loss, if there was one.
    """

    index: int
    density: float
    history: dict[str, list[float]] = dataclasses.field(repr=False)
    metrics: dict[str, float]
    early_stop_iteration: int | None
    _packed: dict[str, tuple[NDArray[np.uint8], tuple[int, ...]]] = (
        dataclasses.field(repr=False)
    )
    _weights: Weights = dataclasses.field(repr=False)

    @property
    def masks(self) -> masks_lib.Masks:
        """Dict, path -> boolean array: the mask it was trained under."""
        return {
            path: masks_lib.unpack(bits, shape)
            for path, (bits, shape) in self._packed.items()
        }

    @property
    def trained_weights(self) -> dict[str, NDArray]:
        """Dict, path -> array: the model's variables after training."""
        return self._weights.load()


class Levels(list[Level]):
    """The records, oldest first; old weights leave memory beyond a limit.

    Args:
        memory: int, bytes of trained weights to hold in memory.
    """

    def __init__(self, memory: int = 512 * 1024**2) -> None:
        super().__init__()
        self.memory = memory
        self._directory: tempfile.TemporaryDirectory | None = None

    def __repr__(self) -> str:
        return display.levels_text(self)

    def _repr_html_(self) -> str:
        return display.levels_html(self)

    def record(
        self,
        index: int,
        masks: masks_lib.Masks,
        weights: dict[str, NDArray],
        history: dict[str, list[float]] | None = None,
        evaluated_at: list[int] | None = None,
    ) -> Level:
        """Appends a `Level`, in place of an older record of the same level.

        Args:
            index: int, the level.
            masks: dict, path -> boolean array.
            weights: dict, path -> array.
            history: optional dict of lists, one value an epoch.
            evaluated_at: optional list of int, the training step of each
                validation loss of the history.

        Returns:
            The `Level`.
        """
        history = history or {}
        level = Level(
            index,
            masks_lib.density(masks),
            history,
            {name: values[-1] for name, values in history.items()},
            _early_stop_iteration(history, evaluated_at),
            {p: (masks_lib.pack(m), m.shape) for p, m in masks.items()},
            Weights(weights),
        )
        self[:] = [*(r for r in self if r.index != index), level]
        self._spill()
        return level

    def find(self, level: int) -> Level:
        """The record of a trained level, -1 for the last.

        Raises:
            ValueError: If that level was not trained.
        """
        for record in self[level:] if level == -1 else self:
            if level in (-1, record.index):
                return record
        trained = [record.index for record in self]
        advice = "" if trained else "None was trained yet: call `fit` first. "
        raise ValueError(
            "`level` must be a trained level, or -1 for the last. Trained: "
            f"{trained}. {advice}Received: level={level!r}"
        )

    def has(self, level: int) -> bool:
        """Whether a level was trained."""
        return any(record.index == level for record in self)

    def _spill(self) -> None:
        held = sum(level._weights.nbytes for level in self)
        for level in self:
            if held <= self.memory:
                break
            size = level._weights.nbytes
            if not size:
                continue
            try:
                if self._directory is None:
                    self._directory = tempfile.TemporaryDirectory(
                        prefix="keras_lottery_"
                    )
                level._weights.spill(self._directory.name)
            except OSError as error:
                warnings.warn(
                    "Trained weights of earlier levels stay in memory: "
                    f"they cannot be written to a file ({error}).",
                    stacklevel=3,
                )
                break
            held -= size


def early_stop(values: Sequence[float], metric: str = "val_loss") -> int:
    """Where early stopping would have stopped.

    Args:
        values: list of floats, the values of the metric, one for each
            evaluation.
        metric: str, `"val_loss"`, of which the minimum is the best, or
            `"val_accuracy"`, of which the maximum is.

    Returns:
        int, the index of the best value: the first of equals, and NaN only if
        all values are.

    Example:

    ```python
    assert early_stop([0.5, 0.2, 0.3]) == 1
    assert early_stop([0.5, 0.2, 0.3], "val_accuracy") == 0
    ```

    Source: Frankle & Carbin (arXiv 1803.03635, section 2).
    """
    sign = -1 if metric == "val_accuracy" else 1
    return min(
        range(len(values)),
        key=lambda i: (math.isnan(values[i]), sign * values[i]),
    )


def _early_stop_iteration(
    history: dict[str, list[float]], evaluated_at: list[int] | None
) -> int | None:
    losses = history.get("val_loss")
    if not losses or not evaluated_at or np.isnan(losses).all():
        return None
    return evaluated_at[early_stop(losses)]
