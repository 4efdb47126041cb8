"""Figures and tables of what an experiment measured."""

from keras_lottery.report.figures import against_density
from keras_lottery.report.tables import summary

__all__ = ["against_density", "summary"]
