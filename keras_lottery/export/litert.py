"""to_litert: exports a ticket to a LiteRT (TensorFlow Lite) file.

The file gets its name after it was run in the LiteRT interpreter, and its
outputs were compared with the Keras model's. What a file stores is read by the
classes of its format, since an interpreter does not tell which of the tensors
are constants.
"""

import dataclasses
import functools
import gzip
import math
import os
import re
import warnings

import numpy as np
import tensorflow as tf

from keras_lottery.checks import check_choice, check_integer
from keras_lottery.export.endpoint import Endpoint, named_examples
from keras_lottery.export.saved_model import bare_module, compare_outputs
from keras_lottery.export.serving import weights_of
from keras_lottery.export.timing import check_batch_sizes, latencies
from keras_lottery.files import atomic_file
from keras_lottery.keras_internals import litert_schema

_QUANTIZE = (None, "dynamic", "int8")
_BATCH = 256
_NOT_DYNAMIC = (
    'the LiteRT interpreter gets it wrong. Use quantize="int8" or None.'
)
# What the converter asks of a layer before it encodes it.
_FEWEST_ZEROS = 0.3
# Two measurements of the same file differ by some percent.
_NOT_SLOWER = 0.95
# What a layer's line says of its kernel.
_KERNELS = {
    "dense": "dense",
    "sparse": "sparse, its kernel skips the zeros",
    "unpacked": "stored without zeros, made dense when it is loaded: no faster",
}


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


@dataclasses.dataclass(frozen=True)
class LayerKernel:
    """Which kernel of LiteRT runs one operation with weights.

    Args:
        operation: str, the operation's name in LiteRT.
        shape: tuple of ints, of its weights, in LiteRT's order of axes.
        density: float, non-zero / all weights.
        kernel: `"dense"`; `"sparse"`, which skips the zeros; or `"unpacked"`:
            the zeros are left out of the file and put back when it is loaded,
            so that it runs as a dense one.
    """

    operation: str
    shape: tuple
    density: float
    kernel: str

    def __str__(self):
        shape = "x".join(map(str, self.shape))
        return (
            f"{self.operation} {shape}, {100 * self.density:.3g} % not zero: "
            f"{_KERNELS[self.kernel]}"
        )


@dataclasses.dataclass(frozen=True)
class LitertFile(WrittenFile):
    """What `to_litert` wrote, and the result of its verification.

    Args:
        path, bytes, compressed_bytes, weights, zeros: see `WrittenFile`.
        examples: int, number of examples it was verified on.
        max_difference: float, the greatest one from the Keras model's
            outputs, absolute.
        layers: list of `LayerKernel`, read from the file.
        encoding: str, whether zeros were left out of it, and why.
    """

    examples: int
    max_difference: float
    layers: list
    encoding: str

    def summary(self):
        """The result of the verification, and which kernels will run."""
        return "\n".join(
            [
                f"verified: max difference {self.max_difference:.2g} on "
                f"{self.examples:,} examples; {super().summary()}",
                f"stored {self.encoding}",
                *(f"  {layer}" for layer in self.layers),
            ]
        )


