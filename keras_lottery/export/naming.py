"""Names of inputs and outputs: stable, whatever Keras counted up to today.

A name that the author of a model gave stays. `keras_tensor_12` or `dense_3`
depends on what else was built in the same process, so it is replaced.
"""

import re

import keras
import tensorflow as tf


def name_leaves(nest, word):
    """Names the leaves of a nest of inputs or outputs.

    Dictionary keys and the given names of layers or specs are kept; what has
    neither is called `"inputs"`, or `"input_1"`, `"input_2"` if it is one of
    several.

    Args:
        nest: nest of `keras.KerasTensor`, `tf.TensorSpec` or tensors.
        word: str, what one of them is: `"input"` or `"output"`.

    Returns:
        A list of different str, in the order of `keras.tree.flatten`.

    Example:

    ```python
    name_leaves({"left": tf.TensorSpec((None, 4))}, "input")  # ["left"]
    ```
    """
    leaves = keras.tree.flatten_with_path(nest)
    default = [f"{word}_{i}" for i in range(1, len(leaves) + 1)]
    if len(leaves) == 1:
        default = [f"{word}s"]
    names = [
        _of_path(path) or _of_leaf(leaf) or name
        for (path, leaf), name in zip(leaves, default)
    ]
    names = [re.sub(r"\W", "_", name, flags=re.ASCII) for name in names]
    if len(set(names)) < len(names):
        # Two outputs of one layer: told apart by their places.
        names = [f"{name}_{i}" for i, name in enumerate(names, 1)]
    return names


def _of_path(path):
    if any(isinstance(key, str) for key in path):
        return "_".join(map(str, path))
    return None


def _of_leaf(leaf):
    if isinstance(leaf, keras.KerasTensor):
        # Keras keeps no public way from a tensor to its layer.
        layer = leaf._keras_history.operation
        return None if _is_automatic(layer) else layer.name
    # The names of a graph's tensors are of the graph's making.
    return leaf.name if isinstance(leaf, tf.TensorSpec) else None


def _is_automatic(layer):
    """Whether a layer's name is its class's, perhaps with a number."""
    stem = re.sub(r"_\d+$", "", layer.name).replace("_", "")
    return stem.lower() == type(layer).__name__.replace("_", "").lower()
