"""compact: the same function in a smaller model, without its dead units.

A unit is dead if nothing that varies reaches it, or if nothing that is needed
hears of it. Its value, where it has one, is a constant, and goes into the
biases behind it. One walk forward finds the constants, walks backward find
what is needed, and the model is built anew from what is left. All that is
known of layers is in `rules` and `channels`.
"""

import collections
import dataclasses

import keras
import numpy as np

from keras_lottery.export.channels import (
    PLACEHOLDER,
    Linear,
    Opaque,
    claim,
    unknown,
)
from keras_lottery.export.graph import read, rebuild
from keras_lottery.export.rules import rule_of


@dataclasses.dataclass
class Compacted:
    """What `compact` returns.

    Args:
        model: the smaller `keras.Model`: plain, functional, not compiled.
        removed: dict, layer name -> number of its units that were removed.
        left: dict, layer name -> why it was left, or some of its dead units.
    """

    model: keras.Model
    removed: dict
    left: dict


def compact(model):
    """Removes dead units: the same outputs from a smaller model.

    A unit of which every weight is zero on one side goes; that may kill
    others, which go as well. It is exact at inference, to rounding, and what
    cannot be shown to be so is left. Inputs and outputs keep their names and
    shapes; nested models are opened.

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
    graph = read(model)
    calls = collections.Counter(id(call.layer) for call in graph.calls)
    rules = {call: rule_of(call, calls[id(call.layer)]) for call in graph.calls}
    values = _constants(graph, rules)
    used, needed = _needs(graph, rules, values)
    kept = {edge: needed[edge] > 0 for edge in needed}

    def make(call):
        known = [values[edge] for edge in call.inputs]
        return rules[call].make(*_of(call, kept), known)

    smaller = rebuild(graph, make)
    removed, left = {}, {}
    for call, rule in rules.items():
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


# Who needs a channel: nobody (0), one of these, or from 4 on a call.
_INPUT, _OUTPUT, _CALLS = 2, 3, 4


def _constants(graph, rules):
    """Dict: edge -> the values its channels are known to have."""
    values = {edge: unknown(edge) for edge in graph.edges()}
    for call, rule in rules.items():
        inputs = [values[edge] for edge in call.inputs]
        values.update(zip(call.outputs, rule.constants(inputs)))
    return values


def _needs(graph, rules, values):
    """(used, needed): dicts, edge -> who needs each of its channels.

    Used is what the outputs are computed from. Needed is more: what must stay
    with it because layers want it, and a channel of every edge.
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
        # No layer has zero units, and a shape of zero computes nothing.
        if owners.size and not owners.any():
            owners[0] = PLACEHOLDER
    _settle(rules, values, needed, ties=True)
    return used, needed


def _settle(rules, values, needed, ties):
    """Lets every rule claim what follows, until nothing does any more."""
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
    """Why a layer has dead units, or reads what no unit of it hears."""
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
    unheard = int(np.count_nonzero(needed[source] == _INPUT))
    if unheard:
        reasons.append(
            f"{unheard} of its {source.width} inputs have no connections: "
            "the model's inputs keep their shape"
        )
    return reasons
