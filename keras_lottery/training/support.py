"""What the compiled loop cannot train faithfully, and why."""

import keras
import numpy as np
import tensorflow as tf

_STOCK_METHODS = ("train_step", "test_step", "make_train_function")


def unsupported(model, x=None, y=None, callbacks=None, class_weight=None):
    """Says why a training must be left to `fit`, if it must.

    Args:
        model: The model.
        x: The training inputs, if known.
        y: The training targets, if known.
        callbacks: The callbacks `fit` would get. The compiled loop calls
            none.
        class_weight: The class weights `fit` would get.

    Returns:
        One reason as a string, or `None` if the compiled loop trains the
        model as `fit` would.

    Example:

    ```python
    reason = unsupported(model)
    if reason:
        print(f"Training with fit: {reason}")
    ```
    """
    if not getattr(model, "compiled", False):
        return "the model is not compiled"
    for method in _STOCK_METHODS:
        owner = _defined_by(model, method)
        if owner is not None:
            return f"{owner} has a `{method}` of its own"
    if model.run_eagerly:
        return "the model was compiled with `run_eagerly=True`"
    if model.distribute_strategy.num_replicas_in_sync > 1:
        return "the model is distributed over several replicas"
    if class_weight is not None:
        return "`class_weight` is given"
    if callbacks:
        return "callbacks are given"
    for name, value in (("x", x), ("y", y)):
        if value is not None and not _is_arrays(value):
            return f"`{name}` is a {type(value).__name__}, not arrays"
    return None


def _defined_by(model, method):
    """Name of the class that overrides a method of Keras, or `None`."""
    for cls in type(model).__mro__:
        if method in vars(cls) and not cls.__module__.startswith(
            "keras_lottery."
        ):
            stock = cls.__module__.split(".")[0] == "keras"
            return None if stock else cls.__name__
    return None


def _is_arrays(value):
    return all(
        isinstance(leaf, (np.ndarray, tf.Tensor))
        for leaf in keras.tree.flatten(value)
    )
