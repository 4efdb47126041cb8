"""Which variables are prunable, and at which rate.

Kernels are found by walking variables, not by a list of known layers: every
trainable floating-point weight of rank 2 or more is one, unless its name or
its layer says that it is no connection (biases, normalisation, position
tables, activation parameters).
"""

import dataclasses
import re
import warnings

import keras

from keras_lottery import backend, groups, patterns, schedules
from keras_lottery.constraints import mask_of
from keras_lottery.keras_internals import sublayers, trainable_when_created
from keras_lottery.tracing import output_variables

_NORMALISATION = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.RMSNormalization,
    keras.layers.PReLU,
)

_NO_CONNECTION = re.compile(
    r"(^|_)(bias|biases|gamma|beta|alpha|scale|offset|pos|position|positions"
    r"|positional|encodings?|tokens?|mask_emb|probe|temperature|centroids?)"
    r"(_|$)"
)

_EMBEDDING = re.compile(r"(^|_)embeddings?(_|$)")


def check_model(model):
    """Refuses what is not a Keras 3 model of one machine, or is wrapped."""
    if not isinstance(model, keras.Model):
        raise ValueError(
            "`model` must be a Keras 3 model (keras.Model). "
            f"Received: {_flavour(model)}, of type {type(model)}"
        )
    wrapped = hasattr(type(model), "unwrapped_class")
    if wrapped or any(mask_of(v) for v in model.variables):
        raise ValueError(
            "`model` must not be wrapped already. `keras_lottery.unwrap` it, "
            f"or `detach` its pruner, first. Received: model={model!r}"
        )
    backend.check_distribution(model)


def _flavour(model):
    modules = {c.__module__.split(".")[0] for c in type(model).__mro__}
    if "tf_keras" in modules:
        return "a tf_keras (Keras 2) model"
    if isinstance(model, keras.layers.Layer):
        return "a Keras layer, not a model"
    if "keras" in modules:
        return "a Keras object, not a model"
    if modules & {"tensorflow", "tensorflow_core"}:
        return "a TensorFlow object or Keras 2 model"
    if "torch" in modules:
        return "a PyTorch module"
    return "not a model"


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """One prunable variable.

    Args:
        path: str, the variable's path, made unique within the model.
        variable: `keras.Variable`.
        layers: tuple of layers from the model down to the one that owns it.
        default: bool, whether it is pruned without being asked for.
    """

    path: str
    variable: keras.Variable
    layers: tuple
    default: bool

    @property
    def layer(self):
        return self.layers[-1]


def find_kernels(model):
    """The model's prunable variables, in the order of its weights.

    Args:
        model: a built `keras.Model`.

    Returns:
        A list of `Kernel`. Embedding tables are in it with `default=False`,
        and so are kernels that are frozen now: they may be trained later.
    """
    owners = {}
    _walk(model, (), owners)
    kernels = []
    for path, variable in unique_paths(model.variables).items():
        layers = owners.get(id(variable))
        if layers and is_kernel(variable, layers[-1]):
            default = not _is_embedding(variable, layers[-1])
            kernels.append(Kernel(path, variable, layers, default))
    return kernels


def unique_paths(variables):
    """Dict from path to variable; equal paths are numbered from the second."""
    paths = {}
    for variable in variables:
        path, copies = variable.path, 1
        while path in paths:
            copies += 1
            path = f"{variable.path}:{copies}"
        paths[path] = variable
    return paths


def is_kernel(variable, layer):
    """Whether a trained weight is made of connections, by layer and name."""
    return (
        len(variable.shape) >= 2
        and "float" in keras.backend.standardize_dtype(variable.dtype)
        and not isinstance(layer, _NORMALISATION)
        and not _NO_CONNECTION.search(variable.name)
    )


def _is_embedding(variable, layer):
    if variable.name == "reverse_embeddings":
        # KerasHub's output layer, where it is not tied to the table.
        return False
    return isinstance(layer, keras.layers.Embedding) or bool(
        _EMBEDDING.search(variable.name)
    )


def _walk(layer, above, owners):
    # Children first: a wrapper may also list what belongs to its child.
    layers = (*above, layer)
    for child in sublayers(layer):
        if isinstance(child, keras.layers.Layer) and child not in above:
            _walk(child, layers, owners)
    for variable in trainable_when_created(layer):
        owners.setdefault(id(variable), layers)


