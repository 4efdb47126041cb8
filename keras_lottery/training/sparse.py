"""SparseSteps: training and evaluation that touch surviving weights alone.

A step costs what the ticket costs, not what the dense network does: forward
pass, gradients and update visit each surviving weight once. `sparse_chain` says
which models are trained this way, `sparse_kernels` computes, and here is what
lies between: the arrays, and when they are copied from and to Keras' variables.

Sources of the idea: SparseProp (Nikdan et al., 2302.04852) and Nerva (Wesselink
et al., 2407.17437), which train unstructured sparse networks on CPUs.
"""

import concurrent.futures
import math
import os

import keras
import numpy as np

from keras_lottery import keras_internals as internals
from keras_lottery.backend.common import ModelSteps
from keras_lottery.constraints import mask_of
from keras_lottery.processes import cores
from keras_lottery.training import sparse_kernels as kernels
from keras_lottery.training.sparse_chain import chain_of, penalties

# Sets of at most so many numbers are kept as the kernels want them.
_KEPT_TRANSPOSED = 2**24
# So many arrays made of tensors are remembered.
_REMEMBERED = 8
# A thread has at least so many products of a weight and an example in a step:
# with fewer, waiting for others would cost more than they save.
_LEAST_WORK = 1_000_000
# Of a counter of arrivals, more than any thread waits for.
_ENDED = 2**40


