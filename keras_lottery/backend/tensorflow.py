"""TensorFlow: training steps are compiled, with the hooks inside them.

Under `tf.distribute.MirroredStrategy` every variable has a copy on each device
and a training step is Python that runs once for each of them.
"""

import contextlib
import os

import keras
import tensorflow as tf

from keras_lottery.backend.common import Graph

_ONE_MACHINE = (tf.distribute.MirroredStrategy, tf.distribute.OneDeviceStrategy)

# What they tell of data is no data: a layer's output shape may be computed
# from that of the layer before.
_OF_SHAPE = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}


def check_distribution(model):
    """Refuses a model whose replicas are not all on this machine."""
    strategy, default = model.distribute_strategy, None
    if not tf.distribute.has_strategy():
        default = tf.distribute.get_strategy()
    if strategy is not default and not isinstance(strategy, _ONE_MACHINE):
        raise ValueError(
            "`model` must be made without a `tf.distribute` strategy, or under "
            "`tf.distribute.MirroredStrategy` to use several accelerators of "
            "one machine. For several machines, give each trainings of its "
            "own: `python tools/find_ticket.py --scheduler=tcp://host:port` "
            "(`--workers` on one machine). "
            f"Received: a model under {type(strategy).__name__}"
        )


def is_distributed(model):
    """Whether the model has several replicas."""
    return model.distribute_strategy.num_replicas_in_sync > 1


def once(function):
    """Calls a function once for all replicas, outside of them.

    In a replica an assignment reaches that replica's copy alone, and one to
    what the replicas share is made once for each.

    Args:
        function: without arguments. It must not be of another graph than the
            step that the replicas run.
    """
    if in_replica():
        context = tf.distribute.get_replica_context()
        context.merge_call(lambda strategy: function())
    else:
        function()


def in_replica():
    """Whether this is the Python of one replica of several."""
    inside = not tf.distribute.in_cross_replica_context()
    return tf.distribute.has_strategy() and inside


def _copies(variable):
    """The `tf.Variable`s of a Keras variable, one for each device."""
    value = variable.value
    mirrored = isinstance(value, tf.distribute.DistributedValues)
    return value.values if mirrored else (value,)


@contextlib.contextmanager
def outside_graphs(model=None):
    """Context manager: variables get their values now, and can be read.

    Args:
        model: optional `keras.Model`, of whose strategy they are to be.
    """
    strategy = model.distribute_strategy.scope() if model else None
    with tf.init_scope(), strategy or contextlib.nullcontext():
        yield


def hold_masks(optimizer, masks):
    """Nothing: a compiled step reads variables wherever they are."""


def release_masks(optimizer, masks):
    """Nothing, as `hold_masks`."""


def select(mask, values):
    """`values` where the mask keeps, zero elsewhere.

    Args:
        mask: `keras.Variable`.
        values: tensor of the mask's shape, or `tf.IndexedSlices` of its rows,
            which is the gradient of an embedding.
    """
    if isinstance(values, tf.IndexedSlices):
        rows = tf.gather(mask.value, values.indices)
        zero = tf.zeros((), values.values.dtype)
        kept = tf.where(rows, values.values, zero)
        return tf.IndexedSlices(kept, values.indices, values.dense_shape)
    values = keras.ops.convert_to_tensor(values)
    return tf.where(mask.value, values, tf.zeros((), values.dtype))


def normalize_batch(layer, own, inputs, training=None, mask=None):
    """Keras' batch normalisation, by TensorFlow's one operation for it.

    Where that operation does not do what the layer does, the layer does it.

    Args:
        layer: `keras.layers.BatchNormalization`.
        own: the layer's own `call`.
        inputs: tensor.
        training: optional bool.
        mask: optional tensor.
    """
    if mask is not None or not _is_fused(layer, inputs):
        return own(inputs, training=training, mask=mask)
    training = bool(training and layer.trainable)
    mean, variance = layer.moving_mean, layer.moving_variance
    none = tf.constant([], tf.float32)
    outputs, batch_mean, batch_variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=tf.convert_to_tensor(layer.gamma),
        offset=tf.convert_to_tensor(layer.beta),
        mean=none if training else tf.convert_to_tensor(mean),
        variance=none if training else tf.convert_to_tensor(variance),
        epsilon=layer.epsilon,
        is_training=training,
    )
    if training:
        # It returns the variance of the population that the batch is drawn
        # from; Keras keeps that of the batch.
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        batch_variance *= (count - 1) / count
        rest = 1.0 - layer.momentum
        mean.assign(mean * layer.momentum + batch_mean * rest)
        variance.assign(variance * layer.momentum + batch_variance * rest)
    return outputs


def _is_fused(layer, inputs):
    """Whether TensorFlow's operation computes what a layer does."""
    return (
        inputs.shape.rank == 4
        and layer.axis in (-1, 3)
        and inputs.shape[-1] is not None
        and layer.scale
        and layer.center
        and not layer.synchronized
        and not getattr(layer, "renorm", False)
        and inputs.dtype in (tf.float32, tf.float16, tf.bfloat16)
        and layer.variable_dtype == "float32"
        and layer.compute_dtype == inputs.dtype.name
    )


