"""keras_lottery: finds lottery tickets in Keras models."""

from keras_lottery.pruner import LotteryTicketPruner
from keras_lottery.rewinding import RewindPoint
from keras_lottery.tickets import Ticket
from keras_lottery.version import __version__
from keras_lottery.wrapping import unwrap, wrap

__all__ = [
    "LotteryTicketPruner",
    "RewindPoint",
    "Ticket",
    "__version__",
    "unwrap",
    "wrap",
]
