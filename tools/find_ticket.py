"""Runs a lottery experiment into a directory: the main job.

    python tools/find_ticket.py
    python tools/find_ticket.py --dataset=mnist --iterations=5000 \\
        --run_dir=runs/mnist
    python tools/find_ticket.py --flagfile=configs/smoke.cfg

Without a flag: LeNet-300-100 on the embedded digits, the ticket against its
random reinitialisation, 16 rounds; about a minute on two cores. The same
command on the same directory goes on where it was stopped.
"""

import contextlib
import os

import common
from absl import flags

FLAGS = flags.FLAGS

common.define_training_flags()
flags.adopt_module_key_flags(common)  # For --help to show them.
flags.DEFINE_integer("rounds", 16, "Rounds: levels 0 to this are trained.")
flags.DEFINE_float(
    "rate", None, "Share of survivors pruned per round. Default: the paper's."
)
flags.DEFINE_float(
    "output_rate", None, "The same for output layers. Default: half of it."
)
flags.DEFINE_list(
    "rates",
    None,
    "Rates of some weights, such as Conv2D:0.1,fc1:0.3: a layer, a class of "
    "Keras' layers, or a regular expression in a path. Default: the paper's.",
)
flags.DEFINE_string(
    "scope", None, "layerwise or global. Default: the paper's for the model."
)
flags.DEFINE_string(
    "criterion",
    "magnitude",
    "magnitude, large_final, small_final, magnitude_increase, movement or "
    "random.",
)
flags.DEFINE_integer(
    "rewind_to", 0, "Training step to rewind to; 0 is initialisation."
)
flags.DEFINE_integer(
    "late_rewind_to",
    None,
    "That of the arm late_rewind. Default: a fiftieth of the budget.",
)
flags.DEFINE_integer(
    "iterations",
    None,
    "Budget of each training. Default: 1,000 on digits, else the paper's.",
)
flags.DEFINE_float("learning_rate", None, "Default: the paper's.")
flags.DEFINE_float("momentum", None, "Of sgd. Default: the paper's.")
flags.DEFINE_integer(
    "warmup",
    None,
    "Steps in which the learning rate rises from 0. Default: the paper's.",
)
flags.DEFINE_list(
    "drops",
    None,
    "Steps at which the learning rate is divided by 10. Default: the paper's.",
)
flags.DEFINE_float(
    "dropout", None, "Dropout rate of the Conv networks. Default: 0."
)
flags.DEFINE_integer(
    "eval_every",
    None,
    "Iterations between evaluations. Default: a fiftieth of the budget, at "
    "most 100.",
)
flags.DEFINE_string(
    "early_stop_metric", "val_loss", "val_loss or val_accuracy."
)
flags.DEFINE_integer("trials", 1, "How often, each with seeds of its own.")
flags.DEFINE_list(
    "arms", ["ticket", "reinit"], "What to train at each level, by name."
)
flags.DEFINE_integer("seed", 0, "Every other seed is derived from it.")
flags.DEFINE_string(
    "precision",
    "float32",
    "float32; or mixed_bfloat16, mixed_float16: faster where the machine "
    "computes in it.",
)
flags.DEFINE_integer("workers", 1, "Processes to train in.")
flags.DEFINE_string(
    "scheduler",
    None,
    "Address of a Dask scheduler, whose workers train instead: tcp://host:8786",
)
flags.DEFINE_string(
    "tensorboard_dir", None, "Curves for TensorBoard. Default: none."
)
flags.DEFINE_string(
    "run_dir", None, "Where everything goes. Default: runs/DATASET_MODEL."
)


def main():
    # Late, so that --help and a wrong flag answer at once.
    from keras_lottery import report
    from keras_lottery.experiments import FIELDS, Cluster, Experiment, Progress

    settings = {name: getattr(FLAGS, name) for name in FIELDS}
    if settings["rates"]:
        settings["rates"] = [pair.rsplit(":", 1) for pair in settings["rates"]]
    experiment = Experiment(**settings)
    run_dir = FLAGS.run_dir or f"runs/{experiment.dataset}_{experiment.model}"
    os.makedirs(run_dir, exist_ok=True)
    with contextlib.ExitStack() as stack:
        cluster = FLAGS.scheduler and stack.enter_context(
            Cluster(FLAGS.scheduler)
        )
        results = experiment.run(
            run_dir,
            Progress(),
            FLAGS.workers,
            executor=cluster or None,
            tensorboard_dir=FLAGS.tensorboard_dir,
        )
    print(report.summary(results))
    print(f"\nThe report is {report.write(run_dir)}")
    print(f"Everything else is in {run_dir}: results.csv, figures/, tickets/")


if __name__ == "__main__":
    common.run(main)
