"""Holds the paper's claims against what runs have measured.

python tools/check_claims.py runs/lenet_mnist [RUN_DIR ...]
"""

import json
import os

import common


def main(run_dirs):
    from keras_lottery.experiments.results import from_csv
    from keras_lottery.report import claims
    from keras_lottery.report.paper import CLAIMS

    if not run_dirs:
        raise ValueError("Give one or more run directories.")
    runs = []
    for run_dir in run_dirs:
        with open(os.path.join(run_dir, "experiment.json")) as file:
            experiment = json.load(file)
        with open(os.path.join(run_dir, "results.csv")) as file:
            runs.append((experiment, from_csv(file.read())))
    print(claims.table(claims.check(CLAIMS, runs)))


if __name__ == "__main__":
    common.run(main, takes_arguments=True)
