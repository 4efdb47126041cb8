"""The hypermodel of a search: a user's, with the knobs of the search.

A knob is an argument of `Experiment` that is tuned with the model.
"""

import contextlib
import functools
import uuid

import keras_tuner

from keras_lottery import models
from keras_lottery.experiments import FIELDS, model_builder
from keras_lottery.schedules import ToDensity

# KerasTuner keeps one flat list of names, the hypermodel's own among them.
PREFIX = "lottery/"
_RATES = "rates."

# The criteria that did best in 1905.01067, without its controls.
_CRITERIA = ["magnitude", "magnitude_increase", "movement"]


class LotteryHyperModel(keras_tuner.HyperModel):
    """A user's hypermodel with the knobs of the search.

    Args:
        model: function of `keras_tuner.HyperParameters` that returns a
            `keras.Model`, a `keras_tuner.HyperModel`, or a network of
            `keras_lottery.models` by name.
        knobs: `Knobs`.

    Attributes:
        data: optional `Dataset`, of the shape of the examples.
    """

    def __init__(self, model, knobs):
        super().__init__()
        self.model = check_hypermodel(model)
        self.knobs = knobs
        self.data = None

    @property
    def is_network(self):
        """Whether it is a network of `keras_lottery.models`, by name."""
        return isinstance(self.model, str)

    def declare_hyperparameters(self, hp):
        """Declares the knobs, and what the user's hypermodel declares."""
        self.knobs(hp)
        if isinstance(self.model, keras_tuner.HyperModel):
            self.model.declare_hyperparameters(hp)

    def build(self, hp):
        """The user's model at these values: plain, dense, untrained.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            A `keras.Model`; `None` for a named network before the shape of
            its examples is known.
        """
        self.knobs(hp)
        if not self.is_network:
            return build_function(self.model)(hp)
        if self.data is None:
            return None
        return model_builder.call(
            models.get(self.model),
            input_shape=self.data.input_shape,
            classes=self.data.classes,
        )

    def builder(self, hp):
        """What `Experiment` takes as its model at these values.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            A network's name, or a `TrialBuilder`.
        """
        if self.is_network:
            return self.model
        return TrialBuilder(self.model, hp)


class TrialBuilder:
    """Builds a user's hypermodel at the values of one trial.

    Its name tells the values of the model and not those of the search: two
    trials that differ only in how they prune train the same dense network,
    which the second one finds. It can be sent to other processes, and equals
    its copies there.

    Args:
        hypermodel: function or `keras_tuner.HyperModel`.
        hp: `keras_tuner.HyperParameters`.
    """

    def __init__(self, hypermodel, hp):
        self.hypermodel = hypermodel
        self.config = hp.get_config()
        self.identity = uuid.uuid4().hex
        module, _, last = hypermodel_name(hypermodel).rpartition(".")
        values = ", ".join(
            f"{key}={value!r}"
            for key, value in sorted(hp.values.items())
            if not key.startswith((PREFIX, "tuner/"))
        )
        # An experiment names a function by these two.
        self.__module__ = module
        self.__qualname__ = f"{last}({values})"

    def __call__(self):
        hp = keras_tuner.HyperParameters.from_config(self.config)
        return build_function(self.hypermodel)(hp)

    def __eq__(self, other):
        return (
            isinstance(other, TrialBuilder) and self.identity == other.identity
        )

    def __hash__(self):
        return hash(self.identity)

    def __repr__(self):
        return self.__qualname__


def build_function(hypermodel):
    """The function of hyperparameters that builds; a named network's name."""
    return getattr(hypermodel, "build", hypermodel)


def check_hypermodel(model):
    """Refuses what is no hypermodel."""
    hypermodel = isinstance(model, keras_tuner.HyperModel) or callable(model)
    if hypermodel or model in models.NETWORKS:
        return model
    raise ValueError(
        "`hypermodel` must be a function of hyperparameters that returns a "
        "Keras model, a `keras_tuner.HyperModel` or one of "
        f"{list(models.NETWORKS)}. Received: hypermodel={model!r}"
    )


def hypermodel_name(model):
    """A named network's name, or the module and name of a hypermodel."""
    if isinstance(model, str):
        return model
    while isinstance(model, functools.partial):
        model = model.func
    return model_builder.name(model)


# Knobs.

DEFAULT_KNOBS = ("rate", "output_rate", "criterion")


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
        if reference.scope == "global" and "scope" not in ranges:
            ranges = _without_layerwise(ranges, knobs)
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


def _without_layerwise(ranges, knobs):
    """The ranges of knobs that there are under one threshold for all layers."""
    for name in filter(_is_layerwise, ranges):
        if knobs != DEFAULT_KNOBS:
            raise ValueError(
                f"`knobs` must not name {name!r} with scope='global', where no "
                f"layer has a rate of its own. Received: knobs={knobs!r}"
            )
    return {n: r for n, r in ranges.items() if not _is_layerwise(n)}


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
        # Single weights, and the patterns of LiteRT's sparse kernels.
        "block_size": ["1x1", "4x1", "16x1"],
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
