"""The part of `tfmot` that runs in the process of tf_keras: training,
conversion, and models that tf_keras saved."""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_lottery.export.litert import convert, dense_kernels, interpret
from keras_lottery.keras_internals import cluster_weights
from keras_lottery.tf_keras import Description, build_model, describe_model

# Number of examples on which the model in tf_keras is compared.
COMPARED = 32


@dataclasses.dataclass
class Job:
    """What the process of tf_keras needs.

    Args:
        description: `Description` of the ticket.
        outputs: array, its outputs for the first `COMPARED` examples.
        train: pair (x, y) of arrays.
        test: pair (x, y) of arrays.
        from_logits: bool, whether the model ends without a softmax.
        clusters: int or `None`.
        quantize_aware: bool.
        epochs: int, of each training.
        batch_size: int.
        learning_rate: float.
        seed: int.
    """

    description: Description
    outputs: np.ndarray
    train: tuple
    test: tuple
    from_logits: bool
    clusters: int | None
    quantize_aware: bool
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int


def optimize(job):
    """Clusters and quantizes a ticket in tf_keras.

    Args:
        job: `Job`.

    Returns:
        The bytes of a LiteRT file, and its outputs for the test set.

    Raises:
        ValueError: If the outputs of the model in tf_keras differ.
        RuntimeError: If a zero was lost.
    """
    import tf_keras

    tf_keras.utils.set_random_seed(job.seed)
    model = build_model(job.description, tf_keras)
    _check_same_outputs(model, job)
    if job.clusters:
        model = _clustered(model, job)
    if job.quantize_aware:
        model = _quantized(model, job)
    content = convert(_traced(model), "dynamic" if job.quantize_aware else None)
    check_zeros(content, job.description)
    (outputs,) = interpret(content, {"inputs": job.test[0]}).values()
    return content, outputs


def describe_file(path):
    """The `Description` of a model that tf_keras saved."""
    import tf_keras

    try:
        model = tf_keras.models.load_model(path, compile=False)
    except Exception as error:  # Of any kind, from a file of any kind.
        if "PruneLowMagnitude" in str(error):
            raise ValueError(_STRIP) from None
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{path} must hold a model that tf_keras can load. It says: {first}"
        ) from None
    return describe_stripped(model)


def describe_stripped(model):
    """The `Description` of a tf_keras model."""
    import tf_keras

    if any(type(x).__name__ == "PruneLowMagnitude" for x in model.layers):
        raise ValueError(_STRIP)
    return describe_model(model, tf_keras)


_STRIP = (
    "`model` must be stripped of tfmot's wrappers. Received one with "
    "PruneLowMagnitude layers: call `tfmot.sparsity.keras.strip_pruning(model)`"
    " first, and save what it returns."
)


def check_zeros(content, description):
    """Refuses a file in which a zero of the ticket was lost.

    Args:
        content: bytes of the file.
        description: `Description` of the ticket.

    Raises:
        RuntimeError: Naming the first layer that lost one.
    """
    in_file = dense_kernels(content)
    for name, arrays in description.weights.items():
        kind, _ = description.layers[name]
        for kernel in arrays:
            if kernel.ndim < 2 or kernel.all():
                continue
            pruned = _in_litert(kernel, kind) == 0
            if not any(
                other.shape == pruned.shape and not other[pruned].any()
                for other in in_file
            ):
                raise RuntimeError(
                    "tfmot must keep the ticket's zeros, and some of layer "
                    f"{name!r} are not zero in the LiteRT file."
                )


def _in_litert(kernel, kind):
    """A kernel with its axes as LiteRT has them."""
    if kind == "DepthwiseConv2D":
        return kernel.reshape(1, *kernel.shape[:2], -1)
    return np.moveaxis(kernel, -1, 0)


def _check_same_outputs(model, job):
    found = model.predict(job.train[0][:COMPARED], verbose=0)
    difference = np.abs(found - job.outputs).max()
    if not difference <= 1e-4 * max(1.0, np.abs(job.outputs).max()):
        raise ValueError(
            "`model` must compute what its layers do, in float32. Built once "
            f"more in tf_keras, its outputs differ by {difference:.3g}."
        )


def _clustered(model, job):
    import tensorflow_model_optimization as tfmot

    clustered = cluster_weights(model, number_of_clusters=job.clusters)
    _fit(clustered, job)
    return tfmot.clustering.keras.strip_clustering(clustered)


def _quantized(model, job):
    import tensorflow_model_optimization as tfmot

    quantization = tfmot.quantization.keras
    quantized = quantization.quantize_apply(
        quantization.quantize_annotate_model(model), _scheme(job.clusters)
    )
    _fit(quantized, job)
    return quantized


def _scheme(clusters):
    import tensorflow_model_optimization as tfmot

    combine = tfmot.experimental.combine
    if not clusters:
        return combine.Default8BitPrunePreserveQuantizeScheme()
    scheme = combine.Default8BitClusterPreserveQuantizeScheme(
        preserve_sparsity=True
    )
    shared = type(scheme.get_quantize_registry())

    class Registry(shared):
        def get_quantize_config(self, layer):
            # One quantizer is shared by all layers, and after a layer
            # without zeros it does not preserve those of the next ones.
            shared.__init__(self, preserve_sparsity=True)
            return super().get_quantize_config(layer)

    scheme.get_quantize_registry = lambda: Registry(preserve_sparsity=True)
    return scheme


def _fit(model, job):
    import tf_keras

    model.compile(
        tf_keras.optimizers.Adam(job.learning_rate),
        tf_keras.losses.SparseCategoricalCrossentropy(job.from_logits),
    )
    model.fit(
        *job.train, epochs=job.epochs, batch_size=job.batch_size, verbose=0
    )


def _traced(model):
    (tensor,) = model.inputs
    spec = tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, "inputs")

    @tf.function(autograph=False)
    def serve(inputs):
        return {"outputs": model(inputs, training=False)}

    return serve.get_concrete_function(inputs=spec)
