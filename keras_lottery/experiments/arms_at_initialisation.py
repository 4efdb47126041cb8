"""Arms that are pruned before any training, to compare tickets with.

Each is pruned globally, over the ticket's pool of prunable weights, to the
ticket's density at each level, and trained from the initial weights. Scores
are computed in float32 on a plain model that is thrown away; the lowest go.
"""

import keras
import numpy as np
from keras import ops

from keras_lottery import backend
from keras_lottery.experiments.arms import arm, keep_highest, shuffled
from keras_lottery.graph import copied, graph_of, rebuild

_BATCH = 100
_TEMPERATURE = 200.0
_SYNFLOW_STEPS = 100


def _check(experiment):
    if callable(experiment.model):
        raise ValueError(
            "The arms 'snip', 'grasp' and 'synflow', shuffled or not, need "
            "`model` to be a network of `keras_lottery.models`: their scores "
            "are of an image classifier with logits. "
            f"Received: model={experiment.model!r}"
        )


@arm(needs=None, check=_check)
def snip(bench, level):
    """Keeps the weights whose removal would change the loss the most.

    Source: Lee et al., 1810.02340, section 4 (SNIP).
    """
    return _pruned(bench, level, snip_scores)


@arm(needs=None, check=_check)
def grasp(bench, level):
    """Keeps the weights whose removal would reduce the gradient the most.

    Source: Wang et al., 2002.07376, section 4 (GraSP).
    """
    return _pruned(bench, level, grasp_scores)


@arm(needs=None, check=_check)
def synflow(bench, level):
    """Keeps the weights that most flows through, without any data.

    Source: Tanaka et al., 2006.05467, algorithm 1 (SynFlow).
    """
    if level == 0:
        return bench.dense()
    model, kernels = bench.initial_model()
    masks = synflow_masks(model, kernels, bench.kept(level), bench.pattern)
    return bench.with_weights(masks, bench.initial)


@arm(needs=None, check=_check)
def snip_shuffled(bench, level):
    """SNIP's masks, shuffled within each layer.

    Source: Frankle et al., 2009.08576, section 5; Su et al., 2009.11094.
    """
    return _shuffled(bench, level, "snip")


@arm(needs=None, check=_check)
def grasp_shuffled(bench, level):
    """GraSP's masks, shuffled within each layer.

    Source: Frankle et al., 2009.08576, section 5; Su et al., 2009.11094.
    """
    return _shuffled(bench, level, "grasp")


@arm(needs=None, check=_check)
def synflow_shuffled(bench, level):
    """SynFlow's masks, shuffled within each layer.

    Source: Frankle et al., 2009.08576, section 5; Su et al., 2009.11094.
    """
    return _shuffled(bench, level, "synflow")


def _shuffled(bench, level, name):
    masks = shuffled(bench, level, name, f"{name}_shuffled")
    return bench.with_weights(masks, bench.initial)


def snip_scores(model, kernels, batches):
    """|w * dL/dw|.

    Args:
        model: `keras.Model` that returns logits.
        kernels: dict, path -> `keras.Variable`.
        batches: list of pairs (x, y). The loss is the mean over all, without
            weight decay.

    Returns:
        A dict, path -> array.
    """
    gradients = _mean(
        lambda x, y: _arrays(_gradients(model, kernels, x, y)), batches
    )
    return {
        path: np.abs(variable.numpy() * gradient)
        for (path, variable), gradient in zip(kernels.items(), gradients)
    }


def grasp_scores(model, kernels, batches):
    """w * (H g), with g the gradient of the loss and H its Hessian.

    The paper's score is -w * (H g), of which it removes the highest: this is
    its negative, of which the lowest go. The logits are divided by 200, as in
    the paper.

    Args:
        model: `keras.Model` that returns logits.
        kernels: dict, path -> `keras.Variable`.
        batches: list of pairs (x, y), as in `snip_scores`.

    Returns:
        A dict, path -> array.
    """
    total = _mean(
        lambda x, y: _arrays(_gradients(model, kernels, x, y, _TEMPERATURE)),
        batches,
    )

    def product(x, y):
        def along():
            gradients = _gradients(model, kernels, x, y, _TEMPERATURE)
            return sum(ops.sum(a * b) for a, b in zip(gradients, total))

        return _arrays(backend.gradients(along, list(kernels.values())))

    products = _mean(product, batches)
    return {
        path: variable.numpy() * product
        for (path, variable), product in zip(kernels.items(), products)
    }


