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

common.start()

with common.importing():
    from keras_lottery.experiments import Experiment
    from keras_lottery.tuner import EXPERIMENT_ARGUMENTS, LotteryTuner

_TUNER = (
    *("objective", "margin", "density", "oracle", "max_trials", "knobs"),
    *("rounds", "iterations", "seed", "workers"),
)

common.define_flags(LotteryTuner, _TUNER, max_trials=8)
common.define_flags(Experiment, ("model", *EXPERIMENT_ARGUMENTS))
flags.adopt_module_key_flags(common)  # For --help to show them.
flags.DEFINE_string(
    "run_dir", None, "Where everything goes. Default: runs/tune_DATASET_MODEL."
)


def main():
    values = flags.FLAGS
    run_dir = values.run_dir or f"runs/tune_{values.dataset}_{values.model}"
    directory, project_name = os.path.split(os.path.normpath(run_dir))
    tuner = LotteryTuner(
        values.model,
        directory=directory,
        project_name=project_name,
        **common.values(LotteryTuner, _TUNER),
        **common.values(Experiment, EXPERIMENT_ARGUMENTS),
    )
    tuner.search()
    print(tuner.table())
    print(f"\nThe best ticket is {tuner.ticket_path()}")
    print(f"Everything else is in {tuner.project_dir}")


if __name__ == "__main__":
    common.run(main, resumes=True)
