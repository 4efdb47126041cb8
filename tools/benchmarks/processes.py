"""A process for each subject, that stays alive between repetitions."""

import importlib
import os
import pickle
import subprocess
import sys
import tempfile
import time
import traceback

from benchmarks import memory


class Unavailable(Exception):
    """What a subject needs is not installed."""


class Worker:
    """The handle of a subject's process.

    A subject is a class: made of a `Problem`, which is not timed, it has
    `run()`, one repetition, returning a dict from metric to number, and
    `finish()`, the same for what is measured once. An optional `about` is a
    dict of what to know about it, such as versions.

    Args:
        where: str, `"module:class"` of the subject.
        problem: the `Problem` to make it of.
    """

    def __init__(self, where, problem):
        self.where = where
        # Started from nothing, and not by `multiprocessing`, which would run
        # the script's imports in it: TensorFlow's beside PyTorch's.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self._ask((where, problem), answered=False)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if error[0] is not None:
            self._process.terminate()
        # It ends when there is nothing left to read.
        self._process.communicate()

    def ready(self):
        """Waits until the subject has been made and run once, untimed.

        Returns:
            Pair of dicts: metric to number, and what to know about it.

        Raises:
            Unavailable: If what it needs is not installed.
        """
        return self._answer()

    def run(self):
        """One repetition: a dict, metric to number."""
        return self._ask("run")

    def finish(self):
        """What is measured once, after all repetitions: such a dict."""
        return self._ask("finish")

    def _ask(self, question, answered=True):
        pickle.dump(question, self._process.stdin)
        self._process.stdin.flush()
        return self._answer() if answered else None

    def _answer(self):
        try:
            kind, answer = pickle.load(self._process.stdout)
        except EOFError:
            code = self._process.wait()
            raise RuntimeError(f"{self.where} ended with {code}.") from None
        if kind == "unavailable":
            raise Unavailable(answer)
        if kind == "error":
            raise RuntimeError(f"{self.where} failed:\n{answer}")
        return answer


_START = "from benchmarks.processes import serve; serve()"


def serve():
    """The other end: makes the subject and answers until nobody asks."""
    questions = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")

    def answer(kind, value):
        pickle.dump((kind, value), answers)
        answers.flush()

    with tempfile.TemporaryFile() as chatter:
        # What frameworks print belongs to no one.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(chatter.fileno(), stream.fileno())
        try:
            _answer_all(questions, answer)
        except (EOFError, KeyboardInterrupt, BrokenPipeError):
            pass
        except Unavailable as error:
            answer("unavailable", str(error))
        except BaseException:
            answer("error", traceback.format_exc())


def _answer_all(questions, answer):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    where, problem = pickle.load(questions)
    module, name = where.split(":")
    began = time.perf_counter()
    subject = getattr(importlib.import_module(module), name)(problem)
    subject.run()
    warm_up = {"warm_up_seconds": time.perf_counter() - began}
    answer("ready", (warm_up, getattr(subject, "about", {})))
    while True:
        if pickle.load(questions) == "run":
            answer("values", subject.run())
        else:
            peak = {"peak_rss_mb": memory.peak_rss()}
            answer("values", {**peak, **subject.finish()})