class Rates:
    """Resolves the arguments about rates to one schedule per kernel.

    Args:
        rate: float or schedule, of every kernel.
        output_rate: float or schedule, of output layers. Defaults to half of
            `rate` (1803.03635, section 2: the output layer is pruned at half
            the rate of the rest).
        rates: dict, overrides. A key is a layer, a layer's name, a regular
            expression found in a weight's path, or a layer class; the key
            that is the most specific in this order wins, and among classes
            and names the innermost layer. A string that is a layer's name is
            not an expression: "dense" says nothing about "dense_1". A rate
            of 0 leaves a layer alone.
        scope: "layerwise" or "global".
    """

    def __init__(self, rate, output_rate, rates, scope):
        self.rate = schedules.get(rate)
        if self.rate == _ALONE:
            # Prunes nothing, yet keeps the masks there are: 0 leaves a layer
            # alone only where it is asked for by name.
            self.rate = schedules.ToDensity(1.0, rounds=1)
        if output_rate is not None:
            output_rate = schedules.get(output_rate, "output_rate")
        self.output_rate = output_rate
        self.overrides = Overrides("rates", rates, schedules.get)
        if scope not in ("layerwise", "global"):
            raise ValueError(
                '`scope` must be "layerwise" or "global". '
                f"Received: scope={scope!r}"
            )
        self.scope = scope
        if scope == "global":
            self._check_global()

    def _check_global(self):
        given = dict(self.overrides.values)
        if self.output_rate is not None:
            given["output_rate"] = self.output_rate
        for key, schedule in given.items():
            if schedule not in (self.rate, schedules.Constant(0.0)):
                raise ValueError(
                    'With scope="global" one threshold holds for all: other '
                    "rates must be 0 (left alone) or equal to `rate`. "
                    f"Received: {key}={schedule}"
                )

    def resolve(self, kernels, model, data=None):
        """The schedule of each kernel that is not left alone.

        Args:
            kernels: list of `Kernel`.
            model: the built model, traced to find its output layers.
            data: optional batch of inputs to trace it with.

        Returns:
            A dict, path -> schedule.

        Raises:
            ValueError: If a key of `rates` matches nothing, or nothing is
                left to prune.
        """
        overrides = self.overrides.resolve(kernels)
        outputs = self._output_layers(kernels, model, data)
        resolved = {}
        for kernel in kernels:
            schedule = overrides.get(kernel.path)
            if schedule is None and kernel.default:
                schedule = self._default(kernel, outputs)
            if schedule not in (None, _ALONE):
                resolved[kernel.path] = schedule
        trained = {k.path for k in kernels if k.variable.trainable}
        if not trained & resolved.keys():
            raise ValueError(
                "The model must have something to prune: a trainable kernel "
                "of rank 2 or more that `rates` does not leave alone. "
                "Unfreeze a layer or give one a rate. "
                f"Received: model={model.name!r} with weights "
                f"{[w.path for w in model.trainable_variables]}"
            )
        return resolved

    def _output_layers(self, kernels, model, data):
        same = self.output_rate is None and self.scope == "global"
        if same or self.output_rate == self.rate:
            return set()
        return output_layers(kernels, model, data)

    def _default(self, kernel, outputs):
        if id(kernel.layer) not in outputs:
            return self.rate
        if self.output_rate is None:
            return schedules.Scaled(self.rate, 0.5)
        return self.output_rate


def output_layers(kernels, model, data=None):
    """Set of the `id`s of a model's output layers.

    Args:
        kernels: list of `Kernel`.
        model: the built model, which is traced.
        data: optional batch of inputs to trace it with.
    """
    # An embedding may be tied to the output: no kernel before it is one.
    variables = [k.variable for k in kernels]
    found = {id(v) for v in output_variables(model, variables, data)}
    return {id(k.layer) for k in kernels if id(k.variable) in found}


