"""What a model computes, found by tracing one forward pass.

To find the output layers, the graph is walked backwards from each output to
the kernels that no other kernel follows. (The end of a residual block is none:
it is also added to what the next block computes from it.) Activations,
reshapes, normalisation and several heads are passed through without knowing
them, and it makes no difference whether the model is Sequential, functional,
nested or subclassed with its own `call`.
"""

import itertools

import keras
import tensorflow as tf

from keras_lottery import keras_internals
from keras_lottery.replicas import copies

# What they tell of data is no data: a layer's output shape may be computed
# from that of the layer before.
_OF_SHAPE = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}


_WHAT_TO_DO = (
    "Train it by `fit`; or show it a batch by `lottery.attach((x,))`, where x "
    "is a dict by name if `call` has several arguments; or give `output_rate` "
    "the value of `rate` to prune all layers alike, with rates={...} for those "
    "that differ."
)


class TracingError(ValueError):
    """The model could not be traced."""


def output_variables(model, variables, data=None):
    """The variables among `variables` that are nearest to the outputs.

    Args:
        model: a built `keras.Model`.
        variables: list of `keras.Variable`, the kernels to look for.
        data: optional batch of inputs, if the model does not know its own
            input shapes.

    Returns:
        A list of `keras.Variable`: those that meet the data on the way to an
        output and are followed by no other kernel.

    Raises:
        TracingError: If the model cannot be traced.
    """
    graph = trace(model, data)
    captured = {inner.name for _, inner in graph.captures}
    inputs = [t for t in graph.inputs if t.name not in captured]
    handles = {id(c.handle): id(v) for v in variables for c in copies(v)}
    kernels = {
        inner.name: {handles[id(outer)]}
        for outer, inner in graph.captures
        if id(outer) in handles
    }
    met = _kernels_met_by_data(graph, inputs, kernels)
    found = set()
    for output in graph.outputs:
        found |= _last_kernels(graph.get_operations(), met, output.op)
    return [v for v in variables if id(v) in found]


def _last_kernels(operations, met, end):
    """The kernels that no other follows on the way to one operation."""
    # What the data meets between an operation and the end.
    later, last = {end.name: set()}, set()
    for operation in reversed(operations):
        if operation.name not in later or operation.name not in met:
            continue
        own, after = met[operation.name], later[operation.name]
        if not after - own:
            last |= own
        for tensor in operation.inputs:
            later.setdefault(tensor.op.name, set()).update(after | own)
    return last


def _kernels_met_by_data(graph, inputs, kernels):
    """Dict: operation that works on data -> the kernels it works with.

    `kernels` maps a tensor's name to the kernels it is computed from.
    """
    data, met = {t.name for t in inputs}, {}
    for operation in graph.get_operations():
        constant, on_data = set(), False
        if operation.type in _OF_SHAPE:
            continue
        for tensor in operation.inputs:
            if tensor.name in data:
                on_data = True
            else:
                constant |= kernels.get(tensor.name, set())
        for tensor in operation.outputs:
            if on_data:
                data.add(tensor.name)
            elif constant:
                kernels[tensor.name] = constant
        if on_data:
            met[operation.name] = constant
    return met


def trace(model, data=None, training=False):
    """The graph of a model's forward pass, which builds what it uses.

    Args:
        model: a built `keras.Model`.
        data: optional batch of inputs, if the model does not know its own
            input shapes.
        training: bool, passed on to `call`.

    Returns:
        A `tf.Graph`.

    Raises:
        TracingError: If the model cannot be traced.
    """
    problem = None
    for args, kwargs in _input_specs(model, data):
        try:
            return _forward_graph(model, args, kwargs, training)
        except Exception as error:
            problem = problem or error
    raise TracingError(
        "The output layers could not be found, because the model could not be "
        f"traced ({type(problem).__name__}: {problem}). {_WHAT_TO_DO}"
    ) from problem


def operations(model, inputs):
    """The kinds of operation that a forward pass in training consists of.

    Args:
        model: a built `keras.Model`.
        inputs: batch of inputs, or `tf.TensorSpec`s of one.

    Returns:
        A set of str, the types of TensorFlow operations, including those in
        the bodies of loops, branches and functions.

    Example:

    ```python
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    assert "MatMul" in operations(model, np.zeros((1, 4), "float32"))
    ```
    """
    spec = keras.tree.map_structure(
        lambda x: tf.TensorSpec((None, *x.shape[1:]), x.dtype), inputs
    )
    graph = _forward_graph(model, [spec], {}, training=True).as_graph_def()
    bodies = [function.node_def for function in graph.library.function]
    return {node.op for nodes in (graph.node, *bodies) for node in nodes}


def _forward_graph(model, args, kwargs, training=False):
    training = keras_internals.training_argument(model, training)

    def forward(*args, **kwargs):
        return model(*args, **kwargs, **training)

    with tf.init_scope():
        function = tf.function(forward, autograph=False)
        return function.get_concrete_function(*args, **kwargs).graph


def _input_specs(model, data):
    """The arguments of `call` to try, as pairs (positional, by name)."""
    if data is not None:
        spec = keras.tree.map_structure(_spec, data)
        yield [spec], {}
        # A `call` with several arguments.
        if isinstance(spec, dict):
            yield [], spec
        elif isinstance(spec, (list, tuple)):
            yield spec, {}
        return
    if getattr(model, "inputs", None):
        # A functional model may take a dict; its `inputs` are always flat.
        inputs = keras_internals.input_structure(model)
        if isinstance(model, keras.Sequential):
            (inputs,) = model.inputs
        yield [keras.tree.map_structure(_spec, inputs)], {}
        return
    # A subclassed model remembers the shapes that it was built with.
    shapes = keras_internals.shapes_built_with(model)
    if not shapes:
        raise TracingError(
            "The output layers could not be found: the model does not know "
            f"the shapes of its inputs. {_WHAT_TO_DO}"
        )
    # It does not remember the types: indices of an embedding are integers.
    types = keras.backend.floatx(), "int32"
    for dtypes in itertools.product(types, repeat=min(len(shapes), 4)):
        specs = [
            keras.tree.map_shape_structure(
                lambda s, dtype=dtype: tf.TensorSpec(s, dtype), shape
            )
            for shape, dtype in zip(shapes.values(), itertools.cycle(dtypes))
        ]
        names = [name.removesuffix("_shape") for name in shapes]
        yield (specs, {}) if len(specs) == 1 else ([], dict(zip(names, specs)))


def _spec(value):
    if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
        return tf.type_spec_from_value(value)
    return tf.TensorSpec(value.shape, value.dtype)
