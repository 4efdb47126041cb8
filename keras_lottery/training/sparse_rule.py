"""When sparse kernels train a level: a rule, so that a run is repeatable.

The time of a step by either backend is estimated from what was measured by
`tools/benchmark_sparse.py` (configs/results/benchmark/sparse). The number of
cores has no part in it: a run that goes on elsewhere must choose the same.
"""

import math

from keras_lottery.checks import missing
from keras_lottery.constraints import mask_of
from keras_lottery.training.sparse_chain import Unsupported, chain_of

SPARSE, OR = "sparse", "sparse_or_"

# Nanoseconds of a step by sparse kernels: for each surviving weight, for each
# of the batch's vectors of it; for each unit and vector; and the rest.
_WEIGHT, _UNIT, _STEP = 12.0, 30.0, 20_000.0
# Of one by XLA: for each weight, for each product of a weight and an example.
_DENSE_WEIGHT, _DENSE_PRODUCT, _DENSE_STEP = 1.5, 0.05, 50_000.0
# Examples in a vector.
LANES = 64


def unsupported(model):
    """Why sparse kernels do not train a model: a str, or `None` if they do.

    Args:
        model: `keras.Model`, compiled, its metrics and optimizer built.
    """
    try:
        chain_of(model)
        # Asked last: it takes a second.
        import numba  # noqa: F401
    except Unsupported as reason:
        return str(reason)
    except ImportError as error:
        return f"{missing('compiling them', 'numba', 'sparse')} ({error})"
    return None


def with_sparse(choice, model):
    """A dense choice, and where sparse kernels can take its place.

    Args:
        choice: Pair of str, a compiled backend and why.
        model: `keras.Model`, as in `unsupported`.

    Returns:
        Pair of str: `"sparse_or_"` and the backend, or the backend alone, and
        why.
    """
    name, why = choice
    reason = unsupported(model)
    if reason:
        return name, f"{why}; not by sparse kernels, since {reason}"
    return OR + name, f"{why}; sparse kernels are faster at low density"


def backend_for(name, model, batch_size, kept=None):
    """What trains a network at the density of its masks.

    Args:
        name: str, the choice for all densities.
        model: `keras.Model`.
        batch_size: int.
        kept: optional int, how many of the weights under masks survive.
            Defaults to those of the masks as they are.

    Returns:
        A str, `"sparse"` or a dense backend.
    """
    if not name.startswith(OR):
        return name
    units, kernels = _kernels(model)
    masks = [mask_of(kernel) for kernel in kernels]
    free = sum(
        math.prod(kernel.shape)
        for kernel, mask in zip(kernels, masks)
        if mask is None
    )
    if kept is None:
        kept = sum(int(mask.numpy().sum()) for mask in masks if mask)
    faster = is_faster(units, kept + free, batch_size)
    return SPARSE if faster else name.removeprefix(OR)


def _kernels(model):
    chain = chain_of(model)
    return chain.units, [link.layer.kernel for link in chain.links]


def is_faster(units, kept, batch_size):
    """Whether sparse kernels are expected to be faster than XLA.

    Args:
        units: list of int, those of the input and of each layer.
        kept: int, surviving weights.
        batch_size: int.

    Returns:
        A bool.

    Example:

    ```python
    assert is_faster([784, 300, 100, 10], kept=9_500, batch_size=60)
    assert not is_faster([784, 300, 100, 10], kept=266_200, batch_size=60)
    ```
    """
    vectors = -(-batch_size // LANES)
    weights = sum(a * b for a, b in zip(units, units[1:]))
    sparse = _STEP + vectors * (_WEIGHT * kept + _UNIT * sum(units))
    each = _DENSE_WEIGHT + _DENSE_PRODUCT * batch_size
    return sparse < _DENSE_STEP + each * weights
