"""Which backend trains a network: a rule by default, a clock on request.

XLA makes a step of a dense network several times faster and, on a CPU, a step
of a convolutional one up to a hundred times slower. `by_rule` decides by the
operations that the network holds, so that the same network gets the same
backend every time, however busy the machine is. `by_measurement` times the
candidates.
"""

import contextlib
import itertools
import statistics
import time

import keras
import tensorflow as tf
from absl import logging

from keras_lottery import tracing
from keras_lottery.training.compiled import COMPILED, batch_indices
from keras_lottery.training.sparse_rule import OR, SPARSE

BACKENDS = (
    "auto",
    "measure",
    *COMPILED,
    SPARSE,
    *(OR + name for name in COMPILED),
    "fit",
)

# What XLA compiles into fast code on every device. An operation that is not
# named here counts as unknown.
_FAST_UNDER_XLA = frozenset(
    # Matrix products.
    "MatMul BatchMatMulV2 BatchMatMulV3 Einsum BiasAdd "
    # Elementwise operations.
    "Abs Add AddN AddV2 Cast Ceil ClipByValue Cos Div DivNoNan Elu Equal Erf "
    "Erfc Exp Expm1 Floor FloorDiv FloorMod Greater GreaterEqual IsFinite "
    "IsInf IsNan LeakyRelu Less LessEqual Log Log1p LogicalAnd LogicalNot "
    "LogicalOr Maximum Minimum Mul MulNoNan Neg NotEqual OneHot Pow RealDiv "
    "Reciprocal Relu Relu6 Round Rsqrt Select SelectV2 Selu Sigmoid Sign Sin "
    "Softplus Softsign Sqrt Square SquaredDifference Sub Tan Tanh "
    # Reductions and softmax.
    "All Any ArgMax ArgMin Cumsum L2Loss LogSoftmax Max Mean Min Prod Softmax "
    "Sum "
    # Shapes.
    "BroadcastTo ConcatV2 Const EnsureShape ExpandDims Fill Identity "
    "IdentityN MatrixBandPart NoOp OnesLike Pack Pad PadV2 Placeholder Range "
    "Rank Reshape ReverseV2 Shape ShapeN Size Slice Split SplitV Squeeze "
    "StopGradient StridedSlice Tile Transpose Unpack ZerosLike "
    # Embeddings.
    "GatherV2 ResourceGather "
    # Variables, such as the statistics of batch normalisation.
    "AssignAddVariableOp AssignSubVariableOp AssignVariableOp ReadVariableOp "
    # Random numbers, as of dropout.
    "StatelessRandomGetKeyCounter StatelessRandomNormalV2 "
    "StatelessRandomUniformFullIntV2 StatelessRandomUniformIntV2 "
    "StatelessRandomUniformV2 StatelessTruncatedNormalV2 "
    # Calls of functions, whose operations are looked at too.
    "PartitionedCall StatefulPartitionedCall".split()
)
# XLA leaves these to cuDNN on a GPU, and makes slow loops of them on a CPU.
# There the rule takes "graph", not "xla_update": an update under XLA saved less
# than 5 % of a step of Conv-2 and nothing of ResNet-18, and takes longer to
# compile.
_CONVOLUTIONS = frozenset(
    "AvgPool AvgPool3D BatchToSpaceND Conv2D Conv2DBackpropInput Conv3D "
    "Conv3DBackpropInputV2 DepthwiseConv2dNative FusedBatchNormV3 MaxPool "
    "MaxPool3D SpaceToBatchND".split()
)

# A measurement. Stretches of about this many seconds are timed;
_STRETCH_SECONDS = 0.1
# the result is stable after so many rounds at least, when no candidate's median
# has moved by more than this fraction over the last few;
_FEWEST_ROUNDS, _TOLERANCE, _STABLE_ROUNDS = 15, 0.02, 5
# no round begins after this many seconds.
_MOST_SECONDS = 60.0
# A candidate this many times slower than the graph on two examples is not
# tried on full batches, where it may be worse still.
_HOPELESS = 3.0
# A candidate must be this many times faster than the graph to replace it.
_MARGIN = 1.05


def by_rule(model, inputs):
    """The backend for a network, by the operations of its forward pass.

    Args:
        model: `keras.Model`, built.
        inputs: The inputs of the training, as tensors or `tf.TensorSpec`s
            with the examples on the first axis.

    Returns:
        Pair of str: `"xla"` or `"graph"`, and why.
    """
    device = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    try:
        operations = tracing.operations(model, inputs)
    except Exception as error:
        # A model with a loss of its own may train all the same.
        return "graph", f"its forward pass cannot be traced alone ({error})"
    return rule(operations, device)


