"""keras_lottery: finds lottery tickets in Keras models."""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "keras_lottery needs Keras' TensorFlow backend: set the environment "
        "variable KERAS_BACKEND to tensorflow, or leave it unset. Found: "
        f"{keras.backend.backend()}"
    )

# ruff: noqa: E402
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
