"""Tunes the knobs of a lottery search with KerasTuner.

    python tools/tune.py
    python tools/tune.py --oracle=bayesian --objective=accuracy --density=0.1 \\
        --knobs=rate,scope,learning_rate --max_trials=20 --workers=2

Each trial of KerasTuner is a whole search, levels 0 to --rounds, compared by
validation data. Without a flag: LeNet-300-100 on the embedded digits, about
two minutes on two cores. Ends with a table and the best ticket; the same
command on the same directory goes on where it was stopped.
"""

import os

import common
from absl import flags

FLAGS = flags.FLAGS

common.define_training_flags()
flags.adopt_module_key_flags(common)  # For --help to show them.
flags.DEFINE_string(
    "oracle", "random", "What to try next: random, bayesian, hyperband, grid."
)
flags.DEFINE_string(
    "objective",
    "density",
    "density: the smallest one with an accuracy within --margin of dense; "
    "accuracy: that at --density; area: under accuracy over log density.",
)
flags.DEFINE_float("margin", 0.005, "See --objective; a fraction.")
flags.DEFINE_float(
    "density", 0.2, "Where the objectives accuracy and area look; a fraction."
)
flags.DEFINE_list(
    "knobs",
    ["rate", "output_rate", "criterion"],
    "What is tuned: rate, output_rate, scope, rewind_to, learning_rate, "
    "warmup, criterion, rates.KEY (of a layer, a class or an expression).",
)
flags.DEFINE_integer(
    "max_trials",
    None,
    "Searches at most. Default: 10 with random and bayesian, else no limit.",
)
flags.DEFINE_integer("rounds", 8, "Of each search, or of the longest.")
flags.DEFINE_integer("iterations", 1000, "Budget of each training.")
flags.DEFINE_integer("seed", 0, "Of the oracle and of every search.")
flags.DEFINE_integer("workers", 1, "Searches at a time, a process each.")
flags.DEFINE_string(
    "run_dir", None, "Where everything goes. Default: runs/tune_DATASET_MODEL."
)

# Those that `LotteryTuner` takes by the same name.
ARGUMENTS = (
    *("dataset", "data_dir", "batch_size", "optimizer", "backend"),
    *("oracle", "objective", "margin", "density", "knobs", "max_trials"),
    *("rounds", "iterations", "seed", "workers"),
)


def main():
    # Late, so that --help and a wrong flag answer at once.
    from keras_lottery.tuner import LotteryTuner

    run_dir = FLAGS.run_dir or f"runs/tune_{FLAGS.dataset}_{FLAGS.model}"
    directory, project_name = os.path.split(run_dir.rstrip("/"))
    tuner = LotteryTuner(
        FLAGS.model,
        directory=directory,
        project_name=project_name,
        **{name: FLAGS[name].value for name in ARGUMENTS},
    )
    tuner.search()
    print(tuner.table())
    print(f"\nThe best ticket is {tuner.ticket_path()}")
    print(f"Everything else is in {tuner.project_dir}")


if __name__ == "__main__":
    common.run(main)
