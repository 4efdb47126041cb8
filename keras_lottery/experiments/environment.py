"""Environment: by which command, with what and where a run was made."""

import datetime
import platform
import shlex
import sys

import keras
import numpy as np
import psutil

from keras_lottery import backend, processes
from keras_lottery.version import __version__


def describe(workers=1):
    """The environment of this process.

    Args:
        workers: int, processes that train.

    Returns:
        A dict that JSON can hold: `started` (UTC), `command`, `versions`,
        `platform`, `cpu`, `cores` (those this process may use),
        `memory_gib`, `gpus`, `threads` (of one operation) and `workers`.
    """
    cores = len(processes.cores())
    now = datetime.datetime.now(datetime.UTC)
    return {
        "started": now.strftime("%Y-%m-%d %H:%M:%S UTC"),
        "command": shlex.join(["python", *sys.argv]),
        "versions": {
            "keras_lottery": __version__,
            "python": platform.python_version(),
            backend.NAME: backend.version(),
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": cores,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": backend.gpus(),
        "threads": backend.threads() or cores,
        "workers": workers,
    }


def _cpu():
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
