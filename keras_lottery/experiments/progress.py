"""Progress: what is trained now, and how long it will take."""

import sys
import time


class Silence:
    """Shows nothing."""

    def begin(self, trainings, iterations):
        """There are so many trainings of so many iterations."""

    def training(self, place):
        """One of them starts."""

    def iteration(self, iteration):
        """The one in this process has reached an iteration."""

    def done(self, result, found=False):
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
        self.began = None

    def training(self, place):
        self.now = f"trial {place.trial} {place.arm} level {place.level}"
        if self.began is None:
            self.began = time.monotonic()
        self.iteration(0)

    def iteration(self, iteration):
        left = self._left(iteration / self.iterations)
        self._live(
            f"[{self._done}/{self.trainings}] {self.now}: iteration "
            f"{iteration:,}/{self.iterations:,}, {left}"
        )

    def done(self, result, found=False):
        if found:
            self.found += 1
            return
        self.trained += 1
        self._live("")
        print(
            f"[{self._done}/{self.trainings}] trial {result.trial} "
            f"{result.arm:<8} level {result.level:>2} "
            f"density {result.density:7.2%}  "
            f"early stop at {result.early_stop_iteration:>6,}  "
            f"test accuracy {result.early_stop_test_accuracy:.2%}  "
            f"{result.seconds:.1f} s, {self._left(0)}",
            file=self.stream,
            flush=True,
        )

    def end(self):
        self._live("")
        if self.found:
            print(
                f"{self.found} of {self.trainings} trainings were already "
                "there.",
                file=self.stream,
            )

    @property
    def _done(self):
        return self.trained + self.found

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
            self.stream.write("\r\x1b[K" + text)
            self.stream.flush()
