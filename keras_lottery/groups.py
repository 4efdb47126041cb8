"""Groups of channels: what is pruned with which unit or filter.

Where a model is functional, its graph tells which channels are added to each
other, or computed from each other one by one: those of a residual stage are
one element each, with the biases and the normalisations on the way, and once
it is pruned the model can be compacted without them. A channel that another
layer mixes with its neighbours, or that is an output of the model, is never
pruned. The heads of attention are channels too.
"""

import dataclasses

import keras
import numpy as np

from keras_lottery.channels import Channelwise, Depthwise, Linear, rules_of
from keras_lottery.graph import find_graph
from keras_lottery.keras_internals import trainable_when_created
from keras_lottery.patterns import Channels, Member


def find(model, kernels, paths):
    """The groups of channels of a model.

    Args:
        model: a built `keras.Model`.
        kernels: list of `Kernel`, all that the model has.
        paths: dict, `id` of a variable -> path, of all variables.

    Returns:
        A pair: list of `Channels`, each kernel in at most one; and dict, path
        of a kernel -> why its channels cannot be pruned, for the others. For
        a model without a graph both lack the kernels that are not of
        attention.
    """
    finder = _Finder(kernels, paths)
    finder.add_heads()
    graph = find_graph(model)
    if graph is not None:
        finder.add_graph(graph)
        finder.add_reasons()
    return finder.groups, finder.left


def alone(kernel, before):
    """The channels of one kernel, which are tied to no other.

    Args:
        kernel: `Kernel`.
        before: int, the first of its axes that are outputs.
    """
    shape = tuple(kernel.variable.shape)
    axes = tuple(range(before, len(shape)))
    channels = np.arange(np.prod(shape[before:], dtype=int))
    member = Member(kernel.path, shape, axes, channels)
    return Channels(len(channels), (member,))


@dataclasses.dataclass
class _Part:
    """A variable whose channels are those of an edge, by their numbers."""

    path: str
    shape: tuple
    axes: tuple
    numbers: np.ndarray

    def member(self, labels, elements):
        """A `Member`, where `elements` are labels of channels, sorted."""
        own = labels[self.numbers]
        at = np.searchsorted(elements, own).clip(max=len(elements) - 1)
        index = np.where(elements[at] == own, at, -1)
        return Member(self.path, self.shape, self.axes, index)


class _Finder:
    def __init__(self, kernels, paths):
        self.kernels = {kernel.path: kernel for kernel in kernels}
        self.paths = paths
        self.groups, self.left = [], {}

    def part(self, variable, axes, numbers):
        shape = tuple(variable.shape)
        axes = tuple(axis % len(shape) for axis in axes)
        return _Part(self.paths[id(variable)], shape, axes, numbers)

    # Attention.

    def add_heads(self):
        """One group for each layer of attention: its heads."""
        layers = {
            id(layer): layer
            for kernel in self.kernels.values()
            for layer in kernel.layers
            if type(layer) is keras.layers.MultiHeadAttention
        }
        for layer in layers.values():
            heads = np.arange(layer.num_heads)
            members, followers = [], []
            inner = layer.query_dense, layer.key_dense, layer.value_dense
            for dense in inner:
                members.append(self.part(dense.kernel, (1,), heads))
                if dense.bias is not None:
                    followers.append(self.part(dense.bias, (0,), heads))
            kernel = layer.output_dense.kernel
            members.append(self.part(kernel, (0,), heads))
            self._add_group(members, followers, heads, heads)

    def _add_group(self, members, followers, labels, elements):
        def made(parts):
            return tuple(part.member(labels, elements) for part in parts)

        order = list(self.kernels)
        members.sort(key=lambda part: order.index(part.path))
        self.groups.append(
            Channels(len(elements), made(members), made(followers))
        )

    # Graphs.

    def add_graph(self, graph):
        """A group for all kernels of which some channels are tied."""
        starts, end = {}, 0
        for edge in graph.edges():
            starts[edge], end = end, end + edge.width

        def numbers(edge):
            return starts[edge] + np.arange(edge.width)

        members, followers, ties, fixed = [], [], [], []
        for call, rule in rules_of(graph).items():
            inputs = [numbers(edge) for edge in call.inputs]
            outputs = [numbers(edge) for edge in call.outputs]
            if isinstance(rule, Channelwise):
                (out,) = outputs
                for source, given in zip(rule.sources, inputs):
                    ties.append((out[source >= 0], given[source[source >= 0]]))
                found = self._parts(call.layer, rule, out)
            elif isinstance(rule, Linear):
                (out,) = outputs
                if not rule.elementwise:
                    fixed.append((out, _combined(call)))
                found = self._linear_parts(call.layer, rule, out)
            else:
                reason = _combined(call)
                fixed += [(one, reason) for one in (*inputs, *outputs)]
                continue
            for part in found:
                is_kernel = part.path in self.kernels
                (members if is_kernel else followers).append(part)
        for edge in keras.tree.flatten(graph.outputs):
            reason = "whose channels are the outputs of the model"
            fixed.append((numbers(edge), reason))
        for edge in keras.tree.flatten(graph.inputs):
            fixed.append((numbers(edge), "whose channels are the inputs"))
        self._add_families(members, followers, _joined(end, ties), fixed)

    def _parts(self, layer, rule, out):
        """Those weights of a layer that have an element for each channel."""
        for variable in trainable_when_created(layer):
            if tuple(variable.shape) == out.shape:
                yield self.part(variable, (0,), out)
            elif isinstance(rule, Depthwise):
                yield self.part(variable, (-2, -1), out)

    def _linear_parts(self, layer, rule, out):
        kernels = len(rule.kernels)
        yield self.part(layer.weights[kernels - 1], rule.axes[1:], out)
        if layer.use_bias:
            yield self.part(layer.weights[kernels], (0,), out)

    def _add_families(self, members, followers, labels, fixed):
        reasons = {}
        for numbers, reason in fixed:
            for label in np.unique(labels[numbers]):
                reasons.setdefault(int(label), reason)
        families = []
        for part in members:
            own = set(labels[part.numbers].tolist())
            elements = own - reasons.keys()
            if not elements:
                self.left[part.path] = reasons[min(own)]
                continue
            tied = [family for family in families if family[0] & elements]
            families = [family for family in families if family not in tied]
            parts = [part for _, parts in tied for part in parts]
            elements = elements.union(*(others for others, _ in tied))
            families.append((elements, [*parts, part]))
        for elements, parts in families:
            inside = [
                part
                for part in followers
                if not elements.isdisjoint(labels[part.numbers].tolist())
            ]
            self._add_group(parts, inside, labels, np.array(sorted(elements)))

    def add_reasons(self):
        """Why the kernels that no rule knows are left alone."""
        known = {path for group in self.groups for path in group.paths}
        for path, kernel in self.kernels.items():
            if path not in known:
                kind = type(kernel.layer).__name__
                reason = f"whose units no rule can take from a {kind}"
                self.left.setdefault(path, reason)


def _joined(count, ties):
    """A label for each channel, the same for all that are tied."""
    labels, before = np.arange(count), None
    while before is None or (labels != before).any():
        before = labels.copy()
        for a, b in (*ties, *reversed(ties)):
            least = np.minimum(labels[a], labels[b])
            np.minimum.at(labels, a, least)
            np.minimum.at(labels, b, least)
    return labels


def _combined(call):
    """Why the units of a call must all stay."""
    return f"whose units must all stay, since `{call.name}` combines them"
