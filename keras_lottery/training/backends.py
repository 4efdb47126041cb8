"""Which backend trains a network: by what is known of it, or measured.

Sparse kernels take a level by a rule, so that a run is repeatable: the time of
a step by either backend is estimated from what `tools/benchmark_sparse.py`
measured (configs/results/benchmark/sparse). The number of cores has no part in
it: a run that goes on elsewhere must choose the same.
"""

import contextlib
import itertools
import math
import statistics
import time

import keras
import numpy as np
from absl import logging

from keras_lottery.backend.loop import COMPILED, cannot_compile
from keras_lottery.checks import missing
from keras_lottery.constraints import mask_of
from keras_lottery.training.batches import batch_indices
from keras_lottery.training.sparse_chain import Unsupported, chain_of

SPARSE, OR = "sparse", "sparse_or_"
BACKENDS = (
    "auto",
    "measure",
    *COMPILED,
    SPARSE,
    *(OR + name for name in COMPILED),
    "fit",
)
# The one that others are compared with, and that compiles every model.
_PLAIN = COMPILED[0]

# A measurement. Stretches of about this many seconds are timed;
_STRETCH_SECONDS = 0.1
# the result is stable after so many rounds at least, when no candidate's median
# has moved by more than this fraction over the last few;
_FEWEST_ROUNDS, _TOLERANCE, _STABLE_ROUNDS = 15, 0.02, 5
# no round begins after this many seconds.
_MOST_SECONDS = 60.0
# A candidate this many times slower than the graph on two examples is not
# tried on full batches, where it may be worse still.
_HOPELESS = 3.0
# A candidate must be this many times faster than the graph to replace it.
_MARGIN = 1.05

# More careful than what fits one machine, so that on none they were slower.
# Nanoseconds of a step by sparse kernels: for each surviving weight, for each
# of the batch's vectors of it; for each unit and vector; and the rest.
_WEIGHT, _UNIT, _STEP = 9.0, 30.0, 20_000.0
# Of one by XLA: for each weight, for each product of a weight and an example.
_DENSE_WEIGHT, _DENSE_PRODUCT, _DENSE_STEP = 1.5, 0.05, 100_000.0
# Examples in a vector.
LANES = 64


# Sparse kernels.


def sparse_unsupported(model, data):
    """Why sparse kernels do not train a model: a str, or `None` if they do.

    Args:
        model: `keras.Model`, compiled, its metrics and optimizer built.
        data: Pair of inputs and targets, as tensors, to train on.
    """
    try:
        chain_of(model).check_targets(data[1])
        # Asked last: it takes a second.
        import numba  # noqa: F401
    except Unsupported as reason:
        return str(reason)
    except ImportError as error:
        return f"{missing('compiling them', 'numba', 'sparse')} ({error})"
    return None


def with_sparse(choice, model, data):
    """A dense choice, and where sparse kernels can take its place.

    Args:
        choice: Pair of str, a compiled backend and why.
        model: `keras.Model`, as in `sparse_unsupported`.
        data: Pair of inputs and targets, likewise.

    Returns:
        Pair of str: `"sparse_or_"` and the backend, or the backend alone, and
        why.
    """
    name, why = choice
    reason = sparse_unsupported(model, data)
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
    faster = sparse_is_faster(units, kept + free, batch_size)
    return SPARSE if faster else name.removeprefix(OR)


def _kernels(model):
    chain = chain_of(model)
    return chain.units, [link.layer.kernel for link in chain.links]


