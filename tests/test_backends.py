"""One package on three backends: what is imported, and one ticket file.

A process runs on one backend. Another is tried in a process of its own, in
this environment, or in that of the Python which `KERAS_LOTTERY_JAX` or
`KERAS_LOTTERY_TORCH` names, since the three are not often installed together.
"""

import functools
import importlib
import importlib.util
import inspect
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_lottery import backend
from keras_lottery.backend import common

ROOT = pathlib.Path(__file__).parents[1]

MODEL = """
import sys
import keras, numpy as np
import keras_lottery

def model(seed):
    keras.utils.set_random_seed(seed)
    net = keras.Sequential([
        keras.Input((4, 4, 1)),
        keras.layers.Conv2D(3, 2), keras.layers.BatchNormalization(),
        keras.layers.Flatten(), keras.layers.Dropout(0.2),
        keras.layers.Dense(6, "relu"), keras.layers.Dense(3),
    ])
    net.compile(keras.optimizers.Adam(0.01), "mse")
    return net

def arrays(ticket):
    found = {f"mask {p}": m for p, m in ticket.masks.items()}
    for path, array in ticket.rewind_point.weights.items():
        if "seed" in path:
            array = array.astype("int64")
        found[f"weight {path}"] = array
    for name, state in ticket.rewind_point.optimizers.items():
        for key, array in state.items():
            if array.dtype.kind in "iu":
                array = array.astype("int64")
            found[f"{name} {key}"] = array
    return found

def data():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(16, 4, 4, 1)).astype("float32")
    return x, draw.normal(size=(16, 3)).astype("float32")
"""

WRITE = (
    MODEL
    + """
net = keras_lottery.wrap(model(1), rate=0.3, rewind_to=1)
for _ in range(2):
    net.fit(*data(), batch_size=8, verbose=0)
assert net.lottery.level == 2 and net.lottery.rewind_point.step == 1
net.lottery.ticket().save(sys.argv[1] + "/one.ticket")
np.savez(sys.argv[1] + "/one.npz", **arrays(net.lottery.ticket()))
"""
)

READ = (
    MODEL
    + """
ticket = keras_lottery.Ticket.load(sys.argv[1] + "/one.ticket")
net = ticket.apply(model(2))
expected = np.load(sys.argv[1] + "/one.npz")
found = arrays(net.lottery.ticket())
assert sorted(found) == sorted(expected.files), (list(found), expected.files)
for name, array in found.items():
    assert array.dtype == expected[name].dtype, name
    assert array.tobytes() == expected[name].tobytes(), name
masks = net.lottery.masks
for v in net.trainable_variables:
    now = np.array(v.numpy())
    if v.path in masks:
        assert not now[~masks[v.path]].any()
        kept = np.where(masks[v.path], expected["weight " + v.path], 0)
        assert now.tobytes() == kept.astype("float32").tobytes()
# What it saves again is the same file.
for found in ticket, net.lottery.ticket():
    found.save(sys.argv[1] + "/again.ticket")
    one, again = (open(f"{sys.argv[1]}/{n}.ticket", "rb").read()
                  for n in ("one", "again"))
    assert one == again
net.fit(*data(), batch_size=8, verbose=0)
for path, mask in net.lottery.masks.items():
    assert (mask <= masks[path]).all()
"""
)

COMPILED = (
    MODEL
    + """
import jax
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *rest, **more: compiled.append(event)
    if event.endswith("backend_compile_duration") else None
)
net = keras_lottery.wrap(model(1), rate=0.3)
counts = []
for _ in range(4):
    before = len(compiled)
    net.fit(*data(), batch_size=8, verbose=0)
    counts.append(len(compiled) - before)
assert counts[0] and not any(counts[2:]), counts
"""
)

TWO_OPTIMIZERS = (
    MODEL
    + """
class Own(keras.Sequential):
    def train_step(self, *args):
        return super().train_step(*args)

net = Own([keras.layers.Flatten(), keras.layers.Dense(3)])
net.other = keras.optimizers.SGD()
net.compile("adam", "mse")
keras_lottery.wrap(net)
try:
    net.fit(*data(), verbose=0)
except ValueError as error:
    assert "by one optimizer on Keras' JAX backend" in str(error), error
else:
    raise AssertionError
assert net.lottery.level == 0
net.compile("adam", "mse", run_eagerly=True)
net.fit(*data(), verbose=0)
assert net.lottery.level == 1
"""
)

PAIRS = [
    (one, other)
    for one in backend.NAMES
    for other in backend.NAMES
    if one != other
]


