"""PyTorch: Python runs each training step, with the hooks around it."""

import contextlib

import keras
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from keras_lottery.backend.common import (
    DelayedCopy,
    Graph,
    StepCounter,
    build,
    check_distribution,
    concrete_shape,
    in_replica,
    input_spec,
    is_distributed,
    normalize_batch,
    once,
    spec,
)

__all__ = [
    "DelayedCopy",
    "StepCounter",
    "build",
    "check_distribution",
    "in_replica",
    "input_spec",
    "is_distributed",
    "normalize_batch",
    "once",
    "spec",
]

# What they tell of data is its shape.
_OF_SHAPE = {
    "empty_like", "full_like", "new_empty", "new_full", "new_ones",
    "new_zeros", "ones_like", "zeros_like",
}  # fmt: skip


def outside_graphs(model=None):
    """Context manager: there is no graph to step out of."""
    return contextlib.nullcontext()


def hold_masks(optimizer, masks):
    """Nothing: a step reads variables wherever they are."""


def release_masks(optimizer, masks):
    """Nothing, as `hold_masks`."""


def select(mask, values):
    """`values` where the mask keeps, zero elsewhere.

    Args:
        mask: `keras.Variable`.
        values: tensor or array of the mask's shape.
    """
    values = keras.ops.convert_to_tensor(values)
    zero = torch.zeros((), dtype=values.dtype, device=values.device)
    return torch.where(mask.value, values, zero)


def make_train_function(pruner, own, force=False):
    """`make_train_function` of a model that a pruner prunes.

    The hooks are around the function, which may be compiled.

    Args:
        pruner: `LotteryTicketPruner`.
        own: the model's own method.
        force: bool, as in Keras.
    """
    pruner.attach()
    model = pruner.model
    before = model.train_function
    own(force)
    step = model.train_function
    if step is before:
        return

    def train_function(batches):
        pruner.attach(batches[0])
        logs = step(batches)
        pruner.fit_hooks.after_step(batches[0])
        return logs

    model.train_function = train_function


def train_step(pruner, own, data):
    """`train_step` of a model that a pruner prunes: the model's own."""
    return own(data)


def symbolic_build(pruner, own, iterator=None, data_batch=None):
    """`_symbolic_build` of a model that a pruner prunes: the model's own."""
    return own(iterator, data_batch)


def sync(model):
    """Nothing: the variables always hold the state of training."""


def graph(forward, args, kwargs, variables):
    """What a forward pass computes, found by computing it on zeros.

    Args:
        forward, args, kwargs: as in `build`.
        variables: list of `keras.Variable`, to look for.

    Returns:
        A `Graph`.
    """
    args, kwargs = keras.tree.map_structure(_zeros, (args, kwargs))
    recorder = _record(forward, args, kwargs)
    return Graph(
        recorder.operations,
        [id(t) for t in _tensors((args, kwargs))],
        [id(t) for t in _tensors(recorder.outputs)],
        {id(v.value): v for v in variables},
    )


def operations(forward, args, kwargs):
    """Set of the names of PyTorch's operations."""
    args, kwargs = keras.tree.map_structure(_zeros, (args, kwargs))
    return _record(forward, args, kwargs).kinds


def _record(forward, args, kwargs):
    # What the pass updates and draws is not kept.
    with (
        keras.StatelessScope(),
        torch.random.fork_rng(),
        torch.no_grad(),
        _Recorder() as recorder,
    ):
        recorder.outputs = forward(*args, **kwargs)
    return recorder


def _zeros(spec):
    return keras.ops.zeros(concrete_shape(spec), spec.dtype)


def _tensors(nest):
    flat = torch.utils._pytree.tree_leaves(nest)
    return [t for t in flat if isinstance(t, torch.Tensor)]


class _Recorder(TorchDispatchMode):
    """Writes down the operations that run under it."""

    def __init__(self):
        super().__init__()
        self.operations, self.kinds, self.outputs = [], set(), None
        # Alive, so that no two tensors have one identity.
        self._tensors = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given, made = _tensors((args, kwargs)), _tensors(result)
        kind = function.overloadpacket.__name__
        self._tensors += given + made
        self.kinds.add(kind)
        if kind not in _OF_SHAPE:
            self.operations.append(
                ([id(t) for t in given], [id(t) for t in made])
            )
        return result


def gradients(function, variables):
    """The gradients of a scalar.

    Args:
        function: function without arguments that computes the scalar from
            the variables.
        variables: list of `keras.Variable`.

    Returns:
        A list of tensors. It can be differentiated in turn.
    """
    values = [variable.value for variable in variables]
    return list(torch.autograd.grad(function(), values, create_graph=True))


def test_loss(model, x, y):
    """The loss of a compiled model on a batch; metrics are updated."""
    return model.test_step((x, y))["loss"]


# The machine.


def version():
    """The version of PyTorch."""
    return torch.__version__


def gpus():
    """List of the names of all GPUs."""
    return [
        torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
    ]


def threads():
    """Threads of one operation as they were set; 0 if they were not."""
    return torch.get_num_threads()


def start():
    """Starts the devices, which announce themselves at their first use."""
    torch.cuda.device_count()
