"""The round's hook into `fit`."""

import inspect

import keras


class RoundCallback(keras.callbacks.Callback):
    """Tells the pruner that training starts, and for how long."""

    def __init__(self, pruner):
        super().__init__()
        self.pruner = pruner

    def on_train_begin(self, logs=None):
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        self.pruner.begin(steps * epochs if steps and epochs else None)


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
