"""The examples that a model is checked on: a user's own, or made up."""

import keras
import numpy as np

_MADE_UP = 32
_LENGTH = 16


def named_examples(inputs, examples=None):
    """Arrays by name, as the signature takes them.

    Args:
        inputs: dict, name -> `tf.TensorSpec`.
        examples: optional nest of arrays with a common first axis. Defaults
            to 32 made up from a fixed seed: normal floats, bytes from 0 to
            255, other integers 0 or 1, and 16 for a length that is free.

    Returns:
        A dict, name -> array.

    Raises:
        ValueError: If they do not fit, or cannot be made up.
    """
    if examples is None:
        draw = np.random.default_rng(0)
        return {n: _made_up(n, spec, draw) for n, spec in inputs.items()}
    arrays = keras.tree.flatten(examples)
    if len(arrays) != len(inputs):
        raise ValueError(
            f"`examples` must hold {len(inputs)} arrays, for {list(inputs)}. "
            f"Received: {len(arrays)}"
        )
    named = {
        name: _fitted(name, spec, array)
        for (name, spec), array in zip(inputs.items(), arrays)
    }
    lengths = {len(array) for array in named.values()}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            "`examples` must be as many for every input, at least one. "
            f"Received: {[len(array) for array in named.values()]}"
        )
    return named


def _fitted(name, spec, array):
    array = np.asarray(array)
    if not spec.shape.is_compatible_with(array.shape):
        raise ValueError(
            f"`examples` must have shape {tuple(spec.shape)} for {name!r}. "
            f"Received: shape={array.shape}"
        )
    # Strings stay objects, of any length.
    kind = spec.dtype.as_numpy_dtype
    return array if kind is np.object_ else array.astype(kind)


def _made_up(name, spec, draw):
    shape = [_LENGTH if s is None else s for s in spec.shape]
    shape[0] = _MADE_UP
    kind = spec.dtype
    if kind.is_floating:
        return draw.normal(size=shape).astype(kind.as_numpy_dtype)
    if kind.is_bool or kind.is_integer:
        high = 256 if kind.size == 1 and kind.is_unsigned else 2
        return draw.integers(0, high, shape).astype(kind.as_numpy_dtype)
    raise ValueError(
        f"`examples` must be given, since {kind.name} cannot be made up for "
        f"{name!r}."
    )
