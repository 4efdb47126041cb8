"""A training step by density: dense backends, PyTorch, sparse kernels.

All train one network under the same masks, in one process, and take turns.
"""

import math
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

import keras_lottery
from keras_lottery import keras_internals, models
from keras_lottery.backend.loop import CompiledSteps
from keras_lottery.training import backends, batch_indices
from keras_lottery.training.sparse import SparseSteps

# Hidden units of each network.
NETWORKS = {"lenet_300_100": (300, 100), "mlp_1024": (1024, 1024)}
INPUTS, CLASSES, EXAMPLES = 784, 10, 55_000
ARITHMETIC = "arithmetic limit"
# A repetition lasts about this many seconds, for every subject: few steps would
# be timed in caches that the subject before has filled.
SECONDS = 0.1
# Threads of the sparse kernels; `None`: as they choose.
SPARSE = {"sparse": None, "sparse, 1 thread": 1, "sparse, 2 threads": 2}
# What the small figure shows.
OVERVIEW = ("xla", "sparse", "PyTorch, masked")


class Network:
    """One network and what trains it.

    Args:
        name: str, one of `NETWORKS`.
        batch_size: int.
        steps: int, at most so many in one repetition.

    Attributes:
        subjects: dict, name -> function that trains a number of steps.
    """

    def __init__(self, name, batch_size, steps):
        self.batch_size, self.steps = batch_size, steps
        rng = np.random.default_rng(0)
        x = rng.random((EXAMPLES, 28, 28, 1), dtype=np.float32)
        y = rng.integers(0, CLASSES, EXAMPLES, dtype=np.int32)
        self.model = keras_lottery.wrap(_model(name))
        self.model.compile(
            keras.optimizers.Adam(1.2e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        keras_internals.build_for_training(self.model, (x[:2], y[:2]))
        self._units = [INPUTS, *NETWORKS[name], CLASSES]
        data = tf.constant(x), tf.constant(y)
        rows = batch_indices(EXAMPLES, batch_size, 0, 0, steps)
        self._sparse = {
            name: SparseSteps(self.model, batch_size, threads)
            for name, threads in SPARSE.items()
        }
        trained_by = {
            "xla": CompiledSteps(self.model, "xla", data),
            "graph": CompiledSteps(self.model, "graph", data),
            **self._sparse,
        }
        self.subjects = {
            subject: lambda count, made=made: made.train(count, rows, data)
            for subject, made in trained_by.items()
        }
        self._torch = _Torch(self._units, x, y, rows)
        self.subjects.update(self._torch.subjects)

    def measure(self, density, repetitions):
        """Milliseconds a step at a density.

        Returns:
            A list of dicts: `subject`, `repetition` and `step_ms`.
        """
        self._prune(density)
        rows, counts = [], {}
        for subject, train in self.subjects.items():
            # The first may compile.
            _seconds(train, 1)
            expected = SECONDS / _seconds(train, min(3, self.steps))
            counts[subject] = max(1, min(self.steps, int(expected)))
        for repetition in range(1, repetitions + 1):
            for subject, train in self.subjects.items():
                step = 1e3 * _seconds(train, counts[subject])
                rows.append((subject, repetition, step))
        rows.append((ARITHMETIC, 1, self._limit()))
        names = "subject", "repetition", "step_ms"
        about = {
            "batch_size": self.batch_size,
            "density": density,
            "weights": sum(map(math.prod, zip(self._units, self._units[1:]))),
            "kept": sum(self._kept),
            "units": sum(self._units),
        }
        return [{**about, **dict(zip(names, row))} for row in rows]

    def chosen(self):
        """What the rule names at the density as it is."""
        return backends.backend_for(
            "sparse_or_xla", self.model, self.batch_size
        )

    def _prune(self, density):
        rng, attachment = (
            np.random.default_rng(0),
            self.model.lottery.attachment,
        )
        masks = self.model.lottery.masks
        masks = {
            path: rng.random(m.shape) < density for path, m in masks.items()
        }
        attachment.assign_masks(masks)
        # Every density is trained from the same weights.
        for layer in _model_layers(self.model):
            initial = keras.initializers.GlorotNormal(seed=0)(
                layer.kernel.shape
            )
            layer.kernel.assign(initial)
            layer.bias.assign(np.zeros(layer.bias.shape))
        attachment.apply_masks()
        for variable in keras_lottery.optimizers.variables_of(
            self.model.optimizer
        ):
            if variable.path.rsplit("/", 1)[-1] != "learning_rate":
                variable.assign(np.zeros(variable.shape))
        for made in self._sparse.values():
            made.load()
        self._torch.prune(list(masks.values()))
        self._kept = [int(m.sum()) for m in masks.values()]

    def _limit(self):
        """Milliseconds that the products of the surviving weights alone would
        take at the rate of a large matrix product on all cores."""
        products = self.batch_size * (3 * sum(self._kept) - self._kept[0])
        return 1e3 * 2 * products / _flops()


def _seconds(train, count):
    """Seconds of each of so many steps."""
    began = time.perf_counter()
    train(count)
    return (time.perf_counter() - began) / count


_known_flops = []


def _flops():
    """Floating-point operations a second of NumPy's matrix product."""
    if not _known_flops:
        size = 2048
        a = np.ones((size, size), np.float32)
        seconds = []
        for _ in range(7):
            began = time.perf_counter()
            a @ a
            seconds.append(time.perf_counter() - began)
        _known_flops.append(2 * size**3 / statistics.median(seconds))
    return _known_flops[0]


def _model(name):
    if name == "lenet_300_100":
        return models.lenet_300_100(seed=0)
    hidden = [keras.layers.Dense(n, "relu") for n in NETWORKS[name]]
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            *hidden,
            keras.layers.Dense(CLASSES),
        ]
    )


