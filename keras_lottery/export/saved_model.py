"""A SavedModel: written from one traced function, verified without Keras.

`write_saved_model` saves a bare `tf.Module` that holds the function and its
variables, so that loading it takes TensorFlow alone. `verify_saved_model` runs
it in a process in which Keras and this library cannot be imported.

Why not `keras.export.ExportArchive`: it numbers the variables in the file
instead of naming them by their paths, stores each of them twice (as of Keras
3.15), and takes no lookup table of a `preprocess` function.
"""

import dataclasses
import sys

import cloudpickle
import numpy as np
import tensorflow as tf

from keras_lottery import processes

_BATCH = 256
FORBIDDEN = ("keras", "keras_lottery", "tf_keras")


def write_saved_model(function, directory, names=None, holders=()):
    """Writes a SavedModel with the signature `serving_default`.

    Args:
        function: `ConcreteFunction` of named tensors that returns a dict.
        directory: str, to write to.
        names: optional dict, `id` of a `tf.Variable` -> its name in the file.
            Defaults to the variables' own names.
        holders: iterable of objects, such as layers, whose attributes are
            the lookup tables that the function may use.
    """
    module = bare_module(function, names, holders)
    tf.saved_model.save(
        module,
        directory,
        signatures={"serving_default": function},
        # A server computes no gradients.
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )


def bare_module(function, names=None, holders=()):
    """A `tf.Module` that holds the variables and tables of a function.

    Args:
        function, names, holders: see `write_saved_model`.

    Returns:
        A `tf.Module`.

    Raises:
        ValueError: If the function uses a resource that is neither a variable
            nor a table, and would be missing in the file.
    """
    module = tf.Module()
    names = names or {}
    weights = {}
    for variable in function.variables:
        name = names.get(id(variable), variable.name.partition(":")[0])
        weights[_unused_name(name, weights)] = variable
    module.weights = weights
    held = {id(v.handle) for v in function.variables}
    tables = {id(t.resource_handle): t for t in _tables(holders)}
    module.tables = []
    for outer, _ in function.graph.captures:
        if outer.dtype != tf.resource or id(outer) in held:
            continue
        if id(outer) not in tables:
            raise ValueError(
                "`model` must keep the lookup tables that it uses in "
                "attributes of its layers: others cannot be exported. "
                "Received one that uses a resource which is no variable and "
                "no table of a layer."
            )
        module.tables.append(tables[id(outer)])
    return module


def _unused_name(name, used):
    number, unused = 1, name
    while unused in used:
        unused = f"{name}_{number}"
        number += 1
    return unused


def _tables(holders):
    kind = tf.saved_model.experimental.TrackableResource
    for holder in holders:
        for value in vars(holder).values():
            if isinstance(value, kind):
                yield value


@dataclasses.dataclass(frozen=True)
class Verified:
    """The result of `verify_saved_model`.

    Args:
        examples: int, number of examples that were compared.
        max_difference: float, the greatest absolute one over all outputs.
        weights: int, floating-point numbers in variables of rank 2 or more.
        zeros: int, those of them that are exactly zero.
    """

    examples: int
    max_difference: float
    weights: int
    zeros: int


def verify_saved_model(directory, inputs, expected, tolerance):
    """Runs a SavedModel in a process without Keras and compares its outputs.

    Args:
        directory: str, of the SavedModel.
        inputs: dict, name -> array.
        expected: dict, name -> array, the Keras model's outputs.
        tolerance: float, the greatest difference allowed, as a fraction of
            the greatest absolute output (of 1 where that is less).

    Returns:
        `Verified`.

    Raises:
        ValueError: If the outputs differ by more.
        RuntimeError: If the model does not load or run there.
    """
    try:
        found, loaded, (weights, zeros) = processes.call(
            run_without_keras,
            directory,
            inputs,
            _BATCH,
            env={"TF_CPP_MIN_LOG_LEVEL": "3"},
        )
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RuntimeError(
            "The written model does not run in a process without Keras: "
            f"{lines[-1]}"
        ) from error
    if loaded or found.keys() != expected.keys():
        raise RuntimeError(
            "The written model was not verified as it should be: the process "
            f"loaded {loaded}, the outputs are {list(found)}."
        )
    difference = max(
        compare_outputs(name, found[name], expected[name], tolerance)
        for name in expected
    )
    examples = len(next(iter(inputs.values())))
    return Verified(examples, difference, weights, zeros)


