"""Subjects: Keras' `fit`, plain, tuned, and of a wrapped model."""

import contextlib

import keras

from benchmarks.clock import epoch_clock
from benchmarks.keras_models import ABOUT, compiled, kernels
from benchmarks.problem import share_kept


class PlainFit:
    """`fit` of the model as it is, without a progress bar."""

    def __init__(self, problem):
        self._problem = problem
        self._data = problem.data()
        self._clock = epoch_clock(keras.callbacks.Callback)
        self.model = self.make()
        self.about = {**ABOUT, "jit_compile": bool(self.model.jit_compile)}

    def make(self):
        return compiled(self._problem)

    def run(self):
        with self.context():
            self.model.fit(
                *self._data,
                batch_size=self._problem.batch_size,
                steps_per_epoch=self._problem.steps,
                verbose=0,
                callbacks=[self._clock],
            )
        return {"step_ms": 1e3 * self._clock.seconds / self._problem.steps}

    def context(self):
        return contextlib.nullcontext()

    def finish(self):
        return {"density": share_kept(kernels(self.model))}


class TunedFit(PlainFit):
    """`fit` with what a user would set to make it fast."""

    def make(self):
        # XLA makes a convolution up to a hundred times slower on a CPU: who
        # tunes leaves it out there.
        return compiled(
            self._problem,
            jit_compile=self._problem.network == "lenet_300_100",
            steps_per_execution=min(50, self._problem.steps),
        )


class WrappedFit(PlainFit):
    """`fit` of a wrapped, half-pruned model: its steps, without the pruning
    and rewinding that end a round."""

    def make(self):
        return compiled(self._problem, wrapped=True)

    def context(self):
        return self.model.lottery.paused()
