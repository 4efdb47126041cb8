"""Latency: functions are timed in turn, so that all meet the same load.

Each is called for a stretch of time, as a server calls its model: single calls
in turn would charge the smaller model for the caches that the larger one
needs.
"""

import statistics
import time

import numpy as np

from keras_lottery.checks import check_integer

# One function is called for so long before it is the next one's turn, and has
# so many turns.
_STRETCH_SECONDS = 0.02
_STRETCHES = 8


def check_batch_sizes(batch_sizes):
    """Batch sizes as a tuple of int; on a command line they are text."""
    return tuple(
        check_integer("batch_sizes", int(size) if _is_text(size) else size, 1)
        for size in batch_sizes
    )


def _is_text(size):
    return isinstance(size, str) and size.isdecimal()


def median_seconds(functions, x, stretches):
    """Median seconds of a call of each function, in alternating stretches.

    The first call of a stretch is not counted: it compiles what is compiled,
    and brings back into the caches what the other functions have driven out.

    Args:
        functions: list of functions of a batch, each of which returns an
            array.
        x: array, the batch.
        stretches: int, of each function.

    Returns:
        A list of float.
    """
    seconds = [[] for _ in functions]
    for _ in range(stretches):
        for measured, function in zip(seconds, functions):
            np.asarray(function(x))
            start = time.perf_counter()
            end = start + _STRETCH_SECONDS
            while start < end:
                np.asarray(function(x))
                now = time.perf_counter()
                measured.append(now - start)
                start = now
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
        for one, median in zip(
            found, median_seconds(functions, batch, _STRETCHES)
        ):
            one[size] = median
    return found