def to_litert(
    model,
    path,
    quantize=None,
    *,
    level=None,
    representative=None,
    sparse="auto",
    batch_sizes=(1,),
    batch_size=None,
    examples=None,
    tolerance=1e-4,
):
    """Writes a model as a LiteRT file, and verifies what it wrote.

    Sequential, functional and subclassed models can be written, as long as
    the built-in operators of LiteRT suffice. The file has one signature, with
    the same names of inputs and outputs as `to_serving`, and takes batches of
    any size, unless `batch_size` is given. (An interpreter allocates memory
    for one example unless it is resized.)

    The zeros of a ticket stay exactly zero, also as integers, since weights
    are quantized symmetrically. They take as much space as other numbers,
    unless the file is compressed or they are left out by `sparse`. Dense
    layers are then run by sparse kernels where the pattern of the zeros is
    one that LiteRT has kernels for: blocks of 4 inputs of one output, and of
    16 with `"int8"` (`block_size="4x1"` and `"16x1"`). Others are unpacked
    when the file is loaded: the file is smaller, and no faster.

    Args:
        model: `keras.Model`, wrapped or not. Its weights as they are now are
            written, unless `level` says otherwise.
        path: str or path-like, of the file.
        quantize: `None`, float32; `"dynamic"`, large weights in 8 bits and
            activations in float32; or `"int8"`, weights and activations in 8
            bits, between inputs and outputs in float32.
        level: optional int, a trained level of a wrapped model's search, -1
            for the last.
        representative: nest of arrays, as the model takes them: some hundred
            examples, from which `"int8"` takes the ranges of activations.
        sparse: bool, whether weights are stored without their zeros, by the
            converter's experimental encoding: a fraction of the size on
            disk, about the same size compressed. As of TensorFlow 2.21 it
            loses weights of dense layers whose number of inputs is no
            multiple of 4, which is detected and refused, and the
            interpreter cannot run it with `"dynamic"`. Defaults to `"auto"`:
            where it can be had, is smaller, and is measured on this machine,
            on one thread, to be no slower at any of `batch_sizes`. Two
            measurements of one file differ by some percent, so that 0.95
            times the speed counts as no slower.
        batch_sizes: sequence of int, to measure it at. Defaults to 1 alone.
        batch_size: optional int, the only batch size that the file takes.
            Recurrent layers that are not unrolled need one, and so do some
            accelerators. Defaults to `None`, any size.
        examples: optional nest of arrays that the file is verified on.
            Defaults to `representative`, or to random ones.
        tolerance: float, the greatest difference allowed in float32, as a
            fraction of the greatest absolute output (of 1 where that is
            less). The difference due to quantization is reported only.

    Returns:
        A `LitertFile`.

    Raises:
        ValueError: If an argument is wrong, LiteRT cannot run the model, or
            the file does not answer as the Keras model does. Nothing is left
            behind.
        OSError: If it cannot be written. Nothing is left behind.

    Example:

    ```python
    file = keras_lottery.export.to_litert(
        model, "ticket.tflite", "int8", representative=x_train[:256]
    )
    print(file.summary())
    ```
    """
    _check_arguments(quantize, representative, sparse, batch_size, batch_sizes)
    if examples is None:
        examples = representative
    samples = None
    with weights_of(model, level):
        endpoint = Endpoint(model, examples=examples)
        inputs = named_examples(endpoint.inputs, examples)
        if quantize == "int8":
            samples = named_examples(endpoint.inputs, representative)
        expected = endpoint.answers(inputs)
        endpoint.inputs = _of_size(endpoint.inputs, batch_size)
        function = endpoint.trace()
        if sparse == "auto":
            sizes = batch_sizes if batch_size is None else (batch_size,)
            content, encoding = _faster(
                function, quantize, samples, inputs, sizes
            )
        else:
            content = convert(function, quantize, samples, sparse)
            encoding = f"{'sparse' if sparse else 'dense'}, as asked for"
    found = _run(content, inputs, batch_size or _BATCH)
    tolerance = math.inf if quantize else tolerance
    difference = max(
        compare_outputs(name, found[name], expected[name], tolerance)
        for name in expected
    )
    return LitertFile(
        **write_litert_file(content, path),
        examples=len(next(iter(inputs.values()))),
        max_difference=difference,
        layers=layer_kernels(content),
        encoding=encoding,
    )


def _faster(function, quantize, samples, inputs, batch_sizes):
    """The faster of the two encodings, and why it was chosen."""
    dense = convert(function, quantize, samples)
    if quantize == "dynamic":
        return dense, f"dense: {_NOT_DYNAMIC}"
    weights, zeros = count_weights(dense)
    if zeros < _FEWEST_ZEROS * weights:
        return dense, "dense: few weights are zero"
    try:
        encoded = convert(function, quantize, samples, True, dense)
        if len(encoded) >= len(dense):
            return dense, "dense: the sparse file is no smaller"
        runs = [signature_runner(content) for content in (dense, encoded)]
        plain, sparse = latencies(
            [functools.partial(_outputs, run, inputs) for run in runs],
            # Numbers of rows: a model may have several inputs.
            np.arange(len(next(iter(inputs.values())))),
            batch_sizes,
        )
    except (ValueError, RuntimeError) as error:
        return dense, f"dense: {error}"
    gains = {size: plain[size] / sparse[size] for size in batch_sizes}
    told = ", ".join(
        f"{gain:.2f} (batch {size})" for size, gain in gains.items()
    )
    told = (
        f"the sparse file runs at {told} times the speed of the dense one; "
        f"{_NOT_SLOWER} and more counts as no slower"
    )
    if min(gains.values()) >= _NOT_SLOWER:
        return encoded, f"sparse: {told}"
    return dense, f"dense: {told}"