def rule(operations, device):
    """The backend for a network of these operations on this device.

    On a CPU, a network of matrix products, elementwise operations, reductions
    and reshapes alone is trained under XLA, any other as a graph. On a GPU,
    convolutions and pooling are left to XLA too; this part of the rule has
    not been tried on a GPU.

    Args:
        operations: Set of str, types of TensorFlow operations.
        device: `"CPU"` or `"GPU"`.

    Returns:
        Pair of str: `"xla"` or `"graph"`, and why.

    Example:

    ```python
    assert rule({"MatMul", "Relu"}, "CPU")[0] == "xla"
    assert rule({"Conv2D", "Relu"}, "CPU")[0] == "graph"
    ```
    """
    fast = _FAST_UNDER_XLA | (_CONVOLUTIONS if device == "GPU" else set())
    others = sorted(operations - fast)
    if not others:
        return "xla", f"XLA is fast at all of its operations on a {device}"
    return "graph", f"XLA may be slow at {_listed(others)} on a {device}"


def compiles(steps, data, shape):
    """Whether XLA can compile the training step.

    No step is run, and what is compiled is what the training will run.

    Args:
        steps: `CompiledSteps` of the backend `"xla"`.
        data: Pair of inputs and targets, as tensors.
        shape: Pair of integers, `(rows, batch_size)` of the index arrays of
            the training.
    """
    try:
        steps.train(0, tf.zeros(shape, tf.int32), data)
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
        logging.info("XLA cannot compile this model.", exc_info=True)
        return False
    return True


def by_measurement(model, steps_on, data, shape):
    """Times the compiled backends and names the fastest.

    Stretches of all candidates are timed in turn, so that other work on the
    machine slows all of them alike: at least 15 times, until the median of
    every candidate has stayed within 2 % for five rounds, and for a minute at
    most. The graph is replaced by what is more than 5 % faster.

    Leaves every variable as it was, bit for bit.

    Args:
        model: The model to be trained.
        steps_on: Function of a backend's name to its `CompiledSteps`.
        data: Pair of inputs and targets, as tensors.
        shape: Pair of integers, `(rows, batch_size)` of the index arrays of
            the training to come.

    Returns:
        Pair of str: one of `COMPILED`, and what was measured.
    """
    with _preserved(model, steps_on("graph")):
        candidates, notes = _candidates(steps_on, data, shape)
        medians, note = _alternated(candidates)
    fastest = min(medians, key=medians.get)
    if medians[fastest] * _MARGIN >= medians["graph"]:
        fastest = "graph"
    times = [f"{name} {1e3 * s:.3g} ms a step" for name, s in medians.items()]
    return fastest, ", ".join([*times, *notes]) + f" ({note})"


def _candidates(steps_on, data, shape):
    """Dict, backend -> function that times a stretch; why others are none."""
    candidates, notes, tiny = {}, [], {}
    for backend in COMPILED:
        try:
            steps = steps_on(backend)
            timed = _stretch(steps, data, (1, min(2, shape[1])))
            tiny[backend] = min(timed() for _ in range(5))
            if tiny[backend] > _HOPELESS * tiny["graph"]:
                notes.append(f"{backend} far slower on two examples")
                continue
            candidates[backend] = _stretch(steps, data, shape)
        except Exception as error:
            if backend == "graph":
                raise
            # Any failure to compile what runs as a graph is XLA's own.
            logging.info("%s cannot compile this model: %s", backend, error)
            notes.append(f"{backend} cannot compile this model")
    return candidates, notes


def _stretch(steps, data, shape):
    """A function that times a stretch of steps, as seconds a step."""
    rows, batch_size = shape
    size = len(keras.tree.flatten(data)[0])
    indices = batch_indices(size, batch_size, 0, 0, rows)

    def seconds(count):
        began = time.perf_counter()
        steps.train(count, indices, data)
        return (time.perf_counter() - began) / count

    seconds(1)
    count = max(1, min(rows, int(_STRETCH_SECONDS / seconds(1))))
    return lambda: seconds(count)


def _alternated(candidates):
    """Dict, backend -> median seconds a step, and how stable they are."""
    began = time.perf_counter()
    times = {backend: [] for backend in candidates}
    history = []
    for rounds in itertools.count(1):
        for backend, timed in candidates.items():
            times[backend].append(timed())
        medians = {b: statistics.median(t) for b, t in times.items()}
        history.append(list(medians.values()))
        if _is_stable(history):
            return medians, f"medians of {rounds} stretches, stable"
        if time.perf_counter() - began > _MOST_SECONDS:
            return medians, f"medians of {rounds} stretches, not stable"


def _is_stable(history):
    """Whether no median has moved much over the last rounds."""
    last = history[-_STABLE_ROUNDS - 1 :]
    return len(history) >= _FEWEST_ROUNDS and all(
        max(medians) <= (1 + _TOLERANCE) * min(medians)
        for medians in zip(*last)
    )


@contextlib.contextmanager
def _preserved(model, steps):
    """Puts every variable that a step may change back as it was."""
    variables = (
        *model.variables,
        *model.optimizer.variables,
        *steps.variables(),
    )
    values = [variable.numpy() for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values):
            variable.assign(value)


def _listed(names, most=3):
    more = [f"{len(names) - most} more"] if len(names) > most else []
    shown = [*names[:most], *more]
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
