"""What a model computes, found by tracing one forward pass.

To find the output layers, the graph is walked backwards from each output to
the kernels that no other kernel follows. (The end of a residual block is none:
it is also added to what the next block computes from it.) Activations,
reshapes, normalisation and several heads are passed through without knowing
them, and it makes no difference whether the model is Sequential, functional,
nested or subclassed with its own `call`.
"""

import functools
import itertools

import keras

from keras_lottery import backend, keras_internals

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
    graph = _first_traced(
        model, data, lambda *call: backend.graph(*call, variables)
    )
    met = _kernels_met_by_data(graph)
    found = set()
    for output in graph.outputs:
        found |= _last_kernels(graph.operations, met, output)
    return [v for v in variables if id(v) in found]


def _last_kernels(operations, met, end):
    """The kernels that no other follows on the way to one tensor."""
    # What the data meets between a tensor and the end.
    later, last = {end: set()}, set()
    for (inputs, outputs), own in reversed(list(zip(operations, met))):
        reached = [later[tensor] for tensor in outputs if tensor in later]
        if not reached or own is None:
            continue
        after = set().union(*reached)
        if not after - own:
            last |= own
        for tensor in inputs:
            later.setdefault(tensor, set()).update(after | own)
    return last


def _kernels_met_by_data(graph):
    """List, for each operation: the kernels it works with.

    It is `None` for one that does not work on data.
    """
    # What a tensor is computed from, if that is no data.
    kernels = {key: {id(v)} for key, v in graph.variables.items()}
    data, met = set(graph.inputs), []
    for inputs, outputs in graph.operations:
        constant, on_data = set(), False
        for tensor in inputs:
            if tensor in data:
                on_data = True
            else:
                constant |= kernels.get(tensor, set())
        for tensor in outputs:
            if on_data:
                data.add(tensor)
            elif constant:
                kernels[tensor] = constant
        met.append(constant if on_data else None)
    return met


def build(model, data=None, training=False):
    """Builds what of a model a forward pass uses.

    Args:
        model: a built `keras.Model`.
        data: optional batch of inputs, if the model does not know its own
            input shapes.
        training: bool, passed on to `call`.

    Raises:
        TracingError: If the model cannot be traced.
    """
    _first_traced(model, data, backend.build, training)


def operations(model, inputs):
    """The kinds of operation that a forward pass in training consists of.

    Args:
        model: a built `keras.Model`.
        inputs: batch of inputs.

    Returns:
        A set of str, the backend's names of operations, including those in
        the bodies of loops, branches and functions.

    Example:

    ```python
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    assert "MatMul" in operations(model, np.zeros((1, 4), "float32"))
    ```
    """
    spec = keras.tree.map_structure(
        lambda x: backend.input_spec((None, *x.shape[1:]), x.dtype), inputs
    )
    return backend.operations(_forward(model, training=True), [spec], {})


def _first_traced(model, data, trace, training=False):
    """What `trace` makes of the first arguments that `call` takes."""
    problem = None
    for args, kwargs in _input_specs(model, data):
        try:
            return trace(_forward(model, training), args, kwargs)
        except Exception as error:
            problem = problem or error
    raise TracingError(
        "The output layers could not be found, because the model could not be "
        f"traced ({type(problem).__name__}: {problem}). {_WHAT_TO_DO}"
    ) from problem


def _forward(model, training):
    training = keras_internals.training_argument(model, training)
    return functools.partial(model, **training)


def _input_specs(model, data):
    """The arguments of `call` to try, as pairs (positional, by name)."""
    if data is not None:
        spec = keras.tree.map_structure(backend.spec, data)
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
        yield [keras.tree.map_structure(backend.spec, inputs)], {}
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
                lambda s, dtype=dtype: backend.input_spec(s, dtype), shape
            )
            for shape, dtype in zip(shapes.values(), itertools.cycle(dtypes))
        ]
        names = [name.removesuffix("_shape") for name in shapes]
        yield (specs, {}) if len(specs) == 1 else ([], dict(zip(names, specs)))
