"""Attachment: a model's kernels under masks, its optimizers under hooks."""

import keras
import numpy as np
import tensorflow as tf

from keras_lottery import optimizers
from keras_lottery.constraints import TicketMask, mask_of
from keras_lottery.replicas import once
from keras_lottery.rewinding import optimizers_of
from keras_lottery.scopes import find_kernels
from keras_lottery.starting import start_masks
from keras_lottery.tracing import TracingError


class Attachment:
    """What a pruner has put on a model.

    Layers and optimizers may appear late, so `attach` is called whenever the
    model is about to train, and leaves alone what it finds in place.

    Args:
        model: `keras.Model`.
        rates: `Rates`, which tell the kernels to mask.
        start: the argument `masks` of the pruner.
        on_kernels: function without arguments, called once the masks are on.
        on_optimizer: function (name, optimizer), called once an optimizer
            that is new has its variables.

    Attributes:
        kernels: dict, weight path -> `keras.Variable`: those with a mask.
        schedules: dict, weight path -> schedule.
    """

    def __init__(self, model, rates, start, on_kernels, on_optimizer):
        self.model = model
        self.kernels, self.schedules = {}, {}
        self._rates, self._start = rates, start
        self._on_kernels, self._on_optimizer = on_kernels, on_optimizer
        self._known, self._given = {}, {}
        # A training function compiled before would not know the masks.
        model.train_function = None

    def attach(self, data=None):
        """Puts a mask on every kernel and a hook on every optimizer.

        Args:
            data: optional batch, to build an unbuilt model with.
        """
        once(lambda: self._attach(data))

    def _attach(self, data):
        strategy = self.model.distribute_strategy
        with tf.init_scope(), strategy.scope():
            if not self.kernels:
                if not _is_built(self.model):
                    if data is None:
                        return
                    self.model._symbolic_build(data_batch=data)
                try:
                    self._mask_kernels(data)
                except TracingError:
                    # A batch of data will tell the shapes of the inputs.
                    if data is not None:
                        raise
                    return
            self.meet_optimizers()

    def detach(self):
        """Takes masks and hooks off the model, which keeps its zeros."""
        for variable in self.kernels.values():
            variable.assign(mask_of(variable).select(variable))
            variable.constraint = mask_of(variable).constraint
        for optimizer in self.optimizers().values():
            optimizers.unwrap_optimizer(optimizer)

    def masks(self):
        """Dict, weight path -> boolean array, read-only."""
        masks = {p: mask_of(v).numpy() for p, v in self.kernels.items()}
        for mask in masks.values():
            mask.flags.writeable = False
        return masks

    def assign_masks(self, masks):
        """Makes these the masks; what they prune becomes zero.

        Args:
            masks: dict, weight path -> boolean array. Weights it does not
                name are kept whole.
        """
        for path, variable in self.kernels.items():
            mask = masks.get(path, np.ones(variable.shape, bool))
            mask_of(variable).assign(mask)
            variable.assign(mask_of(variable).select(variable))

    def clear_pruned_slots(self):
        """Zeroes the slots of pruned weights in every optimizer."""
        for optimizer in self.optimizers().values():
            optimizers.clear_pruned_slots(optimizer)

    def optimizers(self):
        """Dict, name -> optimizer: the model's and those it was given."""
        return {**optimizers_of(self.model), **self._given}

    def give(self, optimizer):
        """Adds an optimizer that the model does not hold."""
        if all(o is not optimizer for o in self.optimizers().values()):
            optimizers.wrap_optimizer(optimizer)
            self._given[f"given_{len(self._given)}"] = optimizer
        self.meet_optimizers()

    def meet_optimizers(self, again=False):
        """Hooks every optimizer that is new.

        Args:
            again: bool, whether to take all of them for new.
        """
        if again:
            self._known.clear()
        for name, optimizer in self.optimizers().items():
            if self._known.get(name) is optimizer:
                continue
            if name in self._known:
                optimizers.unwrap_optimizer(self._known[name])
            self._known[name] = optimizer

            def met(optimizer, name=name):
                self._on_optimizer(name, optimizer)

            optimizers.wrap_optimizer(optimizer, on_build=met)
            if optimizer.built:
                met(optimizer)

    def _mask_kernels(self, data):
        kernels = find_kernels(self.model)
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0] if data else None
        resolved = self._rates.resolve(kernels, self.model, inputs)
        variables = {k.path: k.variable for k in kernels if k.path in resolved}
        masks = start_masks(self._start, variables, self.model)
        for path, variable in variables.items():
            constraint = TicketMask(variable.shape, variable.constraint)
            if path in masks:
                constraint.assign(masks[path])
            variable.constraint = constraint
            variable.assign(constraint.select(variable))
        self.kernels, self.schedules = variables, resolved
        self._on_kernels()


def _is_built(model):
    return model.built and all(layer.built for layer in model._flatten_layers())
