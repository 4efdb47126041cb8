"""Knobs: the arguments of a search that are tuned with the model."""

import contextlib

from keras_lottery.experiments import FIELDS
from keras_lottery.schedules import ToDensity

# KerasTuner keeps one flat list of names, the hypermodel's own among them.
PREFIX = "lottery/"
_RATES = "rates."

# The criteria that did best in 1905.01067, without its controls.
_CRITERIA = ["magnitude", "magnitude_increase", "movement"]


class Knobs:
    """Declares the knobs of a search and reads them.

    Args:
        knobs: sequence of names, for their default ranges; or a dict from
            name to range, where a list is one of choices and a tuple `(low,
            high)` or `(low, high, "log")` an interval; or a function of
            `keras_tuner.HyperParameters` that returns a dict of arguments of
            `Experiment`. A name is an argument of `Experiment`, or
            `"rates.KEY"` for the rate of KEY: a layer's name, a class of
            `keras.layers` or a regular expression in a weight's path.
        reference: `Experiment`, with the values of what is not tuned.
        lowest: float, of the default range of `rate`.

    Raises:
        ValueError: If a knob is not known or its range is none.
    """

    def __init__(self, knobs, reference, lowest=0.1):
        self._function = knobs if callable(knobs) else None
        self._reference = reference
        ranges = {} if self._function else _ranges(knobs, reference, lowest)
        # Knobs that depend on the scope are declared after it.
        self.ranges = dict(sorted(ranges.items(), key=_scope_first))

    def description(self):
        """Dict from name to range, as JSON holds it; a function's name."""
        if self._function:
            return getattr(self._function, "__qualname__", "function")
        return {name: list(spec) for name, spec in self.ranges.items()}

    def __call__(self, hp):
        """Declares the knobs and reads their values.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            A dict of arguments of `Experiment`.
        """
        if self._function:
            return dict(self._function(hp))
        found = {
            name: self._declare(hp, name, spec)
            for name, spec in self.ranges.items()
        }
        found = {k: v for k, v in found.items() if v is not None}
        return self._as_arguments(found)

    def _declare(self, hp, name, spec):
        scope = contextlib.nullcontext()
        if "scope" in self.ranges and _is_layerwise(name):
            # Under one threshold for all, no layer has a rate of its own.
            scope = hp.conditional_scope(f"{PREFIX}scope", ["layerwise"])
        default = _default(name, self._reference)
        with scope:
            return _declare(hp, PREFIX + name, spec, default)

    def _as_arguments(self, found):
        """Arguments of `Experiment` from values by name."""
        reference = self._reference
        rates = dict(reference.rates)
        for name in [n for n in found if n.startswith(_RATES)]:
            rates[name.removeprefix(_RATES)] = found.pop(name)
        if found.get("scope", reference.scope) == "global":
            # One threshold for all layers, but for those that are left alone.
            rates = {key: rate for key, rate in rates.items() if not rate}
            if reference.output_rate:
                rate = found.get("rate", reference.rate)
                found.setdefault("output_rate", rate)
        if tuple(rates.items()) != reference.rates:
            found["rates"] = tuple(rates.items())
        return found


def lowest_rate(objective, density, rounds):
    """The least `rate` of the default range.

    Args:
        objective: str; with `"accuracy"` a search has to reach `density`.
        density: float in (0, 1).
        rounds: int.

    Returns:
        A float.
    """
    if objective != "accuracy" or rounds < 2:
        return 0.1
    # One round less, for layers that are pruned at half the rate.
    rate = ToDensity(density, rounds - 1)(0)
    return min(max(0.1, rate), 0.45)


def _ranges(knobs, reference, lowest):
    """Dict from name to range, checked."""
    if isinstance(knobs, str):
        knobs = [knobs]
    known = _default_ranges(reference, lowest)
    given = knobs if isinstance(knobs, dict) else dict.fromkeys(knobs)
    ranges = {}
    for name, spec in given.items():
        if spec is None and name.startswith(_RATES):
            spec = (0.05, 0.5)
        elif spec is None:
            spec = known.get(name)
        if spec is None or name.split(".")[0] not in FIELDS:
            raise ValueError(
                f"`knobs` must be among {[*known, 'rates.KEY']}, or a dict "
                "that says the range of any argument of `Experiment`. "
                f"Received: {name!r}"
            )
        ranges[name] = _check_range(name, spec)
    return ranges


def _default_ranges(reference, lowest):
    budget = reference.iterations
    rate = reference.learning_rate or 1e-3
    steps = sorted({0, budget // 100, budget // 50, budget // 20})
    return {
        "rate": (lowest, 0.5),
        "output_rate": (0.0, 0.3),
        "scope": ["layerwise", "global"],
        "rewind_to": steps,
        "learning_rate": (rate / 10, rate * 10, "log"),
        "warmup": sorted({0, budget // 20, budget // 5}),
        "criterion": _CRITERIA,
    }


def _check_range(name, spec):
    if isinstance(spec, list) and spec:
        return spec
    if isinstance(spec, tuple) and 2 <= len(spec) <= 3:
        numbers = all(isinstance(n, (int, float)) for n in spec[:2])
        if numbers and spec[0] < spec[1] and spec[2:] in ((), ("log",)):
            return spec
    raise ValueError(
        "A range of `knobs` must be a list of choices, (low, high) or (low, "
        f'high, "log"). Received: {name!r}: {spec!r}'
    )


def _declare(hp, name, spec, default):
    if isinstance(spec, list):
        return hp.Choice(
            name, spec, default=default if default in spec else None
        )
    low, high, *sampling = spec
    whole = isinstance(low, int) and isinstance(high, int)
    if default is not None:
        default = min(max(default, low), high)
    return (hp.Int if whole else hp.Float)(
        name,
        low,
        high,
        sampling=sampling[0] if sampling else "linear",
        default=default,
    )


def _default(name, reference):
    """The value that a search without the knob has."""
    if name.startswith(_RATES):
        key = name.removeprefix(_RATES)
        return dict(reference.rates).get(key, reference.rate)
    return getattr(reference, name)


def _is_layerwise(name):
    return name == "output_rate" or name.startswith(_RATES)


def _scope_first(item):
    return item[0] != "scope"
