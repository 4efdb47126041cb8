"""The scripts as a user runs them: each in a process of its own."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def start(tool, *flags, **options):
    """Starts `tools/<tool>.py`, in a session of its own, to be killed whole."""
    return subprocess.Popen(
        [sys.executable, f"tools/{tool}.py", *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def finish(tool, *flags, **options):
    """Runs it to its end: exit code, standard output, standard error."""
    process = start(tool, *flags, **options)
    out, err = process.communicate()
    return process.returncode, out, err
