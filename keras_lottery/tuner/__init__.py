"""KerasTuner over whole lottery searches.

`keras_lottery` itself does not import it: only here KerasTuner is needed.
"""

from keras_lottery.backend import require_tensorflow

require_tensorflow("keras_lottery.tuner")

# ruff: noqa: E402
from keras_lottery.tuner.tuner import EXPERIMENT_ARGUMENTS, LotteryTuner

__all__ = ["EXPERIMENT_ARGUMENTS", "LotteryTuner"]
