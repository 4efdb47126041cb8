"""Figures, tables and the page of what an experiment measured."""

from keras_lottery.report.claims import check_claims
from keras_lottery.report.figures import against_density, tradeoff
from keras_lottery.report.page import write
from keras_lottery.report.tables import summary
from keras_lottery.report.winning import headline

__all__ = [
    "against_density",
    "check_claims",
    "headline",
    "summary",
    "tradeoff",
    "write",
]
