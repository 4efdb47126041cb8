"""The hooks of a search into `fit`: where it begins, each step, its end."""

import contextlib
import functools
import inspect
import warnings

import keras
import numpy as np

from keras_lottery import backend, rewinding
from keras_lottery.checks import check_arguments, check_integer
from keras_lottery.keras_internals import forget_initial_epoch, overridden_by
from keras_lottery.optimizers import variables_of
from keras_lottery.state import TRAINING

# The methods of a model by which it tells of its training steps.
TRAINING_METHODS = ("make_train_function", "train_step", "_symbolic_build")

_GO_ON = (
    "`lottery.rewind()` starts the level again; another `fit` goes on from "
    "the weights as they are."
)
_NO_WEIGHTS_BACK = (
    "By this `rewind_to` no weights go back: give the model weights that are "
    "numbers (`load_weights`, `set_weights`) before another `fit`."
)


class FitHooks:
    """What a `LotteryTicketPruner` does while `fit` trains.

    Args:
        pruner: `LotteryTicketPruner`.

    Attributes:
        problem: the error that tells why a level was not trained, or `None`.
    """

    def __init__(self, pruner):
        self.pruner = pruner
        self.problem = None
        # Values that callbacks change before an optimizer is built.
        self.at_begin = {}
        # Epochs that the level was trained for, and at which of them its
        # validation loss was measured.
        self.epochs, self.evaluated = 0, []
        self._began, self._resumed, self._delayed = False, False, None
        # Steps of the level that were taken before it came from a file.
        self._steps_before = 0
        self._steps = backend.StepCounter()

    def call(self, fit, args, kwargs):
        """Calls `fit` with the callback that tells where training begins."""
        if not takes_callbacks(fit):
            self.begin()
            return fit(*args, **kwargs)
        callback = RoundCallback(self)
        args, kwargs = with_callback(fit, callback, args, kwargs)
        return fit(*args, **kwargs)

    def untouched(self, train):
        """Calls `train`, which is no round."""
        try:
            return train()
        finally:
            if self.pruner.attached:
                self.pruner.state.touched()

    def begin(self, steps=None):
        """Called when training starts: takes the rewind point at level 0.

        Args:
            steps: optional int, the steps it will take, if that is known.
        """
        pruner, state = self.pruner, self.pruner.state
        pruner.attach()
        if pruner.attached:
            pruner.attachment.apply_masks()
            pruner.attachment.clear_pruned_slots()
        forget_initial_epoch(pruner.model)
        if pruner.resting:
            return
        late = pruner.rewind_to if isinstance(pruner.rewind_to, int) else 0
        if not state.captured and steps is not None and 0 < steps < late:
            raise ValueError(
                "`rewind_to` must be a step that the first training reaches. "
                f"Received: rewind_to={late}, and a training of {steps} steps."
            )
        if state.phase != TRAINING:
            self.epochs = 0
        first = state.begin()
        optimizers = pruner.optimizers()
        self._began = state.in_fit = True
        self.evaluated = []
        self._steps.restart()
        self.at_begin = {
            name: rewinding.copies_of(variables_of(optimizer))
            for name, optimizer in optimizers.items()
            if not optimizer.built
        }
        if late and (first or self._delayed is None and self._is_due(late)):
            self._delayed = rewinding.DelayedCapture(
                pruner.model, late, pruner.optimizers
            )
            self._delayed.restart(0 if first else self._steps_before)
            # One compiled before, while paused, would not count.
            pruner.model.make_train_function(force=True)

    def _is_due(self, late):
        """Whether the rewind point is still to be captured at that step."""
        point = self.pruner.state.point
        return not self.pruner.level and point is not None and point.step < late

    def before_epoch(self, epoch):
        """Called before each epoch; `epoch` counts from 0."""
        if self._resumed:
            self.epochs, self._resumed = epoch, False

    def after_epoch(self, evaluated):
        """Called after each epoch; `evaluated` if there is a new loss."""
        self.epochs += 1
        if evaluated:
            self.evaluated.append(self.epochs)

    def evaluated_at(self, history):
        """The step of each validation loss of a training, or `None`.

        Args:
            history: Keras' `History`, or `None`.
        """
        if history is None or not history.params.get("steps"):
            return None
        epochs = self.evaluated
        losses = history.history.get("val_loss", [])
        if len(epochs) != len(losses):
            epochs = range(1, len(losses) + 1)
        return [epoch * history.params["steps"] for epoch in epochs]

    def after_step(self, data, *scope):
        """Called after each training step, perhaps as a part of it.

        Args:
            data: its batch.
            *scope: optional, as in `backend.StepCounter`.
        """
        self._steps.after_step(data, *scope)
        if self._delayed is not None and not self.pruner.is_paused:
            self._delayed.after_step(data, *scope)

    def rewound(self):
        """Called when the search was rewound: training starts over."""
        self._steps_before = 0
        if self._delayed is not None:
            self._delayed.restart()

    @contextlib.contextmanager
    def watched(self):
        """Around a training: an error is told what it means for the level,
        and a rewind point past step 0 is taken over in the end."""
        self._began, self.problem = False, None
        try:
            yield
            if self._took_a_step():
                self._take_delayed()
        except BaseException as error:
            if self._began:
                error.add_note(
                    f"Level {self.pruner.level} was not trained to its end: "
                    f"it was neither recorded nor pruned. {_GO_ON}"
                )
            raise
        finally:
            self.pruner.state.in_fit = False
            if self.pruner.attached:
                self.pruner.state.note_learning_rates()

    def _took_a_step(self):
        """Whether `fit` trained: not if there was no epoch or no data."""
        own_fit = overridden_by(self.pruner.model, "fit")
        return not self._began or bool(own_fit or self._steps.steps)

    def failed(self):
        """Whether training left nothing to record, of which it warns."""
        level = self.pruner.level
        if not self._took_a_step():
            self.pruner.state.nothing_trained()
            self.problem = ValueError(
                "`fit` must train for at least one step. Received: no data, "
                "or no epoch (`epochs`, `initial_epoch`). Level "
                f"{level} was neither recorded nor pruned."
            )
            warnings.warn(str(self.problem), stacklevel=5)
            return True
        path = rewinding.path_with_nan(self.pruner.model)
        if path is not None:
            self.problem = FloatingPointError(
                f"Level {level} was not trained: its weights are NaN. Try a "
                "smaller learning rate."
            )
            weights, _ = rewinding.parts_rewound(self.pruner.rewind_to)
            advice = _GO_ON if weights else _NO_WEIGHTS_BACK
            warnings.warn(
                f"Training level {level} left NaN in {path}: it was neither "
                f"recorded nor pruned. Set a smaller learning rate. {advice}",
                stacklevel=5,
            )
        return path is not None

    def late_rewind_point(self):
        """The rewind point past step 0 if it was reached, or `None`.

        One with NaN is none: that training begins again where it began.
        """
        if not self._delayed or self._delayed.steps < self._delayed.step:
            return None
        point = self._delayed.rewind_point()
        nan = any(np.isnan(array).any() for array in point.weights.values())
        return None if nan else point

    def steps_to_capture(self):
        """The steps that were counted on the way to a rewind point."""
        if self._delayed is not None:
            return self._delayed.steps
        return self._steps_before

    def resumed(self, steps):
        """Called when a search was loaded, perhaps inside `fit`."""
        self._resumed, self._steps_before = True, steps
        if self._delayed is not None:
            if self.pruner.rewind_point.step or self.pruner.level:
                self._delayed = None
            else:
                self._delayed.restart(steps)

    def _take_delayed(self):
        if self._delayed is None or self.pruner.is_paused:
            return
        if self._delayed.steps < self._delayed.step:
            raise ValueError(
                "`rewind_to` must be a step that the first training reaches. "
                f"Received: rewind_to={self._delayed.step}, and it ended at "
                f"step {self._delayed.steps}."
            )
        point = self.late_rewind_point()
        if point is None:
            return
        self.pruner.state.point, self._delayed = point, None
        # The copies in the compiled step are not needed any more.
        self.pruner.model.train_function = None

    @contextlib.contextmanager
    def fitting(self, rounds, arguments):
        """The model's own `fit`, if `find` can call it so.

        Meanwhile a model that is not wrapped tells of its training steps.

        Args:
            rounds: int, how many `find` is to go on to.
            arguments: dict, what it gives to `fit`.

        Raises:
            TypeError: If `fit` does not take an argument.
            ValueError: If an argument is wrong.
        """
        model = self.pruner.model
        own_class = getattr(type(model), "unwrapped_class", None)
        fit = functools.partial((own_class or type(model)).fit, model)
        check_fit_arguments("find", fit, arguments, ("rounds",))
        if rounds is None:
            raise ValueError(
                "`rounds` must be given: `find(x, y, rounds=3)`, or "
                "`wrap(model, rounds=3)`. Received: rounds=None"
            )
        check_integer("rounds", rounds, minimum=0)
        with contextlib.nullcontext() if own_class else self.stepping():
            yield fit

    @contextlib.contextmanager
    def stepping(self):
        """Has a model that is not wrapped tell of its training steps."""
        model = self.pruner.model
        model.train_function = None
        for name in TRAINING_METHODS:
            vars(model)[name] = functools.partial(
                getattr(backend, name.lstrip("_")),
                self.pruner,
                getattr(model, name),
            )
        try:
            yield
        finally:
            for name in TRAINING_METHODS:
                del vars(model)[name]
            model.train_function = None


