"""Subject: a training loop written by hand in PyTorch.

As lean as one writes it: data resident as tensors, fused Adam, gradients of
pruned weights masked; threads and memory layout are those measured to be
fastest. It keeps no metrics, which the Keras subjects do.
"""

import math
import time

from benchmarks.problem import share_kept
from benchmarks.processes import Unavailable


class TorchLoop:
    """Steps of a half-pruned network over shuffled epochs."""

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
        self._model = _network(problem, torch.nn)
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


def _network(problem, nn):
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
