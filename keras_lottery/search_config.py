"""The arguments of a search as a file holds them."""

import re

from keras_lottery import schedules
from keras_lottery.scopes import find_kernels


def to_config(pruner, resolved):
    """The arguments of a pruner, as far as a file can hold them.

    Args:
        pruner: `LotteryTicketPruner`.
        resolved: dict, weight path -> schedule, of the kernels that have a
            mask.

    Returns:
        A dict that JSON can hold. Its `rates` are by weight path.
    """
    rates = {}
    if resolved:
        for kernel in find_kernels(pruner.model):
            schedule = resolved.get(kernel.path, schedules.Constant(0.0))
            rates[kernel.path] = schedules.to_config(schedule)
    named = isinstance(pruner.criterion, str)
    return {
        "rate": schedules.to_config(schedules.get(pruner.rate)),
        "rates": rates,
        "scope": pruner.scope,
        "criterion": pruner.criterion if named else None,
        "rewind_to": pruner.rewind_to,
        "rounds": pruner.rounds,
        "seed": pruner.seed,
    }


def from_config(config, places):
    """The arguments that `to_config` wrote down.

    Args:
        config: dict.
        places: dict, a weight path of the config -> that of a model.

    Returns:
        A dict of arguments of `keras_lottery.wrap`.
    """
    arguments = dict(config)
    arguments["rate"] = schedules.from_config(config["rate"])
    arguments["rates"] = {
        f"^{re.escape(places[path])}$": schedules.from_config(rate)
        for path, rate in config["rates"].items()
    }
    if config["criterion"] is None:
        arguments["criterion"] = _not_in_the_file
    return arguments


def _not_in_the_file(initial, trained):
    raise ValueError(
        "The search was made with a `criterion` that is a callable, which no "
        "file holds. Give `criterion` again to prune further."
    )