def _model_layers(model):
    return [layer for layer in model.layers if hasattr(layer, "kernel")]


class _Torch:
    """The same steps in PyTorch, if it is installed.

    Attributes:
        subjects: dict, name -> function that trains a number of steps: dense
            under masks, and with matrices of surviving weights alone (CSR).
    """

    def __init__(self, units, x, y, rows):
        self.subjects = {}
        try:
            import torch
        except ImportError:
            return
        self._torch, self._shapes = torch, list(zip(units[1:], units))
        self._loss = torch.nn.CrossEntropyLoss()
        self._x = torch.from_numpy(x.reshape(len(x), -1))
        self._y = torch.from_numpy(y).long()
        self._rows = torch.from_numpy(rows.astype(np.int64))
        self.subjects = {
            "PyTorch, masked": self._train_masked,
            "PyTorch, CSR": self._train_csr,
        }

    def prune(self, masks):
        """Gives both networks new weights under these masks."""
        if not self.subjects:
            return
        torch = self._torch
        self._masks = [torch.from_numpy(m.T.astype(np.float32)) for m in masks]
        kernels = [
            torch.nn.init.xavier_normal_(torch.empty(mask.shape)) * mask
            for mask in self._masks
        ]
        self._kernels, self._dense = self._parameters(kernels)
        self._places = [kernel.to_sparse_csr() for kernel in kernels]
        values = [places.values() for places in self._places]
        self._values, self._sparse = self._parameters(values)

    def _parameters(self, weights):
        """Those weights and new biases, to train, and their optimizer."""
        torch = self._torch
        weights = [torch.nn.Parameter(weight.clone()) for weight in weights]
        biases = [
            torch.nn.Parameter(torch.zeros(units)) for units, _ in self._shapes
        ]
        optimizer = torch.optim.Adam([*weights, *biases], lr=1.2e-3, fused=True)
        return list(zip(weights, biases)), optimizer

    def _train_masked(self, count):
        for rows in self._rows[:count]:
            self._dense.zero_grad(set_to_none=True)
            outputs = self._x[rows]
            for layer, (kernel, bias) in enumerate(self._kernels):
                outputs = self._torch.nn.functional.linear(
                    self._activated(outputs, layer), kernel, bias
                )
            self._loss(outputs, self._y[rows]).backward()
            for (kernel, _), mask in zip(self._kernels, self._masks):
                kernel.grad.mul_(mask)
            self._dense.step()
            for (kernel, _), mask in zip(self._kernels, self._masks):
                kernel.data.mul_(mask)

    def _train_csr(self, count):
        for rows in self._rows[:count]:
            self._sparse.zero_grad(set_to_none=True)
            # The product of a CSR matrix from the left is the one there is.
            outputs = self._x[rows].T
            for layer, (values, bias) in enumerate(self._values):
                places = self._places[layer]
                kernel = self._torch.sparse_csr_tensor(
                    places.crow_indices(),
                    places.col_indices(),
                    values,
                    places.shape,
                )
                product = kernel @ self._activated(outputs, layer)
                outputs = product + bias[:, None]
            self._loss(outputs.T, self._y[rows]).backward()
            self._sparse.step()

    def _activated(self, inputs, layer):
        return self._torch.relu(inputs) if layer else inputs


