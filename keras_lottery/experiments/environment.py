"""Environment: by which command, with what and where a run was made."""

import datetime
import os
import platform
import shlex
import sys

import keras
import numpy as np
import psutil
import tensorflow as tf

from keras_lottery import processes
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
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": cores,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
        "threads": _threads() or cores,
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


def _gpus():
    return [
        tf.config.experimental.get_device_details(device).get(
            "device_name", device.name
        )
        for device in tf.config.list_physical_devices("GPU")
    ]


def _threads():
    """Threads of one operation as they were set; 0 if they were not."""
    return tf.config.threading.get_intra_op_parallelism_threads() or int(
        os.environ.get("TF_NUM_INTRAOP_THREADS", 0)
    )
