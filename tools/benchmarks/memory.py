"""How much memory this process holds, and has held at most, in MB."""

import resource


def rss():
    """What is resident now; `None` where there is no /proc."""
    return _status("VmRSS")


def peak_rss():
    """The most that was resident, since the start or `reset_peak`."""
    # Not getrusage, where there is /proc: its peak is inherited from the
    # process that started this one.
    peak = _status("VmHWM")
    if peak is None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return peak


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
