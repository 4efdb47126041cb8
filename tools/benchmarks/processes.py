"""A process for each subject, that stays alive between repetitions."""

import importlib
import multiprocessing
import os
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
        # Started anew, not forked: nothing of this process' frameworks,
        # threads or memory is in it.
        context = multiprocessing.get_context("spawn")
        self._pipe, pipe = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(where, problem, pipe), daemon=True
        )
        self._process.start()
        pipe.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._pipe.close()
        if error[0] is not None:
            self._process.terminate()
        self._process.join()

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

    def _ask(self, question):
        self._pipe.send(question)
        return self._answer()

    def _answer(self):
        try:
            kind, answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(
                f"{self.where} ended with code {self._process.exitcode}."
            ) from None
        if kind == "unavailable":
            raise Unavailable(answer)
        if kind == "error":
            raise RuntimeError(f"{self.where} failed:\n{answer}")
        return answer


def _serve(where, problem, pipe):
    with tempfile.TemporaryFile() as chatter:
        # What frameworks print belongs to no one.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(chatter.fileno(), stream.fileno())
        try:
            _answer_all(where, problem, pipe)
        except (EOFError, KeyboardInterrupt, BrokenPipeError):
            pass
        except Unavailable as error:
            pipe.send(("unavailable", str(error)))
        except BaseException:
            pipe.send(("error", traceback.format_exc()))


def _answer_all(where, problem, pipe):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    module, name = where.split(":")
    began = time.perf_counter()
    subject = getattr(importlib.import_module(module), name)(problem)
    subject.run()
    warm_up = {"warm_up_seconds": time.perf_counter() - began}
    pipe.send(("ready", (warm_up, getattr(subject, "about", {}))))
    while True:
        if pipe.recv() == "run":
            pipe.send(("values", subject.run()))
        else:
            peak = {"peak_rss_mb": memory.peak_rss()}
            pipe.send(("values", {**peak, **subject.finish()}))
