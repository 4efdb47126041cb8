"""Latency: functions are called alternately, so that all meet the same load."""

import statistics
import time

import numpy as np

from keras_lottery.checks import check_integer

# A measurement is repeated for about so many seconds, within these limits.
_SECONDS = 1.0
_REPETITIONS = (5, 200)


def check_batch_sizes(batch_sizes):
    """Batch sizes as a tuple of int; on a command line they are text."""
    return tuple(
        check_integer("batch_sizes", int(size) if _is_text(size) else size, 1)
        for size in batch_sizes
    )


def _is_text(size):
    return isinstance(size, str) and size.isdecimal()


def median_seconds(functions, x, repetitions):
    """List of the median seconds of each function on `x`, run alternately."""
    functions = list(functions)
    seconds = [[] for _ in functions]
    for function in functions:
        function(x)
    for _ in range(repetitions):
        for measured, function in zip(seconds, functions):
            start = time.perf_counter()
            np.asarray(function(x))
            measured.append(time.perf_counter() - start)
    return [statistics.median(measured) for measured in seconds]


def latencies(functions, x, batch_sizes):
    """The latency of functions at some batch sizes.

    Args:
        functions: list of functions of a batch, each of which returns an
            array.
        x: array, examples; repeated to fill a batch.
        batch_sizes: sequence of int.

    Returns:
        A list of dicts, batch size -> median seconds.
    """
    found = [{} for _ in functions]
    for size in batch_sizes:
        batch = np.resize(x, (size, *x.shape[1:]))
        once = sum(median_seconds(functions, batch, 1))
        low, high = _REPETITIONS
        repetitions = int(min(max(_SECONDS / once, low), high))
        for one, median in zip(
            found, median_seconds(functions, batch, repetitions)
        ):
            one[size] = median
    return found
