"""Loop: trains and evaluates one model, many times over, compiled once."""

import time

import keras
import numpy as np
from absl import logging

from keras_lottery import backend as backend_of_keras
from keras_lottery import keras_internals
from keras_lottery.backend.common import is_accuracy
from keras_lottery.backend.loop import (
    COMPILED,
    CompiledSteps,
    by_rule,
    on_device,
)
from keras_lottery.checks import check_choice, check_integer
from keras_lottery.levels import EARLY_STOP_METRICS
from keras_lottery.training import backends, fit
from keras_lottery.training.batches import batch_indices, into_blocks
from keras_lottery.training.recording import Recorder

# A compiled call cannot be interrupted; it lasts about this long at most, in
# seconds.
LONGEST_CALL = 2.0
EVALUATION_BATCH = 500


class Loop:
    """Trains a compiled Keras model on arrays, without Python in the steps.

    A lottery experiment is hundreds of short trainings of one network. `Loop`
    holds the data on the device, computes the order of the examples from the
    seed, and runs all steps between two evaluations as one compiled function.
    The steps are the model's own `train_step`; the weights it reaches are those
    of `fit` on the same batches. Levels, arms and trials differ in the values
    of variables only: assign those and call `train` again, and nothing is
    compiled anew.

    With `backend="auto"` a rule decides whether XLA compiles the steps, by the
    operations that the network holds: the same network always gets the same
    backend. With `backend="measure"` the backends are timed. Two backends give
    the same numbers to float tolerance, not the same bits, and draw other
    random numbers for dropout (as `fit` does with and without `jit_compile`).
    A model that cannot be trained faithfully this way, such as one with a
    `train_step` of its own (see `unsupported`), is trained by Keras' `fit` on
    the same batches, which is logged with the reason.

    The protocol is that of Frankle & Carbin (arXiv 1803.03635, section 2 and
    appendix G): evaluate every 100 iterations, train the full budget, find
    the early-stop iteration afterwards.

    Args:
        model: A compiled Keras model.
        train: Pair `(x, y)` of arrays, or nested structures of arrays, with
            the examples on the first axis. Floats are cast to
            `keras.config.floatx()`, as `fit` does.
        validation: Pair `(x, y)`, likewise, of examples like those.
        test: Pair `(x, y)`, likewise, for `evaluate("test")`. Defaults to
            `None`.
        batch_size: Integer, examples per step. Defaults to 60.
        eval_every: Integer, iterations between two evaluations. Defaults to
            100.
        early_stop_metric: `"val_loss"`, of which the minimum, or
            `"val_accuracy"`, of which the maximum is the early-stop
            iteration. Defaults to `"val_loss"`, as in the paper.
        backend: `"auto"`: what the rule names; `"measure"`: what is measured
            to be fastest; one of `"graph"`, `"xla"`, `"xla_update"`,
            `"sparse"` and `"fit"`; or `"sparse_or_"` and one of the first
            three: sparse kernels where a rule expects them to be faster (see
            `training.backends`), that one elsewhere. Defaults to `"auto"`.

    Attributes:
        backend: The argument; from the first training or evaluation on, the
            backend that was chosen. A model that is compiled again has it
            chosen again.

    Raises:
        ValueError: If an argument is out of range, or names a compiled
            backend for a model that it cannot train faithfully.

    Example:

    ```python
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    x, y = np.random.rand(500, 4), np.random.randint(0, 2, 500)
    loop = Loop(model, train=(x[100:], y[100:]), validation=(x[:100], y[:100]))
    training = loop.train(iterations=300, seed=0)
    test_loss, test_accuracy = loop.evaluate(
        (x, y), weights=training.early_stop_weights
    )
    ```
    """

    def __init__(
        self,
        model,
        train,
        validation,
        test=None,
        batch_size=60,
        eval_every=100,
        early_stop_metric="val_loss",
        backend="auto",
    ):
        check_choice("backend", backend, backends.BACKENDS)
        check_choice("early_stop_metric", early_stop_metric, EARLY_STOP_METRICS)
        self.model = model
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.eval_every = check_integer("eval_every", eval_every, 1)
        self.early_stop_metric = early_stop_metric
        self._asked = backend
        self._compiled, self._compiled_for = {}, None
        self.set_data(train, validation, test)
        self._forget_choice()
        self._call_length = 1

    def set_data(self, train, validation, test=None):
        """Trains and evaluates on other data from now on.

        The data are put on the device and cut into the batches of
        evaluations here, once. Nothing is compiled anew if the arrays have the
        shapes of the ones before.

        Args:
            train: Pair `(x, y)`, as in the constructor.
            validation: Pair `(x, y)`, likewise.
            test: Pair `(x, y)`, likewise. Defaults to `None`.
        """
        sets = {"train": train, "validation": validation, "test": test}
        if test is None:
            del sets["test"]
        sizes = {name: _check_data(name, data) for name, data in sets.items()}
        check_batch_size(self.batch_size, sizes["train"])
        # Sparse kernels remember arrays; nothing is compiled for them here.
        self._compiled.pop(backends.SPARSE, None)
        self._size, self._train_data = sizes["train"], _on_device(train)
        sets = {
            name: self._like_train(name, data) for name, data in sets.items()
        }
        self._blocks = {
            name: into_blocks(data, EVALUATION_BATCH)
            for name, data in sets.items()
        }

    @property
    def traces(self):
        """How many functions have been traced for the model as it is now."""
        return sum(steps.traces for steps in self._compiled.values())

    def train(self, iterations, seed, start=0, progress=None, visits=None):
        """Trains from the state the model is in, to the end of the budget.

        The model holds the final weights afterwards.

        Args:
            iterations: Integer, the iteration at which training ends.
            seed: Integer >= 0, of the order of the examples.
            start: Integer, the iteration the model is at: the training makes
                `iterations - start` steps, on the batches an uninterrupted
                training would see from `start` on. Defaults to 0.
            progress: Callable, called with the iteration every few seconds
                or more often, between steps. Defaults to `None`.
            visits: dict, iteration -> callable without arguments, called when
                exactly so many steps were made, such as to capture a rewind
                point. It finds the state of training in the model, and must
                not change it. Defaults to `None`.

        Returns:
            A `Training`.
        """
        iterations = check_integer("iterations", iterations, 1)
        start = check_integer("start", start, 0)
        if start >= iterations:
            raise ValueError(
                "`start` must be less than `iterations`. "
                f"Received: start={start}, iterations={iterations}"
            )
        self._begin(masked=True)
        check_metric(self.model, self.early_stop_metric)
        self.model.reset_metrics()
        recorder = Recorder(self.early_stop_metric, self._steps.kept)
        visits = visits or {}

        def evaluated(iteration, train_loss):
            measured = self._steps.evaluate(self._blocks["validation"])
            recorder.add(iteration, *measured, train_loss)
            return recorder.diverged is not None

        if self.backend == "fit":
            fit.train(
                self.model,
                self._train_data,
                self._batches(seed, start, iterations),
                start,
                self.eval_every,
                evaluated,
                visits,
                progress,
            )
        else:
            try:
                self._train(
                    seed, start, iterations, evaluated, visits, progress
                )
            finally:
                self._steps.store()
        return recorder.training()

    def evaluate(self, data, weights=None):
        """Loss and accuracy of the model, as Keras' `evaluate` gives them.

        But for the penalty of weight decay, which is no part of the loss
        here: it falls with every weight that is pruned, and losses of
        different densities could not be compared. The loss of a model with a
        `compute_loss` or `test_step` of its own is whatever that says.

        Args:
            data: `"train"`, `"validation"` or `"test"`, or a pair `(x, y)` of
                arrays or tensors; or a list of these, to be evaluated in one
                pass, for which the weights are prepared once.
            weights: List of arrays as `model.get_weights()` returns, to be
                evaluated instead of the model's own, which it still has
                afterwards. Defaults to `None`.

        Returns:
            Pair of floats `(loss, accuracy)`; the accuracy is NaN if the
            model was compiled without an accuracy metric. For a list, a list
            of such pairs.
        """
        if not isinstance(data, list):
            return self.evaluate([data], weights)[0]
        sets = [self._blocks_of(each) for each in data]
        self.choose_backend()
        if weights is None:
            return self._evaluate(sets)
        own = self.model.get_weights()
        try:
            self.model.set_weights(weights)
            return self._evaluate(sets)
        finally:
            self.model.set_weights(own)

    def _evaluate(self, sets):
        self._begin(masked=False)
        return [self._steps.evaluate(blocks) for blocks in sets]

    def choose_backend(self):
        """Chooses the backend, if that has not been done.

        No bit of the model, its optimizer or its seed generators is changed.

        Returns:
            Pair of str: the backend's name, which is also `self.backend` from
            now on, and one sentence that says why.
        """
        self._prepare()
        if self._choice is None:
            self._choice = self._choose()
            self.backend, why = self._choice
            level = logging.WARNING if self._must_fit else logging.INFO
            logging.log(level, "Training by %s: %s.", self.backend, why)
        return self._choice

    def _choose(self):
        data, shape = self._train_data, (self.eval_every, self.batch_size)
        if self._must_fit:
            return "fit", self._must_fit
        if self.backend == "measure":
            return backends.by_measurement(
                self.model, self._steps_on, data, shape
            )
        if self.backend.startswith(backends.SPARSE):
            reason = backends.sparse_unsupported(self.model, data)
            if reason:
                raise ValueError(
                    "`backend` must be one without sparse kernels, since "
                    f"{reason}. Received: backend={self.backend!r}"
                )
        if self.backend != "auto":
            return self.backend, "it was asked for"
        choice = by_rule(self.model, data[0])
        name, plain = choice[0], COMPILED[0]
        if name != plain and not backends.compiles(
            self._steps_on(name), data, shape
        ):
            choice = plain, "XLA cannot compile its training step"
        return backends.with_sparse(choice, self.model, data)

    def backend_for(self, kept=None):
        """What trains the model at the density of its masks.

        Args:
            kept: Integer, how many of the prunable weights survive. Defaults
                to `None`: as many as now.

        Returns:
            A str, one of the backends that train; the same for the same
            network and density.
        """
        name, _ = self.choose_backend()
        return backends.backend_for(name, self.model, self.batch_size, kept)

    def _begin(self, masked):
        """Chooses what computes until the next call of a public method."""
        self._steps = self._steps_on(self.backend_for())
        self._steps.load(masked)

    def _like_train(self, name, data):
        """Data on the device, each array of the dtype of its training data."""
        data = _on_device(data)
        try:
            return keras.tree.map_structure(_like, self._train_data, data)
        except (TypeError, ValueError):
            raise ValueError(
                f"`{name}` must have the structure, the shapes and the dtypes "
                f"of the training data, {_shapes(self._train_data)}. "
                f"Received: {name} of {_shapes(data)}"
            ) from None

    def _blocks_of(self, data):
        if not isinstance(data, str):
            _check_data("data", data)
            data = self._like_train("data", data)
            return into_blocks(data, EVALUATION_BATCH)
        check_choice("data", data, self._blocks)
        return self._blocks[data]

    def _batches(self, seed, start, stop):
        return batch_indices(self._size, self.batch_size, seed, start, stop)

    def _train(self, seed, start, stop, evaluated, visits, progress):
        """Trains by compiled calls that end where something is to be done."""
        # XLA compiles per shape: a shorter call is padded to full height.
        indices = np.zeros((self.eval_every, self.batch_size), np.int32)
        ended = False
        while start < stop and not ended:
            due = start - start % self.eval_every + self.eval_every
            ends = [due, stop, start + self._call_length, *visits]
            end = min(e for e in ends if e > start)
            indices[: end - start] = self._batches(seed, start, end)
            began = time.perf_counter()
            loss = self._steps.train(end - start, indices, self._train_data)
            per_step = (time.perf_counter() - began) / (end - start)
            self._call_length = max(1, int(LONGEST_CALL / per_step))
            if end in visits:
                self._steps.store()
                visits[end]()
            if progress:
                progress(end)
            if end in (due, stop):
                ended = evaluated(end, loss)
            start = end
        # As `fit` ends: with `use_ema`, the averages become the weights.
        self.model.optimizer.finalize_variable_values(
            self.model.trainable_weights
        )

    def _steps_on(self, backend):
        if backend not in self._compiled:
            self._compiled[backend] = self._make_steps(backend)
        return self._compiled[backend]

    def _make_steps(self, backend):
        if backend == "fit":
            return fit.FitSteps(self.model)
        if backend == backends.SPARSE:
            # Numba takes a second to import.
            from keras_lottery.training.sparse import SparseSteps

            return SparseSteps(self.model, self.batch_size)
        return CompiledSteps(self.model, backend, self._train_data)

    def _prepare(self):
        """Builds the model, and forgets what was compiled for another one."""
        if self._is_as_compiled():
            return
        batch = keras.tree.map_structure(
            lambda t: t[: self.batch_size], self._train_data
        )
        # Every variable is created now: compiled functions must not do it.
        with backend_of_keras.outside_graphs(self.model):
            keras_internals.build_for_training(self.model, batch)
        # Holding the parts keeps their ids from being used again.
        self._compiled, self._compiled_for = {}, _compiled_parts(self.model)
        self._forget_choice()

    def _forget_choice(self):
        """Lets the backend be chosen again, for the model as it is now."""
        self._choice, self.backend = None, self._asked
        self._must_fit = fit.unsupported(self.model, *self._train_data)
        if self._must_fit and self._asked not in ("auto", "measure", "fit"):
            raise ValueError(
                f'`backend` must be "fit", since {self._must_fit}. '
                f"Received: backend={self._asked!r}"
            )

    def _is_as_compiled(self):
        before, now = self._compiled_for, _compiled_parts(self.model)
        return before is not None and list(map(id, before)) == list(
            map(id, now)
        )


