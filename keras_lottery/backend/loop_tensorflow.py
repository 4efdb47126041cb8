"""The compiled loop on TensorFlow.

XLA makes a step of a dense network several times faster and, on a CPU, a step
of a convolutional one up to a hundred times slower. `by_rule` decides by the
operations that the network holds, so that the same network gets the same
backend every time, however busy the machine is.
"""

import contextlib
import functools

import keras
import tensorflow as tf

from keras_lottery import tracing
from keras_lottery.backend.common import (
    ModelSteps,
    loss_and_accuracy,
    penalty,
)

COMPILED = ("graph", "xla", "xla_update")
TENSOR = tf.Tensor
# Whether Keras computes crossentropies from logits wherever a softmax or a
# sigmoid made the outputs, and not from clipped probabilities.
FINDS_LOGITS = True

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


class KeptWeights:
    """Copies of variables that stay on the variables' device.

    Args:
        variables: List of Keras or TensorFlow variables.

    Example:

    ```python
    kept = KeptWeights(model.weights)
    kept.keep()
    arrays = kept.fetch()
    ```
    """

    def __init__(self, variables):
        self._variables = variables
        self._copies = [tf.Variable(tf.convert_to_tensor(v)) for v in variables]
        assign = tf.function(self._assign_copies, autograph=False)
        self._assign = assign.get_concrete_function()

    def keep(self):
        """Copies the variables as they are now."""
        self._assign()

    def fetch(self):
        """List of arrays, the values that were kept last."""
        return [copy.numpy() for copy in self._copies]

    def _assign_copies(self):
        for copy, variable in zip(self._copies, self._variables):
            copy.assign(tf.convert_to_tensor(variable))


class CompiledSteps(ModelSteps):
    """The training and the evaluation of one model on one backend.

    Weights, masks and optimizer state are variables, and the data and its
    order are arguments: two trainings can differ in all of them and share what
    is compiled.

    Args:
        model: A compiled and built model.
        backend: `"graph"`: a TensorFlow graph; `"xla"`: all steps in one
            XLA program; `"xla_update"`: a graph in which the optimizer's
            update, which passes over every weight many times, is an XLA
            program, which passes over them once.
        data: Pair of inputs and targets, as tensors, of which the shapes
            and dtypes are taken.
    """

    kept_by = KeptWeights

    def __init__(self, model, backend, data):
        self.traces = 0
        self._model = model
        self._backend = backend
        examples = keras.tree.map_structure(
            lambda t: tf.TensorSpec((None, *t.shape[1:]), t.dtype), data
        )
        batches = keras.tree.map_structure(
            lambda t: tf.TensorSpec((None, None, *t.shape[1:]), t.dtype), data
        )
        count = tf.TensorSpec((), tf.int32)
        indices = tf.TensorSpec((None, None), tf.int32)
        self._train = self._function(
            self._train_steps, [count, indices, examples]
        )
        # A function of its own: XLA divides by a constant count of examples in
        # another way than by one it reads, and the last bit differs.
        self._reset = _traced_once(model.reset_metrics)
        # By the number of blocks, of which `into_blocks` makes one or two.
        self._evaluate = {
            n: self._function(self._test_steps, [[batches] * n]) for n in (1, 2)
        }

    def train(self, count, indices, data):
        """Trains `count` steps, on the batches in the rows of `indices`.

        Args:
            count: Integer, at most the number of rows.
            indices: int32 array of shape `(rows, batch_size)`. XLA compiles
                anew for another shape, but not for another `count`.
            data: Pair of inputs and targets, as tensors.

        Returns:
            Float, the mean loss of all steps since the metrics were last
            reset.
        """
        count = tf.constant(count, tf.int32)
        indices = tf.convert_to_tensor(indices)
        return self._train()(count, indices, data).numpy().tolist()[0]

    def evaluate(self, blocks):
        """Evaluates, and leaves the metrics reset.

        Args:
            blocks: List of pairs of inputs and targets, of shape
                `(batches, batch_size, ...)` each, as `into_blocks` returns.

        Returns:
            Pair of floats, the loss without penalties of weights and the
            accuracy, over all blocks.
        """
        self._reset()()
        evaluate = self._evaluate[len(blocks)]()
        loss, accuracy = evaluate(blocks).numpy().tolist()
        return loss - penalty(self._model), accuracy

    def variables(self):
        """All variables a training step reads or writes, as `tf.Variable`s."""
        return self._train().variables

    def _function(self, steps, signature):
        return _traced_once(
            steps,
            input_signature=signature,
            jit_compile=self._backend == "xla",
        )

    def _train_steps(self, count, indices, data):
        def batch(i):
            return keras.tree.map_structure(
                lambda t: tf.gather(t, indices[i]), data
            )

        update = contextlib.nullcontext()
        if self._backend == "xla_update":
            update = _update_under_xla(self._model.optimizer)
        with update:
            self._repeat(self._model.train_step, batch, count)
        return self._measured()

    def _test_steps(self, blocks):
        for block in blocks:

            def batch(i, block=block):
                return keras.tree.map_structure(lambda t: t[i], block)

            count = tf.shape(keras.tree.flatten(block)[0])[0]
            self._repeat(self._model.test_step, batch, count)
        measured = self._measured()
        self._model.reset_metrics()
        return measured

    def _repeat(self, step, batch, count):
        def body(i):
            step(batch(i))
            return (i + 1,)

        tf.while_loop(lambda i: i < count, body, (tf.constant(0),))

    def _measured(self):
        """Loss and accuracy, as one tensor: one transfer from the device."""
        self.traces += 1
        results = loss_and_accuracy(self._model.get_metrics_result())
        return tf.stack([tf.cast(value, tf.float64) for value in results])