def sparse_is_faster(units, kept, batch_size):
    """Whether sparse kernels are expected to be faster than XLA.

    Args:
        units: list of int, those of the input and of each layer.
        kept: int, surviving weights.
        batch_size: int.

    Returns:
        A bool.

    Example:

    ```python
    units = [784, 300, 100, 10]
    assert sparse_is_faster(units, kept=9_500, batch_size=60)
    assert not sparse_is_faster(units, kept=266_200, batch_size=60)
    ```
    """
    vectors = -(-batch_size // LANES)
    weights = sum(a * b for a, b in zip(units, units[1:]))
    sparse = _STEP + vectors * (_WEIGHT * kept + _UNIT * sum(units))
    each = _DENSE_WEIGHT + _DENSE_PRODUCT * batch_size
    return sparse < _DENSE_STEP + each * weights


# The compiled backends.


def compiles(steps, data, shape):
    """Whether XLA can compile the training step.

    No step is run, and what is compiled is what the training will run.

    Args:
        steps: `CompiledSteps`.
        data: Pair of inputs and targets, as tensors.
        shape: Pair of integers, `(rows, batch_size)` of the index arrays of
            the training.
    """
    try:
        steps.train(0, np.zeros(shape, np.int32), data)
    except Exception as error:
        if not cannot_compile(error):
            raise
        logging.info("XLA cannot compile this model.", exc_info=True)
        return False
    return True


def by_measurement(model, steps_on, data, shape):
    """Times the compiled backends and names the fastest.

    Stretches of all candidates are timed in turn, so that other work on the
    machine slows all of them alike: at least 15 times, until the median of
    every candidate has stayed within 2 % for five rounds, and for a minute at
    most. The graph is replaced by what is more than 5 % faster.

    Leaves every variable as it was, bit for bit.

    Args:
        model: The model to be trained.
        steps_on: Function of a backend's name to its `CompiledSteps`.
        data: Pair of inputs and targets, as tensors.
        shape: Pair of integers, `(rows, batch_size)` of the index arrays of
            the training to come.

    Returns:
        Pair of str: one of `COMPILED`, and what was measured.
    """
    with _preserved(model, steps_on(_PLAIN)):
        candidates, notes = _candidates(steps_on, data, shape)
        medians, note = _alternated(candidates)
    fastest = min(medians, key=medians.get)
    if medians[fastest] * _MARGIN >= medians[_PLAIN]:
        fastest = _PLAIN
    times = [f"{name} {1e3 * s:.3g} ms a step" for name, s in medians.items()]
    return fastest, ", ".join([*times, *notes]) + f" ({note})"


def _candidates(steps_on, data, shape):
    """Dict, backend -> function that times a stretch; why others are none."""
    candidates, notes, tiny = {}, [], {}
    for backend in COMPILED:
        try:
            steps = steps_on(backend)
            timed = _stretch(steps, data, (1, min(2, shape[1])))
            tiny[backend] = min(timed() for _ in range(5))
            if tiny[backend] > _HOPELESS * tiny[_PLAIN]:
                notes.append(f"{backend} far slower on two examples")
                continue
            candidates[backend] = _stretch(steps, data, shape)
        except Exception as error:
            if backend == _PLAIN:
                raise
            # Any failure to compile what runs as a graph is XLA's own.
            logging.info("%s cannot compile this model: %s", backend, error)
            notes.append(f"{backend} cannot compile this model")
    return candidates, notes


def _stretch(steps, data, shape):
    """A function that times a stretch of steps, as seconds a step."""
    rows, batch_size = shape
    size = len(keras.tree.flatten(data)[0])
    indices = batch_indices(size, batch_size, 0, 0, rows)

    def seconds(count):
        began = time.perf_counter()
        steps.train(count, indices, data)
        return (time.perf_counter() - began) / count

    seconds(1)
    count = max(1, min(rows, int(_STRETCH_SECONDS / seconds(1))))
    return lambda: seconds(count)


def _alternated(candidates):
    """Dict, backend -> median seconds a step, and how stable they are."""
    began = time.perf_counter()
    times = {backend: [] for backend in candidates}
    history = []
    for rounds in itertools.count(1):
        for backend, timed in candidates.items():
            times[backend].append(timed())
        medians = {b: statistics.median(t) for b, t in times.items()}
        history.append(list(medians.values()))
        if _is_stable(history):
            return medians, f"medians of {rounds} stretches, stable"
        if time.perf_counter() - began > _MOST_SECONDS:
            return medians, f"medians of {rounds} stretches, not stable"


def _is_stable(history):
    """Whether no median has moved much over the last rounds."""
    last = history[-_STABLE_ROUNDS - 1 :]
    return len(history) >= _FEWEST_ROUNDS and all(
        max(medians) <= (1 + _TOLERANCE) * min(medians)
        for medians in zip(*last)
    )


@contextlib.contextmanager
def _preserved(model, steps):
    """Puts every variable that a step may change back as it was."""
    variables = (
        *model.variables,
        *model.optimizer.variables,
        *steps.variables(),
    )
    values = [variable.numpy() for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values):
            variable.assign(value)