def python(name):
    """The Python in which a backend is installed, or the test is skipped."""
    other = os.environ.get(f"KERAS_LOTTERY_{name.upper()}")
    if not other and importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed.")
    return other or sys.executable


def run(name, code, *arguments):
    """Runs code on a backend, in a process of its own."""
    done = subprocess.run(
        [python(name), "-c", code, *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": name, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A function: a backend -> the directory with a ticket it wrote."""

    @functools.cache
    def write(name):
        directory = tmp_path_factory.mktemp(name)
        run(name, WRITE, directory)
        return directory

    return write


@pytest.mark.parametrize("one, other", PAIRS)
def test_a_ticket_of_one_backend_is_applied_on_another(one, other, written):
    python(other)
    run(other, READ, written(one))


@pytest.mark.parametrize("name", ["jax", "torch"])
def test_it_is_imported_where_tensorflow_is_not(name):
    code = """
import sys
sys.modules["tensorflow"] = None
import keras_lottery
import keras
from keras_lottery import datasets
of_both = "experiments", "training", "report"
for part in *of_both, "tuner":
    try:
        __import__(f"keras_lottery.{part}")
    except ImportError as error:
        assert "Keras' TensorFlow" in str(error), error
        assert part not in of_both or keras.backend.backend() == "torch"
    else:
        assert part in of_both, part
from keras_lottery.export import compact, to_litert, to_serving
try:
    from keras_lottery.export import export_run
except ImportError as error:
    assert "needs Keras' TensorFlow backend" in str(error), error
else:
    raise AssertionError("export_run")
print(*sorted(keras_lottery.__all__))
"""
    assert "LotteryTicketPruner RewindPoint Ticket" in run(name, code)


def test_on_jax_a_new_mask_compiles_nothing():
    run("jax", COMPILED)


def test_on_jax_a_compiled_step_has_one_optimizer():
    run("jax", TWO_OPTIMIZERS)


def test_every_backend_has_the_same_functions():
    names = {
        name
        for name, value in vars(backend).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    } - {"NAME", "NAMES", "ON_TENSORFLOW", "require_tensorflow"}
    for name in backend.NAMES:
        source = (ROOT / "keras_lottery" / "backend" / f"{name}.py").read_text()
        for function in names:
            made = f"def {function}(" in source or f"class {function}(" in (
                source.replace(":\n", "(:\n")
            )
            assert made or f'"{function}"' in source, (name, function)


def test_only_the_folder_of_backends_names_one():
    root = ROOT / "keras_lottery"
    for path in root.rglob("*.py"):
        if path.parent.name != "backend":
            assert "backend.backend()" not in path.read_text(), path


def test_a_part_that_needs_tensorflow_is_refused_elsewhere(monkeypatch):
    monkeypatch.setattr(backend, "NAME", "jax")
    with pytest.raises(ImportError, match="variable KERAS_BACKEND to tensor"):
        backend.require_tensorflow("keras_lottery.training")


class Counted:
    """A variable that tells how often it was read."""

    reads = 0

    def numpy(self):
        self.reads += 1
        return [self.reads]


def test_steps_between_which_python_runs_are_counted():
    variable = Counted()
    copy = common.DelayedCopy(3, lambda: {"a": variable})
    for _ in range(5):
        copy.after_step(None)
    assert copy.steps == 5 and variable.reads == 1
    assert copy.copies()["a"].tolist() == [1]
    copy.restart(2)
    copy.after_step(None)
    assert variable.reads == 2


def test_unknown_axes_get_sizes():
    spec = keras.KerasTensor((None, None, 3))
    assert common.concrete_shape(spec) == (2, 64, 3)


TRAIN = (
    MODEL
    + """
from keras_lottery.training import Loop
ticket = keras_lottery.Ticket.load(sys.argv[1] + "/one.ticket")
draw = np.random.default_rng(0)
x = draw.normal(size=(40, 4, 4, 1)).astype("float32")
y = draw.integers(0, 3, 40)
net = model(2)
net.layers[3].rate = 0.0  # Each backend draws numbers of its own.
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
net.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
net = ticket.apply(net)
training = Loop(net, (x, y), (x, y), None, 8, 10).train(30, seed=3)
np.savez(sys.argv[2], training.val_loss, training.train_loss)
"""
)


def test_the_loop_trains_alike_on_jax(tmp_path):
    python("jax")
    run("tensorflow", WRITE, tmp_path)
    files = [tmp_path / f"{name}.npz" for name in ("tensorflow", "jax")]
    for file in files:
        run(file.stem, TRAIN, tmp_path, file)
    one, other = map(np.load, files)
    for name in one.files:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-5)
