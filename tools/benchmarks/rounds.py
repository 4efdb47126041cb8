"""Subject: `prune()` and `rewind()` of a whole wrapped model."""

import time

from benchmarks import memory
from benchmarks.keras_models import ABOUT, optimizer
from keras_lottery import wrap
from keras_lottery.models import get
from keras_lottery.recipes import RECIPES


class Round:
    """What ends a round: recording the level, pruning, rewinding weights and
    optimizer. Repetition k goes from level k to level k + 1."""

    def __init__(self, problem):
        model = get(problem.network)(problem.shape, seed=0)
        model = wrap(model, **RECIPES[problem.network].pruning)
        model.compile(optimizer(problem), "mse")
        model.optimizer.build(model.trainable_variables)
        self._model, self.about = model, ABOUT

    def run(self):
        watched = memory.reset_peak()
        before = memory.rss()
        began = time.perf_counter()
        self._model.lottery.prune()
        self._model.lottery.rewind()
        values = {"prune_ms": 1e3 * (time.perf_counter() - began)}
        if watched:
            values["extra_mb"] = memory.peak_rss() - before
            values["left_mb"] = memory.rss() - before
        return values

    def finish(self):
        weights = sum(w.numpy().nbytes for w in self._model.weights)
        return {
            "model_mb": 1e-6 * weights,
            "density": self._model.lottery.density,
        }
