"""RewindPoint: capture and restore all that training changes.

Weights are only a part of it. Batch-norm statistics, seed generators, the
optimizer's slots, its iteration and its learning rate (which callbacks change)
must go back as well, or a level would not start where the first one did.
"""

import dataclasses
import functools
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_lottery import backend, optimizers
from keras_lottery.checks import check_integer
from keras_lottery.constraints import mask_of
from keras_lottery.files import has_bits
from keras_lottery.keras_internals import flatten_layers
from keras_lottery.normalization import refresh_statistics
from keras_lottery.scopes import unique_paths


@dataclasses.dataclass(eq=False)
class RewindPoint:
    """theta_k': the state of training at one step.

    Args:
        step: int, the training step of the capture; 0 is initialisation.
        weights: dict, path -> array: every variable of the model.
        optimizers: dict, attribute of the model that holds an optimizer ->
            dict, variable -> array.

    Source: Frankle & Carbin, 1803.03635, section 2; Frankle et al.,
    1912.05671, section 3, for steps past initialisation.
    """

    step: int
    weights: dict[str, NDArray] = dataclasses.field(repr=False)
    optimizers: dict[str, dict[str, NDArray]] = dataclasses.field(repr=False)

    @classmethod
    def capture(
        cls,
        model: keras.Model,
        step: int = 0,
        optimizers: dict[str, Any] | None = None,
    ) -> "RewindPoint":
        """Copies the training state of a built model.

        Args:
            model: `keras.Model`.
            step: int, the training step it is at.
            optimizers: optional dict, name -> optimizer. Defaults to those
                that the model holds.
        """
        weights = {k: _copy(v) for k, v in model_state(model).items()}
        return cls(step, weights, copy_optimizers(model, optimizers))

    def copy(self) -> "RewindPoint":
        """Another with the same arrays."""
        return RewindPoint(self.step, self.weights, dict(self.optimizers))

    def after_training(self, rewind_to, weights, optimizers=None):
        """The state that the next level starts from.

        Args:
            rewind_to: what goes back: see `parts_rewound`.
            weights: dict, path -> array: what was trained.
            optimizers: optional dict, as in `capture`: the optimizers after
                training, which only `rewind_to=None` needs.

        Returns:
            A `RewindPoint`.
        """
        weights_back, optimizers_back = parts_rewound(rewind_to)
        return RewindPoint(
            self.step if weights_back else 0,
            self.weights if weights_back else weights,
            self.optimizers if optimizers_back else optimizers,
        )

    def meet(self, name, optimizer, earlier=None, replaces=False):
        """Takes a new optimizer in, or sets it back to the captured state.

        Args:
            name: str, where the model holds it.
            optimizer: `keras.optimizers.Optimizer`, built.
            earlier: optional, as in `copy_optimizer`.
            replaces: bool, whether another was there under the same name: the
                learning rate is then the new one's, which the user chose.
        """
        fresh = optimizers.is_fresh(optimizer)
        if self.step == 0 and (fresh or name not in self.optimizers):
            self.optimizers[name] = copy_optimizer(optimizer, earlier)
        elif fresh and name in self.optimizers:
            if replaces:
                self._follow(name, optimizer)
                self.adopt_learning_rates(name, optimizer)
            restore_optimizer(optimizer, self.optimizers[name])
            optimizers.clear_pruned_slots(optimizer)

    def _follow(self, name, optimizer):
        """Fits the state to a like optimizer of more or fewer variables.

        Layers that were frozen or unfrozen make the difference. What has the
        same name keeps its value, and what is new is fresh. An optimizer is
        like the one before if it keeps the same of each weight that both train.
        """
        state = {_name(k): v for k, v in self.optimizers[name].items()}
        keyed = _keyed(optimizer)
        names = {_name(key) for key in keyed}
        if not (names < state.keys() or state.keys() < names):
            return
        kept = [
            (_slots(state, variable), _slots(names, variable))
            for variable in optimizers.trained_variables(optimizer)
        ]
        if all(before in (set(), now) for before, now in kept):
            self.optimizers[name] = {
                key: state[_name(key)] if _name(key) in state else _copy(v)
                for key, v in keyed.items()
            }

    def adopt_learning_rates(self, name, optimizer, before=None):
        """Makes learning rates that were set since those of the rewind point.

        Args:
            name: str, where the model holds the optimizer.
            optimizer: `keras.optimizers.Optimizer`.
            before: optional dict, what `learning_rates` gave. Defaults to
                those of the rewind point.
        """
        state = self.optimizers.get(name, {})
        before = state if before is None else before
        changed = {
            key: rate
            for key, rate in learning_rates(optimizer).items()
            if key in state and key in before and rate != before[key]
        }
        self.optimizers[name] = state | changed

    def restore_weights(self, model: keras.Model) -> None:
        """Sets mask * theta_k' and all else the model holds."""
        for path, variable in model_state(model).items():
            mask, value = mask_of(variable), self.weights[path]
            variable.assign(value if mask is None else mask.select(value))
        refresh_statistics(flatten_layers(model))

    def restore_optimizers(
        self, model: keras.Model, optimizers: dict[str, Any] | None = None
    ) -> None:
        """Sets every variable of the optimizers, as `capture` takes them."""
        if optimizers is None:
            optimizers = optimizers_of(model)
        for name, optimizer in optimizers.items():
            if name in self.optimizers and optimizer.built:
                restore_optimizer(optimizer, self.optimizers[name])