def synflow_masks(model, kernels, count, pattern, steps=_SYNFLOW_STEPS):
    """Masks that keep `count` blocks, found in exponential steps.

    Args:
        model: `keras.Model`. Its weights are lost.
        kernels: dict, path -> `keras.Variable`.
        count: int, at least 1.
        pattern: `Pattern`.
        steps: int. After step k of n the density is the last one to the
            power of k / n.

    Returns:
        A dict, path -> boolean array.
    """
    for variable in model.trainable_variables:
        variable.assign(np.abs(variable.numpy()))
    masks = {p: np.ones(v.shape, bool) for p, v in kernels.items()}
    total = pattern.count(masks)
    for step in range(1, steps + 1):
        kept = round(total * (count / total) ** (step / steps))
        scores = synflow_scores(model, kernels)
        masks = keep_highest(masks, kept, scores.get, pattern)
        for path, variable in kernels.items():
            variable.assign(np.where(masks[path], variable.numpy(), 0.0))
    return masks


def synflow_scores(model, kernels):
    """w * dR/dw, with R the sum of the outputs for an input of ones.

    Args:
        model: `keras.Model` with positive weights. Batch norm is that of
            inference, by its moving statistics.
        kernels: dict, path -> `keras.Variable`.

    Returns:
        A dict, path -> array.
    """

    def flow():
        ones = ops.ones((1, *model.input_shape[1:]))
        return ops.sum(model(ones, training=False))

    gradients = _arrays(backend.gradients(flow, list(kernels.values())))
    return {
        path: variable.numpy() * gradient
        for (path, variable), gradient in zip(kernels.items(), gradients)
    }


def _pruned(bench, level, score):
    if level == 0:
        return bench.dense()
    scores = bench.once(_scores, bench, score)
    masks, kept = bench.dense().masks, bench.kept(level)
    masks = keep_highest(masks, kept, scores.get, bench.pattern)
    return bench.with_weights(masks, bench.initial)


def _scores(bench, score):
    return score(*scored_model(*bench.initial_model()), _batches(bench))


class _BatchStatistics(keras.layers.Layer):
    """Normalises by the batch, and can be differentiated twice.

    The moments that Keras' layer takes stop a gradient, which the first
    derivative does not need and the second does.
    """

    def __init__(self, normalisation):
        super().__init__(
            name=normalisation.name, dtype=normalisation.dtype_policy
        )
        self.epsilon = normalisation.epsilon
        self.gamma, self.beta = normalisation.gamma, normalisation.beta

    def call(self, x, training=None, mask=None):
        axes = list(range(len(x.shape) - 1))
        centred = x - ops.mean(x, axes, keepdims=True)
        variance = ops.mean(ops.square(centred), axes, keepdims=True)
        x = centred / ops.sqrt(variance + self.epsilon)
        return x * self.gamma + self.beta


def scored_model(model, kernels):
    """The model of which scores are taken: as in training, without chance.

    Batch norm normalises by the batch; dropout and augmentation are off.

    Args:
        model: functional `keras.Model`.
        kernels: dict, path -> `keras.Variable` of it.

    Returns:
        A pair: the new `keras.Model`, of which the weights are copies, and
        the dict of its variables.
    """
    graph = graph_of(model)

    def make(call):
        if _normalises(call.layer):
            return _BatchStatistics(call.layer), []
        return copied(call)

    scored = rebuild(graph, make)
    places = {
        id(variable): scored.get_layer(call.name).weights[i]
        for call in graph.calls
        if not _normalises(call.layer)
        for i, variable in enumerate(call.layer.weights)
    }
    return scored, {path: places[id(v)] for path, v in kernels.items()}


def _normalises(layer):
    return isinstance(layer, keras.layers.BatchNormalization)


def _batches(bench):
    """A batch of 100 for each class, drawn from the training examples."""
    x, y = bench.data.train
    size = min(_BATCH, len(y))
    count = min(bench.data.classes, len(y) // size)
    rng = np.random.default_rng(bench.seed("scored examples"))
    chosen = rng.permutation(len(y))[: count * size].reshape(count, size)
    return [(x[indices], y[indices]) for indices in chosen]


def _gradients(model, kernels, x, y, temperature=1.0):
    def loss():
        logits = model(x, training=False) / temperature
        return ops.mean(
            keras.losses.sparse_categorical_crossentropy(
                y, logits, from_logits=True
            )
        )

    return backend.gradients(loss, list(kernels.values()))


def _mean(function, batches):
    """The mean, over batches, of the arrays that a function returns."""
    results = [function(x, y) for x, y in batches]
    return [np.mean(arrays, axis=0) for arrays in zip(*results)]


def _arrays(tensors):
    return list(map(ops.convert_to_numpy, tensors))
