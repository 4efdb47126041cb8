"""The compiled loop on JAX: one training, or many of one network at once.

The steps are the model's own `train_step`, a function of the state that it is
given. A state is the tuple that Keras' trainer passes through its steps: the
trainable variables, the others, those of the optimizer (masks are held among
them) and those of the metrics.
"""

import functools

import jax
import keras
import numpy as np

from keras_lottery.backend.common import (
    ModelSteps,
    loss_and_accuracy,
    penalties,
    penalty,
)

COMPILED = ("jax",)
TENSOR = jax.Array
FINDS_LOGITS = False


class KeptWeights:
    """Copies of variables that stay on the variables' device.

    Args:
        variables: List of Keras variables.
    """

    def __init__(self, variables):
        self._variables = variables
        self.keep()

    def keep(self):
        """Keeps the values that the variables have now."""
        # Keras' `fit` gives the arrays of variables to its next step to use.
        self._copies = [
            jax.numpy.array(variable.value, copy=True)
            for variable in self._variables
        ]

    def fetch(self):
        """List of arrays, the values that were kept last."""
        return list(map(np.asarray, self._copies))


class CompiledSteps(ModelSteps):
    """The training and the evaluation of one model.

    Weights, masks and optimizer state are read from the model's variables
    when a function is called, and put back when it returns. They and the data
    are arguments of what is compiled: two trainings can differ in all of them
    and share it.

    Args:
        model: A compiled and built model.
        backend: `"jax"`.
        data: Pair of inputs and targets, as tensors, of which the shapes
            and dtypes are taken.
    """

    kept_by = KeptWeights

    def __init__(self, model, backend, data):
        self.traces = 0
        self._model = model
        self._train = jax.jit(self._train_steps)
        self._evaluate = jax.jit(self._test_steps)

    def train(self, count, indices, data):
        """Trains `count` steps, on the batches in the rows of `indices`.

        Args:
            count: Integer, at most the number of rows.
            indices: int32 array of shape `(rows, batch_size)`. Another shape
                is compiled anew, another `count` is not.
            data: Pair of inputs and targets, as tensors.

        Returns:
            Float, the mean loss of all steps since the metrics were last
            reset.
        """
        state, measured = self._train(
            state_of(self._model), np.int32(count), indices, data
        )
        assign(self._model, state)
        return np.asarray(measured).tolist()[0]

    def evaluate(self, blocks):
        """Evaluates, and leaves the metrics reset.

        Args:
            blocks: List of pairs of inputs and targets, of shape
                `(batches, batch_size, ...)` each, as `into_blocks` returns.

        Returns:
            Pair of floats, the loss without penalties of weights and the
            accuracy, over all blocks.
        """
        self._model.reset_metrics()
        measured = self._evaluate(state_of(self._model), blocks)
        loss, accuracy = np.asarray(measured).tolist()
        return loss - penalty(self._model), accuracy

    def variables(self):
        """All variables that a training step reads or writes."""
        return [v for part in _variables(self._model) for v in part]

    def _train_steps(self, state, count, indices, data):
        self.traces += 1
        return train_steps(
            self._model, state, count, lambda i: _rows(data, indices[i])
        )

    def _test_steps(self, state, blocks):
        self.traces += 1
        return test_steps(
            self._model,
            state,
            [
                (_count(block), functools.partial(_rows, block))
                for block in blocks
            ],
        )


class StackedSteps:
    """Steps of several trainings of one model, in one program.

    `jax.vmap` makes of the step of one training that of many: what differs
    between them has an axis more, the first.

    Args:
        model: A compiled and built model.
        data: Pair of inputs and targets, as tensors of shape
            `(sets, examples, ...)`: the training examples of several sets.
        blocks: dict, name -> list of pairs of shape
            `(sets, batches, batch_size, ...)`: what is evaluated on.
    """

    def __init__(self, model, data, blocks):
        self._model, self._data, self._blocks = model, data, blocks
        stacked = jax.vmap(self._train_steps, (0, None, 0, 0, None))
        self._train = jax.jit(stacked, donate_argnums=0)
        self._evaluate = jax.jit(jax.vmap(self._test_steps, (0, 0, None)))

    def train(self, states, count, indices, which):
        """Trains `count` steps of each training.

        Args:
            states: the states, stacked; they are used up.
            count: Integer, at most the number of rows.
            indices: int32 array of shape `(trainings, rows, batch_size)`.
            which: int32 array of shape `(trainings,)`: the set that each
                takes its examples from.

        Returns:
            A pair: the states afterwards, and an array of shape
            `(trainings, 2)`: the mean loss and accuracy of all steps since
            the metrics were last reset. It may still be computed.
        """
        return self._train(states, np.int32(count), indices, which, self._data)

    def evaluate(self, states, which, name):
        """Evaluates each training.

        Args:
            states: the states, stacked.
            which: int32 array of shape `(trainings,)`.
            name: str, which of the data.

        Returns:
            Array of shape `(trainings, 2)`: loss and accuracy, of which the
            loss is without what regularizers of weights add to it.
        """
        return self._evaluate(states, which, self._blocks[name])

    def reset(self, states):
        """The states with their metrics reset."""
        *others, metrics = states
        return (*others, [jax.numpy.zeros_like(value) for value in metrics])

    def finish(self, states):
        """The states as `fit` ends: averages of `use_ema` become weights."""
        return jax.jit(jax.vmap(self._finish))(states)

    def _finish(self, state):
        optimizer, variables = self._model.optimizer, _variables(self._model)
        pairs = [
            pair
            for part, values in zip(variables, state)
            for pair in zip(part, values)
        ]
        with keras.StatelessScope(pairs) as scope:
            optimizer.finalize_variable_values(self._model.trainable_weights)
        trained = [
            value if found is None else found
            for variable, value in zip(variables[0], state[0])
            for found in [scope.get_current_value(variable)]
        ]
        return (trained, *state[1:])

    def _train_steps(self, state, count, indices, which, data):
        def batch(i):
            return _rows(data, (which, indices[i]))

        return train_steps(self._model, state, count, batch)

    def _test_steps(self, state, which, blocks):
        def batches(block):
            return _count(block, 1), lambda i: _rows(block, (which, i))

        measured = test_steps(self._model, state, list(map(batches, blocks)))
        trainable = self._model.trainable_variables
        with keras.StatelessScope(list(zip(trainable, state[0]))):
            added = sum(penalties(self._model))
        return measured.at[0].add(-added)