def check_rewind_to(rewind_to):
    """`rewind_to`, refused if it is not one of the ways to rewind."""
    named = isinstance(rewind_to, str) and rewind_to == "learning_rate"
    if rewind_to is None or named:
        return rewind_to
    try:
        return check_integer("rewind_to", rewind_to, minimum=0)
    except ValueError as error:
        raise ValueError(f'{error} (or "learning_rate", or None)') from None


def parts_rewound(rewind_to):
    """What of the training state goes back before a level.

    Args:
        rewind_to: int, a training step: all of it (1803.03635, section 2;
            1912.05671); `"learning_rate"`: the optimizer and its schedule
            alone (2003.02389); `None`: nothing (1803.03635, appendix B,
            strategy 2).

    Returns:
        A pair of bool: whether weights go back, whether optimizers do.
    """
    return isinstance(rewind_to, int), rewind_to is not None


def check_captured(rewind_to, step):
    """Refuses to prune where the rewind point was not reached.

    Args:
        rewind_to: as in `parts_rewound`.
        step: int, the step that the rewind point is of.
    """
    if isinstance(rewind_to, int) and rewind_to > 0 and step != rewind_to:
        raise ValueError(
            f"`rewind_to={rewind_to}` needs the state of training at that "
            f"step, which `fit` captures. In a training loop of your own (and "
            f"with `train_on_batch`) call `lottery.capture(step={rewind_to})` "
            f"after {rewind_to} steps. Received: a rewind point of step {step}"
        )


def model_state(model):
    """Dict from unique path to variable: weights, statistics, seeds."""
    return unique_paths(model.variables)


def copy_state(model):
    """Dict, path -> array: the values of `model_state`."""
    return {p: np.array(v.numpy()) for p, v in model_state(model).items()}


def assign_state(model, values):
    """Assigns what `copy_state` copied."""
    for path, variable in model_state(model).items():
        variable.assign(values[path])
    refresh_statistics(flatten_layers(model))


def path_with_nan(model):
    """The path of the first variable that holds NaN, or `None`."""
    for path, variable in model_state(model).items():
        if keras.ops.any(keras.ops.isnan(variable)):
            return path
    return None


def seed_paths(model):
    """Set of the paths of what is in no file that Keras writes: seeds."""
    stored = {id(variable) for variable in model.weights}
    state = model_state(model).items()
    return {path for path, variable in state if id(variable) not in stored}


def optimizers_of(model):
    """Dict from name to optimizer: the compiled one and a user's own.

    The name is the attribute that holds it, with an index or a key if that is
    a list or a dict. Models inside the model are searched as well.
    """
    found = {}
    for index, layer in enumerate(flatten_layers(model)):
        place = f"layer_{index}." if index else ""
        for name, value in vars(layer).items():
            # TensorFlow keeps lists of its own of all that it tracks.
            if not name.startswith("_self_"):
                _collect_optimizers(place + name, value, found)
    return found


def _collect_optimizers(name, value, found):
    if isinstance(value, keras.optimizers.Optimizer):
        if all(value is not other for other in found.values()):
            found[name] = value
    elif isinstance(value, dict):
        for key, item in value.items():
            _collect_optimizers(f"{name}.{key}", item, found)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _collect_optimizers(f"{name}.{index}", item, found)


