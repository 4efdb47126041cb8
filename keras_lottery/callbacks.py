"""The hooks of a search into `fit`: where it begins, each step, its end."""

import contextlib
import inspect
import warnings

import keras

from keras_lottery import rewinding

_GO_ON = (
    "`lottery.rewind()` starts the level again; another `fit` goes on from "
    "the weights as they are."
)


class FitHooks:
    """What a `LotteryTicketPruner` does while `fit` trains.

    Args:
        pruner: `LotteryTicketPruner`.
    """

    def __init__(self, pruner):
        self.pruner = pruner
        self.started = False
        # Values that callbacks change before an optimizer is built.
        self.at_begin = {}
        self._delayed = None

    def call(self, fit, args, kwargs):
        """Calls `fit` with the callback that tells where training begins."""
        callback = RoundCallback(self)
        args, kwargs = with_callback(fit, callback, args, kwargs)
        return fit(*args, **kwargs)

    def begin(self, steps=None):
        """Called when training starts: takes the rewind point at level 0.

        Args:
            steps: optional int, the steps it will take, if that is known.
        """
        pruner = self.pruner
        pruner.attach()
        pruner.clear_pruned_slots()
        if pruner.resting:
            return
        first = pruner.level == 0 and not self.started
        late = pruner.rewind_to if isinstance(pruner.rewind_to, int) else 0
        if first and steps is not None and steps < late:
            raise ValueError(
                "`rewind_to` must be a step that the first training reaches. "
                f"Received: rewind_to={late}, and a training of {steps} steps."
            )
        self.started = True
        if first and pruner.attached:
            pruner.capture()
        self.at_begin = {
            name: rewinding.copies_of(optimizer.variables)
            for name, optimizer in pruner.optimizers().items()
            if not optimizer.built
        }
        if first and late:
            self._delayed = rewinding.DelayedCapture(late)
            # One compiled before, while paused, would not count.
            pruner.model.make_train_function(force=True)

    def after_step(self, data):
        """Part of each compiled training step on a batch of data."""
        if self._delayed is not None and not self.pruner.is_paused:
            self._delayed.after_step(self.pruner.model, data)

    def rewound(self):
        """Called when the search was rewound: training starts over."""
        if self._delayed is not None:
            self._delayed.restart()

    @contextlib.contextmanager
    def watched(self):
        """Around a training: an error is told what it means for the level,
        and a rewind point past step 0 is taken over in the end."""
        try:
            yield
            self._take_delayed()
        except BaseException as error:
            if self.started:
                error.add_note(
                    f"Level {self.pruner.level} was not trained to its end: "
                    f"it was neither recorded nor pruned. {_GO_ON}"
                )
            raise

    def _take_delayed(self):
        if self._delayed is None or self.pruner.is_paused:
            return
        if self._delayed.steps < self._delayed.step:
            raise ValueError(
                "`rewind_to` must be a step that the first training reaches. "
                f"Received: rewind_to={self._delayed.step}, and it ended at "
                f"step {self._delayed.steps}."
            )
        self.pruner.rewind_point = self._delayed.rewind_point()
        self._delayed = None
        # The copies in the compiled step are not needed any more.
        self.pruner.model.train_function = None

    def left_nan(self):
        """Whether training left NaN in a weight, of which it warns."""
        for path, variable in rewinding.model_state(self.pruner.model).items():
            if keras.ops.any(keras.ops.isnan(variable)):
                warnings.warn(
                    f"Training level {self.pruner.level} left NaN in {path}: "
                    f"it was neither recorded nor pruned. {_GO_ON}",
                    stacklevel=5,
                )
                return True
        return False

    @contextlib.contextmanager
    def stepping(self):
        """Has a model that is not wrapped tell of its training steps."""
        model = self.pruner.model
        train_step, model.train_function = model.train_step, None

        def told(data):
            self.pruner.attach(data)
            logs = train_step(data)
            self.after_step(data)
            return logs

        vars(model)["train_step"] = told
        try:
            yield
        finally:
            del vars(model)["train_step"]
            model.train_function = None


class RoundCallback(keras.callbacks.Callback):
    """Tells the hooks that training starts, and for how long."""

    def __init__(self, hooks):
        super().__init__()
        self.hooks = hooks

    def on_train_begin(self, logs=None):
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        self.hooks.begin(steps * epochs if steps and epochs else None)


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