def train_steps(model, state, count, batch):
    """Trains a model from a state.

    Args:
        model: A compiled and built model.
        state: its state.
        count: int32 scalar.
        batch: function of a step's index that returns its batch.

    Returns:
        A pair: the state afterwards, and what the metrics have measured.
    """

    def step(i, state):
        return model.train_step(state, batch(i))[1]

    state = jax.lax.fori_loop(0, count, step, state)
    return state, _measured(model, state[-1])


def test_steps(model, state, blocks):
    """Evaluates a model in a state.

    Args:
        model: A compiled and built model.
        state: its state.
        blocks: list of pairs: how many batches, and a function of the index
            of a batch that returns it.

    Returns:
        Array of two floats: the loss and the accuracy over all.
    """
    trained, others, _, metrics = state
    metrics = [jax.numpy.zeros_like(value) for value in metrics]
    inside = trained, others, metrics
    for count, batch in blocks:

        def step(i, inside, batch=batch):
            return model.test_step(inside, batch(i))[1]

        inside = jax.lax.fori_loop(0, count, step, inside)
    return _measured(model, inside[-1])


def _measured(model, metrics):
    variables = model.metrics_variables
    with keras.StatelessScope(list(zip(variables, metrics))):
        results = loss_and_accuracy(model.get_metrics_result())
    return jax.numpy.stack([jax.numpy.float32(value) for value in results])


def _count(block, axis=0):
    return keras.tree.flatten(block)[0].shape[axis]


def _rows(data, index):
    return keras.tree.map_structure(lambda leaf: leaf[index], data)


# States.


def _variables(model):
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )


def state_of(model):
    """The state that the variables of a model are in."""
    return tuple([v.value for v in part] for part in _variables(model))


def assign(model, state):
    """Puts a state into the variables of a model."""
    for variables, values in zip(_variables(model), state):
        for variable, value in zip(variables, values):
            variable.assign(value)


def stack(states):
    """Several states as one, with an axis more."""
    return jax.tree.map(lambda *values: jax.numpy.stack(values), *states)


def unstack(states, index):
    """One of the states that were stacked."""
    return jax.tree.map(lambda value: value[index], states)


def replace(states, index, state):
    """The states with another in one place."""
    return jax.tree.map(
        lambda values, value: values.at[index].set(value), states, state
    )


def copy(states):
    """The same states in other memory."""
    return jax.tree.map(jax.numpy.copy, states)


def wait(values):
    """Waits until they are computed."""
    jax.block_until_ready(values)


@jax.jit
def choose(chosen, states, others):
    """Of each training one of two states.

    Args:
        chosen: boolean array of shape `(trainings,)`.
        states: the states, stacked, to take where it is true.
        others: those to take where it is false.
    """

    def select(one, other):
        shape = (-1,) + (1,) * (one.ndim - 1)
        return jax.numpy.where(chosen.reshape(shape), one, other)

    return jax.tree.map(select, states, others)


def weights_of(model, state):
    """The arrays of `model.get_weights()` in a state."""
    trained, others, *_ = state
    variables = (*model.trainable_variables, *model.non_trainable_variables)
    values = {id(v): a for v, a in zip(variables, (*trained, *others))}
    return [np.asarray(values[id(weight)]) for weight in model.weights]


# Data.


def on_device(leaf):
    """An array on the device, floats as `keras.config.floatx()`."""
    floating = np.issubdtype(leaf.dtype, np.floating)
    return jax.numpy.asarray(leaf, keras.config.floatx() if floating else None)


class _Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self._batches = batches

    def __len__(self):
        return len(self._batches)

    def __getitem__(self, index):
        return self._batches[index]


class _Rows(keras.utils.PyDataset):
    def __init__(self, data, rows):
        super().__init__()
        self._data, self._rows = data, rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        return _rows(self._data, self._rows[index])


def batches_of_rows(data, rows):
    """The batches of `data` with these rows each, as `fit` takes them."""
    return _Rows(keras.tree.map_structure(np.asarray, data), rows)


def batches_of_blocks(blocks):
    """The batches in blocks, as `evaluate` takes them."""
    return _Batches(
        [_rows(block, i) for block in blocks for i in range(_count(block))]
    )


# Which backend.


def by_rule(model, inputs):
    """The backend for a network, and why: a pair of str."""
    return "jax", "Keras runs on JAX"


def cannot_compile(error):
    """Whether an error says that a step cannot be compiled."""
    return isinstance(error, jax.errors.JAXTypeError)