class BlockSizes:
    """Resolves the argument `block_size` to the blocks of each kernel.

    Args:
        block_size: `None`, a pair, `"m:n"`, `"channel"`, or a dict of
            overrides as `rates` is one, in which kernels that no key matches
            are pruned by single weights.
    """

    def __init__(self, block_size):
        by_layer = isinstance(block_size, dict)
        self.size = None if by_layer else patterns.get(block_size)
        self.overrides = Overrides(
            "block_size", block_size if by_layer else None, patterns.get
        )

    def resolve(self, kernels, schedules, model, data=None):
        """The pattern in which a model is pruned.

        Args:
            kernels: list of `Kernel`, all that the model has.
            schedules: dict, path -> schedule, of those that are pruned.
            model: the built model, traced to find its output layers.
            data: optional batch of inputs to trace it with.

        Returns:
            A `Pattern`, without the kernels that a size which was given for
            all leaves alone; a warning names the first of them.

        Raises:
            ValueError: If a key matches nothing, or if a kernel that a key
                names cannot be pruned in such blocks.
        """
        pruned = [k for k in kernels if k.path in schedules]
        named = self.overrides.resolve(pruned)
        sizes = {k.path: named.get(k.path, self.size) for k in pruned}
        found, left = [], {}
        if patterns.CHANNEL in sizes.values():
            wanted = {
                path: schedules[path]
                for path, size in sizes.items()
                if size == patterns.CHANNEL
            }
            found, left = _channels(kernels, wanted, model, data)
        for kernel in pruned:
            size = sizes[kernel.path]
            if size == patterns.CHANNEL:
                continue
            reason = _no_blocks(kernel, size)
            if reason:
                left[kernel.path] = reason
            else:
                found.append(_blocks(kernel, size))
        for path, reason in left.items():
            if path in named:
                raise ValueError(
                    "`block_size` must be one that the kernel has. Received: "
                    f"{sizes[path]!r} for {path!r}, {reason}"
                )
        if left:
            first = {reason: path for path, reason in reversed(left.items())}
            told = "; ".join(f"{p!r}, {r}" for r, p in first.items())
            warnings.warn(
                f"block_size={self.size!r} leaves {len(left)} of "
                f"{len(pruned)} kernels alone. The first for each reason: "
                f"{told}.",
                stacklevel=2,
            )
        order = {kernel.path: i for i, kernel in enumerate(kernels)}
        found.sort(key=lambda group: order[group.paths[0]])
        return patterns.Pattern(found)


def _channels(kernels, wanted, model, data):
    """The groups of channels of some kernels.

    Args:
        kernels: list of `Kernel`, all that the model has.
        wanted: dict, path -> schedule, of those to be pruned by channel.
        model: the built model.
        data: optional batch of inputs to trace it with.

    Returns:
        A pair: list of `Channels`; and dict, path -> why, of those that are
        wanted and left alone.
    """
    paths = {id(v): p for p, v in unique_paths(model.variables).items()}
    found, left = groups.find(model, kernels, paths)
    known = {path for group in found for path in group.paths} | left.keys()
    outputs = None
    for kernel in kernels:
        # What no graph tells of: each kernel by itself.
        if kernel.path in known or kernel.path not in wanted:
            continue
        if outputs is None:
            outputs = output_layers(kernels, model, data)
        axes = _axes(kernel)
        if axes is None:
            left[kernel.path] = _mixing(kernel)
        elif id(kernel.layer) in outputs:
            left[kernel.path] = "whose channels are the outputs of the model"
        else:
            found.append(groups.alone(kernel, sum(axes)))
    kept = []
    for group in found:
        reason = _why_not_tied(group.paths, wanted)
        if reason is None:
            kept.append(group)
        else:
            left |= dict.fromkeys(group.paths, reason)
    return kept, {p: reason for p, reason in left.items() if p in wanted}


def _why_not_tied(paths, wanted):
    """Why kernels that are tied cannot be pruned together, or `None`."""
    for path in paths:
        if path not in wanted:
            return f"which is tied to {path!r}, that is not pruned so"
        if wanted[path] != wanted[paths[0]]:
            return (
                f"which is tied to {path!r}, that has another rate: "
                f"{wanted[path]} and {wanted[paths[0]]}"
            )
    return None


def _no_blocks(kernel, size):
    """Why a kernel cannot be pruned in blocks of a size, or `None`."""
    if size is None:
        return None
    axes = _axes(kernel)
    if axes is None:
        return _mixing(kernel)
    along_inputs = isinstance(size, str) or size[0] > 1
    if along_inputs and not axes[1]:
        return "of which each output has one input alone"
    return None