class RoundCallback(keras.callbacks.Callback):
    """Tells the hooks that training starts, and for how long."""

    def __init__(self, hooks):
        super().__init__()
        self.hooks = hooks

    def on_train_begin(self, logs=None):
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        self.hooks.begin(steps * epochs if steps and epochs else None)

    def on_epoch_begin(self, epoch, logs=None):
        self.hooks.before_epoch(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.hooks.after_epoch("val_loss" in (logs or {}))


def check_fit_arguments(function, fit, given, others=()):
    """Refuses arguments that a `fit` would refuse after work was done.

    Args:
        function: str, what the arguments were given to.
        fit: bound method, perhaps with a signature of its own.
        given: dict, name -> value.
        others: names of arguments that `function` has beside those of `fit`.

    Raises:
        TypeError: If `fit` does not take one of them.
        ValueError: If one of them is wrong.
    """
    parameters = inspect.signature(fit).parameters
    if not _is_open_ended(parameters):
        check_arguments(function, given, [*others, *parameters])
    for name in ("epochs", "batch_size", "steps_per_epoch"):
        if given.get(name) is not None:
            check_integer(name, given[name], minimum=1)


def takes_callbacks(fit):
    """Whether a method has the argument `callbacks` of Keras' `fit`."""
    parameters = inspect.signature(fit).parameters
    return "callbacks" in parameters or _is_open_ended(parameters)


def _is_open_ended(parameters):
    kinds = [parameter.kind for parameter in parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def with_callback(fit, callback, args, kwargs):
    """The arguments of a call of `fit`, with one callback more, the first.

    Args:
        fit: bound method, perhaps with a signature of its own.
        callback: `keras.callbacks.Callback`.
        args: tuple, positional arguments.
        kwargs: dict, keyword arguments.

    Returns:
        A pair (args, kwargs).
    """
    bound = inspect.signature(fit).bind_partial(*args, **kwargs)
    if "callbacks" in bound.signature.parameters:
        arguments = bound.arguments
    else:
        arguments = bound.kwargs
    given = arguments.get("callbacks")
    if isinstance(given, keras.callbacks.CallbackList):
        # The same list may come again; it holds one of ours at most.
        others = [
            c for c in given.callbacks if not isinstance(c, RoundCallback)
        ]
        given.callbacks[:] = [callback, *others]
        callback.set_model(given.model)
        callback.set_params(given.params)
    else:
        arguments["callbacks"] = [callback, *keras.tree.flatten(given or [])]
    if arguments is bound.arguments:
        return bound.args, bound.kwargs
    return bound.args, arguments
