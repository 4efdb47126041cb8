"""Bench: one trial's model, data and compiled loop; starts and trainings.

The model is wrapped once, and its `LotteryTicketPruner` is what scores,
prunes, captures and rewinds, as it does in `fit`.
"""

import dataclasses
import functools
import threading
import time

import keras
import numpy as np

from keras_lottery.experiments import model_builder
from keras_lottery.experiments.arms import ARMS
from keras_lottery.experiments.store import training_key
from keras_lottery.rewinding import RewindPoint, copy_optimizers, model_state
from keras_lottery.tickets import Ticket
from keras_lottery.training import Loop, Training


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """What one training came to.

    Args:
        record: dict, the columns of `Result` that are measured.
        training: `Training`, its curves.
        ticket: `Ticket` with the trained weights, of an arm that keeps it, or
            `None`.
    """

    record: dict
    training: Training
    ticket: Ticket | None


class Bench:
    """Trains any level of any arm of one trial.

    All trainings of an architecture share one model and one compilation:
    between two of them only the values of variables change.

    Args:
        experiment: `Protocol`.

    Attributes:
        tickets: dict, (arm, level) -> trained `Ticket`: what starts of this
            trial may build on.
    """

    def __init__(self, experiment):
        self.experiment = experiment
        self.trial = None
        self.model = self.backend = None
        self.tickets, self._starts, self._known = {}, {}, {}

    def open(self, trial):
        """Makes the bench that of a trial: its data, its initial weights."""
        if trial == self.trial:
            return
        try:
            self._open(trial)
        except BaseException:
            # What is half open must not be taken for open the next time.
            self.trial = self.model = None
            raise

    def _open(self, trial):
        self.trial = trial
        for memory in (self.tickets, self._starts, self._known):
            memory.clear()
        self.data = self.experiment.load_data(self.seed("split"))
        sets = self.data.train, self.data.validation, self.data.test
        if self.model is None:
            self._build(sets)
        else:
            self._loop.set_data(*sets)
        self.initial = self._weights(self.seed("weights"))

    def _build(self, sets):
        experiment = self.experiment
        experiment.check_fit(self.data)
        self.model = experiment.wrapped_model(self.data)
        self.pruner = self.model.lottery
        self.model.optimizer.build(self.model.trainable_variables)
        self._fresh = RewindPoint.capture(self.model).optimizers
        self._loop = Loop(
            self.model,
            *sets,
            batch_size=experiment.batch_size,
            eval_every=experiment.eval_every,
            early_stop_metric=experiment.early_stop_metric,
            backend=experiment.backend,
        )
        self.backend, self.why = self._loop.choose_backend()
        settled = dataclasses.replace(experiment, backend=self.backend)
        self._settings = settled.training_settings()
        if callable(experiment.model):
            self._settings["made"] = model_builder.fingerprint(self.model)

    def serves(self, experiment):
        """Whether it trains what another would train for an experiment."""
        backends = self.experiment.backend, self.backend
        return (
            experiment.backend in backends
            and experiment.equals_up_to_backend(self.experiment)
        )

    # What arms are made of.

    def dense(self):
        """All weights, as initialised."""
        masks = self.pruner.masks
        ones = {path: np.ones_like(mask) for path, mask in masks.items()}
        return self.with_weights(ones, self.initial)

    def with_weights(self, masks, weights):
        """A start from these masks and weights, the optimizer fresh."""
        return Ticket(masks, RewindPoint(0, weights, self._fresh))

    def seed(self, *purpose):
        """A seed of this trial for a purpose of its own."""
        return self.experiment.derive_seed(self.trial, *purpose)

    def new_weights(self, *purpose):
        """Weights initialised by a seed for this purpose."""
        return self._weights(self.seed(*purpose))

    def next_level(self, arm, level):
        """The start of a level of an iterative search: pruned, rewound.

        Args:
            arm: str, that of the search, whose level before was trained. Its
                `rewind_to` says what goes back.
            level: int. Level 0 is the dense network.

        Returns:
            A `Ticket`.
        """
        if level == 0:
            return self.dense()
        before = self.trained(arm, level - 1)
        _check_trained(arm, before)
        rewind_to = ARMS[arm].rewind_to(self.experiment)
        masks = self.next_masks(before, rewind_to=rewind_to)
        return before.rewound(masks, rewind_to)

    def next_masks(self, ticket, trained=None, rewind_to=0):
        """The masks of the level after a ticket's.

        Args:
            ticket: `Ticket` of a level.
            trained: optional dict, weight path -> array, to prune by.
                Defaults to what the ticket was trained to.
            rewind_to: what its search rewinds to. Where no weights go back,
                criteria compare with the initial weights.

        Returns:
            A dict, weight path -> boolean array.
        """
        if isinstance(rewind_to, int):
            initial = ticket.rewind_point.weights
        else:
            initial = self.initial
        return self.pruner.next_masks(
            ticket.level,
            ticket.masks,
            initial,
            ticket.trained if trained is None else trained,
        )

    def scores(self, ticket):
        """The criterion's scores of what a ticket was trained to.

        Returns:
            A function, weight path -> array.
        """
        return self.pruner.scores(
            ticket.level,
            ticket.masks,
            ticket.rewind_point.weights,
            ticket.trained,
        )

    @property
    def pattern(self):
        """`Pattern`: what is pruned as one."""
        return self.pruner.attachment.pattern

    def kept(self, level):
        """How many blocks (or weights) the ticket of a level keeps.

        No ticket is needed for it: counts do not depend on scores.
        """
        return self.once(self._counts, self.experiment.rounds)[level]

    def _counts(self, rounds):
        ticket, counts = self.dense(), []
        for level in range(rounds + 1):
            counts.append(self.pattern.count(ticket.masks))
            ticket.level = level
            ticket.masks = self.next_masks(ticket, self.initial)
        return counts

    def initial_model(self):
        """A plain model of its own with the initial weights.

        Returns:
            A pair: `keras.Model`, and a dict, path -> `keras.Variable`: its
            prunable weights, by the paths of masks.
        """
        exact = dataclasses.replace(self.experiment, precision="float32")
        model = exact.build_model(self.data, self.seed("weights"))
        places = dict(zip(model_state(self.model), model.variables))
        return model, {path: places[path] for path in self.pruner.masks}

    def once(self, function, *arguments):
        """`function(*arguments)`, computed once a trial."""
        key = (function, *arguments)
        if key not in self._known:
            self._known[key] = function(*arguments)
        return self._known[key]

    def start(self, arm, level):
        """The `Ticket` that training this level of this arm starts from."""
        if (arm, level) not in self._starts:
            start = ARMS[arm].start(self, level)
            start.level = level
            self._starts[arm, level] = start
        return self._starts[arm, level]

    def trained(self, arm, level):
        """The `Ticket` of a level that was trained."""
        return self.tickets[arm, level]

    # Training.

    def key(self, arm, level):
        """The key of a training: the hash of all that determines it."""
        return self.once(self._key, arm, level)

    def _key(self, arm, level):
        settings = dict(self._settings)
        settings["backend"] = self._backend_for(arm, level)
        if ARMS[arm].train:
            settings["trained_by"] = arm
        return training_key(
            settings,
            self.start(arm, level),
            [self.seed("split"), self.seed("order")],
        )

    def _backend_for(self, arm, level):
        """What trains a level, which depends on how sparse it is."""
        masks = self.start(arm, level).masks.values()
        return self._loop.backend_for(sum(map(np.count_nonzero, masks)))

    def train(self, arm, level, progress=None):
        """Trains one level of one arm.

        Args:
            arm: str.
            level: int.
            progress: optional function of the iteration.

        Returns:
            A `Trained`.
        """
        began = time.perf_counter()
        start, key = self.start(arm, level), self.key(arm, level)
        self.pruner.load(start, with_optimizers=True)
        rewind_to = ARMS[arm].rewind_to(self.experiment)
        if ARMS[arm].train:
            training = ARMS[arm].train(self, start)
        else:
            training = self._train(rewind_to, progress)
        record = self._measure(training, start)
        record["seconds"] = time.perf_counter() - began
        # Other libraries train by a `fit` of their own.
        by_loop = not ARMS[arm].train
        record["backend"] = self._backend_for(arm, level) if by_loop else "fit"
        ticket = None
        if ARMS[arm].chain:
            ticket = Ticket(
                start.masks,
                self.pruner.rewind_point,
                level,
                {"key": key, **record},
                {p: np.array(v) for p, v in model_state(self.model).items()},
                # Who rewinds optimizers does not need them.
                copy_optimizers(self.model) if rewind_to is None else None,
            )
        return Trained(record, training, ticket)

    def _train(self, rewind_to, progress):
        """The `Training`; the rewind point is captured when it is reached."""
        pruner = self.pruner
        pruner.rewind()
        start, visits = pruner.rewind_point.step, {}
        if isinstance(rewind_to, int) and rewind_to > start:
            visits[rewind_to] = functools.partial(pruner.capture, rewind_to)
        return self._loop.train(
            self.experiment.iterations,
            seed=self.seed("order"),
            start=start,
            progress=progress,
            visits=visits,
        )

    def _measure(self, training, start):
        best = int(
            np.flatnonzero(
                training.iterations == training.early_stop_iteration
            )[0]
        )
        evaluate, weights = self._loop.evaluate, training.early_stop_weights
        return {
            "density": start.density,
            "iterations": self.experiment.iterations,
            "early_stop_iteration": int(training.early_stop_iteration),
            "early_stop_val_loss": float(training.val_loss[best]),
            "early_stop_val_accuracy": float(training.val_accuracy[best]),
            "early_stop_test_accuracy": evaluate("test", weights)[1],
            "final_train_accuracy": evaluate("train")[1],
            "final_val_accuracy": float(training.val_accuracy[-1]),
            "final_test_accuracy": evaluate("test")[1],
        }

    def _weights(self, seed):
        """Initial values of a model built with a seed."""
        fresh = self.experiment.build_model(self.data, seed)
        return {
            path: np.array(keras.ops.convert_to_numpy(variable))
            for path, variable in zip(model_state(self.model), fresh.variables)
        }


