"""Stack: several trainings of one network at once, in one program."""

import time

import keras
import numpy as np

from keras_lottery import backend
from keras_lottery.backend.loop import on_device, stacks
from keras_lottery.checks import check_integer
from keras_lottery.keras_internals import build_for_training
from keras_lottery.training.batches import batch_indices, into_blocks
from keras_lottery.training.fit import unsupported
from keras_lottery.training.loop import (
    EVALUATION_BATCH,
    LONGEST_CALL,
    check_batch_size,
    check_metric,
)
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
        model: A compiled model that the compiled loop can train.
        sets: List of dicts, the examples that a training may take its own
            from: `"train"`, `"validation"` and `"test"` -> pair `(x, y)` of
            arrays. All have the same shapes.
        height: Integer, trainings at once at most.
        batch_size: Integer, as in `Loop`.
        eval_every: Integer, as in `Loop`.
        early_stop_metric: As in `Loop`.

    Raises:
        ValueError: If the model cannot be trained by the compiled loop, or
            an argument does not fit the model and the data.
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
        self._size = len(keras.tree.flatten(sets[0]["train"])[0])
        check_batch_size(batch_size, self._size)
        on_devices = [
            {
                name: keras.tree.map_structure(on_device, tuple(pair))
                for name, pair in data.items()
            }
            for data in sets
        ]
        blocks = {
            name: stacks.stack(
                [into_blocks(d[name], EVALUATION_BATCH) for d in on_devices]
            )
            for name in sets[0]
        }
        few = keras.tree.map_structure(
            lambda leaf: leaf[:batch_size], on_devices[0]["train"]
        )
        # Every variable is created now: compiled functions must not do it.
        with backend.outside_graphs(model):
            build_for_training(model, few)
        check_metric(model, early_stop_metric)
        train = stacks.stack([data["train"] for data in on_devices])
        self.steps = stacks.StackedSteps(model, train, blocks)
        self._call_length = 1

    def state(self):
        """The state that the model is in, to train from."""
        self.model.reset_metrics()
        return stacks.state_of(self.model)

    def assign(self, state):
        """Puts a state into the model."""
        stacks.assign(self.model, state)

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
        running = _Running(self, states, which, seeds)
        visits = visits or {}
        at = start
        while at < iterations and not running.all_diverged:
            due = at - at % self.eval_every + self.eval_every
            ends = [due, iterations, at + self._call_length, *visits]
            end = min(e for e in ends if e > at)
            began = time.perf_counter()
            measured = running.train(at, end)
            if end in visits:
                visits[end](running.state)
            if end in (due, iterations):
                running.evaluate(end, measured)
            else:
                stacks.wait(measured)
            per_step = (time.perf_counter() - began) / (end - at)
            self._call_length = max(1, int(LONGEST_CALL / per_step))
            if progress:
                progress(end)
            at = end
        return running.result()

    def rows(self, count):
        """Which of the trainings is in which row: the first fills up."""
        rows = self.height
        while rows // 2 >= count:
            rows //= 2
        return [*range(count), *[0] * (rows - count)]

    def batches(self, seed, start, stop):
        """The indices of the examples in the batches of some steps."""
        return batch_indices(self._size, self.batch_size, seed, start, stop)


class _Running:
    """Trainings of a `Stack` on their way."""

    def __init__(self, stack, states, which, seeds):
        self._stack, self._count = stack, len(states)
        rows = stack.rows(self._count)
        self._seeds = [seeds[row] for row in rows]
        self._which = np.asarray(which, np.int32)[rows]
        self._states = stacks.stack([states[row] for row in rows])
        # The steps use the states up that they are given.
        self._best = stacks.copy(self._states)
        self._kept = [_Kept() for _ in rows]
        self._recorders = [
            Recorder(stack.early_stop_metric, kept)
            for kept in self._kept[: self._count]
        ]
        self._diverged = {}
        shape = len(rows), stack.eval_every, stack.batch_size
        self._indices = np.zeros(shape, np.int32)

    @property
    def all_diverged(self):
        return len(self._diverged) == self._count

    def state(self, index):
        """The state that a training is in."""
        return stacks.unstack(self._states, index)

    def train(self, start, stop):
        """Makes steps; returns what the metrics measured, soon."""
        order = {
            seed: self._stack.batches(seed, start, stop)
            for seed in set(self._seeds)
        }
        for row, seed in enumerate(self._seeds):
            self._indices[row, : stop - start] = order[seed]
        self._states, measured = self._stack.steps.train(
            self._states, stop - start, self._indices, self._which
        )
        return measured

    def evaluate(self, iteration, measured):
        """Records the validation; keeps the weights that are the best yet."""
        steps = self._stack.steps
        self._states = steps.reset(self._states)
        validated = steps.evaluate(self._states, self._which, "validation")
        validated = np.asarray(validated, np.float64)
        train_losses = np.asarray(measured, np.float64)[:, 0]
        for index, recorder in enumerate(self._recorders):
            if index in self._diverged:
                continue
            recorder.add(iteration, *validated[index], train_losses[index])
            if recorder.diverged is not None:
                # Alone, it would end here.
                self._diverged[index] = self.state(index)
        better = np.array([kept.take() for kept in self._kept])
        if better.any():
            self._best = stacks.choose(better, self._states, self._best)

    def result(self):
        """The `StackedTrainings`."""
        states = self._stack.steps.finish(self._states)
        for index, state in self._diverged.items():
            states = stacks.replace(states, index, state)
        for index, kept in enumerate(self._kept[: self._count]):
            state = stacks.unstack(self._best, index)
            kept.arrays = stacks.weights_of(self._stack.model, state)
        return StackedTrainings(
            self._stack,
            [recorder.training() for recorder in self._recorders],
            states,
            self._best,
            self._which,
        )


class StackedTrainings:
    """What a stack was trained to.

    Attributes:
        trainings: List of `Training`.
    """

    def __init__(self, stack, trainings, states, best, which):
        self.trainings = trainings
        self._stack, self._states, self._best = stack, states, best
        self._which = which

    def assign(self, index):
        """Puts what a training came to into the model."""
        self._stack.assign(stacks.unstack(self._states, index))

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
        measured = self._stack.steps.evaluate(states, self._which, name)
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
