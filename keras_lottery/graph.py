"""A functional model as one flat list of calls, and a model from such a list.

Nested models are replaced by the calls inside them, and wrapping is removed:
a model that is rebuilt from its graph is a plain functional one with the same
inputs and outputs.
"""

import dataclasses

import keras

from keras_lottery.keras_internals import (
    functional_of,
    nodes_in_order,
    operation_of,
)
from keras_lottery.normalization import refresh_statistics


@dataclasses.dataclass(eq=False, frozen=True)
class Edge:
    """A tensor between two calls; the first axis of `shape` is the batch."""

    shape: tuple

    @property
    def width(self):
        """Number of channels, the last axis; 0 where there is none."""
        return (self.shape[-1] or 0) if len(self.shape) > 1 else 0


@dataclasses.dataclass(eq=False)
class Call:
    """One call of a layer.

    Args:
        layer: `keras.layers.Layer` or another operation.
        name: str, its name, unique within the flat graph.
        arguments: what it was called with, as Keras recorded it.
        inputs: list of `Edge`.
        outputs: list of `Edge`.
    """

    layer: object
    name: str
    arguments: object
    inputs: list
    outputs: list

    def apply(self, layer, tensors):
        """List of the outputs of `layer` if it is called here on `tensors`."""
        old = self.arguments.keras_tensors
        filled = {id(t): new for t, new in zip(old, tensors)}
        args, kwargs = self.arguments.fill_in(filled)
        return keras.tree.flatten(layer(*args, **kwargs))


@dataclasses.dataclass
class Graph:
    """A model's calls, in an order in which they can be made.

    Args:
        name: str, the model's.
        inputs: nest of `Edge`, as the model takes them.
        outputs: nest of `Edge`, as the model gives them.
        input_layers: list of `keras.layers.InputLayer`, flat.
        output_names: list of str, flat.
        calls: list of `Call`.
    """

    name: str
    inputs: object
    outputs: object
    input_layers: list
    output_names: list
    calls: list

    def edges(self):
        """All edges: the model's inputs first, then as they are computed."""
        computed = [edge for call in self.calls for edge in call.outputs]
        return keras.tree.flatten(self.inputs) + computed


