"""Progress: what is trained now, and how long it will take."""

import sys
import time

import tqdm.auto
import tqdm.autonotebook


class Silence:
    """Shows nothing."""

    def begin(self, trainings, iterations):
        """There are so many trainings of so many iterations."""

    def note(self, line):
        """Something about the run as a whole is known now."""

    def training(self, place):
        """One of them starts."""

    def iteration(self, iteration):
        """The one in this process has reached an iteration."""

    def done(self, place, result, found=False):
        """It was trained, or found among what was trained before."""

    def end(self):
        """All are done."""


class Progress(Silence):
    """A line for each training, and a bar with the time left.

    The bar counts training steps. It is shown on a terminal and in a
    notebook; a file gets the lines alone.

    Args:
        stream: where to. Defaults to stderr.
    """

    def __init__(self, stream=None):
        self.stream = stream or sys.stderr
        self._bar = None

    def begin(self, trainings, iterations):
        self._trainings, self._iterations = trainings, iterations
        self._trained = self._found = 0
        self._running = []
        self._began = None
        default = self.stream is sys.stderr
        kind = tqdm.auto.tqdm if default else tqdm.std.tqdm
        # In a notebook it is a widget; else it needs a terminal.
        widget = default and tqdm.autonotebook.tqdm is not tqdm.std.tqdm
        self._bar = kind(
            total=trainings * iterations,
            file=self.stream,
            disable=False if widget else None,
            unit=" steps",
            unit_scale=True,
            dynamic_ncols=True,
            leave=False,
        )

    def note(self, line):
        tqdm.std.tqdm.write(line, file=self.stream)
        self.stream.flush()

    def training(self, place):
        self._running.append(place)
        if self._began is None:
            self._began = time.monotonic()
            # What was found took no time: the pace counts from here.
            self._bar.initial = self._bar.n
            self._bar.start_t = self._bar.last_print_t = time.time()
        self._bar.set_description_str(
            ", ".join(
                f"trial {p.trial} {p.arm} level {p.level}"
                for p in self._running
            ),
            refresh=False,
        )

    def iteration(self, iteration):
        self._advance(iteration)

    def done(self, place, result, found=False):
        if place in self._running:
            self._running.remove(place)
        if found:
            self._found += 1
            self._advance()
            return
        self._trained += 1
        self._advance()
        self.note(
            f"[{self._done}/{self._trainings}] trial {result.trial} "
            f"{result.arm:<8} level {result.level:>2} "
            f"density {result.density:7.2%}  "
            f"early stop at {result.early_stop_iteration:>6,}  "
            f"test accuracy {result.early_stop_test_accuracy:.2%}  "
            f"{result.seconds:.1f} s, {self._left()} left"
        )

    def end(self):
        self._bar.close()
        if self._found:
            self.note(
                f"{self._found} of {self._trainings} trainings were found, not "
                "repeated."
            )

    @property
    def _done(self):
        return self._trained + self._found

    def _advance(self, iteration=0):
        steps = self._done * self._iterations + iteration
        self._bar.update(steps - self._bar.n)

    def _left(self):
        pace = (time.monotonic() - self._began) / self._trained
        seconds = pace * (self._trainings - self._done)
        return tqdm.std.tqdm.format_interval(seconds)
