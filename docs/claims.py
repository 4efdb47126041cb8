"""Writes the table of the paper's claims, from the results that are committed.

    python docs/claims.py

To be run again when a result under `configs/results` or a claim changes.
"""

import pathlib

from keras_lottery.experiments.run import Run
from keras_lottery.report import claims, tables
from keras_lottery.report.paper_claims import CLAIMS

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs/results/claims.md"
# One run for each network and recipe: the others under `configs/results`
# repeat one of these on another backend or at a smaller scale.
RUNS = (
    "lenet_mnist",
    "conv_2_cifar10_coarse",
    "half/*",
    "patterns/4x1",
    "patterns/channel",
)


def judged():
    """List of `Verdict`, on every claim."""
    run_dirs = [
        path
        for pattern in RUNS
        for path in sorted((ROOT / "configs/results").glob(pattern))
    ]
    runs = [Run.open(path) for path in run_dirs]
    return claims.check(CLAIMS, [(run.experiment, run.results) for run in runs])


def page(verdicts):
    """The text of the page: what is above its table, and the table anew."""
    text, _, _ = PAGE.read_text(encoding="utf-8").partition("| claim |")
    return text + tables.verdicts_markdown(verdicts)


if __name__ == "__main__":
    PAGE.write_text(page(judged()), encoding="utf-8")
