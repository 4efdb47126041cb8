"""Runs an experiment into a run directory, level by level."""

import sys
import time

from keras_lottery.experiments.bench import Bench
from keras_lottery.experiments.results import to_csv
from keras_lottery.experiments.store import Store


def run(experiment, run_dir, progress=None):
    """Trains whatever of an experiment is not in the run directory yet.

    After each training `results.csv` holds all that is known, so that a run
    that is killed loses at most the training in progress.

    Args:
        experiment: `Experiment`.
        run_dir: str or path-like.
        progress: optional `Progress`. Defaults to silence.

    Returns:
        A list of `Result`, by trial, arm and level.
    """
    store = Store(run_dir)
    bench = Bench(experiment, store)
    bench.open(0)
    store.claim(experiment)
    progress = progress or Silence()
    plan = [
        (trial, arm, level)
        for trial in range(experiment.trials)
        for level in range(experiment.rounds + 1)
        for arm in experiment.arms
    ]
    progress.begin(len(plan), experiment.iterations)
    results = {}
    for trial, arm, level in plan:
        bench.open(trial)
        result = bench.find(arm, level)
        if result is None:
            progress.training(trial, arm, level)
            result = bench.train(arm, level, progress.iteration)
        results[trial, arm, level] = result
        progress.done(result)
        order = [
            results[place]
            for place in sorted(
                results,
                key=lambda p: (p[0], experiment.arms.index(p[1]), p[2]),
            )
        ]
        store.write_text("results.csv", to_csv(order))
    progress.end()
    return order


class Silence:
    """Shows nothing."""

    def begin(self, trainings, iterations):
        """There are so many trainings of so many iterations."""

    def training(self, trial, arm, level):
        """One of them starts."""

    def iteration(self, iteration):
        """It has reached an iteration."""

    def done(self, result):
        """It was trained, or found."""

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
        self.done_count = self.trained = self.found = 0
        self.began = None

    def training(self, trial, arm, level):
        self.now = f"trial {trial} {arm} level {level}"
        if self.began is None:
            self.began = time.monotonic()
        self.iteration(0)

    def iteration(self, iteration):
        if not self.live:
            return
        share = iteration / self.iterations
        left = self._left(share)
        self._live(
            f"[{self.done_count}/{self.trainings}] {self.now}: iteration "
            f"{iteration:,}/{self.iterations:,}, {left}"
        )

    def done(self, result):
        self.done_count += 1
        if self.began is None:
            self.found += 1
            return
        self.trained += 1
        self._live("")
        print(
            f"[{self.done_count}/{self.trainings}] trial {result.trial} "
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

    def _left(self, share):
        done = self.trained + share
        if done < 0.3:
            return "time left unknown yet"
        pace = (time.monotonic() - self.began) / done
        seconds = pace * (self.trainings - self.done_count - share)
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes} min {seconds:02d} s left"

    def _live(self, text):
        if self.live:
            self.stream.write("\r\x1b[K" + text)
            self.stream.flush()
