"""Measures training steps over density: dense backends and sparse kernels.

    python tools/benchmark_sparse.py
    python tools/benchmark_sparse.py --networks=lenet_300_100 --iterations=0

Each density is trained by every backend in turn: medians of the repetitions,
and minima in brackets. After that a whole search of LeNet-300-100, 19 levels
of --iterations steps, all included, by XLA alone and by what the rule names.
The rule of `keras_lottery.training.backends` is fixed by these numbers. A
few minutes on two cores that have nothing else to do.
"""

import json
import os
import tempfile
import time

import common
from absl import flags

common.start()

import pandas  # noqa: E402

from keras_lottery.checks import missing  # noqa: E402

try:
    import numba  # noqa: F401
except ImportError as error:
    told = missing("benchmark_sparse.py", "numba", "sparse")
    common.stop(f"{told} ({error})", 2)

from benchmarks import by_density  # noqa: E402
from benchmarks.measurement import machine  # noqa: E402

from keras_lottery.experiments import Experiment  # noqa: E402

FLAGS = flags.FLAGS
_ROUNDS = 18

flags.DEFINE_list("networks", list(by_density.NETWORKS), "Those to measure.")
flags.DEFINE_list(
    "densities",
    "1,0.51,0.41,0.33,0.26,0.2,0.1,0.036,0.01,0.001".split(","),
    "Fractions of the weights that survive.",
)
flags.DEFINE_list("batch_sizes", ["60", "128"], "Examples of a step.")
flags.DEFINE_integer("repetitions", 4, "Of each.", lower_bound=1)
flags.DEFINE_integer(
    "steps",
    1000,
    "At most so many in one repetition, which lasts about a tenth of a second.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "iterations", 600, "Of each level of the search; 0: none.", lower_bound=0
)
flags.DEFINE_string(
    "dataset", "digits", "Of the search: digits, or a set of TFDS."
)
flags.DEFINE_string("data_dir", None, "Where TFDS has it.")
flags.DEFINE_string("output_dir", "runs/benchmark_sparse", "For all files.")


def main():
    networks, batch_sizes, densities = _settings()
    os.makedirs(FLAGS.output_dir, exist_ok=True)
    facts = machine()
    print(f"{facts['cpu']}, {facts['cores']} cores")
    frames = []
    for name in networks:
        for batch_size in batch_sizes:
            frames.append(_measure(name, batch_size, densities))
            frame = pandas.concat(frames)
            frame.to_csv(_path("csv"), index=False)
    by_density.draw(frame, _path("png"))
    by_density.draw(by_density.overview(frame), _path("overview.png"))
    facts["fit"] = by_density.fit(frame)
    print("\nConstants of the rule that fit these numbers, ns:")
    for name, value in facts["fit"].items():
        print(f"{name} = {value:.3g}")
    if FLAGS.iterations:
        facts["search_ms"] = _search()
    with open(_path("json"), "w") as file:
        json.dump(facts, file, indent=2)
    print(f"\nEverything is in {FLAGS.output_dir}")


def _path(suffix):
    return os.path.join(FLAGS.output_dir, f"by_density.{suffix}")


def _settings():
    """What to measure, refused if it is wrong before anything is measured."""
    known, given = list(by_density.NETWORKS), FLAGS.networks
    if not given or not set(given) <= set(known):
        raise ValueError(
            f"--networks must be among {', '.join(known)}. "
            f"Received: {','.join(given)}"
        )
    if FLAGS.iterations:
        _experiment("xla", seed=0).check_data()
    densities = common.numbers("densities", float, limit=1)
    return given, common.numbers("batch_sizes", int), densities


def _measure(name, batch_size, densities):
    network = by_density.Network(name, batch_size, FLAGS.steps)
    rows, chosen = [], {}
    for density in densities:
        rows += network.measure(density, FLAGS.repetitions)
        chosen[density] = network.chosen()
    frame = pandas.DataFrame(rows)
    print(f"\n{name}, ms a step, batch {batch_size}")
    print(by_density.table(frame, chosen), flush=True)
    frame.insert(0, "network", name)
    return frame


def _experiment(backend, seed):
    return Experiment(
        FLAGS.dataset,
        FLAGS.data_dir,
        rounds=_ROUNDS,
        iterations=FLAGS.iterations,
        eval_every=min(100, FLAGS.iterations),
        arms=("ticket",),
        seed=seed,
        backend=backend,
    )


def _search():
    """Milliseconds a step of a whole search, all included, by backend."""
    found = {"xla": [], "sparse_or_xla": []}
    for seed in range(2):
        for backend, times in found.items():
            experiment = _experiment(backend, seed)
            with tempfile.TemporaryDirectory() as directory:
                began = time.perf_counter()
                experiment.run(directory)
                seconds = time.perf_counter() - began
            times.append(1e3 * seconds / FLAGS.iterations / (_ROUNDS + 1))
    print(f"\nA search on {FLAGS.dataset}, all included, ms a step:")
    for backend, times in found.items():
        print(f"{backend}: " + ", ".join(f"{ms:.3f}" for ms in times))
    return found


if __name__ == "__main__":
    common.run(main)
