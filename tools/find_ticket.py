"""Runs a lottery experiment into a directory: the main job.

    python tools/find_ticket.py
    python tools/find_ticket.py --dataset=mnist --iterations=5000 \\
        --run_dir=runs/mnist
    python tools/find_ticket.py --flagfile=configs/smoke.cfg

Without a flag: LeNet-300-100 on the embedded digits, the ticket against its
random reinitialisation, 16 rounds; about half a minute on two cores. The same
command on the same directory goes on where it was stopped.
"""

import textwrap

import common
from absl import flags

common.start()

from keras_lottery import report  # noqa: E402
from keras_lottery.experiments import (  # noqa: E402
    Experiment,
    Progress,
    Run,
)

_RUN = ("run_dir", "workers", "scheduler", "tensorboard_dir")

common.define_flags(Experiment)
common.define_flags(Experiment.run, _RUN)
flags.adopt_module_key_flags(common)


def main():
    experiment = Experiment(**common.values(Experiment))
    options = common.values(Experiment.run, _RUN)
    results = experiment.run(progress=Progress(), **options)
    run_dir = options["run_dir"] or experiment.default_run_dir
    print(report.summary(results, Run(run_dir).prunable_share))
    print()
    # Together they say which levels the table calls winning, and why.
    for sentence in filter(None, report.headline(results)):
        print(textwrap.fill(sentence, 80))
    print(f"\nThe report is {report.write(run_dir)}")
    print(f"Everything else is in {run_dir}: results.csv, figures/, tickets/")


if __name__ == "__main__":
    common.run(main, resumes=True)
