"""Stack: several trainings of one network at once, in one program."""

import time

import keras
import numpy as np

from keras_lottery.backend import loop
from keras_lottery.checks import check_integer
from keras_lottery.training.batches import batch_indices
from keras_lottery.training.fit import unsupported
from keras_lottery.training.loop import EVALUATION_BATCH, LONGEST_CALL
from keras_lottery.training.recording import Recorder


class Stack:
    """Trains several states of one compiled model side by side.

    A small network leaves most of a GPU idle. Trainings that differ in values
    only (weights, masks, the state of the optimizer, the order of the
    examples, and which examples) are stacked along a new axis, and a step of
    all of them is one program. Each is the same as alone, as `Loop` trains
    it, to float tolerance.

    The number of trainings is rounded up to a half, a quarter and so on of
    the height, so that few heights are compiled; what is added is trained
    and thrown away.

    Args:
        model: A compiled model that the compiled loop can train, built.
        sets: List of dicts, the examples that a training may take its own
            from: `"train"`, `"validation"` and `"test"` -> pair `(x, y)` of
            arrays. All have the same shapes.
        height: Integer, trainings at once at most.
        batch_size: Integer, as in `Loop`.
        eval_every: Integer, as in `Loop`.
        early_stop_metric: As in `Loop`.

    Raises:
        ValueError: If the model cannot be trained by the compiled loop.
    """

    def __init__(
        self, model, sets, height, batch_size, eval_every, early_stop_metric
    ):
        self.model = model
        self.height = check_integer("height", height, 1)
        self.batch_size, self.eval_every = batch_size, eval_every
        self.early_stop_metric = early_stop_metric
        reason = unsupported(model, *sets[0]["train"])
        if reason:
            raise ValueError(
                f"`stack` must be 1, since {reason}. Received: stack={height}"
            )
        data, blocks = {}, {}
        for name in sets[0]:
            pairs = [
                keras.tree.map_structure(loop.on_device, tuple(data[name]))
                for data in sets
            ]
            data[name] = loop.stack(pairs)
            blocks[name] = loop.stack(
                [loop.into_blocks(pair, EVALUATION_BATCH) for pair in pairs]
            )
        self._size = len(keras.tree.flatten(sets[0]["train"])[0])
        self._steps = loop.StackedSteps(model, data["train"], blocks)
        self._call_length = 1

    def state(self):
        """The state that the model is in, to train from."""
        self.model.reset_metrics()
        return loop.state_of(self.model)

    def assign(self, state):
        """Puts a state into the model."""
        loop.assign(self.model, state)

    def train(
        self,
        states,
        which,
        seeds,
        iterations,
        start=0,
        progress=None,
        visits=None,
    ):
        """Trains from several states to the end of the budget.

        Args:
            states: List of what `state` returned, at most `height`.
            which: List of integers, the index in `sets` of each.
            seeds: List of integers >= 0, of the order of its examples.
            iterations: Integer, the iteration at which training ends.
            start: Integer, the iteration that all are at. Defaults to 0.
            progress: Callable of the iteration. Defaults to `None`.
            visits: dict, iteration -> callable, called when so many steps
                were made, with a function from the index of a training to
                its state. Defaults to `None`.

        Returns:
            `StackedTrainings`.
        """
        began = time.perf_counter()
        count, visits = len(states), visits or {}
        rows = self._rows_of(count)
        which = np.asarray(which, np.int32)[rows]
        states = loop.stack([states[row] for row in rows])
        # The states are used up by the steps; what is kept is a copy.
        best = loop.copy(states)
        kept = [_Kept() for _ in range(count)]
        recorders = [Recorder(self.early_stop_metric, k) for k in kept]
        ended = {}
        shape = (self.eval_every, self.batch_size)
        indices = np.zeros((len(rows), *shape), np.int32)
        at = start
        while at < iterations and len(ended) < count:
            due = at - at % self.eval_every + self.eval_every
            ends = [due, iterations, at + self._call_length, *visits]
            end = min(e for e in ends if e > at)
            order = {
                seed: batch_indices(self._size, self.batch_size, seed, at, end)
                for seed in set(seeds)
            }
            for row, source in enumerate(rows):
                indices[row, : end - at] = order[seeds[source]]
            called = time.perf_counter()
            states, measured = self._steps.train(
                states, end - at, indices, which
            )
            if end in visits:
                visits[end](lambda index: loop.unstack(states, index))
            if end in (due, iterations):
                states = self._steps.reset(states)
                values = self._steps.evaluate(states, which, "validation")
                values = np.asarray(values, np.float64)
                losses = np.asarray(measured, np.float64)[:, 0]
                for index, recorder in enumerate(recorders):
                    if index in ended:
                        continue
                    recorder.add(end, *values[index], losses[index])
                    if recorder.diverged is not None:
                        ended[index] = loop.unstack(states, index)
                better = [k.take() for k in kept]
                better += [False] * (len(rows) - count)
                if any(better):
                    best = loop.choose(np.asarray(better), states, best)
            else:
                loop.wait(measured)
            per_step = (time.perf_counter() - called) / (end - at)
            self._call_length = max(1, int(LONGEST_CALL / per_step))
            if progress:
                progress(end)
            at = end
        states = self._steps.finish(states)
        for index, state in ended.items():
            states = loop.replace(states, index, state)
        for index, keeper in enumerate(kept):
            state = loop.unstack(best, index)
            keeper.arrays = loop.weights_of(self.model, state)
        trainings = [recorder.training() for recorder in recorders]
        return StackedTrainings(
            self, trainings, states, best, which, time.perf_counter() - began
        )

    def _rows_of(self, count):
        """Which training is in which row: the first also in those added."""
        rows = self.height
        while rows // 2 >= count:
            rows //= 2
        return [*range(count), *[0] * (rows - count)]


class StackedTrainings:
    """What a stack was trained to.

    Attributes:
        trainings: List of `Training`.
        seconds: Wall time of all of them together.
    """

    def __init__(self, stack, trainings, states, best, which, seconds):
        self.trainings, self.seconds = trainings, seconds
        self._stack, self._states, self._best = stack, states, best
        self._which = which

    def assign(self, index):
        """Puts what a training came to into the model."""
        self._stack.assign(loop.unstack(self._states, index))

    def evaluate(self, name, at_early_stop=False):
        """Loss and accuracy of each training.

        Args:
            name: `"train"`, `"validation"` or `"test"`.
            at_early_stop: Boolean, whether with the weights of the early
                stop or with those of the end. Defaults to `False`.

        Returns:
            Array of shape `(trainings, 2)`.
        """
        states = self._best if at_early_stop else self._states
        measured = self._stack._steps.evaluate(states, self._which, name)
        return np.asarray(measured, np.float64)[: len(self.trainings)]


class _Kept:
    """Notes for a `Recorder` that the weights of now are to be kept."""

    def __init__(self):
        self.arrays, self._due = None, False

    def keep(self):
        self._due = True

    def take(self):
        due, self._due = self._due, False
        return due

    def fetch(self):
        return self.arrays
