"""Environment: by which command, with what and where a run was made."""

import datetime
import json
import os
import platform
import shlex
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_lottery.version import __version__

_FILE = "environment.json"


def record(store, workers=1):
    """Notes the environment of a run, unless the last entry is the same.

    `environment.json` is a list: a run that goes on elsewhere, or by another
    command, gets another entry.

    Args:
        store: `Store` of the run.
        workers: int, processes that train.
    """
    entries = []
    if store.exists(_FILE):
        with open(store.path(_FILE)) as file:
            entries = json.load(file)
    now = describe(workers)
    if entries and {**entries[-1], "started": None} == {**now, "started": None}:
        return
    store.write_text(_FILE, json.dumps([*entries, now], indent=2))


def describe(workers=1):
    """The environment of this process.

    Args:
        workers: int, processes that train.

    Returns:
        A dict that JSON can hold: `started` (UTC), `command`, `versions`,
        `platform`, `cpu`, `cores` (those this process may use),
        `memory_gib`, `gpus`, `threads` (of one operation) and `workers`.
    """
    cores = _cores()
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
        "memory_gib": round(_memory() / 2**30, 1),
        "gpus": _gpus(),
        "threads": _threads() or cores,
        "workers": workers,
    }


def _cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cpu():
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory():
    if not hasattr(os, "sysconf"):  # Windows
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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
