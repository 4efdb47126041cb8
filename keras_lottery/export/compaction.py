"""compact: a smaller model with the same outputs, without dead units.

A unit is dead if its value is constant, or if no output depends on it. A
constant is added to the biases of the layers that read it. One pass forward
finds the constants, passes backward find what is needed, and the model is
rebuilt from that. What is known of each kind of layer is in `channels`.
"""

import collections
import dataclasses

import keras
import numpy as np

from keras_lottery.channels import (
    PLACEHOLDER,
    Heads,
    Linear,
    Opaque,
    claim,
    rules_of,
    unknown,
)
from keras_lottery.graph import graph_of, rebuild


@dataclasses.dataclass
class Compacted:
    """What `compact` returns.

    Args:
        model: the smaller `keras.Model`: plain, functional, not compiled.
        removed: dict, layer name -> number of its units, or of its heads of
            attention, that were removed.
        left: dict, layer name -> why it, or some of its dead units, stayed.
    """

    model: keras.Model
    removed: dict
    left: dict


def compact(model):
    """Removes dead units: the same outputs from a smaller model.

    A unit whose incoming or outgoing weights are all zero is removed, and so
    is a head of attention whose values are, or what is made of them. That
    may leave others without connections, which are removed as well. The
    outputs at inference are the same to rounding: units for which that cannot
    be shown are kept. Inputs and outputs keep their names and shapes; nested
    models are replaced by their layers.

    Args:
        model: a built functional or Sequential `keras.Model`, wrapped or not,
            whose pruned weights are zeros. It is not changed.

    Returns:
        A `Compacted`.

    Raises:
        ValueError: If the model is neither functional nor Sequential.

    Example:

    ```python
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)]
    )
    kernel, bias = model.layers[0].get_weights()
    kernel[:, 1] = 0
    model.layers[0].set_weights([kernel, bias])
    compact(model).removed  # {'dense': 1}
    ```
    """
    graph = graph_of(model)
    rules = rules_of(graph)
    values = _constants(graph, rules)
    used, needed = _needs(graph, rules, values)
    kept = {edge: needed[edge] > 0 for edge in needed}

    def make(call):
        known = [values[edge] for edge in call.inputs]
        return rules[call].make(*_of(call, kept), known)

    smaller = rebuild(graph, make)
    removed, left = {}, {}
    for call, rule in rules.items():
        if isinstance(rule, Heads):
            gone = int(np.count_nonzero(~rule.kept()))
            if gone:
                removed[call.name] = gone
        if isinstance(rule, Opaque):
            left[call.name] = f"it {rule.reason}"
        elif isinstance(rule, Linear):
            (edge,) = call.outputs
            gone = int(np.count_nonzero(~kept[edge]))
            if gone:
                removed[call.name] = gone
            reasons = _reasons(rule, rules, values, used, needed)
            if reasons:
                left[call.name] = "; ".join(reasons)
    return Compacted(smaller, removed, left)


# Owners of a channel: none (0), `PLACEHOLDER` (1), these, calls from 4 on.
_INPUT, _OUTPUT, _CALLS = 2, 3, 4


def _constants(graph, rules):
    """Dict: edge -> the constant values of its channels."""
    values = {edge: unknown(edge) for edge in graph.edges()}
    for call, rule in rules.items():
        inputs = [values[edge] for edge in call.inputs]
        values.update(zip(call.outputs, rule.constants(inputs)))
    return values


def _needs(graph, rules, values):
    """(used, needed): dicts, edge -> the owners of its channels.

    The outputs are computed from the used channels. The needed ones are those
    and what must stay with them: the model's inputs, channels that a layer
    ties to others, and at least one channel of every edge.
    """
    needed = {edge: np.zeros(edge.width, int) for edge in graph.edges()}
    for edge in keras.tree.flatten(graph.outputs):
        claim(needed[edge], True, _OUTPUT)
    _settle(rules, values, needed, ties=False)
    used = {edge: owners.copy() for edge, owners in needed.items()}
    for edge in keras.tree.flatten(graph.inputs):
        claim(needed[edge], True, _INPUT)
    _settle(rules, values, needed, ties=True)
    for owners in needed.values():
        # No layer can have zero units.
        if owners.size and not owners.any():
            owners[0] = PLACEHOLDER
    _settle(rules, values, needed, ties=True)
    return used, needed


def _settle(rules, values, needed, ties):
    """Applies the rules until no further channel is claimed."""
    before = None
    while before != (before := _claimed(needed)):
        for owner, call in reversed(list(enumerate(rules, _CALLS))):
            known = [values[edge] for edge in call.inputs]
            rules[call].claim(owner, *_of(call, needed), known, ties)


def _claimed(needed):
    return sum(np.count_nonzero(owners) for owners in needed.values())


def _of(call, by_edge):
    inputs = [by_edge[edge] for edge in call.inputs]
    return inputs, [by_edge[edge] for edge in call.outputs]


def _reasons(rule, rules, values, used, needed):
    """Why a layer keeps dead units, or inputs that no unit is connected to."""
    (source,), (edge,) = rule.call.inputs, rule.call.outputs
    dead = ~np.isnan(values[edge]) | (used[edge] == 0)
    counts = collections.Counter(needed[edge][dead].tolist())
    reasons = []
    for owner, count in sorted(counts.items()):
        if owner >= _CALLS:
            why = list(rules.values())[owner - _CALLS]
            reasons.append(
                f"{count} dead units are kept: `{why.call.name}` {why.reason}"
            )
        elif owner == PLACEHOLDER:
            reasons.append("1 dead unit is kept: no layer can be without")
    if not rule.elementwise and not (needed[edge] == _OUTPUT).all():
        reasons.append("all are kept: its activation mixes its units")
    unconnected = int(np.count_nonzero(needed[source] == _INPUT))
    if unconnected:
        reasons.append(
            f"{unconnected} of its {source.width} inputs have no connections: "
            "the model's inputs keep their shape"
        )
    return reasons
