"""Gradients masked before clipping and slots.

A pruned weight must not only stay at zero: training a ticket has to be
training the network in which the pruned connections do not exist. So their
gradients are zeroed before the optimizer sees them, and with them clip norms,
momenta and second moments are those of the smaller network.

An optimizer is given its masks by replacing a few of its methods on the object
itself: its class, its config and its variables stay as they are. The masks are
found on the variables, where `TicketMask` sits as their constraint.
"""

import math

import keras
from keras import ops

from keras_lottery import backend
from keras_lottery import keras_internals as internals
from keras_lottery.constraints import mask_of


def wrap_optimizer(optimizer, on_build=None):
    """Makes an optimizer mask gradients by its variables' `TicketMask`.

    Args:
        optimizer: `keras.optimizers.Optimizer`, `LossScaleOptimizer` and
            `MultiOptimizer` included.
        on_build: optional function, called with the optimizer once its
            variables exist.

    Returns:
        The same object. Wrapping it again only replaces `on_build`.

    Raises:
        ValueError: If it is not a Keras 3 optimizer.

    Example:

    ```python
    pruner = keras_lottery.LotteryTicketPruner(model)
    optimizer = pruner.wrap_optimizer(keras.optimizers.Adam())
    optimizer.apply(gradients, model.trainable_variables)
    ```
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(
            "`optimizer` must be a Keras 3 optimizer. "
            f"Received: optimizer={optimizer!r} of type {type(optimizer)}"
        )
    unwrap_optimizer(optimizer)
    _mask_gradients(optimizer)
    _mask_averages(optimizer)
    _count_live_weights(optimizer)
    _save_without_masks(optimizer)
    _announce_build(optimizer, on_build)
    for inner in inner_optimizers(optimizer):
        wrap_optimizer(inner)
    _hold_masks(optimizer)
    return optimizer


def unwrap_optimizer(optimizer):
    """Gives an optimizer its own methods and variables back."""
    _release_masks(optimizer)
    for name in internals.REPLACED_METHODS:
        vars(optimizer).pop(name, None)
    for inner in inner_optimizers(optimizer):
        unwrap_optimizer(inner)
    return optimizer


def inner_optimizers(optimizer):
    """The optimizers to which `optimizer` hands its work on."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return [optimizer.inner_optimizer]
    return list(getattr(optimizer, "optimizers", ()))


def _replace(optimizer, name, method):
    # Past Keras' attribute tracking, which has no use for a function.
    vars(optimizer)[name] = method


def _mask_gradients(optimizer):
    apply = optimizer.apply

    def masked_apply(grads, trainable_variables=None):
        grads, variables = list(grads), trainable_variables
        if variables is None:
            variables = internals.trained_variables(optimizer)
            if len(grads) != len(variables):
                # Keras says what is wrong.
                return apply(grads)
        else:
            variables = trainable_variables = list(variables)
        grads = [mask_gradient(g, v) for g, v in zip(grads, variables)]
        return apply(grads, trainable_variables)

    _replace(optimizer, internals.APPLY, masked_apply)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # It looks for what is not finite before it calls `apply`.
        _mask_stateless_gradients(optimizer)


def _mask_stateless_gradients(optimizer):
    stateless_apply = optimizer.stateless_apply

    def masked(optimizer_variables, grads, trainable_variables):
        state = list(zip(optimizer.variables, optimizer_variables))
        variables = internals.trained_variables(optimizer)
        with keras.StatelessScope(state):
            grads = [mask_gradient(g, v) for g, v in zip(grads, variables)]
        return stateless_apply(optimizer_variables, grads, trainable_variables)

    _replace(optimizer, internals.STATELESS_APPLY, masked)


def mask_gradient(gradient, variable):
    """The gradient with zeros for pruned weights.

    Args:
        gradient: tensor of the variable's shape, a sparse one of its rows
            (embeddings), or `None`.
        variable: `keras.Variable`.

    Returns:
        A gradient of the same kind.
    """
    mask = mask_of(variable)
    if mask is None or gradient is None:
        return gradient
    return mask.select(gradient)


def _mask_averages(optimizer):
    """Keras averages weights before it constrains them, and writes the
    averages back when `fit` ends: so the weights are masked first."""
    update = getattr(optimizer, internals.UPDATE_AVERAGES)

    def masked_update(trainable_variables):
        if optimizer.use_ema:
            for variable in trainable_variables:
                mask = mask_of(variable)
                if mask is not None:
                    variable.assign(mask.select(variable))
        return update(trainable_variables)

    _replace(optimizer, internals.UPDATE_AVERAGES, masked_update)


