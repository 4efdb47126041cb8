"""Runs a SavedModel where neither this library nor Keras can be imported.

A script of its own: `python -P clean_process.py MODEL EXCHANGE BATCH`. It
finds the inputs in EXCHANGE as serialized tensors, one file a name, writes
the outputs beside them, and prints one line of JSON.
"""

import importlib.abc
import importlib.machinery
import json
import sys

FORBIDDEN = ("keras", "keras_lottery", "tf_keras")


class Blocker(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands before all other finders and refuses the forbidden names."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in FORBIDDEN:
            # Found, not refused yet: TensorFlow looks for Keras and must not
            # fail, as it does not where there is none.
            return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec):
        raise ImportError(f"{spec.name} is not there for a server")

    def exec_module(self, module):
        """Never reached."""


def main(directory, exchange, batch):
    sys.meta_path.insert(0, Blocker())
    import tensorflow as tf

    model = tf.saved_model.load(directory)
    serve = model.signatures["serving_default"]
    inputs = {
        name: tf.io.parse_tensor(
            tf.io.read_file(f"{exchange}/{name}.input"), spec.dtype
        )
        for name, spec in serve.structured_input_signature[1].items()
    }
    parts = []
    for rows in _batches(len(next(iter(inputs.values()))), batch):
        parts.append(serve(**{n: x[rows] for n, x in inputs.items()}))
    for name in parts[0]:
        whole = tf.concat([part[name] for part in parts], 0)
        tf.io.write_file(
            f"{exchange}/{name}.output", tf.io.serialize_tensor(whole)
        )
    answer = {name: value.dtype.name for name, value in parts[0].items()}
    loaded = [name for name in FORBIDDEN if name in sys.modules]
    weights, zeros = count(tf, directory)
    line = {
        "outputs": answer,
        "loaded": loaded,
        "weights": weights,
        "zeros": zeros,
    }
    print(json.dumps(line))


def _batches(count, batch):
    """One example first, so that two batch sizes are run."""
    yield slice(0, 1)
    for start in range(1, count, batch):
        yield slice(start, start + batch)


def count(tf, directory):
    """The weights in the file itself, and how many are exactly zero."""
    reader = tf.train.load_checkpoint(f"{directory}/variables/variables")
    weights = zeros = 0
    for name, dtype in reader.get_variable_to_dtype_map().items():
        if dtype.is_floating:
            values = reader.get_tensor(name)
            weights += values.size
            zeros += int((values == 0).sum())
    return weights, zeros


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