def _blocks(kernel, size):
    shape = tuple(kernel.variable.shape)
    axes = _axes(kernel) or (0, len(shape) - 1)
    kind = patterns.Limited if isinstance(size, str) else patterns.Blocks
    return kind(kernel.path, shape, *axes, size)


def _mixing(kernel):
    return f"since a {type(kernel.layer).__name__} mixes its units"


def _axes(kernel):
    """How many axes of a kernel are a window and inputs, or `None`."""
    layer, rank = kernel.layer, len(kernel.variable.shape)
    if isinstance(layer, _RECURRENT):
        return None
    if "depthwise" in kernel.variable.name or isinstance(layer, _DEPTHWISE):
        return rank - 2, 0
    if isinstance(layer, _TRANSPOSED):
        return None
    if isinstance(layer, keras.layers.EinsumDense):
        left, right = layer.equation.split("->")[0].split(",")
        shared = [axis for axis in right if axis in left]
        leading = "".join(shared) == right[: len(shared)]
        return (0, len(shared)) if leading else None
    return rank - 2, 1


_RECURRENT = (
    keras.layers.LSTMCell,
    keras.layers.GRUCell,
    keras.layers.SimpleRNNCell,
    keras.layers.RNN,
)
_DEPTHWISE = keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)


class Overrides:
    """Values by layer: what `rates`, and `block_size` as a dict, say.

    A key is a layer, a layer's name, a regular expression found in a weight's
    path, or a layer class; the key that is the most specific in this order
    wins, and among classes and names the innermost layer.

    Args:
        name: str, the argument's name in an error.
        given: dict or `None`.
        parse: function (value, name) that checks a value.
    """

    def __init__(self, name, given, parse):
        self.name = name
        self.values = {
            _check_key(name, key): parse(value, f"{name}[{key!r}]")
            for key, value in _check_dict(name, given).items()
        }

    def resolve(self, kernels):
        """Dict, path -> value, of the kernels that a key matches.

        Raises:
            ValueError: If a key matches nothing.
        """
        kinds = _kinds(self.values, kernels)
        for key in self.values:
            if not any(_matches(key, kinds[key], k) for k in kernels):
                raise ValueError(
                    f"`{self.name}` must name layers that have kernels. "
                    f"Received: {key!r}, which matches none of "
                    f"{[k.path for k in kernels]}"
                )
        found = {k.path: self._keys_of(k, kinds) for k in kernels}
        return {p: self.values[keys[0]] for p, keys in found.items() if keys}

    def _keys_of(self, kernel, kinds):
        """The keys that match a kernel, the most specific first."""
        return [
            key
            for kind in ("layer", "name", "regex", "class")
            # The innermost layer speaks first.
            for layer in reversed(kernel.layers)
            for key in self.values
            if kinds[key] == kind and _matches_layer(key, kind, layer, kernel)
        ]


_ALONE = schedules.Constant(0.0)


def _kinds(keys, kernels):
    """Dict: key of `rates` -> "layer", "class", "name" or "regex"."""
    names = {layer.name for kernel in kernels for layer in kernel.layers}
    kinds = {}
    for key in keys:
        if isinstance(key, str):
            kinds[key] = "name" if key in names else "regex"
        else:
            kinds[key] = "class" if isinstance(key, type) else "layer"
    return kinds


def _matches(key, kind, kernel):
    return any(
        _matches_layer(key, kind, layer, kernel) for layer in kernel.layers
    )


def _matches_layer(key, kind, layer, kernel):
    if kind == "name":
        return key == layer.name
    if kind == "regex":
        return bool(re.search(key, kernel.path))
    if kind == "class":
        return isinstance(layer, key)
    return key is layer


def _check_dict(name, given):
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ValueError(
            f"`{name}` must be a dict from layers, names, regular expressions "
            f"or layer classes to values. Received: {name}={given!r}"
        )
    return given


def _check_key(name, key):
    if isinstance(key, keras.layers.Layer):
        return key
    if isinstance(key, type) and issubclass(key, keras.layers.Layer):
        return key
    if isinstance(key, str):
        try:
            re.compile(key)
        except re.error as error:
            raise ValueError(
                f"A key of `{name}` must be a valid regular expression. "
                f"Received: {key!r} ({error})"
            ) from None
        return key
    raise ValueError(
        f"A key of `{name}` must be a layer, a layer's name, a regular "
        f"expression or a layer class. Received: {key!r}"
    )
