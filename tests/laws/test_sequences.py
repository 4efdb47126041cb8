"""The laws after any sequence of what users do to a wrapped model.

What must hold is kept beside the model, as plain arrays: the weights that
levels start from, the learning rate that the user set last, the masks so far.
"""

import os
import tempfile
import warnings

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import keras_lottery
from keras_lottery import export

_DRAW = np.random.default_rng(0)
_X = _DRAW.normal(size=(8, 4)).astype("float32")
_Y = np.arange(8) % 3


def build(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, "relu", name="hidden"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dropout(0.25, seed=1, name="drop"),
            keras.layers.Dense(3, name="head"),
        ]
    )


def arrays(model):
    return [v.numpy() for v in model.variables]


def same(one, other):
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in zip(one, other)
    )


class Crash(Exception):
    pass


class Watch(keras.callbacks.Callback):
    """Sees the start, lowers the learning rate, checks zeros, may crash."""

    def __init__(self, begin, crash_at=None, lower=False):
        super().__init__()
        self.begin, self.crash_at, self.lower = begin, crash_at, lower

    def on_train_begin(self, logs=None):
        self.begin(arrays(self.model))
        if self.lower:
            self.model.optimizer.learning_rate = 1e-3

    def on_train_batch_end(self, batch, logs=None):
        masks = self.model.lottery.masks
        for variable in self.model.variables:
            if variable.path in masks:
                assert not variable.numpy()[~masks[variable.path]].any()
        if batch == self.crash_at:
            raise Crash


