"""Attachment: a model's kernels under masks, its optimizers under hooks."""

import keras
import numpy as np

from keras_lottery import backend, optimizers, patterns, tracing
from keras_lottery.constraints import TicketMask, mask_of
from keras_lottery.keras_internals import build_for_training, flatten_layers
from keras_lottery.rewinding import model_state, optimizers_of
from keras_lottery.scopes import find_kernels, unique_paths
from keras_lottery.tickets import Ticket
from keras_lottery.tracing import TracingError


class Attachment:
    """What a pruner has put on a model.

    Layers and optimizers may appear late, so `attach` is called whenever the
    model is about to train, and leaves alone what it finds in place.

    Args:
        model: `keras.Model`.
        rates: `Rates`, which tell the kernels to mask.
        block_sizes: `BlockSizes`, which tell what of them is pruned as one.
        start: the argument `masks` of the pruner.
        on_kernels: function without arguments, called once the masks are on.
        on_optimizer: function (name, optimizer, replaces), called once an
            optimizer that is new has its variables; `replaces` tells whether
            it took another's place.

    Attributes:
        kernels: dict, weight path -> `keras.Variable`: what is pruned.
        followers: dict, weight path -> `keras.Variable`: what is pruned with
            whole channels of these, and is not counted.
        schedules: dict, weight path -> schedule.
        pattern: `Pattern`, what is pruned as one.
    """

    def __init__(
        self, model, rates, block_sizes, start, on_kernels, on_optimizer
    ):
        self.model = model
        self.kernels, self.followers, self.schedules = {}, {}, {}
        self.pattern = patterns.Pattern()
        self._rates, self._start = rates, start
        self.block_sizes = block_sizes
        self._on_kernels, self._on_optimizer = on_kernels, on_optimizer
        self._known, self._given = {}, {}
        self._problem = None
        # A training function compiled before would not know the masks.
        model.train_function = None

    def attach(self, data=None):
        """Puts a mask on every kernel and a hook on every optimizer.

        Args:
            data: optional batch, to build an unbuilt model with.
        """
        backend.once(lambda: self._attach(data))

    def _attach(self, data):
        with backend.outside_graphs(self.model):
            if not self.kernels:
                try:
                    self._build(data)
                    self._mask_kernels(data)
                except TracingError as problem:
                    # A batch of data will tell the shapes of the inputs.
                    if data is not None:
                        raise
                    self._problem = problem
                    return
            self.meet_optimizers()

    def _build(self, data):
        """Creates the variables that the model will have in training."""
        model, inputs = self.model, None
        if data is not None:
            inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        elif not model.built:
            raise TracingError("The model is not built.")
        # Some layers are called in training alone. What a forward pass leaves
        # unbuilt has nothing to prune: a layer that is not used, or a table of
        # words.
        for training in (False, True):
            if not _is_built(model):
                tracing.build(model, inputs, training)
        if data is not None and backend.is_distributed(model):
            # An optimizer must have its variables before replicas use it.
            build_for_training(model, data)

    def not_built(self):
        """The error of a model that cannot be masked yet."""
        name = self.model.name
        if not self.model.built:
            return ValueError(
                "The model must be built before it can be pruned: call it on "
                f"a batch, or `fit` it. Received: model={name!r}"
            )
        return ValueError(
            f"The model cannot be pruned before its first `fit`. "
            f"{self._problem} Received: model={name!r}"
        )

    def detach(self):
        """Takes masks and hooks off the model, which keeps its zeros."""
        self.apply_masks()
        # While constraints hold the masks, by which optimizers find theirs.
        for optimizer in self.optimizers().values():
            optimizers.unwrap_optimizer(optimizer)
        for variable in self._masked().values():
            variable.constraint = mask_of(variable).constraint

    def masks(self):
        """Dict, weight path -> boolean array, read-only.

        Of frozen kernels, those of which something was pruned.
        """
        backend.sync(self.model)
        masks = {p: mask_of(v).numpy() for p, v in self.kernels.items()}
        for path, mask in list(masks.items()):
            mask.flags.writeable = False
            if not self.kernels[path].trainable and mask.all():
                del masks[path]
        return masks

    def all_masks(self):
        """`masks`, and those of what is pruned with channels of these."""
        followers = self.followers.items()
        return self.masks() | {p: mask_of(v).numpy() for p, v in followers}

    def _masked(self):
        return self.kernels | self.followers

    def schedules_now(self):
        """Dict, weight path -> schedule: the kernels that are not frozen."""
        return {
            path: schedule
            for path, schedule in self.schedules.items()
            if self.kernels[path].trainable
        }

    def check_masked(self, masks):
        """Refuses masks that prune a weight which has no mask here."""
        for path, variable in model_state(self.model).items():
            pruned = path in masks and not masks[path].all()
            if pruned and path not in self.kernels and variable.trainable:
                raise ValueError(
                    "`rates` must not leave a weight alone that the ticket "
                    f"prunes. Received: {path!r}"
                )

    def assign_masks(self, masks):
        """Makes these the masks, from the next training step on.

        Args:
            masks: dict, weight path -> boolean array. Weights it does not
                name are kept whole.
        """
        masks = {
            path: masks[path] if path in masks else np.ones(v.shape, bool)
            for path, v in self.kernels.items()
        }
        masks |= self.pattern.followers(masks)
        for path, variable in self._masked().items():
            mask_of(variable).assign(masks[path])

    def apply_masks(self):
        """Sets pruned weights to zero, as each training step does."""
        for variable in self._masked().values():
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
            before = self._known.get(name)
            if before is optimizer:
                continue
            if before is not None:
                optimizers.unwrap_optimizer(before)
            self._known[name] = optimizer

            def met(optimizer, name=name, replaces=before is not None):
                self._on_optimizer(name, optimizer, replaces)

            optimizers.wrap_optimizer(optimizer, on_build=met)
            if optimizer.built:
                met(optimizer)

    def _mask_kernels(self, data):
        kernels = find_kernels(self.model)
        inputs = None
        if data is not None:
            inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        schedules = self._rates.resolve(kernels, self.model, inputs)
        pattern = self.block_sizes.resolve(
            kernels, schedules, self.model, inputs
        )
        variables = unique_paths(self.model.variables)
        kernels = {
            k.path: k.variable for k in kernels if k.path in pattern.sizes
        }
        masks = start_masks(self._start, kernels, self.model)
        self.followers = {
            path: variables[path] for path in pattern.follower_paths
        }
        self.kernels, self.pattern = kernels, pattern
        self.schedules = {path: schedules[path] for path in kernels}
        for variable in self._masked().values():
            variable.constraint = TicketMask(
                variable.shape, variable.constraint
            )
        self.assign_masks(masks)
        self.apply_masks()
        self._on_kernels()