def compare_outputs(name, found, expected, tolerance):
    """The greatest difference of an output from the one expected.

    Args:
        name: str, of the output.
        found: array, of the written model.
        expected: array, of the Keras model.
        tolerance: float, see `verify_saved_model`.

    Returns:
        A float.

    Raises:
        ValueError: If type or shape differ, or the difference is too great.
    """
    if found.dtype != expected.dtype or found.shape != expected.shape:
        raise ValueError(
            f"The written model gives {name!r} as {found.dtype} of shape "
            f"{found.shape}, the Keras model as {expected.dtype} of shape "
            f"{expected.shape}."
        )
    if expected.dtype.kind not in "fciubV":
        # Strings are equal or not.
        found, expected = found != expected, np.zeros(found.shape)
    one, other = found.astype("float64"), expected.astype("float64")
    both = np.isnan(one) & np.isnan(other)
    one, other = one[~both & (one != other)], other[~both & (one != other)]
    difference = float(np.max(np.abs(one - other), initial=0.0))
    finite = expected.astype("float64")
    scale = np.max(np.abs(finite[np.isfinite(finite)]), initial=1.0)
    if not difference <= tolerance * scale:
        raise ValueError(
            "The written model must answer as the Keras model does. Output "
            f"{name!r} differs by {difference:.3g}; tolerance={tolerance:g} "
            f"allows {tolerance * scale:.3g}. A model that draws random "
            "numbers cannot be verified; one in half precision needs more "
            "`tolerance`."
        )
    return difference


# What follows runs in the process without Keras. It is sent there by value,
# so that this module is not imported; TensorFlow is imported inside functions,
# after Keras is blocked.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Blocker:
    """A finder, placed before all others, that refuses the forbidden names."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, fullname, path=None, target=None):
        import importlib.machinery

        if fullname.partition(".")[0] in self.names:
            # Found, but not to be loaded: TensorFlow looks whether there is
            # Keras, and an error here would make its own import fail.
            return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec):
        raise ImportError(f"{spec.name} is not there for a server")

    def exec_module(self, module):
        """Never reached."""


def run_without_keras(directory, inputs, batch_size):
    """Runs a SavedModel after it has blocked the import of Keras.

    Args:
        directory: str, of the SavedModel.
        inputs: dict, name -> array.
        batch_size: int. The first example is run alone, so that two batch
            sizes are tried.

    Returns:
        A tuple: the outputs, a dict, name -> array; the list of the forbidden
        modules that were loaded nevertheless; and `count_weights`.
    """
    sys.meta_path.insert(0, Blocker(FORBIDDEN))
    import tensorflow as tf

    model = tf.saved_model.load(directory)
    serve = model.signatures["serving_default"]
    count = len(next(iter(inputs.values())))
    starts = [0, *range(1, count, batch_size), count]
    parts = [
        serve(**{name: tf.constant(x[a:b]) for name, x in inputs.items()})
        for a, b in zip(starts, starts[1:])
    ]
    outputs = {
        name: tf.concat([part[name] for part in parts], 0).numpy()
        for name in parts[0]
    }
    loaded = [name for name in FORBIDDEN if name in sys.modules]
    return outputs, loaded, count_weights(directory)


def count_weights(directory):
    """The weights in a SavedModel, and how many of them are exactly zero.

    As in a LiteRT file, weights are the numbers in what is of rank 2 or more.
    """
    import tensorflow as tf

    reader = tf.train.load_checkpoint(f"{directory}/variables/variables")
    weights = zeros = 0
    for name, dtype in reader.get_variable_to_dtype_map().items():
        values = reader.get_tensor(name)
        if dtype.is_floating and values.ndim > 1:
            weights += values.size
            zeros += int((values == 0).sum())
    return weights, zeros
