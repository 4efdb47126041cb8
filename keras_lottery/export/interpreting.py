"""Runs a LiteRT file, and reads the weights that are in it."""

import warnings

import numpy as np
import tensorflow as tf

# The format itself: an interpreter does not tell which tensors are constant,
# and of sparse ones it shows the wrong numbers.
from tensorflow.lite.python import schema_py_generated as schema

_TYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
}


def run(content, inputs, batch_size=256):
    """What the file answers, in the LiteRT interpreter.

    Args:
        content: bytes of the file.
        inputs: dict, name -> array.
        batch_size: int, examples to give it at once.

    Returns:
        A dict, name -> array.

    Raises:
        RuntimeError: If the interpreter cannot run it.
    """
    answer = runner(content)
    count = len(next(iter(inputs.values())))
    parts = []
    for start in range(0, count, batch_size):
        # Full to the last: a file may take batches of one size alone.
        rows = np.arange(start, start + batch_size) % count
        parts.append(answer(**{n: a[rows] for n, a in inputs.items()}))
    return {n: np.concatenate([p[n] for p in parts])[:count] for n in parts[0]}


def runner(content):
    """The file's signature, in an interpreter of its own.

    Args:
        content: bytes of the file.

    Returns:
        A function of named arrays that gives a dict, name -> array. When the
        size of the batch changes it makes room anew, which takes time.
    """
    return _interpreter(content).get_signature_runner()


def names(content):
    """The names of the inputs that the file's signature takes."""
    (signature,) = _interpreter(content).get_signature_list().values()
    return signature["inputs"]


def count(content):
    """The weights in the file, and how many of them are exactly zero.

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


def kernels(content):
    """The weights in the file as arrays, those stored sparse left out.

    Args:
        content: bytes of the file.

    Returns:
        A list of arrays, in the order that LiteRT gives to their axes.
    """
    return [
        values.reshape(shape)
        for shape, values, sparse in _constants(content)
        if not sparse
    ]


def _constants(content):
    """Triples: the shape, the numbers that are stored, whether sparse."""
    model = schema.Model.GetRootAs(content)
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            buffer = model.Buffers(tensor.Buffer())
            kind = _TYPES.get(tensor.Type())
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
        # TensorFlow's own copy says that it moves to that package.
        warnings.simplefilter("ignore")
        return Interpreter(model_content=content)
