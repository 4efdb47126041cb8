"""What one would run instead: tfmot, PyTorch, and matrix products alone.

Each imports its framework when it is made: they do not share a process.
"""

import math
import time

import numpy as np

from benchmarks.measurement import Unavailable, epoch_clock
from benchmarks.problem import share_kept


class TfmotFit:
    """`fit` of tfmot's pruning under tf_keras, the only Keras it knows.

    The masks, of constant sparsity, are made in the first step and then stay:
    its steps, without further pruning.
    """

    def __init__(self, problem):
        try:
            import tensorflow_model_optimization as tfmot
            import tf_keras
        except ImportError as error:
            raise Unavailable(str(error)) from None
        pruning = tfmot.sparsity.keras
        self._problem = problem
        self._data = problem.data()
        self.model = pruning.prune_low_magnitude(
            _tf_keras_network(problem, tf_keras),
            pruning.ConstantSparsity(0.5, 0, end_step=1, frequency=1),
        )
        self.model.compile(
            tf_keras.optimizers.Adam(problem.learning_rate),
            tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        self._clock = epoch_clock(tf_keras.callbacks.Callback)
        self._callbacks = [pruning.UpdatePruningStep(), self._clock]
        self._strip = pruning.strip_pruning
        self.about = {
            "tensorflow_model_optimization": tfmot.__version__,
            "tf_keras": tf_keras.__version__,
        }

    def run(self):
        self.model.fit(
            *self._data,
            batch_size=self._problem.batch_size,
            steps_per_epoch=self._problem.steps,
            verbose=0,
            callbacks=self._callbacks,
        )
        return {"step_ms": 1e3 * self._clock.seconds / self._problem.steps}

    def finish(self):
        weights = self._strip(self.model).get_weights()
        return {"density": share_kept(w for w in weights if w.ndim > 1)}


def _tf_keras_network(problem, tf_keras):
    """The same network as that of `keras_lottery.models`."""
    layers = tf_keras.layers

    def conv():
        return layers.Conv2D(64, 3, padding="same", activation="relu")

    def dense(units):
        return layers.Dense(units, activation="relu")

    hidden = {
        "lenet_300_100": [layers.Flatten(), dense(300), dense(100)],
        "conv_2": [
            conv(),
            conv(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            dense(256),
            dense(256),
        ],
    }[problem.network]
    inputs = tf_keras.Input(problem.shape)
    return tf_keras.Sequential([inputs, *hidden, layers.Dense(10)])


class TorchLoop:
    """A training loop written by hand in PyTorch, of a half-pruned network.

    As lean as one writes it: data resident as tensors, fused Adam, gradients
    of pruned weights masked; threads and memory layout are those measured to
    be fastest. It keeps no metrics, which the Keras subjects do.
    """

    def __init__(self, problem):
        try:
            import torch
        except ImportError as error:
            raise Unavailable(str(error)) from None
        self._torch, self._problem = torch, problem
        torch.manual_seed(0)
        x, y = problem.data()
        self._x = torch.from_numpy(x).permute(0, 3, 1, 2)
        if problem.network == "lenet_300_100":
            self._x = self._x.reshape(len(x), -1)
        self._y = torch.from_numpy(y).long()
        self._model = _torch_network(problem, torch.nn)
        self._loss = torch.nn.CrossEntropyLoss()
        self._masks = self._prune_half()
        threads, layout = self._choose()
        self.about = {
            "torch": torch.__version__,
            "threads": threads,
            "memory_format": str(layout),
        }

    def run(self):
        steps = self._problem.steps
        return {"step_ms": 1e3 * self._seconds(steps) / steps}

    def _choose(self):
        """Sets the fastest of threads and memory layouts, and names them."""
        torch = self._torch
        layouts = [torch.contiguous_format]
        if self._x.dim() == 4:
            layouts.append(torch.channels_last)
        choices = [
            (threads, layout)
            for layout in layouts
            for threads in sorted({1, torch.get_num_threads()})
        ]
        tried = max(2, min(100, self._problem.steps // 5))
        seconds = {}
        for choice in choices:
            self._set(*choice)
            self._seconds(1)
            seconds[choice] = min(self._seconds(tried) for _ in range(2))
        best = min(seconds, key=seconds.get)
        self._set(*best)
        return best

    def _set(self, threads, layout):
        self._torch.set_num_threads(threads)
        self._model.to(memory_format=layout)
        self._x = self._x.contiguous(memory_format=layout)
        # Fused Adam takes its slots to lie in memory as the weights do now.
        self._optimizer = self._torch.optim.Adam(
            self._model.parameters(), lr=self._problem.learning_rate, fused=True
        )

    def _seconds(self, steps):
        began = time.perf_counter()
        order = self._torch.randperm(len(self._x))
        for batch in order.split(self._problem.batch_size)[:steps]:
            self._optimizer.zero_grad(set_to_none=True)
            logits = self._model(self._x[batch])
            self._loss(logits, self._y[batch]).backward()
            for kernel, mask in self._masks:
                kernel.grad.mul_(mask)
            self._optimizer.step()
        return time.perf_counter() - began

    def finish(self):
        return {
            "density": share_kept(k.detach().numpy() for k, _ in self._masks)
        }

    def _prune_half(self):
        """Pairs of kernel and mask; the pruned weights are set to zero.

        With masked gradients they stay there: Adam's slots are zero too.
        """
        pairs = []
        for weight in self._model.parameters():
            if weight.dim() > 1:
                scores = weight.detach().abs()
                mask = (scores > scores.median()).to(weight.dtype)
                weight.data.mul_(mask)
                pairs.append((weight, mask))
        return pairs


def _torch_network(problem, nn):
    """The same network as that of `keras_lottery.models`."""

    def conv(channels):
        return nn.Conv2d(channels, 64, 3, padding="same"), nn.ReLU()

    def dense(inputs, units):
        return nn.Linear(inputs, units), nn.ReLU()

    if problem.network == "lenet_300_100":
        pixels = math.prod(problem.shape)
        hidden = *dense(pixels, 300), *dense(300, 100)
        return nn.Sequential(*hidden, nn.Linear(100, 10))
    height, width, channels = problem.shape
    return nn.Sequential(
        *conv(channels),
        *conv(64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        *dense(64 * (height // 2) * (width // 2), 256),
        *dense(256, 256),
        nn.Linear(256, 10),
    )


_WIDTHS = (784, 300, 100, 10)


class Products:
    """The matrix products of LeNet's step, and nothing else.

    Forward, x @ W of each layer; backward, dY @ W.T of each but the first,
    and x.T @ dY of each: what no dense training can do without. Each product
    takes the result of one before, so that no compiler can take one out of the
    loop. Three libraries compute them: `step_ms` is that of the fastest.
    """

    def __init__(self, problem):
        rng = np.random.default_rng(0)
        self._steps = problem.steps
        batches = (32, problem.batch_size, _WIDTHS[0])
        self._x = rng.normal(size=batches).astype(np.float32)
        self._weights = [
            (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)
            for shape in zip(_WIDTHS, _WIDTHS[1:])
        ]
        self._subjects = {
            "numpy_step_ms": self._numpy,
            "tensorflow_step_ms": self._compiled(jit_compile=False),
            "xla_step_ms": self._compiled(jit_compile=True),
        }

    def run(self):
        values = {}
        for name, products in self._subjects.items():
            began = time.perf_counter()
            products()
            seconds = time.perf_counter() - began
            values[name] = 1e3 * seconds / self._steps
        return {"step_ms": min(values.values()), **values}

    def finish(self):
        return {"mflop_per_step": 1e-6 * flop(self._x.shape[1])}

    def _numpy(self):
        for step in range(self._steps):
            step_products(self._x[step % 32], self._weights, numpy_matmul)

    def _compiled(self, jit_compile):
        import tensorflow as tf

        x = tf.constant(self._x)
        weights = [tf.constant(weight) for weight in self._weights]

        @tf.function(jit_compile=jit_compile, autograph=False)
        def steps(count, x, *weights):
            def body(step, *_):
                batch = x[step % 32]
                return step + 1, *step_products(batch, weights, tf.matmul)

            # One step at a time, as training must.
            return tf.while_loop(
                lambda step, *_: step < count,
                body,
                (0, *map(tf.zeros_like, weights)),
                parallel_iterations=1,
            )

        count = tf.constant(self._steps)
        return lambda: steps(count, x, *weights)[-1].numpy()


def numpy_matmul(a, b, transpose_a=False, transpose_b=False):
    """`tf.matmul` of two matrices, in NumPy."""
    return (a.T if transpose_a else a) @ (b.T if transpose_b else b)


def step_products(x, weights, matmul):
    """The products of one training step.

    Args:
        x: matrix, the batch.
        weights: list of matrices.
        matmul: function as `tf.matmul`.

    Returns:
        List of the gradients of `weights`, in their order.
    """
    inputs = [x]
    for weight in weights:
        inputs.append(matmul(inputs[-1], weight))
    dy, gradients = inputs.pop(), []
    while inputs:
        x = inputs.pop()
        gradients.append(matmul(x, dy, transpose_a=True))
        if inputs:
            dy = matmul(dy, weights[len(inputs)], transpose_b=True)
    return gradients[::-1]


def flop(batch_size):
    """Floating-point operations of one step's products."""
    sizes = [a * b for a, b in zip(_WIDTHS, _WIDTHS[1:])]
    return 2 * batch_size * (3 * sum(sizes) - sizes[0])
