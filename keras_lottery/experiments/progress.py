"""Progress: what is trained now, and how long it will take."""

import shutil
import sys
import time


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
        """It was trained, or found in the store."""

    def end(self):
        """All are done."""


class Progress(Silence):
    """A line for each training, and one that counts, with the time left.

    Args:
        stream: where to. Defaults to stderr.
    """

    def __init__(self, stream=None):
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()

    def begin(self, trainings, iterations):
        self.trainings, self.iterations = trainings, iterations
        self.trained = self.found = 0
        self.running = []
        self.began = None

    def note(self, line):
        self._live("")
        print(line, file=self.stream, flush=True)

    def training(self, place):
        self.running.append(place)
        if self.began is None:
            self.began = time.monotonic()
        self._count()

    def iteration(self, iteration):
        self._count(
            f" iteration {iteration:,}/{self.iterations:,}",
            iteration / self.iterations,
        )

    def done(self, place, result, found=False):
        if place in self.running:
            self.running.remove(place)
        if found:
            self.found += 1
            return
        self.trained += 1
        self.note(
            f"[{self._done}/{self.trainings}] trial {result.trial} "
            f"{result.arm:<8} level {result.level:>2} "
            f"density {result.density:7.2%}  "
            f"early stop at {result.early_stop_iteration:>6,}  "
            f"test accuracy {result.early_stop_test_accuracy:.2%}  "
            f"{result.seconds:.1f} s, {self._left(0)}"
        )
        self._count()

    def end(self):
        self._live("")
        if self.found:
            print(
                f"{self.found} of {self.trainings} trainings were found, not "
                "repeated.",
                file=self.stream,
            )

    @property
    def _done(self):
        return self.trained + self.found

    def _count(self, text="", share=0):
        now = ", ".join(
            f"trial {p.trial} {p.arm} level {p.level}" for p in self.running
        )
        self._live(
            f"[{self._done}/{self.trainings}] {now}{text}, {self._left(share)}"
        )

    def _left(self, share):
        done = self.trained + share
        if done < 0.3:
            return "time left unknown yet"
        pace = (time.monotonic() - self.began) / done
        seconds = pace * (self.trainings - self._done - share)
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes} min {seconds:02d} s left"

    def _live(self, text):
        if self.live:
            # A line that wraps could not be written over.
            width = shutil.get_terminal_size().columns - 1
            self.stream.write("\r\x1b[K" + text[:width])
            self.stream.flush()
