"""Measures a training step over the height of a stack.

    KERAS_BACKEND=jax python tools/measure_stacks.py --model=lenet_300_100 \\
        --dataset=mnist --heights=1,5,20

Prints one line of CSV for each height: the milliseconds of a step of all
trainings together, and of each of them, medians of three stretches.
"""

import common
from absl import flags

common.start()

import statistics  # noqa: E402
import time  # noqa: E402

import numpy as np  # noqa: E402

from keras_lottery import backend  # noqa: E402
from keras_lottery.backend.loop import stacks  # noqa: E402
from keras_lottery.experiments import Experiment  # noqa: E402
from keras_lottery.experiments.bench import Bench  # noqa: E402

_EXPERIMENT = ("dataset", "data_dir", "model", "batch_size", "precision")

common.define_flags(Experiment, _EXPERIMENT)
flags.DEFINE_list("heights", ["1", "5", "20"], "Trainings at once.")
flags.DEFINE_integer("steps", 100, "Steps of a stretch.", lower_bound=1)
flags.adopt_module_key_flags(common)


def main():
    if stacks is None:
        raise ValueError(
            "Stacks need Keras' JAX backend: set KERAS_BACKEND to jax."
        )
    steps, heights = flags.FLAGS.steps, common.numbers("heights", int)
    device = ", ".join(backend.gpus()) or "CPU"
    experiments = [_experiment(height, steps) for height in heights]
    experiments[0].check_data()
    print("model,height,batch_size,precision,ms_a_step,ms_a_training,device")
    for height, experiment in zip(heights, experiments):
        milliseconds = 1e3 * _seconds_a_step(experiment, height, steps)
        print(
            f"{experiment.model},{height},{experiment.batch_size},"
            f"{experiment.precision},{milliseconds:.4f},"
            f"{milliseconds / height:.4f},{device}",
            flush=True,
        )


def _experiment(height, steps):
    return Experiment(
        **common.values(Experiment, _EXPERIMENT),
        rounds=0,
        arms=("ticket",),
        iterations=steps,
        eval_every=steps,
        # The learning rate has no part in what a step costs.
        warmup=0,
        drops=(),
        stack=max(2, height),
    )


def _seconds_a_step(experiment, height, steps):
    stack, states = Bench(experiment).initial_states(height)
    states = stacks.stack(states)
    shape = height, steps, experiment.batch_size
    indices = np.random.default_rng(0).integers(0, experiment.batch_size, shape)
    which, times = np.zeros(height, np.int32), []
    for _ in range(4):
        began = time.perf_counter()
        states, measured = stack.steps.train(
            states, steps, indices.astype(np.int32), which
        )
        stacks.wait(measured)
        times.append((time.perf_counter() - began) / steps)
    # The first stretch compiles.
    return statistics.median(times[1:])


if __name__ == "__main__":
    common.run(main)