def _outputs(run, inputs, rows):
    return list(run(**{n: a[rows] for n, a in inputs.items()}).values())[0]


def convert(function, quantize=None, samples=None, sparse=False, plain=None):
    """A traced function as the bytes of a LiteRT file.

    Args:
        function: `ConcreteFunction` of named tensors that returns a dict.
        quantize: as in `to_litert`. With `"dynamic"`, a function that was
            trained quantization-aware becomes one of integers.
        samples: dict, name -> array, for `"int8"`.
        sparse: bool.
        plain: optional bytes, what it is with `sparse=False`: to compare.

    Returns:
        The bytes.

    Raises:
        ValueError: If the built-in operators of LiteRT do not suffice.
    """
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function], bare_module(function)
    )
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if sparse:
        converter.optimizations = [
            *converter.optimizations,
            tf.lite.Optimize.EXPERIMENTAL_SPARSITY,
        ]
    if samples:
        _check_no_loop(function.graph)
        converter.representative_dataset = lambda: _batches(
            samples, function.inputs[0].shape[0] or 1
        )
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        ]
    try:
        with warnings.catch_warnings():
            # Its interpreter warns on every use that it moves elsewhere.
            warnings.simplefilter("ignore")
            content = converter.convert()
    except Exception as error:  # The converter's own, ValueError and others.
        raise ValueError(
            "`model` must be one that the built-in operators of LiteRT can "
            f"run. Received one of which the converter says: {_reason(error)}"
            f"{_advice(error)}"
        ) from error
    if sparse:
        plain = plain or convert(function, quantize, samples)
        _check_same_weights(count_weights(content), plain)
    return content


def _batches(inputs, size):
    """Dicts of `size` rows of arrays; the last is filled up with the first."""
    count = len(next(iter(inputs.values())))
    for start in range(0, count, size):
        rows = np.arange(start, start + size) % count
        yield {name: array[rows] for name, array in inputs.items()}


def _of_size(inputs, batch_size):
    return {
        name: tf.TensorSpec((batch_size, *spec.shape[1:]), spec.dtype, name)
        for name, spec in inputs.items()
    }


def _run(content, inputs, batch_size):
    try:
        return interpret(content, inputs, batch_size)
    except RuntimeError as error:
        raise ValueError(
            "`model` must be one that the LiteRT interpreter can run. "
            f"Received one of which it says: {_reason(error)}"
        ) from error


def _check_same_weights(found, plain):
    expected = count_weights(plain)
    if found != expected:
        raise ValueError(
            "`sparse` must be False for this model: the converter's sparse "
            "encoding loses weights, as it does in dense layers whose number "
            "of inputs is no multiple of 4. (Weights, zeros) without it: "
            f"{expected}, with it: {found}"
        )


def _check_no_loop(graph):
    # On a loop the converter aborts the whole process.
    definition = graph.as_graph_def()
    nodes = [*definition.node]
    for function in definition.library.function:
        nodes.extend(function.node_def)
    if any(node.op in ("While", "StatelessWhile") for node in nodes):
        raise ValueError(
            '`quantize` must not be "int8" for a model with a loop, such as a '
            "recurrent layer that is not built with unroll=True."
        )


def _reason(error):
    """One line of an error that has hundreds."""
    text = str(error)
    select = re.search(r"(?:TF Select|Flex) ops: (.+)", text)
    if select:
        return f"it needs TensorFlow's own operators {select[1]}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.partition("error: ")[2] for line in lines]
    return next(filter(None, [*errors, *lines]), type(error).__name__)


