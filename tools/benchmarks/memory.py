"""How much memory this process holds, and has held at most, in MB."""

import psutil


def rss():
    """What is resident now."""
    return psutil.Process().memory_info().rss / 1e6


def peak_rss():
    """The most that was resident, since the start or `reset_peak`.

    Where the system does not tell it (macOS), what is resident now.
    """
    # Not getrusage: its peak is inherited from the process that started this
    # one.
    now = psutil.Process().memory_info()
    return _status("VmHWM") or getattr(now, "peak_wset", now.rss) / 1e6


def reset_peak():
    """Forgets the peak; returns whether the system allows it."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _status(field):
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return None