def graph_of(model):
    """The graph of a model.

    Args:
        model: a built functional or Sequential `keras.Model`, wrapped or not.

    Returns:
        A `Graph`. It refers to the model's layers and changes nothing.

    Raises:
        ValueError: If the model has no graph; it says why.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            "`model` must be a Keras 3 model (keras.Model). "
            f"Received: model={model!r}"
        )
    if hasattr(model, "lottery"):
        model.lottery.state.check_export()
    graph = find_graph(model)
    if graph is None:
        why = (
            "it is not built: give it a `keras.Input` or call it on data"
            if isinstance(model, keras.Sequential)
            and type(model).call is keras.Sequential.call
            else "its class has a `call` of its own, which no graph describes"
        )
        raise ValueError(
            "`model` must be a built functional or Sequential model. "
            f"Received: model={model!r}; {why}."
        )
    return graph


def find_graph(model):
    """The `Graph` of a `keras.Model`, trained or not; `None` without one."""
    functional = functional_of(model)
    return functional and _GraphBuilder(functional).graph(model.name)


def rebuild(graph, make=None):
    """A new plain functional model from a graph.

    Args:
        graph: `Graph`.
        make: optional function, `Call` -> (new layer, its weights): the
            layer to use instead. It is called once per layer. Defaults to
            `copied`.

    Returns:
        A `keras.Model`, not compiled.
    """
    make, made, tensors = make or copied, {}, {}
    for layer, edge in zip(graph.input_layers, _flat(graph.inputs)):
        copy = type(layer).from_config(layer.get_config())
        tensors[edge] = copy.output
    for call in graph.calls:
        if id(call.layer) not in made:
            made[id(call.layer)] = make(call)
        layer, _ = made[id(call.layer)]
        results = call.apply(layer, [tensors[edge] for edge in call.inputs])
        tensors.update(zip(call.outputs, results))
    for layer, weights in made.values():
        if weights:
            layer.set_weights(weights)
        refresh_statistics([layer])
    outputs = _named(
        [tensors[edge] for edge in _flat(graph.outputs)], graph.output_names
    )
    return keras.Model(
        keras.tree.map_structure(tensors.get, graph.inputs),
        keras.tree.pack_sequence_as(graph.outputs, outputs),
        name=graph.name,
    )


def copied(call, weights=None, **config):
    """A layer like that of a call: (the new layer, its weights).

    Args:
        call: `Call`.
        weights: optional list of arrays. Defaults to the layer's own.
        **config: what differs from the layer's own configuration.
    """
    layer = call.layer
    own = layer.get_config()
    if isinstance(layer, keras.layers.Layer):
        try:
            copy = type(layer).from_config({**own, "name": call.name, **config})
        except TypeError as error:
            raise ValueError(
                "A layer of `model` must be made anew from its `get_config`. "
                f"Received: {layer.name!r} of {type(layer)}: {error}"
            ) from error
        return copy, layer.get_weights() if weights is None else weights
    copy = type(layer).from_config(own)
    copy.name = call.name
    return copy, []


def plain(model):
    """A copy of a model: plain, functional, flat, with the same weights.

    Args:
        model: a built functional or Sequential `keras.Model`, wrapped or not.

    Returns:
        A new `keras.Model` with nothing of this library in it.

    Raises:
        ValueError: If the model is neither functional nor Sequential.

    Example:

    ```python
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    copy = plain(keras_lottery.wrap(model))
    ```
    """
    return rebuild(graph_of(model))


_flat = keras.tree.flatten


def _named(tensors, names):
    """The tensors as outputs of layers of these names.

    An output is named after the layer it comes from. Where that was a nested
    model, an `Identity` layer gets its name.
    """
    named = list(tensors)
    for name in dict.fromkeys(names):
        places = [i for i, other in enumerate(names) if other == name]
        group = [tensors[i] for i in places]
        if all(operation_of(t).name == name for t in group):
            continue
        identity = keras.layers.Identity(name=name, autocast=False)
        for i, tensor in zip(places, identity(group)):
            named[i] = tensor
    return named


class _GraphBuilder:
    """Collects the calls of a functional model and of those nested in it."""

    def __init__(self, model):
        self.model, self.calls = model, []
        # Layers of the outer model keep their names, whatever is inside.
        self.names = {id(op): op.name for op in model.operations}

    def graph(self, name):
        model = self.model
        edges = {id(t): Edge(tuple(t.shape)) for t in model.inputs}
        self._walk(model, edges)

        def edge(tensor):
            return edges[id(tensor)]

        return Graph(
            name,
            keras.tree.map_structure(edge, model.input),
            keras.tree.map_structure(edge, model.output),
            [operation_of(t) for t in model.inputs],
            [operation_of(t).name for t in model.outputs],
            self.calls,
        )

    def _walk(self, model, edges):
        for node in nodes_in_order(model):
            if node.is_input:
                continue
            inputs = [edges[id(t)] for t in node.input_tensors]
            outputs = self._enter(node, inputs, model)
            edges.update((id(t), e) for t, e in zip(node.outputs, outputs))
        return [edges[id(t)] for t in model.outputs]

    def _enter(self, node, inputs, owner):
        inner = functional_of(node.operation)
        if inner is not None and _is_replaceable(node, inner):
            edges = {id(t): edge for t, edge in zip(inner.inputs, inputs)}
            return self._walk(inner, edges)
        outputs = [Edge(tuple(t.shape)) for t in node.outputs]
        name = self._name(node.operation, owner)
        self.calls.append(
            Call(node.operation, name, node.arguments, inputs, outputs)
        )
        return outputs

    def _name(self, layer, owner):
        if id(layer) not in self.names:
            name, taken = layer.name, set(self.names.values())
            while name in taken:
                name = f"{owner.name}_{name}"
            self.names[id(layer)] = name
        return self.names[id(layer)]


def _is_replaceable(node, inner):
    """Whether a nested model can be replaced by its calls.

    It cannot if it is called on another structure, shape or type than that it
    was made with, or with arguments besides the tensors.
    """
    if len(node.arguments.args) != 1 or not only_tensors(node.arguments):
        return False
    (given,) = node.arguments.args
    tensors = _flat(given)
    # Both are flattened by key; only a dict may come in another order.
    same_kind = isinstance(given, dict) == isinstance(inner.input, dict)
    return (
        same_kind
        and len(tensors) == len(inner.inputs)
        and all(
            tuple(a.shape[1:]) == tuple(b.shape[1:]) and a.dtype == b.dtype
            for a, b in zip(tensors, inner.inputs)
        )
    )


def only_tensors(arguments):
    """Whether a call has tensors and nothing else (`training=False` aside)."""
    flat = _flat(arguments.args)
    off = all(v is None or v is False for v in arguments.kwargs.values())
    return off and len(flat) == len(arguments.keras_tensors)