# What is told.


def table(frame, chosen):
    """The table of one network, as text.

    Args:
        frame: `pandas.DataFrame` of the columns `density`, `subject`,
            `repetition` and `step_ms`.
        chosen: dict, density -> what the rule names.
    """
    found = frame.groupby(["density", "subject"], sort=False).step_ms
    median, least = found.median().unstack(), found.min().unstack()
    # An order that the grouping does not keep.
    median = median[frame.subject.unique()]
    cells = (
        median.map("{:.3f}".format)
        + " ("
        + least[median.columns].map("{:.3f}".format)
        + ")"
    )
    ratios = median["xla"] / median["sparse"]
    cells["xla / sparse"] = ratios.map("{:.2f}".format)
    cells["rule"] = [chosen[density] for density in cells.index]
    cells.index = [f"{density:.2%}" for density in cells.index]
    return cells.iloc[::-1].to_string()


def fit(frame):
    """The constants of the rule in `backends` that fit what was measured.

    Args:
        frame: `pandas.DataFrame` as the benchmark writes it.

    Returns:
        A dict, name -> nanoseconds.
    """
    keys = ["weights", "batch_size", "kept", "units"]
    found = frame.groupby([*keys, "subject"]).step_ms.median().reset_index()
    vectors = -(-found.batch_size // backends.LANES)
    parts = {
        "sparse": (
            ("_STEP", found.step_ms * 0 + 1),
            ("_WEIGHT", vectors * found.kept),
            ("_UNIT", vectors * found.units),
        ),
        "xla": (
            ("_DENSE_STEP", found.step_ms * 0 + 1),
            ("_DENSE_WEIGHT", found.weights),
            ("_DENSE_PRODUCT", found.weights * found.batch_size),
        ),
    }
    constants = {}
    for subject, columns in parts.items():
        here = found.subject == subject
        measured = 1e6 * found.step_ms[here].to_numpy()
        matrix = np.stack([column[here] for _, column in columns], 1)
        # Of relative errors, so that small networks count as much.
        scaled = matrix / measured[:, None]
        solution, *_ = np.linalg.lstsq(scaled, np.ones_like(measured))
        names = [name for name, _ in columns]
        constants.update(zip(names, solution.tolist()))
    return constants


def overview(frame):
    """The rows of one network at one batch size, of the main subjects."""
    first = frame.iloc[0]
    return frame[
        (frame.network == first.network)
        & (frame.batch_size == first.batch_size)
        & frame.subject.isin(OVERVIEW)
    ]


def draw(frame, path):
    """Draws milliseconds a step over density, a panel for each network."""
    from matplotlib.figure import Figure

    frame = frame.assign(
        network=frame.network + ", batch " + frame.batch_size.astype(str)
    )
    networks = list(frame.network.unique())
    figure = Figure(
        figsize=(5 * len(networks), 4), dpi=120, layout="constrained"
    )
    panels = figure.subplots(1, len(networks), squeeze=False)[0]
    for axes, network in zip(panels, networks):
        of_one = frame[frame.network == network]
        for subject in of_one.subject.unique():
            steps = of_one[of_one.subject == subject].groupby("density").step_ms
            style = ":" if subject == ARITHMETIC else "-"
            line = steps.median()
            axes.plot(100 * line.index, line, style, marker=".", label=subject)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.invert_xaxis()
        axes.set_title(network, fontsize=10, loc="left")
        axes.set_xlabel("weights kept, %")
        axes.set_ylabel("ms a step")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=8)
    figure.savefig(path)
