"""JAX: a compiled step is a function of the state that it is given.

Keras' trainer takes the state out of the variables when an epoch begins, hands
it from one execution of the compiled step to the next, and puts it back at the
end, or when a callback looks at the model. What is not among that state is
compiled in as a constant; masks are held among the optimizer's variables.
"""

import functools
import itertools

import jax
import keras

from keras_lottery import keras_internals
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

# Of these the body is not entered: data meet in them whatever they are given.
_WHOLE = {"scan", "while", "cond"}


def outside_graphs(model=None):
    """Context manager: values are computed now, and can be read."""
    return jax.ensure_compile_time_eval()


def hold_masks(optimizer, masks):
    """Puts masks among the variables that are the state of a compiled step.

    Args:
        optimizer: `keras.optimizers.Optimizer`, built, which hands no work on
            to others.
        masks: list of `keras.Variable`.
    """
    keras_internals.optimizer_state(optimizer).extend(masks)


def release_masks(optimizer, masks):
    """Takes away what `hold_masks` put among an optimizer's variables."""
    state, held = (
        keras_internals.optimizer_state(optimizer),
        set(map(id, masks)),
    )
    state[:] = [variable for variable in state if id(variable) not in held]


def select(mask, values):
    """`values` where the mask keeps, zero elsewhere.

    Args:
        mask: `keras.Variable`.
        values: tensor or array of the mask's shape.
    """
    values = keras.ops.convert_to_tensor(values)
    return jax.numpy.where(
        mask.value, values, jax.numpy.zeros((), values.dtype)
    )


def make_train_function(pruner, own, force=False):
    """`make_train_function` of a model that a pruner prunes.

    The hooks are around each compiled step, also where one execution is of
    several.

    Args:
        pruner: `LotteryTicketPruner`.
        own: the model's own method.
        force: bool, as in Keras.

    Raises:
        ValueError: If the model trains by several optimizers.
    """
    model = pruner.model
    _check_optimizers(pruner)
    _unshare(model)

    def with_hooks(step):
        def hooked(state, data):
            logs, state = step(state, data)
            scope = functools.partial(_scope, model, state)
            pruner.fit_hooks.after_step(data, scope)
            return logs, state

        return hooked

    pruner.attach()
    with keras_internals.steps_through(model, with_hooks):
        own(force)


def _check_optimizers(pruner):
    """Refuses a compiled step that would lose the state of an optimizer."""
    model, names = pruner.model, list(pruner.optimizers())
    own = type(model).unwrapped_class.train_step
    if len(names) < 2 or own is keras.Model.train_step or model.run_eagerly:
        return
    raise ValueError(
        "`model` must train by one optimizer on Keras' JAX backend, whose "
        "compiled step carries the state of `model.optimizer` alone. Compile "
        "it with `run_eagerly=True`, write a loop of your own "
        "(`lottery.wrap_optimizer`), or set KERAS_BACKEND to tensorflow or "
        f"torch. Received: a `train_step` of its own and optimizers {names}"
    )


def _unshare(model):
    """Gives each variable an array of its own.

    When averages of weights are written back at the end of `fit`, weights and
    averages share theirs, which a compiled step does not take.
    """
    seen = set()
    optimizer = [] if model.optimizer is None else model.optimizer.variables
    for variable in (*model.variables, *optimizer):
        if id(variable.value) in seen:
            variable.assign(jax.numpy.array(variable.value, copy=True))
        seen.add(id(variable.value))


def _scope(model, state):
    """A scope in which variables have the values of a training state."""
    trained, untrained, optimizer, _ = state
    variables = (
        *zip(model.trainable_variables, trained),
        *zip(model.non_trainable_variables, untrained),
        *zip(model.optimizer.variables, optimizer),
    )
    return keras.StatelessScope(variables)


def train_step(pruner, own, state, data):
    """`train_step` of a model that a pruner prunes: the model's own."""
    return own(state, data)


def symbolic_build(pruner, own, iterator=None, data_batch=None):
    """`_symbolic_build` of a model that a pruner prunes.

    A model that does not know the shapes of its inputs is shown a batch
    before its step is compiled.

    Args:
        pruner: `LotteryTicketPruner`.
        own: the model's own method.
        iterator, data_batch: as in Keras.
    """
    if not pruner.attached and data_batch is None:
        data_batch = _first_batch(iterator)
    own(iterator, data_batch)
    if not pruner.attached:
        pruner.attach(data_batch)


