"""One round's pruning at VGG-19's shapes, against sorting.

Each goes from weights to the masks of level 1, at the paper's rate. Sorting
is what the common implementations do: the values, of which one becomes the
threshold, or the order of all.
"""

import time
import tracemalloc

import numpy as np

from benchmarks.measurement import PeakMemory, resident_mb

_RATE = 0.2
_BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))


def vgg_19_shapes():
    """Shapes of VGG-19's kernels: 20,024,000 weights."""
    shapes, channels = [], 3
    for convolutions, width in _BLOCKS:
        for _ in range(convolutions):
            shapes.append((3, 3, channels, width))
            channels = width
    return [*shapes, (channels, 10)]


class Pruning:
    """A way to prune: what the subjects below have in common."""

    def __init__(self, problem, shapes=None):
        rng = np.random.default_rng(0)
        self.weights = {
            str(index): rng.standard_normal(shape, dtype=np.float32)
            for index, shape in enumerate(shapes or vgg_19_shapes())
        }
        self.masks = {
            path: np.ones(weight.shape, bool)
            for path, weight in self.weights.items()
        }
        self.about = {"numpy": np.__version__}

    def run(self):
        began = time.perf_counter()
        self.prune()
        return {"prune_ms": 1e3 * (time.perf_counter() - began)}

    def finish(self):
        # Apart from the repetitions: watching allocations costs time.
        tracemalloc.start()
        masks = self.prune()
        extra = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        kept = sum(int(np.count_nonzero(mask)) for mask in masks.values())
        size = sum(mask.size for mask in masks.values())
        return {
            "density": kept / size,
            "extra_mb": extra,
            "model_mb": 4e-6 * size,
        }

    def score(self, path):
        return np.abs(self.weights[path])

    def prune(self):
        """The masks of level 1."""
        raise NotImplementedError


class Global(Pruning):
    """`keras_lottery.masks.prune_global`."""

    def prune(self):
        from keras_lottery.masks import prune_global

        return prune_global(self.masks, _RATE, self.score)


class Layerwise(Pruning):
    """`keras_lottery.masks.prune_layerwise`."""

    def prune(self):
        from keras_lottery.masks import prune_layerwise

        rates = dict.fromkeys(self.masks, _RATE)
        return prune_layerwise(self.masks, rates, self.score)


class Sort(Pruning):
    """The threshold from all scores, sorted; ties are not counted out."""

    def prune(self):
        scores = {path: self.score(path) for path in self.weights}
        pool = np.concatenate([scores[p][m] for p, m in self.masks.items()])
        pool.sort()
        threshold = pool[round(_RATE * len(pool))]
        return {
            path: mask & (scores[path] >= threshold)
            for path, mask in self.masks.items()
        }


class Argsort(Pruning):
    """The order of all scores, of which the first go."""

    def prune(self):
        pool = np.concatenate([self.score(p).ravel() for p in self.weights])
        kept = np.ones(len(pool), bool)
        kept[np.argsort(pool)[: round(_RATE * len(pool))]] = False
        masks, start = {}, 0
        for path, mask in self.masks.items():
            end = start + mask.size
            masks[path] = kept[start:end].reshape(mask.shape)
            start = end
        return masks


class Round:
    """What ends a round: recording the level, pruning, rewinding weights and
    optimizer. Repetition k goes from level k to level k + 1."""

    def __init__(self, problem):
        from benchmarks.keras_subjects import optimizer
        from keras_lottery import models, recipes, wrap

        model = models.get(problem.network)(problem.shape, seed=0)
        model = wrap(model, **recipes.RECIPES[problem.network].pruning)
        model.compile(optimizer(problem), "mse")
        model.optimizer.build(model.trainable_variables)
        self._model = model

    def run(self):
        before = resident_mb()
        with PeakMemory(interval=0.002) as memory:
            began = time.perf_counter()
            self._model.lottery.prune()
            self._model.lottery.rewind()
            seconds = time.perf_counter() - began
        return {
            "prune_ms": 1e3 * seconds,
            "extra_mb": memory.peak_mb - before,
            "left_mb": resident_mb() - before,
        }

    def finish(self):
        weights = sum(w.numpy().nbytes for w in self._model.weights)
        return {
            "model_mb": 1e-6 * weights,
            "density": self._model.lottery.density,
        }