def check_batch_size(batch_size, examples):
    """Refuses batches larger than the training set."""
    if batch_size > examples:
        raise ValueError(
            "`batch_size` must be at most the number of training examples, "
            f"{examples}. Received: batch_size={batch_size}"
        )


def check_metric(model, early_stop_metric):
    """Refuses a metric of early stopping that a model does not measure."""
    if early_stop_metric != "val_accuracy":
        return
    names = list(model.get_metrics_result())
    if not any(map(is_accuracy, names)):
        raise ValueError(
            '`early_stop_metric="val_accuracy"` needs a model compiled '
            f"with an accuracy metric. Received: a model with metrics {names}"
        )


def _check_data(name, data):
    """Refuses what is not a pair of arrays; returns the examples in it."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError(
            f"`{name}` must be a pair of inputs and targets. "
            f"Received: {name} of type {type(data).__name__}"
        )
    lengths = {len(leaf) for leaf in keras.tree.flatten(data)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"All arrays of `{name}` must have the same number of examples, "
            f"at least 1. Received: lengths {sorted(lengths)}"
        )
    return lengths.pop()


def _on_device(data):
    return keras.tree.map_structure(on_device, tuple(data))


def _like(example, tensor):
    """A tensor in the dtype of another, if it has such examples."""
    if example.shape[1:] != tensor.shape[1:]:
        raise ValueError("another shape")
    if example.dtype == tensor.dtype:
        return tensor
    like = keras.ops.cast(tensor, example.dtype)
    exact = keras.ops.all(keras.ops.cast(like, tensor.dtype) == tensor)
    if "float" not in keras.backend.standardize_dtype(like.dtype) and not exact:
        raise ValueError("numbers that the dtype does not hold")
    return like


def _shapes(data):
    """The shapes and dtypes of data, for a message."""
    return keras.tree.map_structure(
        lambda t: (
            f"{keras.backend.standardize_dtype(t.dtype)}{(None, *t.shape[1:])}"
        ),
        data,
    )


def _compiled_parts(model):
    """What a trace holds on to: with other parts it would be out of date."""
    weights = model.trainable_weights
    return [
        type(model),
        model.optimizer,
        *keras_internals.compiled_loss_and_metrics(model),
        *weights,
        *(weight.constraint for weight in weights),
        *model.non_trainable_weights,
    ]
