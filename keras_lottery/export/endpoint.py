"""Endpoint: all that a request goes through, from names to names."""

import contextlib
import re

import keras
import numpy as np
import tensorflow as tf

from keras_lottery.export.naming import name_leaves

_BATCH = 256


class Endpoint:
    """A Keras model as a function of named tensors.

    The same object computes what is expected, in eager mode, and is traced
    into the function that is served.

    Args:
        model: built `keras.Model`, or one that `examples` show how to call.
        preprocess: optional callable of one argument, the raw inputs. What
            it takes is its `input_signature` if it is a `tf.function` that
            has one, else what `examples` are.
        softmax: bool, whether softmax is applied to every output.
        examples: optional nest of arrays, as the model (or `preprocess`)
            takes them; the first axis counts examples.

    Attributes:
        inputs: dict, name -> `tf.TensorSpec`, the first axis `None`.

    Raises:
        ValueError: If it cannot be known what the model takes.
    """

    def __init__(self, model, preprocess=None, softmax=False, examples=None):
        self._model, self._preprocess = model, preprocess
        self._softmax = softmax
        shown = _shown(model, preprocess, examples)
        self._takes = _any_batch(shown)
        self._output_names = None
        if getattr(model, "outputs", None):
            self._output_names = name_leaves(_nest(model, "output"), "output")
        specs = keras.tree.flatten(self._takes)
        self.inputs = {
            name: tf.TensorSpec(spec.shape, spec.dtype, name)
            for name, spec in zip(name_leaves(shown, "input"), specs)
        }

    def of(self, model):
        """The same endpoint with another model, which takes and gives the
        same."""
        other = object.__new__(Endpoint)
        vars(other).update(vars(self), _model=model)
        return other

    def __call__(self, inputs):
        """Dict, name -> tensor, to dict, name -> tensor."""
        return self._finished(self._run(inputs))

    def answers(self, inputs):
        """What the Keras model makes of examples, in eager mode.

        Args:
            inputs: dict, name -> array.

        Returns:
            A dict, name -> array.
        """
        pairs, count = inputs.items(), len(next(iter(inputs.values())))
        with _explained():
            parts = [
                self({n: tf.constant(a[i : i + _BATCH]) for n, a in pairs})
                for i in range(0, count, _BATCH)
            ]
        return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}

    def trace(self):
        """The function to be served: a `ConcreteFunction`, any batch size.

        Raises:
            ValueError: With the reason, if TensorFlow alone cannot run it.
        """

        def serve(**inputs):
            with _explained():
                outputs = self._run(inputs)
            _check_outputs(outputs, self._softmax)
            return self._finished(outputs)

        function = tf.function(serve, autograph=False)
        concrete = function.get_concrete_function(**self.inputs)
        _check_operations(concrete.graph)
        return concrete

    def _run(self, inputs):
        x = [inputs[name] for name in self.inputs]
        x = keras.tree.pack_sequence_as(self._takes, x)
        if self._preprocess is not None:
            x = self._preprocess(x)
        # Keras passes `training` on to a `call` that does not take it.
        takes_training = self._model._call_has_training_arg
        y = self._model(x, **({"training": False} if takes_training else {}))
        names = self._output_names or name_leaves(y, "output")
        return dict(zip(names, keras.tree.flatten(y)))

    def _finished(self, outputs):
        if self._softmax:
            outputs = {n: tf.nn.softmax(y) for n, y in outputs.items()}
        # A name of their own in the graph, even where two are one tensor.
        return {n: tf.identity(y, n) for n, y in outputs.items()}


def _shown(model, preprocess, examples):
    """Nest of whatever shows best what one call takes."""
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
        return keras.tree.map_structure(_as_keras_takes, examples)
    # A subclassed model remembers the shapes it was built with.
    shapes = getattr(model, "_build_shapes_dict", None)
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


def _any_batch(nest):
    return keras.tree.map_structure(
        lambda x: tf.TensorSpec((None, *x.shape[1:]), x.dtype), nest
    )


def _as_keras_takes(array):
    array = np.asarray(array)
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(keras.config.floatx())
    return array


@contextlib.contextmanager
def _explained():
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
    """Refuses what is no operation but a way back into this process."""
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