def _advice(error):
    """What helps, where the converter's own words do not tell."""
    if "TensorListReserve" not in str(error):
        return ""
    return (
        ". A recurrent layer needs a fixed `batch_size`, such as "
        "batch_size=1, or to be built with unroll=True"
    )


def _check_arguments(quantize, representative, sparse, batch_size, batch_sizes):
    check_choice("quantize", quantize, _QUANTIZE)
    if quantize == "int8" and representative is None:
        raise ValueError(
            '`representative` must be given with quantize="int8": some '
            "hundred examples, which give the ranges of activations. "
            "Received: representative=None"
        )
    check_choice("sparse", sparse, ("auto", True, False))
    if quantize == "dynamic" and sparse is True:
        raise ValueError(
            f'`sparse` must be False with quantize="dynamic": {_NOT_DYNAMIC}'
        )
    check_batch_sizes(batch_sizes)
    if batch_size is not None:
        check_integer("batch_size", batch_size, minimum=1)


# What is in a file, and what it computes.


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
    parts = [run(**batch) for batch in _batches(inputs, batch_size)]
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
    dtype = signature_runner(content).get_input_details()[name]["dtype"]
    runners = {}

    def predict(batch):
        if len(batch) not in runners:
            runners[len(batch)] = signature_runner(content)
        batch = np.asarray(batch, dtype)
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


def layer_kernels(content):
    """Which kernel runs each operation with weights of rank 2 or more.

    The converter encodes weights sparsely where at least 30 % of them are
    zero. Where nearly all zeros lie in blocks of 4 inputs (16 for integers) of
    a dense layer, a kernel that skips them runs it.

    Args:
        content: bytes of the file.

    Returns:
        A list of `LayerKernel`, in the order of the file.
    """
    schema = litert_schema()
    names = {
        number: name
        for name, number in vars(schema.BuiltinOperator).items()
        if isinstance(number, int)
    }
    model, found = schema.Model.GetRootAs(content), []
    for index in range(model.SubgraphsLength()):
        graph, unpacked = model.Subgraphs(index), {}
        for number in range(graph.OperatorsLength()):
            operator = graph.Operators(number)
            code = model.OperatorCodes(operator.OpcodeIndex())
            kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            if names[kind] == "DENSIFY":
                unpacked[operator.Outputs(0)] = operator.Inputs(0)
                continue
            # -1 stands for an input that is left out, such as a bias.
            for place in filter(lambda i: i >= 0, operator.InputsAsNumpy()):
                source = unpacked.get(place, place)
                weights = _weights_of(model, graph.Tensors(int(source)))
                if weights is None:
                    continue
                shape, values, sparse = weights
                density = np.count_nonzero(values) / int(np.prod(shape))
                kernel = "sparse" if sparse else "dense"
                if place in unpacked:
                    kernel = "unpacked"
                found.append(LayerKernel(names[kind], shape, density, kernel))
    return found


def _constants(content):
    """Triples: the shape, the numbers that are stored, whether sparse."""
    model = litert_schema().Model.GetRootAs(content)
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            weights = _weights_of(model, tensor)
            if weights is not None:
                yield weights


def _weights_of(model, tensor):
    """What `_constants` yields of a tensor, or `None` if it is no weight."""
    schema = litert_schema()
    types = {
        schema.TensorType.FLOAT32: np.float32,
        schema.TensorType.FLOAT16: np.float16,
        schema.TensorType.INT8: np.int8,
    }
    buffer = model.Buffers(tensor.Buffer())
    kind = types.get(tensor.Type())
    if kind is None or tensor.ShapeLength() < 2 or not buffer.DataLength():
        return None
    values = buffer.DataAsNumpy().view(kind)
    shape = tuple(int(size) for size in tensor.ShapeAsNumpy())
    return shape, values, tensor.Sparsity() is not None


def _interpreter(content):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = tf.lite.Interpreter
    with warnings.catch_warnings():
        # TensorFlow's own copy warns that it moves to that package.
        warnings.simplefilter("ignore")
        return Interpreter(model_content=content)
