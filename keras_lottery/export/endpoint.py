"""Endpoint: a Keras model as a function of named tensors, as it is served.

Here are also the names of inputs and outputs, and the example arrays that an
exported model is verified on.
"""

import contextlib
import re

import keras
import numpy as np
import tensorflow as tf

from keras_lottery.keras_internals import (
    operation_of,
    shapes_built_with,
    training_argument,
)

_BATCH = 256
# Number of random examples, and the length of an axis of free length.
_COUNT, _LENGTH = 32, 16


class Endpoint:
    """A Keras model as a function of named tensors.

    The same object computes the expected outputs, in eager mode, and is
    traced into the function that is served.

    Args:
        model: `keras.Model`, built, or not if `examples` are given.
        preprocess: optional callable of one argument, the raw inputs. They
            are specified by its `input_signature` if it is a `tf.function`
            that has one, else by `examples`.
        softmax: bool, whether softmax is applied to every output.
        examples: optional nest of arrays, as the model (or `preprocess`)
            takes them; the first axis counts examples.

    Attributes:
        inputs: dict, name -> `tf.TensorSpec`, the first axis `None`.

    Raises:
        ValueError: If the inputs of the model are not known.
    """

    def __init__(self, model, preprocess=None, softmax=False, examples=None):
        self._model, self._preprocess = model, preprocess
        self._softmax = softmax
        inputs = _inputs_of(model, preprocess, examples)
        self._structure = _with_any_batch(inputs)
        self._output_names = None
        if getattr(model, "outputs", None):
            self._output_names = name_leaves(_nest(model, "output"), "output")
        specs = keras.tree.flatten(self._structure)
        self.inputs = {
            name: tf.TensorSpec(spec.shape, spec.dtype, name)
            for name, spec in zip(name_leaves(inputs, "input"), specs)
        }

    def of(self, model):
        """The same endpoint of another model with the same inputs and
        outputs."""
        other = object.__new__(Endpoint)
        vars(other).update(vars(self), _model=model)
        return other

    def __call__(self, inputs):
        """Dict, name -> tensor, to dict, name -> tensor."""
        return self._finished(self._run(inputs))

    def answers(self, inputs):
        """The outputs of the Keras model for examples, in eager mode.

        Args:
            inputs: dict, name -> array.

        Returns:
            A dict, name -> array.
        """
        pairs, count = inputs.items(), len(next(iter(inputs.values())))
        with _readable_errors():
            parts = [
                self({n: tf.constant(a[i : i + _BATCH]) for n, a in pairs})
                for i in range(0, count, _BATCH)
            ]
        return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}

    def given(self, inputs):
        """What the model itself is given for examples.

        Args:
            inputs: dict, name -> array.

        Returns:
            A nest of arrays, as the model takes them.
        """
        with _readable_errors():
            x = self._prepared({n: tf.constant(a) for n, a in inputs.items()})
        return keras.tree.map_structure(np.asarray, x)

    def trace(self):
        """The function to be served: a `ConcreteFunction`, any batch size.

        Raises:
            ValueError: With the reason, if TensorFlow alone cannot run it.
        """

        def serve(**inputs):
            with _readable_errors():
                outputs = self._run(inputs)
            _check_outputs(outputs, self._softmax)
            return self._finished(outputs)

        function = tf.function(serve, autograph=False)
        concrete = function.get_concrete_function(**self.inputs)
        _check_operations(concrete.graph)
        return concrete

    def _prepared(self, inputs):
        x = [inputs[name] for name in self.inputs]
        x = keras.tree.pack_sequence_as(self._structure, x)
        return x if self._preprocess is None else self._preprocess(x)

    def _run(self, inputs):
        x = self._prepared(inputs)
        y = self._model(x, **training_argument(self._model, False))
        names = self._output_names or name_leaves(y, "output")
        return dict(zip(names, keras.tree.flatten(y)))

    def _finished(self, outputs):
        if self._softmax:
            outputs = {n: tf.nn.softmax(y) for n, y in outputs.items()}
        # So that each has a name in the graph, even if two are one tensor.
        return {n: tf.identity(y, n) for n, y in outputs.items()}


def _inputs_of(model, preprocess, examples):
    """Nest of tensors, specs or arrays: the inputs of one call."""
    if preprocess is not None:
        signature = getattr(preprocess, "input_signature", None)
        if signature is not None:
            return _one_argument(signature)
        if examples is None:
            raise ValueError(
                "`examples` must be given with `preprocess`, raw as it takes "
                "them, unless it is a `tf.function` with an `input_signature`."
            )
        return keras.tree.map_structure(np.asarray, examples)
    if getattr(model, "inputs", None):
        for tensor in model.inputs:
            if tensor.sparse:
                raise ValueError(
                    "`model` must take dense tensors to be served. Received: "
                    f"model={model.name!r} with the sparse input {tensor.name}"
                )
        return _nest(model, "input")
    if examples is not None:
        return keras.tree.map_structure(_in_floatx, examples)
    shapes = shapes_built_with(model)
    if not shapes or len(shapes) != 1:
        raise ValueError(
            "`examples` must be given, since the model does not know what it "
            f"takes. Received: model={model.name!r}, examples=None"
        )
    return keras.tree.map_shape_structure(
        lambda shape: tf.TensorSpec(shape, keras.config.floatx()),
        *shapes.values(),
    )