class Searches(RuleBasedStateMachine):
    @initialize(rewind_to=st.sampled_from([0, 0, 2, None, "learning_rate"]))
    def wrap(self, rewind_to):
        self.directory = tempfile.TemporaryDirectory()
        self.model = keras_lottery.wrap(build(), rate=0.3, rewind_to=rewind_to)
        self.rewind_to, self.level, self.rate = rewind_to, 0, None
        self.compile(0.1, "sgd")
        self.masks = self.pruner.masks
        # The weights that levels start from, once that is decided; and
        # whether the model is at such a start now.
        self.theta, self.at_start = None, True

    def teardown(self):
        if hasattr(self, "directory"):
            self.directory.cleanup()

    @property
    def pruner(self):
        return self.model.lottery

    def file(self, name):
        return os.path.join(self.directory.name, name)

    # What must hold.

    @invariant()
    def masks_are_nested(self):
        if not hasattr(self, "model"):
            return
        masks = self.pruner.masks
        assert self.pruner.level == self.level
        for path, mask in masks.items():
            assert not (mask & ~self.masks.get(path, np.ones_like(mask))).any()
        self.masks = {**self.masks, **masks}

    def expected_start(self):
        """The arrays that a level must start from, or `None` if any."""
        if not self.at_start or self.theta is None:
            return None
        if not isinstance(self.rewind_to, int):
            return None
        masks, state = self.pruner.masks, self.model.variables
        return [
            np.where(masks[v.path], a, 0).astype(a.dtype)
            if v.path in masks
            else a
            for v, a in zip(state, self.theta)
        ]

    def check_start(self, start):
        expected = self.expected_start()
        if expected is not None:
            assert same(start, expected)
        masks = self.pruner.masks
        for variable, value in zip(self.model.variables, start):
            if variable.path in masks:
                assert not value[~masks[variable.path]].any()

    def check_rewound(self):
        self.at_start = True
        self.check_start(arrays(self.model))
        # A rate that a callback set before step 2 is part of that step's state.
        if self.rewind_to in (0, "learning_rate"):
            assert np.float32(self.rate) == self.learning_rate()

    def learning_rate(self):
        return self.model.optimizer.learning_rate.numpy()

    def snapshot(self):
        return (
            arrays(self.model),
            list(self.pruner.masks.values()),
            self.pruner.level,
            [r.index for r in self.pruner.levels],
        )

    def check_unchanged(self, before):
        after = self.snapshot()
        assert same(before[0], after[0]) and same(before[1], after[1])
        assert before[2:] == after[2:]

    # What users do.

    def fit(self, **watching):
        watch = Watch(self.begin, **watching)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model.fit(_X, _Y, batch_size=2, verbose=0, callbacks=[watch])

    def begin(self, start):
        if self.theta is None:
            self.theta = start
        self.check_start(start)

    @rule(lower=st.booleans())
    def train_a_level(self, lower):
        self.fit(lower=lower)
        level = self.pruner.levels[-1]
        assert level.index == self.level
        for path, mask in level.masks.items():
            assert not level.trained_weights[path][~mask].any()
        self.level += 1
        if self.rewind_to == 2:
            self.theta = list(self.pruner.rewind_point.weights.values())
        self.check_rewound()

    @rule(batch=st.integers(0, 3))
    def train_and_crash(self, batch):
        try:
            self.fit(crash_at=batch)
        except Crash:
            self.at_start = False
        else:
            raise AssertionError

    @rule()
    def train_nothing(self):
        before = self.snapshot()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model.fit(_X, _Y, epochs=0, verbose=0)
        assert before[2:] == self.snapshot()[2:]
        if self.theta is None:
            self.theta = arrays(self.model)

    @rule()
    def pause(self):
        with self.pruner.paused():
            self.model.fit(_X, _Y, batch_size=2, verbose=0)
        self.at_start = self.at_start and self.theta is None

    @precondition(lambda self: self.pruner.levels)
    @rule(train=st.booleans(), data=st.data())
    def lend(self, train, data):
        level = data.draw(st.sampled_from(list(self.pruner.levels)))
        before = self.snapshot()
        with self.pruner.trained(level.index):
            assert same(
                arrays(self.model), list(level.trained_weights.values())
            )
            if train:
                self.model.fit(_X, _Y, verbose=0)
        self.check_unchanged(before)

    @rule(factor=st.floats(0.5, 2.0))
    def set_weights(self, factor):
        self.model.set_weights(
            [w * factor + 1 for w in self.model.get_weights()]
        )

    @rule(rate=st.sampled_from([0.05, 0.2]))
    def set_learning_rate(self, rate):
        if self.at_start or self.pruner.state.phase == "training":
            self.model.optimizer.learning_rate = rate
            self.rate = rate

    @rule(
        rate=st.sampled_from([0.05, 0.2]), kind=st.sampled_from(["sgd", "adam"])
    )
    def compile(self, rate, kind):
        kinds = {
            "sgd": keras.optimizers.SGD(rate, momentum=0.9),
            "adam": keras.optimizers.Adam(rate),
        }
        self.model.compile(
            kinds[kind],
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            run_eagerly=True,
        )
        self.rate = rate

    @rule(trainable=st.booleans())
    def freeze(self, trainable):
        self.model.get_layer("hidden").trainable = trainable
        kind = type(self.model.optimizer).__name__.lower()
        self.compile(self.rate, kind)

    @rule()
    def save_and_load(self):
        before = self.snapshot()
        self.model.save(self.file("m.keras"))
        self.model = keras.models.load_model(self.file("m.keras"))
        self.model.run_eagerly = True
        # The records of levels are in no file.
        self.check_unchanged((*before[:3], []))

    @rule()
    def save_and_load_weights(self):
        before = self.snapshot()
        self.model.save_weights(self.file("m.weights.h5"))
        self.model.load_weights(self.file("m.weights.h5"))
        self.check_unchanged(before)

    @rule()
    def give_the_ticket_to_another(self):
        other = self.pruner.ticket().apply(build(seed=5))
        assert other.lottery.level == self.level
        masks = list(self.pruner.masks.values())
        if len(other.lottery.masks) == len(masks):
            assert same(list(other.lottery.masks.values()), masks)

    @rule()
    def prune(self):
        before = self.snapshot()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.pruner.prune()
        except ValueError as error:
            assert "capture(step=2)" in str(error)
            self.check_unchanged(before)
            return
        self.level += 1
        self.at_start = False

    @rule()
    def rewind(self):
        self.pruner.rewind()
        if self.theta is None:
            # The search has not begun: it is set back to where it was wrapped.
            return
        if self.rewind_to == 2:
            self.theta = list(self.pruner.rewind_point.weights.values())
        self.at_start = True
        self.check_start(arrays(self.model))

    @rule()
    def compact(self):
        before = self.snapshot()
        try:
            export.compact(self.model)
        except ValueError as error:
            assert "must be trained to be exported" in str(error)
            assert self.at_start and self.level
        self.check_unchanged(before)


def _settings(examples):
    return settings(
        max_examples=examples,
        stateful_step_count=12,
        deadline=None,
        # The same sequences on every machine.
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


class TestSomeSequences(Searches.TestCase):
    settings = _settings(4)


@pytest.mark.slow
class TestManySequences(Searches.TestCase):
    settings = _settings(12)
