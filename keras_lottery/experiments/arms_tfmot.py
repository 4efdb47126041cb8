"""The arm `tfmot`: gradual pruning by TensorFlow Model Optimization.

tfmot works with tf_keras (Keras 2) alone, and turns the whole process that
imports it to Keras 2. So each training runs in a process of its own, in which
the network is built again in tf_keras.
"""

import keras

from keras_lottery import backend
from keras_lottery.checks import missing
from keras_lottery.experiments.arms import arm
from keras_lottery.processes import Processes
from keras_lottery.tf_keras import (
    ENVIRONMENT,
    build_model,
    describe_model,
    missing_packages,
)
from keras_lottery.training import KeptWeights, Recorder, batch_indices

_MODELS = ("lenet_300_100", "conv_2", "conv_4", "conv_6")
_OPTIMIZERS = {"adam": "Adam", "sgd": "SGD"}


def _check_experiment(experiment):
    if backend.NAME != "tensorflow":
        raise ValueError(
            "The arm 'tfmot' needs Keras' TensorFlow backend: set "
            f"KERAS_BACKEND to tensorflow. Found: {backend.NAME}"
        )
    if experiment.model not in _MODELS:
        raise ValueError(
            f"The arm 'tfmot' needs `model` to be one of {list(_MODELS)}. "
            f"Received: model={experiment.model!r}"
        )
    optimizer = str(experiment.optimizer).lower()
    if optimizer not in _OPTIMIZERS or experiment.warmup or experiment.drops:
        raise ValueError(
            "The arm 'tfmot' needs `optimizer` to be one of "
            f"{list(_OPTIMIZERS)}, without `warmup` and `drops`. "
            f"Received: optimizer={experiment.optimizer!r}, "
            f"warmup={experiment.warmup}, drops={experiment.drops}"
        )
    if experiment.precision != "float32":
        raise ValueError(
            "The arm 'tfmot' needs `precision` to be 'float32'. "
            f"Received: precision={experiment.precision!r}"
        )
    if experiment.iterations < 4:
        raise ValueError(
            "The arm 'tfmot' needs `iterations` to be at least 4. "
            f"Received: iterations={experiment.iterations}"
        )
    for package in missing_packages():
        raise ValueError(missing("The arm 'tfmot'", package))


def _train(bench, start):
    """Trains in another process; the model gets the weights at the end."""
    seeds = {use: bench.seed(use) for use in ("split", "weights", "order")}
    with Processes(1, env=ENVIRONMENT) as executor:
        training, weights = executor.submit(
            _train_in_tf_keras, bench.experiment, seeds, start.densities()
        ).result()
    bench.model.set_weights(weights)
    return training


@arm(train=_train, check=_check_experiment)
def tfmot(bench, level):
    """Gradual magnitude pruning in one training, by tfmot.

    In the first three quarters of the iterations the sparsity of each layer
    rises from 0 to that of the ticket's. It starts from the initial weights
    and sees the ticket's batches. Early stopping looks at the iterations
    after the pruning only, when the network is as sparse as its row says: its
    early-stop iteration does not tell how fast it learns.

    Source: Zhu & Gupta, 1710.01878, section 3.
    """
    return bench.with_weights(bench.start("ticket", level).masks, bench.initial)


def _train_in_tf_keras(experiment, seeds, densities):
    """The `Training`, and the weights at its end."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    data = experiment.load_data(seeds["split"])
    # Dropout alone draws from it.
    tf_keras.utils.set_random_seed(seeds["order"])
    frequency, end = _schedule(experiment.iterations)

    def pruned(layer, density):
        decay = tfmot.sparsity.keras.PolynomialDecay(
            0.0, 1 - density, begin_step=0, end_step=end, frequency=frequency
        )
        return tfmot.sparsity.keras.prune_low_magnitude(layer, decay)

    fresh = experiment.build_model(data, seeds["weights"])
    model, layers = _twin(fresh, tf_keras, densities, pruned)
    model.compile(
        _optimizer(experiment, tf_keras),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    first = end + 1 if min(densities.values()) < 1 else 1
    kept = KeptWeights([w for layer in layers for w in layer.weights])
    recorder = Recorder(experiment.early_stop_metric, kept, first)
    step = tfmot.sparsity.keras.UpdatePruningStep()

    for stop, batches in _stretches(experiment, data.train, seeds["order"]):
        history = model.fit(batches, callbacks=[step], verbose=0).history
        measured = model.evaluate(*data.validation, batch_size=500, verbose=0)
        recorder.add(stop, *measured, history["loss"][0])
    weights = [w for layer in layers for w in layer.get_weights()]
    return recorder.training(), weights


def _schedule(iterations):
    """Steps between two prunings, and the last: a multiple of them."""
    frequency = max(1, min(100, iterations // 50))
    return frequency, frequency * round(0.75 * iterations / frequency)


def _twin(model, tf_keras, densities, pruned):
    """The same network in tf_keras, and a list of its layers, unwrapped."""
    description = describe_model(model, keras)
    for _, config in description.layers.values():
        # All random numbers come from the seed of the process.
        config.pop("seed", None)
    layers = []

    def wrapper(layer):
        layers.append(layer)
        paths = [v.path for v in model.get_layer(layer.name).weights]
        density = min([densities.get(path, 1.0) for path in paths] or [1.0])
        return pruned(layer, density) if density < 1 else layer

    return build_model(description, tf_keras, wrapper), layers


def _optimizer(experiment, tf_keras):
    name = _OPTIMIZERS[experiment.optimizer.lower()]
    config = {"learning_rate": experiment.learning_rate}
    if experiment.momentum:
        config["momentum"] = experiment.momentum
    return getattr(tf_keras.optimizers, name)(**config)


def _stretches(experiment, train, seed):
    """Pairs: an iteration to evaluate at, and the batches up to it."""
    import tensorflow as tf

    x, y = map(tf.constant, train)
    start, end = 0, experiment.iterations
    while start < end:
        stop = min(start + experiment.eval_every, end)
        indices = batch_indices(
            len(y), experiment.batch_size, seed, start, stop
        )
        rows = tf.data.Dataset.from_tensor_slices(indices)
        yield stop, rows.map(lambda i: (tf.gather(x, i), tf.gather(y, i)))
        start = stop
