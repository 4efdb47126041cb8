"""A LiteRT file: what is in it, and what it computes.

What a file stores is read by the classes of its format, since an interpreter
does not tell which of the tensors are constants.
"""

import dataclasses
import gzip
import os
import warnings

import numpy as np
import tensorflow as tf

from keras_lottery.files import atomic_file
from keras_lottery.keras_internals import litert_schema


@dataclasses.dataclass(frozen=True)
class WrittenFile:
    """A LiteRT file on the disk.

    Args:
        path: str.
        bytes: int, size of the file.
        compressed_bytes: int, the same compressed by gzip.
        weights: int, numbers in the file's constants of rank 2 or more.
        zeros: int, those of them that are exactly zero.
    """

    path: str
    bytes: int
    compressed_bytes: int
    weights: int
    zeros: int

    def load(self):
        """The function that is in the file; see `batch_function`."""
        with open(self.path, "rb") as file:
            return batch_function(file.read())

    def summary(self):
        """Its weights, zeros and size, one line."""
        return (
            f"{self.zeros:,} of {self.weights:,} weights are zero; "
            f"{self.bytes / 1e3:,.1f} kB on disk, "
            f"{self.compressed_bytes / 1e3:,.1f} kB gzipped"
        )

    def __str__(self):
        return self.summary()


def write_litert_file(content, path):
    """Writes a LiteRT file.

    Args:
        content: bytes of the file.
        path: str or path-like.

    Returns:
        A dict, the arguments of `WrittenFile`.
    """
    with atomic_file(path) as file:
        file.write(content)
    weights, zeros = count_weights(content)
    return {
        "path": os.fspath(path),
        "bytes": len(content),
        "compressed_bytes": len(gzip.compress(content, 6)),
        "weights": weights,
        "zeros": zeros,
    }


def interpret(content, inputs, batch_size=256):
    """The outputs of a file, computed in the LiteRT interpreter.

    Args:
        content: bytes of the file.
        inputs: dict, name -> array.
        batch_size: int, size of every batch. The last one is filled up with
            the first examples, since a file may take one batch size only.

    Returns:
        A dict, name -> array.

    Raises:
        RuntimeError: If the interpreter cannot run it.
    """
    run = signature_runner(content)
    count = len(next(iter(inputs.values())))
    parts = []
    for start in range(0, count, batch_size):
        rows = np.arange(start, start + batch_size) % count
        parts.append(run(**{n: a[rows] for n, a in inputs.items()}))
    return {n: np.concatenate([p[n] for p in parts])[:count] for n in parts[0]}


def batch_function(content):
    """The function in a file with one input and one output.

    Args:
        content: bytes of the file.

    Returns:
        A function from a batch, an array, to the array of outputs. For each
        batch size it keeps an interpreter, which allocates memory for it once.
    """
    (signature,) = _interpreter(content).get_signature_list().values()
    (name,), (output,) = signature["inputs"], signature["outputs"]
    runners = {}

    def predict(batch):
        if len(batch) not in runners:
            runners[len(batch)] = signature_runner(content)
        return runners[len(batch)](**{name: batch})[output]

    return predict


def signature_runner(content):
    """The signature of a file, in a new interpreter.

    Args:
        content: bytes of the file.

    Returns:
        A function of named arrays that returns a dict, name -> array.
    """
    return _interpreter(content).get_signature_runner()


def count_weights(content):
    """The weights in a file, and how many of them are exactly zero.

    Args:
        content: bytes of the file.

    Returns:
        A pair of int. Weights are the numbers in constants of rank 2 or more.
    """
    weights = zeros = 0
    for shape, values, _ in _constants(content):
        weights += int(np.prod(shape))
        zeros += int(np.prod(shape)) - int(np.count_nonzero(values))
    return weights, zeros


def dense_kernels(content):
    """The weights in a file as arrays, except those that are stored sparse.

    Args:
        content: bytes of the file.

    Returns:
        A list of arrays. The order of their axes is LiteRT's.
    """
    return [
        values.reshape(shape)
        for shape, values, sparse in _constants(content)
        if not sparse
    ]


def _constants(content):
    """Triples: the shape, the numbers that are stored, whether sparse."""
    schema = litert_schema()
    types = {
        schema.TensorType.FLOAT32: np.float32,
        schema.TensorType.FLOAT16: np.float16,
        schema.TensorType.INT8: np.int8,
    }
    model = schema.Model.GetRootAs(content)
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            buffer = model.Buffers(tensor.Buffer())
            kind = types.get(tensor.Type())
            if kind is None or tensor.ShapeLength() < 2:
                continue
            if buffer.DataLength():
                values = buffer.DataAsNumpy().view(kind)
                sparse = tensor.Sparsity() is not None
                yield tuple(tensor.ShapeAsNumpy()), values, sparse


def _interpreter(content):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = tf.lite.Interpreter
    with warnings.catch_warnings():
        # TensorFlow's own copy warns that it moves to that package.
        warnings.simplefilter("ignore")
        return Interpreter(model_content=content)
