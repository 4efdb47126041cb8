"""Training in Keras 3: this package's loop, `fit`, and a whole experiment."""

import contextlib
import functools
import tempfile
import time
from unittest import mock

import keras

import keras_lottery
from benchmarks.measurement import epoch_clock
from benchmarks.problem import share_kept
from keras_lottery import models
from keras_lottery.backend.loop import CompiledSteps
from keras_lottery.experiments import Experiment
from keras_lottery.experiments.plan import plan
from keras_lottery.training import Loop

# The paper's protocol: 5,000 examples are evaluated every 100 steps.
_VALIDATION, _EVAL_EVERY = 5_000, 100
# On a deep network that takes too long here: fewer are timed, and scaled.
_TIMED = {"lenet_300_100": _VALIDATION}


class CompiledLoop:
    """This package's compiled loop on a wrapped, half-pruned model.

    Steps alone are `step_ms`; with their part of the evaluations, which also
    keep the best weights, they are `evaluated_step_ms`.
    """

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
        backend, why = self._loop.choose_backend()
        self.about = {"backend": backend, "why": why}

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


class PlainFit:
    """`fit` of the model as it is, without a progress bar."""

    def __init__(self, problem):
        self._problem = problem
        self._data = problem.data()
        self._clock = epoch_clock(keras.callbacks.Callback)
        self.model = self.make()
        self.about = {"jit_compile": bool(self.model.jit_compile)}

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


class WholeExperiment:
    """`Experiment.run`, all included: what each of its training steps costs.

    Nothing is warm, as for whoever runs it: each repetition has another seed,
    so that data are loaded, and models built and compiled anew. `step_ms` is
    the wall time divided by the training steps; its parts, likewise a step,
    are the compiled calls that train, those that evaluate, and the rest.
    """

    warm_up = False

    def __init__(self, problem):
        self._arguments = {**problem.experiment, "model": problem.network}
        self._seed = -1
        trainings = len(plan(Experiment(**self._arguments)))
        self.about = {**self._arguments, "trainings": trainings}

    def run(self):
        self._seed += 1
        experiment = Experiment(**self._arguments, seed=self._seed)
        with tempfile.TemporaryDirectory() as directory, timed() as calls:
            began = time.perf_counter()
            experiment.run(directory)
            seconds = time.perf_counter() - began
        parts = {"steps": calls.train, "evaluation": calls.evaluate}
        parts["rest"] = seconds - sum(parts.values())
        return {
            "step_ms": 1e3 * seconds / calls.steps,
            **{f"{p}_ms": 1e3 * s / calls.steps for p, s in parts.items()},
        }

    def finish(self):
        return {}


class CallTimes:
    """Times of the compiled calls of trainings.

    Attributes:
        steps: int, how many steps were trained.
        train: float, seconds in calls that train.
        evaluate: float, seconds in calls that evaluate.
    """

    def __init__(self):
        self.steps, self.train, self.evaluate = 0, 0.0, 0.0
        self._compiled = set()

    def of_train(self, method):
        """A method `train` of compiled steps, timed."""

        @functools.wraps(method)
        def train(steps, count, indices, data):
            began = time.perf_counter()
            loss = method(steps, count, indices, data)
            self.steps += count
            if not self._compiles(steps, "train", indices):
                self.train += time.perf_counter() - began
            return loss

        return train

    def of_evaluate(self, method):
        """A method `evaluate` of compiled steps, timed."""

        @functools.wraps(method)
        def evaluate(steps, blocks):
            began = time.perf_counter()
            measured = method(steps, blocks)
            if not self._compiles(steps, "evaluate", blocks):
                self.evaluate += time.perf_counter() - began
            return measured

        return evaluate

    def _compiles(self, steps, name, arrays):
        """Whether a call was the first of its shapes, which compiles it."""
        shapes = [tuple(array.shape) for array in keras.tree.flatten(arrays)]
        call = (steps, name, *shapes)
        first = call not in self._compiled
        self._compiled.add(call)
        return first


@contextlib.contextmanager
def timed():
    """Times what is trained and evaluated by compiled calls meanwhile.

    Yields:
        `CallTimes`.
    """
    times, classes = CallTimes(), [CompiledSteps]
    with contextlib.suppress(ImportError):
        from keras_lottery.training.sparse import SparseSteps

        classes.append(SparseSteps)
    with contextlib.ExitStack() as stack:
        for steps in classes:
            for name, clock in (
                ("train", times.of_train),
                ("evaluate", times.of_evaluate),
            ):
                timed_method = clock(getattr(steps, name))
                stack.enter_context(
                    mock.patch.object(steps, name, timed_method)
                )
        yield times


def compiled(problem, wrapped=False, **compile_arguments):
    """The network of a problem, compiled with the paper's optimizer.

    Args:
        problem: `Problem`.
        wrapped: bool, whether it is wrapped and at level 1, half of each
            kernel pruned.
        **compile_arguments: passed on to `compile`.

    Returns:
        A `keras.Model`.
    """
    options = {"augment": True} if problem.augment else {}
    model = models.get(problem.network)(problem.shape, seed=0, **options)
    if wrapped:
        model = keras_lottery.wrap(model, rate=0.5, output_rate=0.5)
    model.compile(
        optimizer(problem),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **compile_arguments,
    )
    if wrapped:
        model.lottery.prune()
    return model


def optimizer(problem):
    """The paper's optimizer; its rate is constant: a schedule costs little."""
    if problem.optimizer == "adam":
        return keras.optimizers.Adam(problem.learning_rate)
    return keras.optimizers.SGD(problem.learning_rate, problem.momentum)


def kernels(model):
    """The kernels' values, as arrays."""
    return [
        layer.kernel.numpy()
        for layer in model.layers
        if hasattr(layer, "kernel")
    ]
