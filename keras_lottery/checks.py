"""Checks of arguments: the errors that name what was received. Pure Python."""

import difflib
import math
import numbers
from collections.abc import Collection, Iterable
from typing import TypeGuard


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite real number, and no bool."""
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def check_rate(name: str, rate: object) -> None:
    """Refuses what is not a rate, a number in [0, 1)."""
    if not is_number(rate) or not 0 <= rate < 1:
        raise ValueError(
            f"`{name}` must be in [0, 1). Received: {name}={rate!r}"
        )


def check_positive(name: str, value: object) -> None:
    """Refuses what is not a number greater than 0."""
    if not is_number(value) or not value > 0:
        raise ValueError(
            f"`{name}` must be greater than 0. Received: {name}={value!r}"
        )


def check_integer(name: str, value: object, minimum: int) -> int:
    """`value` as an `int`, refused if it is none or below `minimum`."""
    if (
        not isinstance(value, numbers.Integral)
        or isinstance(value, bool)
        or value < minimum
    ):
        raise ValueError(
            f"`{name}` must be an integer, at least {minimum}. "
            f"Received: {name}={value!r}"
        )
    return int(value)


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Refuses what is not one of a few values."""
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {list(choices)}. "
            f"Received: {name}={value!r}"
        )


def check_arguments(
    function: str, given: Iterable[str], taken: Collection[str]
) -> None:
    """Refuses names of arguments that a function does not take."""
    for name in given:
        if name not in taken:
            near = difflib.get_close_matches(name, taken, n=1)
            advice = f"Did you mean `{near[0]}`?" if near else ""
            raise TypeError(
                f"`{function}` takes no argument `{name}`. "
                f"{advice or f'It takes {list(taken)}.'}"
            )


def missing(what: str, package: str, extra: str | None = None) -> str:
    """What an error says of a package that cannot be imported.

    Args:
        what: str, what needs it.
        package: str, its name, or those of several.
        extra: optional str, the extra of keras-lottery that installs it.
            Defaults to none: the package itself is named.
    """
    wanted = f'"keras-lottery[{extra}]"' if extra else package
    return (
        f"{what} needs {package}, which cannot be imported: "
        f"`pip install {wanted}`"
    )
