"""What several backends share."""

import contextlib
import dataclasses
import functools

import keras
import numpy as np

from keras_lottery import keras_internals

# Axes of unknown size are traced at a size that poolings can halve.
BATCH_SIZE, AXIS_SIZE = 2, 64


def check_distribution(model):
    """Nothing: Keras has no strategy to refuse here."""


def is_distributed(model):
    """Whether the model has several replicas: never."""
    return False


def once(function):
    """Calls a function."""
    function()


def in_replica():
    """Whether this is the Python of one replica of several: never."""
    return False


def build(forward, args, kwargs):
    """Creates the variables that a forward pass uses, and computes nothing.

    Args:
        forward: function.
        args, kwargs: its arguments, of which each tensor is a spec.
    """
    keras_internals.compute_output_spec(forward, *args, **kwargs)


def normalize_batch(layer, own, inputs, training=None, mask=None):
    """Keras' batch normalisation: the layer's own `call`."""
    return own(inputs, training=training, mask=mask)


@dataclasses.dataclass
class Graph:
    """The operations of a forward pass, in the order of their execution.

    Tensors are known by a key, which is unique in the graph.

    Args:
        operations: list of pairs (keys of inputs, keys of outputs).
        inputs: list of the keys of the model's inputs.
        outputs: list of the keys of the model's outputs.
        variables: dict, key -> `keras.Variable`: those that were looked for.
    """

    operations: list
    inputs: list
    outputs: list
    variables: dict


class StepCounter:
    """Counts training steps, where Python runs between them.

    Attributes:
        steps: int, how many were counted.
    """

    def __init__(self):
        self.steps = 0

    def after_step(self, data, scope=contextlib.nullcontext):
        """Called after each step.

        Args:
            data: its batch.
            scope: function without arguments that returns a context manager,
                in which variables have the values that the step left.
        """
        self.steps += 1

    def restart(self, steps=0):
        """Counts from 0 again, or from where a training goes on."""
        self.steps = steps


class DelayedCopy(StepCounter):
    """Copies variables after a training step.

    Args:
        step: int, the step, at least 1.
        find: function without arguments that returns the variables, a nest of
            dicts. It is called once, when they are copied.
    """

    def __init__(self, step, find):
        super().__init__()
        self.step, self._find, self._copies = step, find, None

    def after_step(self, data, scope=contextlib.nullcontext):
        super().after_step(data)
        if self.steps == self.step:
            with scope():
                self._copies = keras.tree.map_structure(
                    lambda variable: np.array(variable.numpy()), self._find()
                )

    def copies(self):
        """The nest of arrays, once `steps` has reached `step`."""
        return self._copies


def spec(value):
    """What a batch of data looks like: a `keras.KerasTensor`."""
    dtype = keras.backend.standardize_dtype(value.dtype)
    return keras.KerasTensor(tuple(value.shape), dtype)


def input_spec(shape, dtype):
    """A `keras.KerasTensor`."""
    return keras.KerasTensor(shape, dtype)


def concrete_shape(spec):
    """The shape of a `keras.KerasTensor`, with sizes for unknown axes."""
    first = [BATCH_SIZE] + [AXIS_SIZE] * len(spec.shape)
    return tuple(
        size if known is None else known
        for known, size in zip(spec.shape, first)
    )


def loss_and_accuracy(results):
    """Picks the two metrics that a training records.

    Args:
        results: dict of metric name to value, as Keras returns it.

    Returns:
        Pair of values; the accuracy is NaN if none was measured.
    """
    accuracies = [v for name, v in results.items() if is_accuracy(name)]
    return results["loss"], (accuracies or [float("nan")])[0]


def is_accuracy(name):
    """Whether a metric of this name is an accuracy."""
    # Of several outputs, the name of each comes before that of its metric.
    return name == "acc" or name.endswith(("accuracy", "_acc"))


def penalties(model):
    """What the regularizer of each trainable weight adds to the loss.

    Nothing where a method of the user's computes the loss, of which nobody
    knows what is in it.
    """
    for method in ("test_step", "compute_loss"):
        if keras_internals.overridden_by(model, method):
            return
    for variable in model.trainable_weights:
        if variable.regularizer is not None:
            yield variable.regularizer(variable)


def penalty(model):
    """What the regularizers of weights add to the loss in all, a float."""
    return sum(map(float, penalties(model)))


class ModelSteps:
    """Steps on the variables of a model, which are never out of date.

    Steps that compute on arrays of their own take them from the model before,
    and give them back.

    Attributes:
        kept_by: the backend's class `KeptWeights`.
    """

    kept_by: type

    @functools.cached_property
    def kept(self):
        """The `KeptWeights` of the model, made when it is first asked for."""
        return self.kept_by(self._model.weights)

    def load(self, masked=True):
        """Takes what is to be trained or evaluated from the model.

        Args:
            masked: Boolean, whether the weights obey the masks: those that are
                evaluated may be any. Defaults to `True`.
        """

    def store(self):
        """Gives the model's variables the state that was trained."""