def _count_live_weights(optimizer):
    """Two optimizers scale their step by the size of the matrix; the size
    that counts is that of the live part."""
    scale = {
        keras.optimizers.Adafactor: (internals.ADAFACTOR_SCALE, _live_rms),
        keras.optimizers.Muon: (internals.MUON_SCALE, _live_lr_adjust),
    }
    found = [how for kind, how in scale.items() if isinstance(optimizer, kind)]
    if not found:
        return
    ((name, live),) = found
    update_step, dense = optimizer.update_step, getattr(optimizer, name)
    current = []

    def update_step_of_masked(gradient, variable, learning_rate):
        index = internals.variable_index(optimizer, variable)
        masked = internals.trained_variables(optimizer)[index]
        current.append(mask_of(masked))
        try:
            return update_step(gradient, variable, learning_rate)
        finally:
            current.pop()

    def scaled(x):
        mask = current[-1]
        if mask is None:
            return dense(x)
        return live(optimizer, dense, x, mask)

    _replace(optimizer, internals.UPDATE_STEP, update_step_of_masked)
    _replace(optimizer, name, scaled)


def _live_rms(optimizer, dense, x, mask):
    # A dead row and a dead column meet in 0 / 0: select before squaring.
    live = ops.sum(ops.cast(mask.mask.value, x.dtype))
    squares = ops.sum(ops.square(mask.select(x)))
    some = ops.sqrt(squares / ops.maximum(live, 1))
    # Where all live it is the optimizer's own, to the bit.
    return ops.where(live < math.prod(x.shape), some, dense(x))


def _live_lr_adjust(optimizer, dense, x, mask):
    if optimizer.rms_rate is None:
        return x
    rows = ops.sum(ops.cast(ops.any(mask.mask.value, axis=1), x.dtype))
    columns = ops.sum(ops.cast(ops.any(mask.mask.value, axis=0), x.dtype))
    return x * ops.sqrt(ops.maximum(rows, columns)) * optimizer.rms_rate


def _announce_build(optimizer, on_build):
    build = optimizer.build

    def announced_build(variables):
        if backend.in_replica():
            # Its variables would not be those of all replicas.
            raise ValueError(
                "The optimizer must be built before replicas use it: call "
                "`optimizer.build(model.trainable_variables)` under "
                f"`strategy.scope()`. Received: optimizer={optimizer!r}"
            )
        # Out of whatever graph is being traced: the variables get their
        # initial values now, and can be read.
        with backend.outside_graphs():
            build(variables)
            for inner in inner_optimizers(optimizer):
                wrap_optimizer(inner)
            _hold_masks(optimizer)
            if on_build is not None:
                on_build(optimizer)

    _replace(optimizer, internals.BUILD, announced_build)


def _save_without_masks(optimizer):
    """A ticket holds the masks, bit by bit; the optimizer's file does not."""

    def without_masks(method):
        def called(store):
            _release_masks(optimizer)
            try:
                return method(store)
            finally:
                _hold_masks(optimizer)

        return called

    for name in (internals.SAVE, internals.LOAD):
        _replace(optimizer, name, without_masks(getattr(optimizer, name)))


def _hold_masks(optimizer):
    """Has the masks among the state of a compiled step, once each."""
    for leaf, masks in _masks_of_leaves(optimizer):
        backend.release_masks(leaf, masks)
        backend.hold_masks(leaf, masks)


def _release_masks(optimizer):
    for leaf, masks in _masks_of_leaves(optimizer):
        backend.release_masks(leaf, masks)


def trained_variables(optimizer):
    """The variables that a built optimizer updates, itself or by others."""
    return [v for _, variables in _leaves(optimizer) for v in variables]


def _masks_of_leaves(optimizer):
    """Pairs (optimizer, its masks) of those that do the work."""
    for leaf, variables in _leaves(optimizer):
        masks = map(mask_of, variables)
        yield leaf, [mask.mask for mask in masks if mask is not None]


def _leaves(optimizer):
    """Pairs (optimizer, its variables) of those that do the work."""
    inner = inner_optimizers(optimizer)
    for other in inner:
        yield from _leaves(other)
    if optimizer.built and not inner:
        yield optimizer, internals.trained_variables(optimizer)


def variables_of(optimizer):
    """List of the variables of an optimizer, without the masks it holds."""
    masks = {
        id(mask) for _, held in _masks_of_leaves(optimizer) for mask in held
    }
    return [v for v in optimizer.variables if id(v) not in masks]


def slots(optimizer):
    """Pairs (slot, variable): the slots shaped like the variable they serve."""
    for inner in inner_optimizers(optimizer):
        yield from slots(inner)
    variables = internals.trained_variables(optimizer)
    for name, value in vars(optimizer).items():
        if name == "_variables" or not isinstance(value, list):
            continue
        if len(value) != len(variables):
            continue
        for slot, variable in zip(value, variables):
            if (
                isinstance(slot, keras.Variable)
                and slot is not variable
                and slot.shape == variable.shape
            ):
                yield slot, variable


def is_fresh(optimizer):
    """Whether it has not taken a step since its slots were made."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # Its own counter stands still.
        return is_fresh(optimizer.inner_optimizer)
    return not int(internals.iterations_variable(optimizer).numpy())


def clear_pruned_slots(optimizer):
    """Zeroes the slots of pruned weights, unless they are fresh.

    An optimizer that has taken steps holds the momenta of the network as it
    was. Those of connections that no longer exist would still be averaged,
    counted in norms and, as averages of weights, written back.
    """
    if is_fresh(optimizer):
        return
    for slot, variable in slots(optimizer):
        mask = mask_of(variable)
        if mask is not None:
            slot.assign(mask.select(slot))