def sync(model):
    """Puts the state of training back into the variables."""
    model.jax_state_sync()


def _first_batch(iterator):
    for _, _, batches in iterator:
        return batches[0] if isinstance(batches, list) else next(batches)


def graph(forward, args, kwargs, variables):
    """What a forward pass computes.

    Args:
        forward, args, kwargs: as in `build`.
        variables: list of `keras.Variable`, to look for.

    Returns:
        A `Graph`.
    """
    jaxpr = _trace(forward, args, kwargs, variables)
    flat = _Flat()
    keys = [next(flat.keys) for _ in jaxpr.invars]
    outputs = flat.enter(jaxpr, keys)
    count = len(variables)
    return Graph(
        flat.operations,
        keys[count:],
        [key for key in outputs if key is not None],
        dict(zip(keys, variables)),
    )


def operations(forward, args, kwargs):
    """Set of the names of JAX's primitives, those in loops too."""

    def names(jaxpr):
        found = {equation.primitive.name for equation in jaxpr.eqns}
        for inner in jax.core.jaxprs_in_params_of(jaxpr):
            found |= names(inner)
        return found

    return names(_trace(forward, args, kwargs, []))


def _trace(forward, args, kwargs, variables):
    """The jaxpr of a forward pass: variables and arguments -> outputs."""

    def call(values, args, kwargs):
        # What the pass updates is not kept.
        with keras.StatelessScope(list(zip(variables, values))):
            outputs = forward(*args, **kwargs)
        flat = keras.tree.flatten(outputs)
        return [tensor for tensor in flat if tensor is not None]

    values = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in variables]
    args, kwargs = keras.tree.map_structure(
        lambda s: jax.ShapeDtypeStruct(concrete_shape(s), s.dtype),
        (args, kwargs),
    )
    return jax.make_jaxpr(call)(values, args, kwargs).jaxpr


class _Flat:
    """The equations of a jaxpr and of the functions that it calls."""

    def __init__(self):
        self.operations, self.keys = [], itertools.count()

    def enter(self, jaxpr, inputs):
        """Lists the operations of a jaxpr.

        Args:
            jaxpr: what JAX traced.
            inputs: list of the keys of its inputs, `None` for constants.

        Returns:
            A list of the keys of its outputs, `None` for constants.
        """
        known = dict(zip(jaxpr.invars, inputs))

        def key(atom):
            return None if hasattr(atom, "val") else known.get(atom)

        for equation in jaxpr.eqns:
            given = [key(atom) for atom in equation.invars]
            inner = _called(equation)
            if inner is not None:
                made = self.enter(inner, given)
            else:
                made = [next(self.keys) for _ in equation.outvars]
                self.operations.append(
                    ([k for k in given if k is not None], made)
                )
            known.update(zip(equation.outvars, made))
        return [key(atom) for atom in jaxpr.outvars]


def _called(equation):
    """The jaxpr of the function that an equation calls, or `None`."""
    if equation.primitive.name in _WHOLE:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(name)
        inner = getattr(inner, "jaxpr", inner)
        if inner is not None and len(inner.invars) == len(equation.invars):
            return inner
    return None


def gradients(function, variables):
    """The gradients of a scalar.

    Args:
        function: function without arguments that computes the scalar from
            the variables.
        variables: list of `keras.Variable`.

    Returns:
        A list of arrays. It can be differentiated in turn.
    """

    def scalar(values):
        with keras.StatelessScope(list(zip(variables, values))):
            return function()

    return jax.grad(scalar)([variable.value for variable in variables])


def test_loss(model, x, y):
    """The loss of a compiled model on a batch."""
    state = [
        [variable.value for variable in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.metrics_variables,
        )
    ]
    return model.test_step(tuple(state), (x, y))[0]["loss"]


# The machine.


def version():
    """The version of JAX."""
    return jax.__version__


def gpus():
    """List of the names of all GPUs."""
    return [d.device_kind for d in jax.devices() if d.platform == "gpu"]


def threads():
    """Threads of one operation as they were set; 0 if they were not."""
    return 0


def start():
    """Starts the devices, which announce themselves at their first use."""
    jax.devices()
