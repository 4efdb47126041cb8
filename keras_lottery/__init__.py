"""keras_lottery: finds lottery tickets in Keras models."""

import os

# TensorFlow greets on stderr unless told otherwise; a user's choice stands.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from keras_lottery.pruner import LotteryTicketPruner  # noqa: E402
from keras_lottery.rewinding import RewindPoint  # noqa: E402
from keras_lottery.tickets import Ticket  # noqa: E402
from keras_lottery.version import __version__  # noqa: E402
from keras_lottery.wrapping import unwrap, wrap  # noqa: E402

__all__ = [
    "LotteryTicketPruner",
    "RewindPoint",
    "Ticket",
    "__version__",
    "unwrap",
    "wrap",
]