def _check_trained(arm, ticket):
    """Refuses to prune by weights that are none any more."""
    for path, mask in ticket.masks.items():
        if not np.isfinite(ticket.trained[path][mask]).all():
            raise ValueError(
                f"Level {ticket.level} of the arm {arm!r} must be trained to "
                "finite weights to be pruned. Its training diverged: take a "
                "smaller learning rate, or look at the loss. "
                f"Received: NaN or infinity in {path}"
            )


# One training as a function, to run in any process.


def choose_backend(experiment):
    """What trains an experiment here: a pair of its name and why."""
    with _one_at_a_time:
        bench = _bench_for(experiment)
        bench.open(0)
        return bench.backend, bench.why


def train_place(experiment, place, before, known, progress=None):
    """Trains one place, unless its training is known.

    A worker needs no file of the coordinator's: what a training builds on is
    sent to it, and what it came to is sent back.

    Args:
        experiment: `Protocol`.
        place: `Place`.
        before: the trained `Ticket` of what the place needs, or `None`.
        known: set of str, the keys of trainings that need not be repeated.
        progress: optional function of the iteration.

    Returns:
        A pair: its key, and a `Trained`, or `None` if the key is known.
    """
    with _one_at_a_time:
        bench = _bench_for(experiment)
        bench.open(place.trial)
        if place.needs:
            bench.tickets = {(place.needs.arm, place.needs.level): before}
        key = bench.key(place.arm, place.level)
        if key in known:
            return key, None
        return key, bench.train(place.arm, place.level, progress)


# An executor of threads shares one bench, which has one model.
_one_at_a_time = threading.Lock()
_bench = None


def _bench_for(experiment):
    """The bench of this process; it keeps its model and compilation."""
    global _bench
    if _bench is None or not _bench.serves(experiment):
        _bench = Bench(experiment)
    return _bench