def learning_rates(optimizer):
    """Dict, key of `copy_optimizer` -> copy: the learning rates.

    There are several where an optimizer hands its work on to others, and none
    where the rate is a schedule.
    """
    return {
        key: _copy(variable)
        for key, variable in _keyed(optimizer).items()
        if _is_learning_rate(key)
    }


def _is_learning_rate(key):
    return _name(key) == "learning_rate"


def _name(key):
    """The name of a variable in a key of `copy_optimizer`."""
    return key.split(":", 1)[1]


def _slots(names, variable):
    """Those of some names that are of what is kept of a weight."""
    # As Keras names them.
    prefix = f"{variable.path.replace('/', '_')}_"
    return {name for name in names if name.startswith(prefix)}


def copy_optimizers(model, optimizers=None):
    """Dict, name -> what `copy_optimizer` copies, of those that are built."""
    if optimizers is None:
        optimizers = optimizers_of(model)
    return {
        name: copy_optimizer(optimizer)
        for name, optimizer in optimizers.items()
        if optimizer.built
    }


def copy_optimizer(optimizer, earlier=None):
    """Dict from a variable's position and name to a copy of its value.

    Args:
        optimizer: `keras.optimizers.Optimizer`.
        earlier: optional, what `copies_of` its variables were when they were
            fewer: these values count.
    """
    keyed = _keyed(optimizer)
    copies = {**copies_of(keyed.values()), **(earlier or {})}
    return {key: copies[id(v)] for key, v in keyed.items()}


def _keyed(optimizer):
    variables = optimizers.variables_of(optimizer)
    return {f"{i}:{v.name}": v for i, v in enumerate(variables)}


def copies_of(variables):
    """Dict from a variable's identity to a copy of its value."""
    return {id(v): _copy(v) for v in variables}


def restore_optimizer(optimizer, state):
    """Assigns what `copy_optimizer` copied.

    Raises:
        ValueError: If it was copied from another kind of optimizer.
    """
    variables = optimizers.variables_of(optimizer)
    if not learning_rates(optimizer):
        # A schedule may have taken the place of a number.
        state = {k: v for k, v in state.items() if not _is_learning_rate(k)}
    if not fits_optimizer(optimizer, state):
        raise ValueError(
            "The optimizer must be of the kind that the rewind point was "
            f"captured with. Received: optimizer={optimizer.name!r} with "
            f"variables {[v.name for v in variables]} instead of "
            f"{[key.split(':', 1)[1] for key in state]}"
        )
    for variable, value in zip(variables, state.values()):
        variable.assign(value)


def fits_optimizer(optimizer, state):
    """Whether the variables agree in number and shape."""
    variables = optimizers.variables_of(optimizer)
    return len(variables) == len(state) and all(
        tuple(v.shape) == a.shape for v, a in zip(variables, state.values())
    )


def _copy(variable):
    value = np.asarray(variable.numpy())
    # Fresh slots are all zeros: pages that are never written cost no memory.
    return value if has_bits(value) else np.zeros(value.shape, value.dtype)


class DelayedCapture:
    """Captures the rewind point after a training step, while `fit` trains.

    Args:
        model: `keras.Model`.
        step: int, at least 1.
        optimizers: optional function without arguments that returns a dict,
            name -> optimizer. Defaults to those that the model holds.
    """

    def __init__(self, model, step, optimizers=None):
        self.step = step
        self._model = model
        self._optimizers = optimizers or functools.partial(optimizers_of, model)
        self._copy = backend.DelayedCopy(step, self._state)

    def _state(self):
        found = {
            name: _keyed(optimizer)
            for name, optimizer in self._optimizers().items()
        }
        return {"weights": model_state(self._model), "optimizers": found}

    def after_step(self, data, *scope):
        """Called after each training step, perhaps as a part of it."""
        self._copy.after_step(data, *scope)

    def restart(self, steps=0):
        """Counts from 0 again, or from where a training goes on."""
        self._copy.restart(steps)

    @property
    def steps(self):
        """How many steps were counted."""
        return self._copy.steps

    def rewind_point(self):
        """The `RewindPoint`, once `steps` has reached `step`."""
        return RewindPoint(self.step, **self._copy.copies())
