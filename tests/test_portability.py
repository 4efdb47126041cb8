"""The package where Linux' own interfaces are missing, as on other systems."""

import importlib
import os
import pathlib
import pkgutil
import sys

import pytest

from keras_lottery import processes

ROOT = pathlib.Path(__file__).parents[1]


def take_away():
    """Takes from this package and its tools what macOS or Windows lack.

    Other libraries keep it: they have other ways on those systems.
    """
    import builtins
    import signal

    import psutil

    for name in (
        "fork",
        "getuid",
        "killpg",
        "sched_getaffinity",
        "sched_setaffinity",
        "setsid",
    ):
        delattr(os, name)
    for name in ("SIGHUP", "SIGKILL"):
        delattr(signal, name)
    del psutil.Process.cpu_affinity

    ours = {"keras_lottery", *tools()}

    def root(frame):
        return frame.f_globals.get("__name__", "").partition(".")[0]

    plain_import = builtins.__import__

    def guarded_import(name, globals=None, *rest, **options):
        missing = ("fcntl", "grp", "pwd", "resource", "termios")
        importer = (globals or {}).get("__name__", "").partition(".")[0]
        if name in missing and importer in ours:
            raise ImportError(f"there is no module {name}")
        return plain_import(name, globals, *rest, **options)

    builtins.__import__ = guarded_import

    def refuse_proc(event, arguments):
        if event not in ("open", "os.listdir", "os.scandir"):
            return
        if not str(arguments[0]).startswith("/proc"):
            return
        frame = sys._getframe(1)
        while frame and root(frame) in sys.stdlib_module_names:
            frame = frame.f_back
        if frame and root(frame) in ours:
            raise FileNotFoundError(arguments[0])

    sys.addaudithook(refuse_proc)


def tools():
    """The names of all modules in `tools/`."""
    paths = (ROOT / "tools").rglob("*.py")
    return [path.parent.name if "__init__" in path.name else path.stem
            for path in paths]  # fmt: skip


def import_everything():
    """Imports all modules of the package and of the tools: their number."""
    import keras_lottery
    from keras_lottery import backend

    found = pkgutil.walk_packages(keras_lottery.__path__, "keras_lottery.")
    # The other backends' libraries need not be installed.
    others = tuple({*backend.NAMES} - {backend.NAME})
    names = [
        module.name
        for module in found
        if "backend." not in module.name or not module.name.endswith(others)
    ]
    for name in names:
        importlib.import_module(name)
    from absl import flags

    sys.path.insert(0, str(ROOT / "tools"))
    known = set(flags.FLAGS)
    scripts = pkgutil.walk_packages([str(ROOT / "tools")])
    for script in scripts:
        importlib.import_module(script.name)
        # Each script defines its flags as if it were the only one.
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        names.append(script.name)
    return len(names)


def run_elsewhere(directory):
    take_away()
    modules = import_everything()
    from keras_lottery.experiments import Experiment

    experiment = Experiment(
        rounds=1, iterations=20, arms=("ticket",), backend="graph"
    )
    results = experiment.run(directory)
    # The same command on the same directory finds all and trains nothing.
    again = experiment.run(directory)
    return modules, [r.level for r in results], results == again


@pytest.mark.slow
def test_every_module_and_a_run_without_what_linux_alone_has(tmp_path):
    directory = os.fspath(tmp_path / "run")
    modules, levels, same = processes.call(run_elsewhere, directory)
    assert modules > 50 and levels == [0, 1] and same
    assert (tmp_path / "run" / "results.csv").exists()


@pytest.mark.slow
def test_what_is_taken_away_is_missing_here_and_not_elsewhere():
    def missing():
        take_away()
        names = {"__name__": "keras_lottery.example"}
        code = "try: import fcntl\nexcept ImportError: failed = True"
        exec(code, names)
        try:
            exec("open('/proc/cpuinfo')", names)
        except FileNotFoundError:
            names["refused"] = True
        exec("import resource; open('/proc/cpuinfo')", {"__name__": "other"})
        return names.get("failed"), names.get("refused")

    assert processes.call(missing) == (True, True)
