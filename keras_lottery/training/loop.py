"""Loop: trains and evaluates one model, many times over, compiled once."""

import time

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_lottery.training import calibration, fit
from keras_lottery.training.calibration import BACKENDS
from keras_lottery.training.compiled import COMPILED, CompiledSteps, into_blocks
from keras_lottery.training.order import batch_indices
from keras_lottery.training.recording import MONITORS, Recorder
from keras_lottery.training.support import unsupported

# One compiled call cannot be interrupted; so long it may be, in seconds.
_LONGEST_CALL = 2.0
_EVALUATION_BATCH = 500


class Loop:
    """Trains a compiled Keras model on arrays, without Python in the steps.

    A lottery experiment is hundreds of short trainings of one network. `Loop`
    holds the data on the device, precomputes its order from the seed, and
    runs all steps between two evaluations as one compiled function. The steps
    are the model's own `train_step`; the weights it reaches are those of
    `fit` on the same batches. Levels, arms and trials differ in the values of
    variables only, so assign those and call `train` again: nothing is
    compiled anew.

    Whether XLA makes a network faster or a hundred times slower is not
    foreseeable; with `backend="auto"` a few steps of each are measured, once
    per architecture. Two backends give the same numbers to float tolerance,
    not the same bits, and draw other random numbers for dropout (as `fit`
    does with and without `jit_compile`): to repeat a training bit for bit,
    pass the `backend` of the first one. A model that cannot be trained
    faithfully this way, such as one with a `train_step` of its own (see
    `unsupported`), is trained by Keras' `fit` on the same batches, which
    is logged with the reason.

    The protocol is that of Frankle & Carbin (arXiv 1803.03635, section 2 and
    appendix G): evaluate every 100 iterations, train the full budget, find
    the early-stop iteration afterwards.

    Args:
        model: A compiled Keras model.
        train: Pair `(x, y)` of arrays, or nested structures of arrays, with
            the examples on the first axis. Floats are cast to
            `keras.config.floatx()`, as `fit` does.
        validation: Pair `(x, y)`, likewise.
        batch_size: Integer, examples per step. Defaults to 60.
        eval_every: Integer, iterations between two evaluations. Defaults to
            100.
        monitor: `"val_loss"`, of which the minimum, or `"val_accuracy"`, of
            which the maximum is the early-stop iteration. Defaults to
            `"val_loss"`, as in the paper.
        backend: `"auto"`, `"graph"`, `"xla"`, `"xla_update"` or `"fit"`.
            Defaults to `"auto"`: choose by measurement.
        timings: Path of a JSON file that remembers what `"auto"` measured
            from one process to the next. Defaults to `None`: forget it.

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
        batch_size=60,
        eval_every=100,
        monitor="val_loss",
        backend="auto",
        timings=None,
    ):
        if backend not in ("auto", *BACKENDS):
            raise ValueError(
                f"`backend` must be one of {('auto', *BACKENDS)}. "
                f"Received: backend={backend!r}"
            )
        if monitor not in MONITORS:
            raise ValueError(
                f"`monitor` must be one of {MONITORS}. "
                f"Received: monitor={monitor!r}"
            )
        size = _check_data("train", train)
        if not 1 <= batch_size <= size:
            raise ValueError(
                "`batch_size` must be between 1 and the number of training "
                f"examples, {size}. Received: batch_size={batch_size}"
            )
        if eval_every < 1:
            raise ValueError(
                "`eval_every` must be at least 1. "
                f"Received: eval_every={eval_every}"
            )
        self._must_fit = unsupported(model, *train)
        if self._must_fit and backend in COMPILED:
            raise ValueError(
                f'`backend` must be "fit", since {self._must_fit}. '
                f"Received: backend={backend!r}"
            )
        self.model = model
        self.batch_size = batch_size
        self.eval_every = eval_every
        self.timings = timings
        self.backend = backend
        self.monitor = monitor
        self.set_data(train, validation)
        self._call_length = 1
        self._compiled = {}
        self._compiled_for = None

    def set_data(self, train, validation):
        """Trains on other data from now on.

        Nothing is compiled anew if the arrays have the shapes of the old.

        Args:
            train: Pair `(x, y)`, as in the constructor.
            validation: Pair `(x, y)`, likewise.
        """
        self._size = _check_data("train", train)
        _check_data("validation", validation)
        self._train_data = _on_device(train)
        self._validation = into_blocks(
            _on_device(validation), _EVALUATION_BATCH
        )

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
                point. Defaults to `None`.

        Returns:
            A `Training`.
        """
        if not 0 <= start < iterations:
            raise ValueError(
                "`start` must be at least 0 and less than `iterations`. "
                f"Received: start={start}, iterations={iterations}"
            )
        self.choose_backend(iterations - start)
        self._check_monitor()
        self.model.reset_metrics()
        recorder, visits = Recorder(self.monitor), visits or {}

        def evaluated(iteration, train_loss):
            measured = self._evaluate(self._validation)
            recorder.add(
                iteration, *measured, train_loss, self.model.get_weights
            )
            return recorder.diverged is not None

        if self.backend == "fit":
            batches = self._batches(seed, start, iterations)
            fit.train(
                self.model,
                self._train_data,
                batches,
                start,
                self.eval_every,
                evaluated,
                visits,
                progress,
            )
        else:
            self._train(seed, start, iterations, evaluated, visits, progress)
        return recorder.training()

    def evaluate(self, data, weights=None):
        """Loss and accuracy of the model, as Keras' `evaluate` gives them.

        Args:
            data: Pair `(x, y)` of arrays or tensors.
            weights: List of arrays as `model.get_weights()` returns, to be
                evaluated instead of the model's own, which it still has
                afterwards. Defaults to `None`.

        Returns:
            Pair of floats `(loss, accuracy)`; the accuracy is NaN if the
            model was compiled without an accuracy metric.
        """
        _check_data("data", data)
        self.choose_backend()
        blocks = into_blocks(_on_device(data), _EVALUATION_BATCH)
        if weights is None:
            return self._evaluate(blocks)
        own = self.model.get_weights()
        try:
            self.model.set_weights(weights)
            return self._evaluate(blocks)
        finally:
            self.model.set_weights(own)

    def choose_backend(self, steps=0):
        """Settles `self.backend`, by measurement if it is `"auto"`.

        No bit of the model, its optimizer or its seed generators is changed.

        Args:
            steps: Integer, the length of the training to come, of which the
                measurement may cost a few percent if that is more than ten
                seconds. Defaults to 0.

        Returns:
            The backend's name, from now on also `self.backend`.
        """
        self._build()
        if self.backend == "auto":
            self.backend, why = calibration.choose(
                self.model,
                self._steps_on,
                self._train_data,
                shape=(self.eval_every, self.batch_size),
                steps=steps,
                timings=self.timings,
                must_fit=self._must_fit,
            )
            level = logging.WARNING if self._must_fit else logging.INFO
            logging.log(level, "Training by %s: %s.", self.backend, why)
        return self.backend

    def _check_monitor(self):
        names = list(self.model.get_metrics_result())
        if self.monitor == "val_accuracy" and not any(map(_is_accuracy, names)):
            raise ValueError(
                '`monitor="val_accuracy"` needs a model compiled with an '
                f"accuracy metric. Received: a model with metrics {names}"
            )

    def _batches(self, seed, start, stop):
        return batch_indices(self._size, self.batch_size, seed, start, stop)

    def _train(self, seed, start, stop, evaluated, visits, progress):
        """Trains by compiled calls that end where something is to be done."""
        steps = self._steps_on(self.backend)
        # XLA compiles per shape: a shorter call is padded to full height.
        indices = np.zeros((self.eval_every, self.batch_size), np.int32)
        ended = False
        while start < stop and not ended:
            due = start - start % self.eval_every + self.eval_every
            ends = [due, stop, start + self._call_length, *visits]
            end = min(e for e in ends if e > start)
            indices[: end - start] = self._batches(seed, start, end)
            began = time.perf_counter()
            results = steps.train(end - start, indices, self._train_data)
            per_step = (time.perf_counter() - began) / (end - start)
            self._call_length = max(1, int(_LONGEST_CALL / per_step))
            if end in visits:
                visits[end]()
            if progress:
                progress(end)
            if end in (due, stop):
                ended = evaluated(end, results["loss"])
            start = end
        # As `fit` ends: with `use_ema`, the averages become the weights.
        self.model.optimizer.finalize_variable_values(
            self.model.trainable_weights
        )

    def _evaluate(self, blocks):
        if self.backend == "fit":
            results = fit.evaluate(self.model, blocks)
        else:
            results = self._steps_on(self.backend).evaluate(blocks)
        accuracies = [v for k, v in results.items() if _is_accuracy(k)]
        return results["loss"], (accuracies or [float("nan")])[0]

    def _steps_on(self, backend):
        """The compiled functions, traced anew if the model was changed."""
        parts = _compiled_parts(self.model)
        if list(map(id, parts)) != list(map(id, self._compiled_for or ())):
            # Holding the parts keeps their ids from being used again.
            self._compiled, self._compiled_for = {}, parts
        if backend not in self._compiled:
            self._compiled[backend] = CompiledSteps(
                self.model, backend, self._train_data
            )
        return self._compiled[backend]

    def _build(self):
        """Creates every variable now: compiled functions must not."""
        batch = keras.tree.map_structure(
            lambda t: t[: self.batch_size], self._train_data
        )
        # Private, but what `fit` does first; there is no public way to build
        # the metrics without training a step.
        with self.model.distribute_strategy.scope():
            self.model._symbolic_build(data_batch=batch)


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
    def tensor(array):
        floating = np.issubdtype(array.dtype.as_numpy_dtype, np.floating)
        return tf.cast(array, keras.config.floatx()) if floating else array

    return keras.tree.map_structure(
        lambda leaf: tensor(tf.convert_to_tensor(leaf)), tuple(data)
    )


def _compiled_parts(model):
    """What a trace holds on to: with other parts it would be out of date."""
    weights = model.trainable_weights
    return [
        type(model),
        model.optimizer,
        model._compile_loss,
        model._compile_metrics,
        *weights,
        *(weight.constraint for weight in weights),
    ]


def _is_accuracy(name):
    return name == "acc" or name.endswith("accuracy")
