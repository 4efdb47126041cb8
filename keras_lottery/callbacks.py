"""The round's hook into `fit`."""

import inspect

import keras


class RoundCallback(keras.callbacks.Callback):
    """Tells the pruner that training starts; refuses what cannot work."""

    def __init__(self, pruner):
        super().__init__()
        self.pruner = pruner

    def on_train_begin(self, logs=None):
        pruner = self.pruner
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        late = pruner.rewind_to
        if steps and epochs and isinstance(late, int) and pruner.level == 0:
            if steps * epochs < late:
                raise ValueError(
                    "`rewind_to` must be a step that the first training "
                    f"reaches. Received: rewind_to={late}, and {epochs} "
                    f"epochs of {steps} steps."
                )
        pruner.begin()


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
        given.append(callback)
        callback.set_model(given.model)
        callback.set_params(given.params)
    else:
        arguments["callbacks"] = [callback, *keras.tree.flatten(given or [])]
    if arguments is bound.arguments:
        return bound.args, bound.kwargs
    return args, arguments