def _traced_once(function, **options):
    """A function that returns the traced function, traced at the first call.

    Calling what was traced takes a third of the time that `tf.function` takes
    to find it by the types of the arguments.
    """
    traced = tf.function(function, autograph=False, **options)
    return functools.cache(traced.get_concrete_function)


@contextlib.contextmanager
def _update_under_xla(optimizer):
    """While a step is traced, its weight update is made an XLA program."""
    apply = optimizer.apply_gradients

    def apply_under_xla(grads_and_vars):
        gradients, variables = zip(*grads_and_vars)

        @tf.function(jit_compile=True, autograph=False)
        def update(*gradients):
            apply(zip(gradients, variables))

        update(*gradients)
        return optimizer.iterations

    # Past Keras' attribute tracking, which has no use for a function.
    attributes = vars(optimizer)
    replaced = attributes.get("apply_gradients")
    attributes["apply_gradients"] = apply_under_xla
    try:
        yield
    finally:
        del attributes["apply_gradients"]
        if replaced is not None:
            attributes["apply_gradients"] = replaced


def on_device(leaf):
    """An array as a tensor, floats as `keras.config.floatx()`."""
    tensor = tf.convert_to_tensor(leaf)
    return (
        tf.cast(tensor, keras.config.floatx())
        if tensor.dtype.is_floating
        else tensor
    )


def batches_of_rows(data, rows):
    """The batches of `data` with these rows each, as `fit` takes them."""
    return tf.data.Dataset.from_tensor_slices(rows).map(
        lambda i: keras.tree.map_structure(lambda t: tf.gather(t, i), data)
    )


def batches_of_blocks(blocks):
    """The batches in blocks, as `evaluate` takes them."""
    batches, *others = map(tf.data.Dataset.from_tensor_slices, blocks)
    for other in others:
        batches = batches.concatenate(other)
    return batches


# Which backend.


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


def _listed(names, most=3):
    more = [f"{len(names) - most} more"] if len(names) > most else []
    shown = [*names[:most], *more]
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def cannot_compile(error):
    """Whether an error says that XLA cannot compile a step."""
    return isinstance(
        error, (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)
    )
