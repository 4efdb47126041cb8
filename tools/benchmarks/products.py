"""Subject: the matrix products of LeNet's step, and nothing else.

Forward, x @ W of each layer; backward, dY @ W.T of each but the first, and
x.T @ dY of each: what no dense training can do without. Each product takes
the result of one before, so that no compiler can take one out of the loop.
Three libraries compute them; the fastest of a repetition is the peak.
"""

import time

import numpy as np
import tensorflow as tf

from benchmarks.keras_models import ABOUT

_WIDTHS = (784, 300, 100, 10)


class Products:
    """`step_ms` is the best of three; each is a metric too."""

    def __init__(self, problem):
        rng = np.random.default_rng(0)
        self._steps, self.about = problem.steps, ABOUT
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