def _is_built(model):
    return model.built and all(layer.built for layer in flatten_layers(model))


def start_masks(start, variables, model):
    """The masks that the argument `masks` stands for.

    Args:
        start: `None`, `"zeros"`, a dict or a `Ticket`.
        variables: dict, path -> `keras.Variable`: the prunable weights.
        model: the model they belong to.

    Returns:
        A dict, path -> boolean array, for all or some of the weights.

    Raises:
        ValueError: If a mask does not fit.
    """
    if start is None:
        return {}
    if isinstance(start, str):
        return zeros_as_masks(variables)
    if isinstance(start, Ticket):
        places = start.match(model)
        start = {places[path]: mask for path, mask in start.masks.items()}
    for path, mask in start.items():
        if path not in variables:
            raise ValueError(
                f"`masks` must name prunable weights {list(variables)}. "
                f"Received: {path!r}"
            )
        if np.shape(mask) != tuple(variables[path].shape):
            raise ValueError(
                f"The mask of {path!r} must have shape "
                f"{tuple(variables[path].shape)}. "
                f"Received: shape={np.shape(mask)}"
            )
        if np.asarray(mask).dtype != bool:
            raise ValueError(
                f"The mask of {path!r} must be a boolean array. "
                f"Received: dtype={np.asarray(mask).dtype}"
            )
    return start


def check_masks(masks):
    """Refuses what `start_masks` cannot read."""
    if masks is None or (isinstance(masks, str) and masks == "zeros"):
        return
    if not isinstance(masks, (dict, Ticket)):
        raise ValueError(
            '`masks` must be None, "zeros", a dict from weight path to '
            f"boolean array or a Ticket. Received: masks={masks!r}"
        )


def zeros_as_masks(variables):
    """Masks of a model that is already sparse: its exact zeros are pruned.

    Args:
        variables: dict, path -> `keras.Variable`.

    Returns:
        A dict, path -> boolean array.
    """
    masks = {p: np.asarray(v.numpy()) != 0 for p, v in variables.items()}
    empty = [path for path, mask in masks.items() if not mask.any()]
    if empty:
        raise ValueError(
            f'masks="zeros" would prune all of {empty[0]!r}: it is '
            "initialised to zeros, not sparse. Give a dict of masks instead."
        )
    return masks
