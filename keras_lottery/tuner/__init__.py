"""KerasTuner over whole lottery searches.

Not imported by `keras_lottery` itself: KerasTuner is wanted only here.
"""

from keras_lottery.tuner.tuner import LotteryTuner

__all__ = ["LotteryTuner"]
