"""Calls a function in a process of its own, which tf_keras may take over.

Importing tfmot turns a whole process to Keras 2. The process is started as a
program and not as a copy of this one, so that it works from a script without
`if __name__ == "__main__"`, and from a notebook.
"""

import importlib.util
import os
import pickle
import subprocess
import sys
import tempfile

_NEEDED = ("tf_keras", "tensorflow_model_optimization")


def check_installed():
    """Raises `ImportError` where a package that is needed is missing."""
    for package in _NEEDED:
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"This needs the package {package}, which is not installed."
            )


def call(function, *args):
    """What a function returns in a fresh process.

    Args:
        function: function of a module that can be imported.
        *args: what pickle can hold. So must the result be.

    Returns:
        What the function returned.

    Raises:
        Exception: The one that the function raised.
        RuntimeError: If the process ended without an answer.
    """
    with tempfile.TemporaryDirectory(prefix="keras_lottery_") as directory:
        exchange = os.path.join(directory, "call")
        with open(exchange, "wb") as file:
            pickle.dump((function, args), file)
        done = subprocess.run(
            # -P: the modules beside this one are none of its own.
            [sys.executable, "-P", __file__, exchange],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "TF_USE_LEGACY_KERAS": "1",
            },
        )
        if done.returncode:
            told = done.stderr.strip().splitlines() or ["it ended silently"]
            raise RuntimeError(
                f"The process of tf_keras ended with code {done.returncode}: "
                f"{told[-1]}"
            )
        with open(exchange, "rb") as file:
            result, error = pickle.load(file)
    if error is not None:
        raise error
    return result


def _answer(exchange):
    with open(exchange, "rb") as file:
        function, args = pickle.load(file)
    try:
        answer = function(*args), None
    except Exception as error:
        answer = None, _portable(error)
    with open(exchange, "wb") as file:
        pickle.dump(answer, file)


def _portable(error):
    """The error, or one that pickle can hold and that says the same."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    _answer(sys.argv[1])
