"""Repetitions in turn: A B C A B C, so that a slow minute hits all alike."""

import contextlib
import dataclasses

from benchmarks.processes import Unavailable, Worker


@dataclasses.dataclass(frozen=True)
class Row:
    """One number: `repetition` counts from 1, and is `None` for what was
    measured once."""

    subject: str
    network: str
    metric: str
    repetition: int | None
    value: float


def take_turns(subjects, problem, repetitions, tell, skip):
    """Measures subjects on one problem.

    All are started and warmed up before the first repetition; after that
    only one works at a time.

    Args:
        subjects: dict, name -> `"module:class"`.
        problem: `Problem`.
        repetitions: int.
        tell: function of a str: what is running now.
        skip: function of a str: what is left out, and why.

    Returns:
        Pair of a list of `Row` and a dict, subject -> what to know about it.
    """
    rows, about, workers = [], {}, {}

    def note(name, repetition, values):
        rows.extend(
            Row(name, problem.network, metric, repetition, value)
            for metric, value in values.items()
        )

    with contextlib.ExitStack() as stack:
        for name, where in subjects.items():
            tell(f"{problem.network}: preparing {name}")
            worker = stack.enter_context(Worker(where, problem))
            try:
                values, about[name] = worker.ready()
            except Unavailable as reason:
                skip(f"{problem.network}: {name} skipped: {reason}")
                continue
            note(name, None, values)
            workers[name] = worker
        for repetition in range(1, repetitions + 1):
            for name, worker in workers.items():
                tell(
                    f"{problem.network}: repetition {repetition} of "
                    f"{repetitions}, {name}"
                )
                note(name, repetition, worker.run())
        tell(f"{problem.network}: memory")
        for name, worker in workers.items():
            note(name, None, worker.finish())
    return rows, about