class SparseSteps(ModelSteps):
    """The training and the evaluation of one model by sparse kernels.

    It takes the place of `CompiledSteps`. Between `load` and `store` the truth
    is in arrays of its own, and the model's variables are out of date.

    Args:
        model: A compiled model, whose optimizer and metrics are built.
        batch_size: Integer, examples in a step.
        threads: Integer, how many share the work; the numbers do not depend
            on it. Defaults to `None`: as many as there are cores and work.

    Raises:
        Unsupported: If it is no model that the kernels can train.

    Example:

    ```python
    steps = SparseSteps(model, batch_size=60)
    steps.load()
    loss = steps.train(100, indices, (x, y))
    steps.store()
    ```
    """

    traces = 0

    def __init__(self, model, batch_size, threads=None):
        self._model, self._batch_size = model, batch_size
        self._chain = chain_of(model)
        self._threads = threads
        self._laid_out_for = self._best = None
        self._arrays, self._schedule = [], np.zeros(0)
        self._recipe = _recipe(self._chain, model.optimizer)
        self._pool = None

    # Between variables and arrays.

    def load(self, masked=True):
        """Takes weights, masks and the optimizer's state from the model.

        Args:
            masked: Boolean, whether weights under masks are none, as after
                every training step. If not, they count where they are not
                zero. Defaults to `True`.
        """
        weights = [link.layer.kernel for link in self._chain.links]
        masks = [_mask(weight) for weight in weights]
        if not masked:
            masks = [m | (w.numpy() != 0) for m, w in zip(masks, weights)]
        biases = [_bias_mask(link.layer) for link in self._chain.links]
        if not self._is_for(masks + biases):
            self._laid_out_for, self._masks = masks + biases, masks
            self._lay_out(biases)
        optimizer, state = self._model.optimizer, self._state
        self._read(state.theta, lambda variable: variable)
        for array, slots in zip((state.first, state.second), self._slots()):
            self._read(
                array, lambda v, slots=slots: slots[_index(optimizer, v)]
            )
        counter = internals.iterations_variable(optimizer)
        self._iteration = int(counter.numpy())
        self._forget_losses()

    def store(self):
        """Gives the model's variables the state that was trained."""
        if self._laid_out_for is None:
            # Interrupted between two threads: it is none.
            return
        optimizer, state = self._model.optimizer, self._state
        for variable, value in self._dense(state.theta):
            variable.assign(value)
        for array, slots in zip((state.first, state.second), self._slots()):
            for variable, value in self._dense(array):
                slots[_index(optimizer, variable)].assign(value)
        internals.iterations_variable(optimizer).assign(self._iteration)

    @property
    def kept(self):
        """What keeps weights, as `KeptWeights` does: the steps themselves."""
        return self

    def keep(self):
        """Remembers the weights as they are now."""
        self._best = self._state.theta.copy()

    def fetch(self):
        """The weights that were kept last, as `model.get_weights` has them."""
        kept = {id(v): value for v, value in self._dense(self._best)}
        return [
            kept[id(v)] if id(v) in kept else np.array(v.numpy())
            for v in self._model.weights
        ]

    def _is_for(self, masks):
        return self._laid_out_for is not None and all(
            np.array_equal(a, b) for a, b in zip(masks, self._laid_out_for)
        )

    def _slots(self):
        """Lists of the slots that the optimizer has, in its own order."""
        optimizer = self._model.optimizer
        if isinstance(optimizer, keras.optimizers.SGD):
            return [optimizer.momentums] if optimizer.momentum else []
        return internals.adam_slots(optimizer)

    def _segments(self):
        """Tuples (variable, where it is in `theta`, places in the variable)."""
        for link, (kernel, bias, places) in zip(
            self._chain.links, self._layout
        ):
            yield link.layer.kernel, kernel, places
            if link.layer.bias is not None:
                yield link.layer.bias, bias, slice(None)

    def _read(self, array, find):
        for variable, where, places in self._segments():
            array[where] = find(variable).numpy().reshape(-1)[places]

    def _dense(self, array):
        """Pairs (variable, array of its shape), zero where it is pruned."""
        for variable, where, places in self._segments():
            value = np.zeros(math.prod(variable.shape), array.dtype)
            value[places] = array[where]
            yield variable, value.reshape(variable.shape)

    def _lay_out(self, biases):
        """Makes all arrays for the masks as they are."""
        dtype, units = np.dtype(self._chain.dtype), self._chain.units
        self._network, self._layout, size = _network(
            self._chain, self._masks, biases
        )
        state = [aligned(size, dtype) for _ in range(4)]
        self._state = kernels.State(*state)
        threads = self._threads_for(self._batch_size)
        self._shares = _shares(self._network, threads)
        tiles = -(-self._batch_size // kernels.LANES)
        self._buffers = kernels.Buffers(
            aligned(kernels.LANES * tiles * sum(units), dtype),
            aligned(kernels.LANES * tiles * sum(units[1:]), dtype),
            np.zeros(self._batch_size),
            np.zeros((sum(units[1:]), 2)),
            np.zeros(sum(units[1:])),
            np.ones((threads, 2 * len(self._masks))),
        )

    def _threads_for(self, examples):
        """How many threads pass so many examples through the network."""
        if self._threads is not None:
            return self._threads
        kept = sum(int(np.count_nonzero(mask)) for mask in self._masks)
        return max(1, min(_most_threads(), kept * examples // _LEAST_WORK))

    # What is computed.

    def train(self, count, indices, data):
        """Trains `count` steps, on the batches in the rows of `indices`.

        Args:
            count: Integer, at most the number of rows.
            indices: int32 array of shape `(rows, batch_size)`.
            data: Pair of inputs and targets, as tensors.

        Returns:
            Float, the mean loss of all steps since the last evaluation.
        """
        x, targets = self._as_arrays(*data)
        batch = indices.shape[1]
        fill = -batch % kernels.LANES
        rows = indices[:count]
        rows = np.concatenate([rows, np.repeat(rows[:, :1], fill, 1)], 1)
        rates, alphas = self._rates(count)
        try:
            losses = self._in_threads(
                lambda thread: kernels.train(
                    thread,
                    self._network,
                    self._shares,
                    self._recipe,
                    self._state,
                    self._buffers,
                    x,
                    targets,
                    rows,
                    batch,
                    rates,
                    alphas,
                ),
                self._shares.outputs.shape[1] - 1,
            )
        finally:
            # Interrupted, it returns when the steps were made.
            self._iteration += count
        self._loss += losses[0]
        self._count += count
        return self._loss / self._count

    def evaluate(self, blocks):
        """Evaluates the weights as they are, without penalties.

        Args:
            blocks: List of pairs of inputs and targets, of shape
                `(batches, batch_size, ...)` each.

        Returns:
            Pair of floats, the loss and the accuracy over all blocks.
        """
        self._forget_losses()
        measured, size = np.zeros(2), 0
        for inputs, targets in blocks:
            x, targets, tiles = self._as_arrays(inputs, targets, 2)
            measured += self._evaluate(x, targets, tiles)
            size += len(targets)
        loss, accuracy = (measured / size).tolist()
        return loss, accuracy if self._chain.accuracy else math.nan

    def _evaluate(self, x, targets, tiles):
        """The sums of losses and accuracies, an array of two."""
        chain, lanes = self._chain, kernels.LANES
        count = -(-len(targets) // lanes)
        measured = np.zeros((count, 2))
        threads = self._threads_for(len(targets))

        def part(thread):
            kernels.evaluate(
                self._network,
                self._recipe.loss,
                _code(chain.accuracy or "none"),
                chain.threshold,
                self._state.theta,
                x,
                tiles,
                targets,
                aligned(lanes * sum(chain.units), chain.dtype),
                count * thread // threads,
                count * (thread + 1) // threads,
                measured,
            )

        self._in_threads(part, threads)
        return measured.sum(0)

    def _in_threads(self, function, threads):
        """What a function returns for each thread, all at the same time."""
        if threads == 1:
            return [function(0)]
        if self._pool is None:
            most = max(self._threads or 1, _most_threads())
            self._pool = concurrent.futures.ThreadPoolExecutor(most)
        futures = []
        try:
            for thread in range(threads):
                futures.append(self._pool.submit(function, thread))
            return [future.result() for future in futures]
        except BaseException:
            if len(futures) < threads:
                # None may wait for those that will not come.
                self._shares.counter[0] = _ENDED
                self._laid_out_for = None
            concurrent.futures.wait(futures)
            raise

    def _forget_losses(self):
        self._loss, self._count = 0.0, 0

    def _rates(self, count):
        """The learning rate of each step, and that of Adam, arrays."""
        optimizer, dtype = self._model.optimizer, np.dtype(self._chain.dtype)
        steps = np.arange(self._iteration, self._iteration + count)
        rate = internals.learning_rate(optimizer)
        if callable(rate):
            rates = self._scheduled(rate, self._iteration + count)[steps]
        else:
            rates = np.full(count, keras.ops.convert_to_numpy(rate))
        rates = rates.astype(dtype)
        if isinstance(optimizer, keras.optimizers.SGD):
            return rates, rates
        # In the dtype of the weights, as Keras does it.
        steps = (steps + 1).astype(dtype)
        first, second = (
            1 - np.power(dtype.type(_rounded(beta)), steps)
            for beta in (optimizer.beta_1, optimizer.beta_2)
        )
        return rates, rates * np.sqrt(second) / first

    def _scheduled(self, schedule, count):
        """The rates of the first so many steps, an array, and of some more.

        A schedule is compiled for every number of steps: all are computed at
        once, and when they do not suffice, twice as many.
        """
        if len(self._schedule) < count:
            count = 1 << (count - 1).bit_length()
            steps = keras.ops.arange(count, dtype="int64")
            rates = keras.ops.vectorized_map(schedule, steps)
            self._schedule = keras.ops.convert_to_numpy(rates)
        return self._schedule

    # Data.

    def _as_arrays(self, inputs, targets, parts=1):
        """Tensors as the kernels take them, remembered.

        Args:
            inputs: tensor.
            targets: tensor.
            parts: int, how many of the first axes say which example it is. Of
                evaluations, which have two, a small set is also transposed.

        Returns:
            A tuple of arrays: inputs, flat; targets, a row an example; and,
            if `parts` is 2, the tiles, which may be empty.
        """
        for tensor, made in self._arrays:
            if tensor is inputs:
                return made
        made = self._make_arrays(inputs, targets, parts)
        self._arrays = [*self._arrays[1 - _REMEMBERED :], (inputs, made)]
        return made

    def _make_arrays(self, inputs, targets, parts):
        chain, units = self._chain, self._chain.units
        (inputs,), (targets,) = map(keras.tree.flatten, (inputs, targets))
        size = math.prod(inputs.shape[:parts])
        if chain.rescalings:
            inputs = keras.ops.reshape(inputs, (size, *inputs.shape[parts:]))
        for layer in chain.rescalings:
            inputs = layer(inputs)
        x = _as_array(inputs).reshape(-1).astype(chain.dtype, copy=False)
        y = _as_array(targets).reshape(size, -1)
        labels = chain.loss == "sparse_softmax"
        y = y.astype(np.int32 if labels else chain.dtype)
        if labels and not (0 <= y.min() and y.max() < units[-1]):
            raise ValueError(
                "Targets must fit the model's outputs: labels below "
                f"{units[-1]}. Received: labels from {y.min()} to {y.max()}"
            )
        if parts == 1:
            return x, y
        tiles = aligned(0, chain.dtype)
        if x.size <= _KEPT_TRANSPOSED:
            whole = -(-size // kernels.LANES) * kernels.LANES
            tiles = aligned(whole * units[0], chain.dtype)
            kernels.transpose(x, units[0], size, tiles)
        return x, y, tiles


def _most_threads():
    """As many as there are cores, and TensorFlow may use for an operation."""
    told = int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0)
    return min(len(cores()), told or len(cores()))


def aligned(size, dtype):
    """An array of zeros that begins where a line of the cache does.

    A vector that crosses lines takes twice as long to load.
    """
    dtype = np.dtype(dtype)
    spare = 64 // dtype.itemsize
    array = np.zeros(size + spare, dtype)
    first = -array.ctypes.data % 64 // dtype.itemsize
    return array[first : first + size]


def _as_array(tensor):
    try:
        # TensorFlow's own memory; `numpy()` would copy it.
        return np.asarray(memoryview(tensor))
    except TypeError:
        return np.asarray(tensor)


def _mask(variable):
    """The mask of a variable, a boolean array; all of it without one."""
    mask = mask_of(variable)
    return np.ones(variable.shape, bool) if mask is None else mask.numpy()


def _bias_mask(layer):
    """The mask of a layer's bias; none of it where it has none."""
    if layer.bias is None:
        return np.zeros(layer.units, bool)
    return _mask(layer.bias)


def _index(optimizer, variable):
    return internals.variable_index(optimizer, variable)


def _rounded(setting):
    """A setting as Keras casts it to another dtype: through float32."""
    return float(np.float32(setting))


def _code(name):
    """The number by which kernels know a name."""
    return getattr(kernels, name.upper())


def _starts(counts):
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _network(chain, masks, biases):
    """The arrays of a network.

    Args:
        chain: `Chain`.
        masks: list of boolean arrays, those of the kernels.
        biases: list of boolean arrays, those of the biases.

    Returns:
        A tuple: `Network`; for each layer a tuple of two slices, where its
        kernel and its bias are in `theta`, and of an array, the places of
        the surviving weights in the flat kernel; and the size of `theta`.
    """
    units, layout, size = chain.units, [], 0
    starts, columns, in_starts, in_rows, in_places = [], [], [], [], []
    in_size = 0
    for mask in masks:
        outputs, inputs = np.nonzero(mask.T)
        kernel = slice(size, size + len(inputs))
        bias = slice(kernel.stop, kernel.stop + mask.shape[1])
        layout.append((kernel, bias, inputs * mask.shape[1] + outputs))
        starts.append(size + _starts(mask.sum(0)))
        columns += [inputs, np.zeros(mask.shape[1])]
        in_starts.append(in_size + _starts(mask.sum(1)))
        order = np.argsort(inputs, kind="stable")
        in_rows.append(outputs[order])
        in_places.append(size + order)
        size, in_size = bias.stop, in_size + len(inputs)
    network = kernels.Network(
        np.array(units),
        _starts(units),
        np.concatenate(starts),
        _starts([len(part) for part in starts]),
        np.concatenate(columns).astype(np.int32),
        np.array([bias.start for _, bias, _ in layout]),
        np.concatenate(biases),
        np.concatenate(in_starts),
        _starts([len(part) for part in in_starts]),
        np.concatenate(in_rows).astype(np.int32),
        np.concatenate(in_places).astype(np.int32),
        np.array([_code(link.activation) for link in chain.links]),
        np.array([_rounded(link.slope) for link in chain.links]),
    )
    return network, layout, size


def _shares(network, threads):
    """`Shares` in which all threads have about as many weights."""

    def cut(starts, starts_at):
        counts = np.diff(starts[starts_at[0] : starts_at[1]])
        # A unit without a weight is work as well.
        work = np.cumsum(counts + 4)
        ends = work[-1] * np.arange(1, threads) / threads
        return [0, *np.searchsorted(work, ends), len(counts)]

    layers = range(len(network.activations))
    outputs, inputs = (
        np.array([cut(starts, at[layer : layer + 2]) for layer in layers])
        for starts, at in (
            (network.starts, network.starts_at),
            (network.in_starts, network.in_starts_at),
        )
    )
    # A line of the cache of its own.
    return kernels.Shares(outputs, inputs, np.zeros(8, np.int64))


def _recipe(chain, optimizer):
    """What the kernels must know of the loss and the optimizer."""
    dtype = np.dtype(chain.dtype)
    clipping, limit = "unclipped", 0.0
    # In the order in which Keras looks at them.
    for name, setting in (
        ("by_norm", optimizer.clipnorm),
        ("by_global_norm", optimizer.global_clipnorm),
        ("by_value", optimizer.clipvalue),
    ):
        if setting and clipping == "unclipped":
            clipping, limit = name, setting
    if isinstance(optimizer, keras.optimizers.SGD):
        update = "sgd"
        if optimizer.momentum:
            update = "nesterov" if optimizer.nesterov else "momentum"
        numbers = [limit, _rounded(optimizer.momentum), 0.0, 0.0]
    else:
        update = "adam"
        betas = 1 - optimizer.beta_1, 1 - optimizer.beta_2
        numbers = [limit, *betas, optimizer.epsilon]
    pairs, decays = [], []
    for variable in (v for link in chain.links for v in link.variables):
        factors = (0.0, 0.0) if variable is None else penalties(variable)
        pairs.append([_rounded(factor) for factor in factors])
        decayed = (
            variable is not None
            and optimizer.weight_decay
            and internals.decays_weight(optimizer, variable)
        )
        decays.append(_rounded(optimizer.weight_decay) if decayed else 0.0)
    l1, l2 = np.array(pairs, dtype).T
    return kernels.Recipe(
        _code(chain.loss),
        _code(update),
        _code(clipping),
        np.array(numbers, dtype),
        bool(np.any(pairs)),
        np.ascontiguousarray(l1),
        np.ascontiguousarray(l2),
        np.array(decays, dtype),
    )
