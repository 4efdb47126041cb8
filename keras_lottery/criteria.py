"""Criteria: the score of each weight. The lowest scores are pruned.

A criterion is a function `(initial, trained) -> scores` of arrays of one
shape: the weights at the rewind point and after training. The names are those
of Zhou et al., *Deconstructing Lottery Tickets*, 1905.01067, section 2.
"""

import inspect
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Criterion = Callable[[NDArray, NDArray], NDArray]


def magnitude(initial: NDArray, trained: NDArray) -> NDArray:
    """|w_final|. Frankle & Carbin, 1803.03635, section 2."""
    return np.abs(trained)


def large_final(initial: NDArray, trained: NDArray) -> NDArray:
    """|w_final|: `magnitude` by its name in 1905.01067."""
    return np.abs(trained)


def small_final(initial: NDArray, trained: NDArray) -> NDArray:
    """-|w_final|: removes the largest. A control in 1905.01067."""
    return -np.abs(trained)


def magnitude_increase(initial: NDArray, trained: NDArray) -> NDArray:
    """|w_final| - |w_initial|. 1905.01067, section 2."""
    return np.abs(trained) - np.abs(initial)


def movement(initial: NDArray, trained: NDArray) -> NDArray:
    """|w_final - w_initial|. 1905.01067, section 2."""
    return np.abs(trained - initial)


def random(
    initial: NDArray, trained: NDArray, rng: np.random.Generator | None = None
) -> NDArray:
    """Uniform noise from `rng`, a `numpy.random.Generator`."""
    return (rng or np.random.default_rng()).random(trained.shape, np.float32)


NAMES: dict[str, Criterion] = {
    function.__name__: function
    for function in (
        magnitude,
        large_final,
        small_final,
        magnitude_increase,
        movement,
        random,
    )
}


def get(criterion: str | Criterion) -> Criterion:
    """The function that `criterion` names, or itself if it is callable.

    Raises:
        ValueError: If it is neither a known name nor a callable.
    """
    if isinstance(criterion, str) and criterion in NAMES:
        return NAMES[criterion]
    if callable(criterion) and _takes_two(criterion):
        return criterion
    raise ValueError(
        f"`criterion` must be one of {sorted(NAMES)} or a callable "
        f"(initial, trained) -> scores. Received: criterion={criterion!r}"
    )


def _takes_two(criterion: Criterion) -> bool:
    try:
        inspect.signature(criterion).bind(None, None)
    except TypeError:
        return False
    except ValueError:
        # A function of C does not tell its arguments.
        return True
    return True


def scores(
    criterion: Criterion,
    initial: NDArray,
    trained: NDArray,
    seed: int | Sequence[int],
) -> NDArray:
    """Scores of one weight's array, checked.

    Args:
        criterion: a function that `get` returned.
        initial: array, the weights at the rewind point.
        trained: array of the same shape, the weights now.
        seed: int or sequence of ints. Only `random` draws from it.

    Returns:
        An array of the same shape.

    Raises:
        ValueError: If the criterion returns another shape.
    """
    if criterion is random:
        return random(initial, trained, np.random.default_rng(seed))
    # The rewind point's own arrays: no criterion may work in place.
    result = np.asarray(criterion(*map(_read_only, (initial, trained))))
    if result.shape != trained.shape:
        raise ValueError(
            "`criterion` must return scores of the weights' shape "
            f"{trained.shape}. Received: shape={result.shape}"
        )
    return result


def _read_only(array: NDArray) -> NDArray:
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
