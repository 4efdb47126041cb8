"""Every seed of an experiment, derived from one."""

import zlib

import numpy as np


def derive(seed, *purpose):
    """A seed for one purpose, independent of all others.

    Args:
        seed: int, the experiment's.
        *purpose: ints and strings that name the use, such as a trial and
            `"order"`.

    Returns:
        An int in [0, 2**31).

    Example:

    ```python
    derive(0, 3, "weights")  # the initial weights of trial 3
    ```
    """
    words = [
        zlib.crc32(part.encode()) if isinstance(part, str) else part
        for part in purpose
    ]
    state = np.random.SeedSequence([seed, *words]).generate_state(1)
    return int(state[0] >> 1)
