"""Models built by functions, the user's own among them."""

import contextlib
import hashlib
import inspect
import json

import keras

from keras_lottery.keras_internals import names_from_the_first

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@contextlib.contextmanager
def in_precision(policy):
    """Context manager: layers are made with a dtype policy.

    Args:
        policy: str, the name of a Keras dtype policy.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def check_function(build):
    """Refuses what is not a function that can build a model.

    Args:
        build: function.

    Raises:
        ValueError: If it is a model, or needs arguments that it is not given.
    """
    if isinstance(build, keras.Model):
        raise ValueError(
            "`model` must be a function that builds a model and returns it: "
            "each trial begins with new weights. "
            f"Received: the model {build.name!r}"
        )
    others = [
        parameter.name
        for parameter in inspect.signature(build).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind
        not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and parameter.name not in _ARGUMENTS
    ]
    if others:
        raise ValueError(
            "`model` must be a function that needs no other arguments than "
            f"{list(_ARGUMENTS)}. Received: model={name(build)}, which also "
            f"needs {others}"
        )


_ARGUMENTS = ("input_shape", "classes", "seed")


def check_new(build, one, other):
    """Refuses a function that returns a model of which it keeps parts.

    Args:
        build: function.
        one: `keras.Model`, which it returned.
        other: `keras.Model`, which it returned when it was called again.

    Raises:
        ValueError: If the two share weights.
    """
    others = {id(variable) for variable in other.variables}
    shared = [v.path for v in one.variables if id(v) in others]
    if shared:
        raise ValueError(
            "`model` must be a function that builds a new model, all layers "
            "of it, each time that it is called. Received: "
            f"model={name(build)}, of which two models share the weights "
            f"{shared[:3]}{', ...' * (len(shared) > 3)}"
        )


def call(build, **arguments):
    """Calls a function with those of the arguments that it has.

    Args:
        build: function.
        **arguments: what it may be called with.

    Returns:
        What it returns.
    """
    parameters = inspect.signature(build).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return build(**arguments)
    accepted = {p.name for p in parameters}
    return build(**{k: v for k, v in arguments.items() if k in accepted})


def build_own(build, data, seed):
    """A built model of a user's function, the same for the same seed.

    The seed is also made that of Keras, NumPy and Python, for a function that
    does not take one.

    Args:
        build: function, called with those of `input_shape`, `classes` and
            `seed` that it has.
        data: `Dataset`.
        seed: int.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If it does not return one.
    """
    keras.utils.set_random_seed(seed)
    with names_from_the_first():
        model = call(
            build,
            input_shape=data.input_shape,
            classes=data.classes,
            seed=seed,
        )
        if not isinstance(model, keras.Model):
            raise ValueError(
                "`model` must be a function that returns a Keras 3 model. "
                f"Received: model={name(build)}, which returned {model!r}"
            )
        if not model.built or not model.weights:
            model(keras.tree.map_structure(lambda x: x[:1], data.train[0]))
    return model


def name(build):
    """How a network or a function is called in files.

    Args:
        build: str, the name of a network; or a function, which is called by
            its module and name.

    Returns:
        A str.
    """
    if isinstance(build, str):
        return build
    qualified = getattr(build, "__qualname__", type(build).__qualname__)
    return f"{build.__module__}.{qualified}"


def fingerprint(model):
    """The hash of how a model computes and is trained.

    Args:
        model: `keras.Model`, compiled. Of one that Keras cannot write down
            the source of its class is taken.

    Returns:
        A str of 32 hexadecimal digits.
    """
    try:
        made = keras.saving.serialize_keras_object(model)
    except (NotImplementedError, TypeError, ValueError):
        made = {}
    # Of a wrapped model: how it is pruned does not say how it is trained.
    made.get("config", {}).pop("lottery", None)
    with contextlib.suppress(OSError, TypeError):
        own = getattr(type(model), "unwrapped_class", type(model))
        made["source"] = inspect.getsource(own)
    text = json.dumps(made, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
