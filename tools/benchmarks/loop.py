"""Subject: this package's compiled loop on a wrapped, half-pruned model."""

import time

import keras

from benchmarks.keras_models import ABOUT, compiled, kernels
from benchmarks.problem import share_kept
from keras_lottery.training import Loop

# The paper's protocol: 5,000 examples are evaluated every 100 steps.
_VALIDATION, _EVAL_EVERY = 5_000, 100
# On a deep network that takes too long here: fewer are timed, and scaled.
_TIMED = {"lenet_300_100": _VALIDATION}


class CompiledLoop:
    """Steps alone are `step_ms`; with their part of the evaluations, which
    also keep the best weights, they are `evaluated_step_ms`."""

    def __init__(self, problem):
        timed = _TIMED.get(problem.network, 500)
        self._evaluated = min(timed, problem.examples)
        self._steps, self._seed = problem.steps, 0
        x, y = problem.data()
        self._loop = Loop(
            compiled(problem, wrapped=True),
            train=(x, y),
            validation=(x[: self._evaluated], y[: self._evaluated]),
            batch_size=problem.batch_size,
            eval_every=problem.steps,
        )
        self.about = {**ABOUT, "backend": self._loop.choose_backend()[0]}

    def run(self):
        reached = {}

        def progress(iteration):
            reached[iteration] = time.perf_counter()

        self._seed += 1
        began = time.perf_counter()
        self._loop.train(self._steps, self._seed, progress=progress)
        ended = time.perf_counter()
        # The last stretch of steps ends where the only evaluation begins.
        step = (reached[self._steps] - began) / self._steps
        evaluation = (ended - reached[self._steps]) / self._evaluated
        evaluated = step + evaluation * _VALIDATION / _EVAL_EVERY
        return {"step_ms": 1e3 * step, "evaluated_step_ms": 1e3 * evaluated}

    def finish(self):
        return {"density": share_kept(kernels(self._loop.model))}


class Bfloat16Loop(CompiledLoop):
    """The same in mixed precision: other numbers, where there are fewer
    bits to move and the processor multiplies them."""

    def __init__(self, problem):
        keras.config.set_dtype_policy("mixed_bfloat16")
        super().__init__(problem)
