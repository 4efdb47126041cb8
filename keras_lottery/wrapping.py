"""wrap / unwrap: makes `fit` run a round.

The model stays the same object. It is given a subclass of its own class, so
that `isinstance` holds and its own `train_step`, `call` and methods are kept.
"""

import contextlib
import functools
import inspect
import os
from typing import Any

import keras

from keras_lottery import backend, saving
from keras_lottery.checks import check_arguments
from keras_lottery.keras_internals import unpickle_model
from keras_lottery.pruner import LotteryTicketPruner
from keras_lottery.scopes import find_kernels
from keras_lottery.tickets import Ticket, search_arguments


class LotteryModel:
    """What `wrap` adds in front of a model's own class."""

    unwrapped_class: type
    lottery: LotteryTicketPruner
    train_function: Any

    def fit(self, *args, **kwargs):
        """`keras.Model.fit`, as one round: trains, prunes, rewinds."""
        return self.lottery.run_fit(super().fit, *args, **kwargs)

    def __new__(cls, *args, **kwargs):
        # `clone_model` builds from the class: the copy is a plain model.
        return cls.unwrapped_class(*args, **kwargs)

    def __reduce__(self):
        # Pickle finds a class by its name, and this one was made just now.
        _, arguments = super().__reduce__()
        return _unpickle, arguments

    def make_train_function(self, force=False):
        own = super().make_train_function
        return backend.make_train_function(self.lottery, own, force)

    def train_step(self, *args):
        return backend.train_step(self.lottery, super().train_step, *args)

    def _symbolic_build(self, iterator=None, data_batch=None):
        own = super()._symbolic_build
        return backend.symbolic_build(self.lottery, own, iterator, data_batch)

    def get_config(self):
        with _as_own_class(self):
            config = keras.saving.serialize_keras_object(self)
        # Keras compiles the outer object from a config of its own.
        config.pop("compile_config", None)
        return {"model": config, "lottery": self.lottery.get_config()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        model = keras.saving.deserialize_keras_object(
            config["model"], custom_objects
        )
        # Paths may differ in a model built anew; the order does not.
        kernels = find_kernels(model) if model.built else ()
        lottery = config["lottery"]
        places = dict(zip(lottery["rates"], [k.path for k in kernels]))
        return wrap(model, **search_arguments(lottery, places))

    def save(self, filepath, overwrite=True, zipped=None, **kwargs):
        """`keras.Model.save`, with the search in the file."""
        if os.fspath(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                "`filepath` must end in `.keras`, since an HDF5 file of a "
                "model does not hold a search. For weights alone, use "
                "`save_weights('name.weights.h5')`; for a plain model, "
                f"`keras_lottery.unwrap`. Received: filepath={filepath}"
            )
        self.lottery.state.check_variables()
        super().save(filepath, overwrite=overwrite, zipped=zipped, **kwargs)

    def save_assets(self, inner_path):
        if self.lottery.attached:
            saving.save_search(self.lottery, inner_path)

    def load_assets(self, inner_path):
        saving.load_search(self.lottery, inner_path)

    def save_weights(self, filepath, overwrite=True, max_shard_size=None):
        """`keras.Model.save_weights`, with the search in the file.

        Where there is a file, `overwrite=False` is refused, and not asked for.
        """
        if max_shard_size is not None:
            raise ValueError(
                "`max_shard_size` must be None for a wrapped model: use "
                "`save('name.keras')`. Received: "
                f"max_shard_size={max_shard_size}"
            )
        self.lottery.state.check_variables()
        own = super().save_weights
        if self.lottery.attached:
            saving.save_weights(self.lottery, own, filepath, overwrite)
        else:
            own(filepath, overwrite=overwrite)

    def load_weights(self, filepath, skip_mismatch=False, **kwargs):
        """`keras.Model.load_weights`, with the search that the file holds.

        Weights of an earlier level can be evaluated and exported; the next
        `fit` trains the level that the search is at, from its start. Weights
        of the same or of a later level go on with the search they are of.
        """
        with saving.search_beside_weights(filepath) as search:
            if search:
                self.lottery.require_attached()
                saving.check_search(self.lottery, search)
            super().load_weights(filepath, skip_mismatch, **kwargs)
            if search:
                saving.weights_loaded(self.lottery, search)

    def export(self, filepath, *args, **kwargs):
        """`keras.Model.export`, of weights that are trained."""
        self.lottery.state.check_export()
        return super().export(filepath, *args, **kwargs)

    def quantize(self, *args, **kwargs):
        """Refused: quantized kernels have neither masks nor gradients."""
        raise ValueError(
            "A wrapped model must not be quantized: its kernels would lose "
            "their masks. `keras_lottery.unwrap` it first, or export it by "
            "`keras_lottery.export.to_litert`."
        )


def _unpickle(file):
    # Keras' own way, through the `.keras` format; ours to import this module.
    return unpickle_model(file)


def wrap(model: keras.Model, **arguments: Any) -> keras.Model:
    """Makes a Keras model look for a lottery ticket when it is trained.

    From then on `fit` is a round: it trains the model under the current mask,
    records the level, prunes and rewinds. The model is the same object with
    the same weights, and is an instance of its class as before.

    Args:
        model: `keras.Model`, built or not, compiled or not.
        **arguments: those of `LotteryTicketPruner`: `rate=0.2`,
            `output_rate=None`, `rates=None`, `scope="layerwise"`,
            `criterion="magnitude"`, `rewind_to=0`, `masks=None`,
            `block_size=None`, `rounds=None`, `seed=None`.

    Returns:
        The same model, with its `LotteryTicketPruner` as `model.lottery`.

    Raises:
        TypeError: If an argument is none of these.
        ValueError: If an argument is wrong, if the model is not a Keras 3
            model or is wrapped already, or if it has nothing to prune.

    Example:

    ```python
    model = keras_lottery.wrap(model, rate=0.2, rounds=3)
    model.compile("adam", "sparse_categorical_crossentropy")
    for _ in range(4):
        model.fit(x, y)  # levels 0 to 3
    print(model.lottery.density)
    ```

    Source: Frankle & Carbin, 1803.03635, section 1.
    """
    _, *taken = inspect.signature(LotteryTicketPruner).parameters
    check_arguments("wrap", arguments, taken)
    model.lottery = LotteryTicketPruner(model, **arguments)
    # Keras puts this method onto the object, in front of the class.
    vars(model.lottery)["own_quantize"] = vars(model).pop("quantize", None)
    model.__class__ = _wrapped_class(type(model))  # type: ignore[arg-type]
    return model


def unwrap(model: keras.Model) -> keras.Model:
    """Gives the plain Keras model back.

    Args:
        model: a model that `wrap` returned.

    Returns:
        The same object, of its own class. The masks' zeros stay; nothing of
        this library remains in it.

    Raises:
        ValueError: If the model is not wrapped, or its weights are lent.
    """
    if not isinstance(model, LotteryModel):
        raise ValueError(
            "`model` must be a model that `keras_lottery.wrap` returned. "
            f"Received: model={model!r}"
        )
    if model.lottery.state.lent is not None:
        raise ValueError(
            "`unwrap` must not be called inside `trained()`, which puts other "
            "weights back when it ends: call it after the `with` block."
        )
    model.lottery.detach()
    model.train_function = None
    model.__class__ = type(model).unwrapped_class
    own_quantize = vars(model.lottery)["own_quantize"]
    if own_quantize is not None:
        vars(model)["quantize"] = own_quantize
    del model.lottery
    return model


def _wrap_by_ticket(ticket, model, names, arguments):
    """What `Ticket.apply` does to a model."""
    places, config = ticket.match(model, names), dict(ticket.config)
    if config and arguments.keys() & {"rate", "output_rate", "scope"}:
        # The rates of single layers came of those: but for what is left alone,
        # and for what is pruned only where a rate names it.
        named = {k.path for k in find_kernels(model) if not k.default}
        config["rates"] = {
            path: rate
            for path, rate in config["rates"].items()
            if rate == 0.0 or places[path] in named
        }
    config = search_arguments(config, places)
    model = wrap(model, **{**config, **arguments})
    try:
        model.lottery.load(ticket, names)
    except ValueError:
        unwrap(model)
        raise
    return model


Ticket.wrapping = staticmethod(_wrap_by_ticket)


def _save_to_preset(self, *args, **kwargs):
    """Refused: a preset of KerasHub does not hold a search."""
    raise ValueError(
        "A wrapped model must not be saved as a preset, which does not hold "
        "its search: use `save('name.keras')`, or `keras_lottery.unwrap` first."
    )


@functools.cache
def _wrapped_class(own: Any) -> Any:
    # The name that Keras shows where this package is not imported.
    name = f"{own.__name__} of keras_lottery"
    members = {"unwrapped_class": own}
    if hasattr(own, "save_to_preset"):
        members["save_to_preset"] = _save_to_preset
    wrapped = type(name, (LotteryModel, own), members)
    wrapped.__module__ = __name__
    # All share one registered name: `from_config` finds the class again from
    # the model inside the config.
    register = keras.saving.register_keras_serializable
    return register("keras_lottery", "LotteryModel")(wrapped)


keras.saving.register_keras_serializable("keras_lottery", "LotteryModel")(
    LotteryModel
)


@contextlib.contextmanager
def _as_own_class(model):
    wrapped = type(model)
    model.__class__ = wrapped.unwrapped_class
    try:
        yield
    finally:
        model.__class__ = wrapped
