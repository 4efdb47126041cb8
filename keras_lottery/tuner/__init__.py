"""KerasTuner over whole lottery searches.

`keras_lottery` itself does not import it: only here KerasTuner is needed.
"""

from keras_lottery.tuner.tuner import EXPERIMENT_ARGUMENTS, LotteryTuner

__all__ = ["EXPERIMENT_ARGUMENTS", "LotteryTuner"]