def _nest(model, end):
    """The symbolic inputs or outputs of a functional or Sequential model."""
    if isinstance(model, keras.Sequential):
        # As a layer of another model, its `input` would be that one's.
        (tensor,) = getattr(model, f"{end}s")
        return tensor
    return getattr(model, end)


def _one_argument(signature):
    if len(signature) != 1:
        raise ValueError(
            "`preprocess` must take one argument, a nest if there are several "
            f"inputs. Received: input_signature={signature!r}"
        )
    return signature[0]


def _with_any_batch(nest):
    return keras.tree.map_structure(
        lambda x: tf.TensorSpec((None, *x.shape[1:]), x.dtype), nest
    )


def _in_floatx(array):
    array = np.asarray(array)
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(keras.config.floatx())
    return array


@contextlib.contextmanager
def _readable_errors():
    try:
        yield
    except Exception as error:
        raise ValueError(
            "`model` must be one that TensorFlow can run on `examples` and "
            "trace with any batch size. Received one that fails with "
            f"{type(error).__name__}: {_reason(error)}"
        ) from error


def _reason(error):
    """The line of a Keras error that says what went wrong."""
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).splitlines()
    told = [line for line in lines if line and "encountered" not in line]
    return told[0] if told else "no reason given"


def _check_outputs(outputs, softmax):
    for name, tensor in outputs.items():
        if tensor.shape.rank == 0:
            raise ValueError(
                "`model` must give a row for each example. Received: output "
                f"{name!r}, which is one number for all of them."
            )
        if not softmax:
            continue
        if tensor.shape.rank == 1 or tensor.shape[-1] == 1:
            raise ValueError(
                "`softmax` must be False where an output is a single number. "
                f"Received: output {name!r} of shape {tensor.shape}"
            )
        operation = tensor.op
        while operation.type in ("Identity", "Cast"):
            operation = operation.inputs[0].op
        if operation.type == "Softmax":
            raise ValueError(
                "`softmax` must be False, since the model ends in a softmax. "
                f"Received: output {name!r}"
            )


def _check_operations(graph):
    """Refuses operations that call Python functions of this process."""
    definition = graph.as_graph_def()
    nodes = [*definition.node]
    for function in definition.library.function:
        nodes.extend(function.node_def)
    for node in nodes:
        if node.op in ("PyFunc", "PyFuncStateless", "EagerPyFunc"):
            raise ValueError(
                "`model` must not call Python functions (tf.py_function, "
                "tf.numpy_function), which no server has. Received one as "
                f"{node.name!r}"
            )


def name_leaves(nest, word):
    """Names the leaves of a nest of inputs or outputs.

    Dictionary keys and the names that an author gave to layers or specs are
    kept. Automatic names such as `dense_3` depend on what else was built in
    the same process, so these leaves are called `"inputs"`, or `"input_1"`,
    `"input_2"` if there are several.

    Args:
        nest: nest of `keras.KerasTensor`, `tf.TensorSpec` or tensors.
        word: str, `"input"` or `"output"`.

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
        # Two outputs of one layer are numbered.
        names = [f"{name}_{i}" for i, name in enumerate(names, 1)]
    return names


def _of_path(path):
    if any(isinstance(key, str) for key in path):
        return "_".join(map(str, path))
    return None


def _of_leaf(leaf):
    if isinstance(leaf, keras.KerasTensor):
        layer = operation_of(leaf)
        return None if _is_automatic(layer) else layer.name
    # The names of a graph's tensors are automatic.
    return leaf.name if isinstance(leaf, tf.TensorSpec) else None


def _is_automatic(layer):
    """Whether a layer's name is its class's, perhaps with a number."""
    stem = re.sub(r"_\d+$", "", layer.name).replace("_", "")
    return stem.lower() == type(layer).__name__.replace("_", "").lower()


def named_examples(inputs, examples=None):
    """Example arrays by the names of a signature.

    Args:
        inputs: dict, name -> `tf.TensorSpec`.
        examples: optional nest of arrays with a common first axis, or a dict
            of them by the names of inputs. Defaults to 32 random ones, from a
            fixed seed: normal floats, unsigned bytes, other integers 0 or 1.
            An axis of free length has 16.

    Returns:
        A dict, name -> array.

    Raises:
        ValueError: If they do not fit, or cannot be drawn.
    """
    if examples is None:
        draw = np.random.default_rng(0)
        return {n: _random(n, spec, draw) for n, spec in inputs.items()}
    if isinstance(examples, dict) and examples.keys() == inputs.keys():
        arrays = [examples[name] for name in inputs]
    else:
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
    # Strings stay objects, which have any length.
    kind = spec.dtype.as_numpy_dtype
    return array if kind is np.object_ else array.astype(kind)


def _random(name, spec, draw):
    shape = [_LENGTH if s is None else s for s in spec.shape]
    shape[0] = _COUNT
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