class StepCounter:
    """Counts training steps inside the compiled step."""

    def __init__(self):
        with tf.init_scope():
            self._steps = tf.Variable(0, dtype=tf.int64, trainable=False)

    def after_step(self, data, scope=contextlib.nullcontext):
        """Part of each training step.

        Args:
            data: its batch.
            scope: function without arguments that returns a context manager,
                in which variables have the values that the step left.
        """
        # A step that finds its dataset at an end is none.
        batch = [t for t in keras.tree.flatten(data) if tf.is_tensor(t)]
        with tf.control_dependencies(batch):
            once(self._count)

    def _count(self):
        self._steps.assign_add(1)

    def restart(self, steps=0):
        """Counts from 0 again, or from where a training goes on."""
        self._steps.assign(steps)

    @property
    def steps(self):
        """How many steps were counted."""
        return int(self._steps.numpy())


class DelayedCopy(StepCounter):
    """Copies variables inside the compiled training step.

    `steps_per_execution` hides single steps from Python, so the copy is made
    in the graph: after the step that `step` counts, every variable is copied
    to a shadow.

    Args:
        step: int, the step, at least 1.
        find: function without arguments that returns the variables, a nest of
            dicts.
    """

    def __init__(self, step, find):
        super().__init__()
        self.step, self._find, self._shadows = step, find, None

    def _count(self):
        if self._shadows is None:
            # Once: a step may be traced again for another batch shape.
            self._variables = self._find()
            with tf.init_scope():
                self._shadows = keras.tree.map_structure(
                    _shadow, self._variables
                )
        super()._count()
        due = tf.equal(self._steps, self.step)
        tf.cond(due, self._copy, lambda: None)

    def _copy(self):
        keras.tree.map_structure(
            lambda v, shadow: shadow.assign(v.value),
            self._variables,
            self._shadows,
        )

    def copies(self):
        """The nest of arrays, once `steps` has reached `step`."""
        return keras.tree.map_structure(lambda s: s.numpy(), self._shadows)


def _shadow(variable):
    value = variable.value
    return tf.Variable(
        tf.zeros(value.shape, value.dtype), trainable=False, dtype=value.dtype
    )


def make_train_function(pruner, own, force=False):
    """`make_train_function` of a model that a pruner prunes.

    Args:
        pruner: `LotteryTicketPruner`.
        own: the model's own method.
        force: bool, as in Keras.
    """
    pruner.attach()
    return own(force)


def train_step(pruner, own, data):
    """`train_step` of a model that a pruner prunes.

    Args:
        pruner: `LotteryTicketPruner`.
        own: the model's own method.
        data: a batch.
    """
    pruner.attach(data)
    logs = own(data)
    pruner.fit_hooks.after_step(data)
    return logs


def symbolic_build(pruner, own, iterator=None, data_batch=None):
    """`_symbolic_build` of a model that a pruner prunes: the model's own."""
    return own(iterator, data_batch)


def sync(model):
    """Nothing: the variables always hold the state of training."""


def spec(value):
    """What a batch of data looks like: a `tf.TypeSpec`."""
    if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
        return tf.type_spec_from_value(value)
    return tf.TensorSpec(value.shape, value.dtype)


def input_spec(shape, dtype):
    """A `tf.TensorSpec`."""
    return tf.TensorSpec(shape, dtype)


def build(forward, args, kwargs):
    """Creates the variables that a forward pass uses, and computes nothing.

    Args:
        forward: function.
        args, kwargs: its arguments, of which each tensor is a spec.
    """
    _trace(forward, args, kwargs)


def graph(forward, args, kwargs, variables):
    """What a forward pass computes.

    Args:
        forward, args, kwargs: as in `build`.
        variables: list of `keras.Variable`, to look for.

    Returns:
        A `Graph`.
    """
    traced = _trace(forward, args, kwargs)
    captured = {inner.name for _, inner in traced.captures}
    handles = {id(c.handle): v for v in variables for c in _copies(v)}
    return Graph(
        [
            ([t.name for t in o.inputs], [t.name for t in o.outputs])
            for o in traced.get_operations()
            if o.type not in _OF_SHAPE
        ],
        [t.name for t in traced.inputs if t.name not in captured],
        [t.name for t in traced.outputs],
        {
            inner.name: handles[id(outer)]
            for outer, inner in traced.captures
            if id(outer) in handles
        },
    )


def operations(forward, args, kwargs):
    """Set of the types of operations, those in functions and loops too."""
    definition = _trace(forward, args, kwargs).as_graph_def()
    bodies = [function.node_def for function in definition.library.function]
    return {node.op for nodes in (definition.node, *bodies) for node in nodes}


def _trace(forward, args, kwargs):
    def traced(*args, **kwargs):
        return forward(*args, **kwargs)

    with tf.init_scope():
        function = tf.function(traced, autograph=False)
        return function.get_concrete_function(*args, **kwargs).graph


def gradients(function, variables):
    """The gradients of a scalar.

    Args:
        function: function without arguments that computes the scalar from
            the variables.
        variables: list of `keras.Variable`.

    Returns:
        A list of tensors. It can be differentiated in turn.
    """
    with tf.GradientTape() as tape:
        scalar = function()
    return tape.gradient(scalar, [variable.value for variable in variables])


def test_loss(model, x, y):
    """The loss of a compiled model on a batch; metrics are updated."""
    return model.test_step((x, y))["loss"]


# The machine.


def version():
    """The version of TensorFlow."""
    return tf.__version__


def gpus():
    """List of the names of all GPUs."""
    return [
        tf.config.experimental.get_device_details(device).get(
            "device_name", device.name
        )
        for device in tf.config.list_physical_devices("GPU")
    ]


def threads():
    """Threads of one operation as they were set; 0 if they were not."""
    return tf.config.threading.get_intra_op_parallelism_threads() or int(
        os.environ.get("TF_NUM_INTRAOP_THREADS", 0)
    )


def start():
    """Starts the devices and XLA, which announce themselves at first use."""
    tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(1))
