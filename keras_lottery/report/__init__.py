"""Figures, tables and the page of what an experiment measured."""

from keras_lottery.report.figures import against_density
from keras_lottery.report.tables import summary
from keras_lottery.report.writing import write

__all__ = ["against_density", "summary", "write"]
