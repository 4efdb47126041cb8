"""Bench: one trial's model, data and compiled loop; starts and trainings.

The model is wrapped once, and its `LotteryTicketPruner` is what scores,
prunes, captures and rewinds, as it does in `fit`.
"""

import collections
import dataclasses
import functools
import threading
import time

import keras
import numpy as np
from absl import logging

from keras_lottery.experiments import model_builder
from keras_lottery.experiments.arms import ARMS, keeps_ticket
from keras_lottery.experiments.barriers import errors_between
from keras_lottery.experiments.store import training_key
from keras_lottery.rewinding import RewindPoint, copy_optimizers, model_state
from keras_lottery.state import without_connection
from keras_lottery.tickets import Ticket
from keras_lottery.training import Loop, Training
from keras_lottery.training.backends import OR
from keras_lottery.training.stack import Stack


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """What one training came to.

    Args:
        record: dict, the columns of `Result` that are measured.
        training: `Training`, its curves.
        ticket: `Ticket` with the trained weights, of an arm that keeps it, or
            `None`.
        line: array, the test errors on the line from the first training of
            the same start to this second one, or `None` if it is no second.
    """

    record: dict
    training: Training
    ticket: Ticket | None
    line: np.ndarray | None = None


class _Trial:
    """What the bench has of a trial.

    Args:
        data: `Dataset`.
        initial: dict, path -> array: the initial weights.
    """

    def __init__(self, data, initial):
        self.data, self.initial = data, initial
        # Tickets, starts, and what is computed once.
        self.memories: tuple[dict, dict, dict] = ({}, {}, {})


def _sets(data):
    return data.train, data.validation, data.test


def _captures(rewind_to, step):
    """Whether a training from a step reaches its rewind point."""
    return isinstance(rewind_to, int) and rewind_to > step


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
        self.model = self.backend = self._stack = None
        self._trials = {}

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
        if trial not in self._trials:
            # Trainings that are stacked are of several trials.
            if self.experiment.stack == 1:
                self._trials.clear()
            data = self.experiment.load_data(self.seed("split"))
            if self.model is None:
                self._build(data)
            initial = self._weights(self.seed("weights"))
            self._trials[trial] = _Trial(data, initial)
        self.data, self.initial = (
            self._trials[trial].data,
            self._trials[trial].initial,
        )
        self.tickets, self._starts, self._known = self._trials[trial].memories

    def _build(self, data):
        experiment = self.experiment
        self.data = data
        experiment.check_fit(self.data)
        self.model = experiment.wrapped_model(self.data)
        self.pruner = self.model.lottery
        self.model.optimizer.build(self.model.trainable_variables)
        self._fresh = RewindPoint.capture(self.model).optimizers
        self._loop_data = data
        self._loop = Loop(
            self.model,
            *_sets(data),
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
            and experiment.stack == self.experiment.stack
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
            self.seed("criterion"),
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
            self.seed("criterion"),
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
        seeds = [self.seed("split"), self.seed("order")]
        if ARMS[arm].second_of:
            seeds.append(self.seed(ARMS[arm].order))
        return training_key(settings, self.start(arm, level), seeds)

    def _backend_for(self, arm, level):
        """What trains a level, which depends on how sparse it is."""
        if self.experiment.stack > 1:
            return self.backend.removeprefix(OR)
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
        start = self._load(arm, level)
        rewind_to = ARMS[arm].rewind_to(self.experiment)
        self._use_data()
        if ARMS[arm].train:
            training = ARMS[arm].train(self, start)
        else:
            self.pruner.rewind()
            step, visits = self.pruner.rewind_point.step, {}
            if _captures(rewind_to, step):
                visits[rewind_to] = functools.partial(
                    self.pruner.capture, rewind_to
                )
            training = self._loop.train(
                self.experiment.iterations,
                seed=self.seed(ARMS[arm].order),
                start=step,
                progress=progress,
                visits=visits,
            )
        evaluate = self._loop.evaluate
        _, stopped = evaluate("test", training.early_stop_weights)
        (_, trained), (_, tested) = evaluate(["train", "test"])
        record = self._record(start, training, stopped, trained, tested)
        line = self._line(arm, level)
        record["seconds"] = time.perf_counter() - began
        # Other libraries train by a `fit` of their own.
        by_loop = not ARMS[arm].train
        record["backend"] = self._backend_for(arm, level) if by_loop else "fit"
        point = self.pruner.rewind_point
        ticket = self._ticket(arm, start, record, point)
        return Trained(record, training, ticket, line)

    def train_all(self, places, progress=None):
        """Trains places, stacked as far as they can be.

        Args:
            places: list of `Place`, whose tickets are in `tickets`.
            progress: optional function of the iteration.

        Returns:
            A list of `Trained`.
        """
        trained, stacks = {}, collections.defaultdict(list)
        for place in places:
            self.open(place.trial)
            if self.experiment.stack == 1 or ARMS[place.arm].train:
                trained[place] = self.train(place.arm, place.level, progress)
            else:
                step = self.start(place.arm, place.level).rewind_point.step
                stacks[step].append(place)
        for stacked in stacks.values():
            trained.update(zip(stacked, self.train_stacked(stacked, progress)))
        return [trained[place] for place in places]

    def forget(self):
        """Drops the tickets and the starts that trainings began with."""
        for trial in self._trials.values():
            for memory in trial.memories[:2]:
                memory.clear()

    def train_stacked(self, places, progress=None):
        """Trains several levels of arms at once, all from the same step.

        Args:
            places: list of `Place`, whose tickets are in `tickets`.
            progress: optional function of the iteration.

        Returns:
            A list of `Trained`.
        """
        began = time.perf_counter()
        states, which, seeds, points = [], [], [], []
        visits = collections.defaultdict(list)
        for index, place in enumerate(places):
            self.open(place.trial)
            self._load(place.arm, place.level)
            self.pruner.rewind()
            states.append(self._stack_of_all().state())
            which.append(place.trial)
            seeds.append(self.seed(ARMS[place.arm].order))
            points.append(self.pruner.rewind_point)
            rewind_to = ARMS[place.arm].rewind_to(self.experiment)
            if _captures(rewind_to, points[-1].step):
                visits[rewind_to].append(index)

        def visit(step, state_of):
            for index in visits[step]:
                self._load(places[index].arm, places[index].level)
                self._stack.assign(state_of(index))
                self.pruner.capture(step)
                points[index] = self.pruner.rewind_point

        stacked = self._stack.train(
            states,
            which,
            seeds,
            self.experiment.iterations,
            start=points[0].step,
            progress=progress,
            visits={s: functools.partial(visit, s) for s in visits},
        )
        measured = zip(
            stacked.trainings,
            stacked.evaluate("test", at_early_stop=True)[:, 1],
            stacked.evaluate("train")[:, 1],
            stacked.evaluate("test")[:, 1],
        )
        # Of the time of all of them, the share of each.
        seconds = (time.perf_counter() - began) / len(places)
        trained = []
        for index, (place, columns) in enumerate(zip(places, measured)):
            self.open(place.trial)
            start = self._load(place.arm, place.level)
            stacked.assign(index)
            record = self._record(start, *columns)
            record["seconds"] = seconds
            record["backend"] = self._backend_for(place.arm, place.level)
            ticket = self._ticket(place.arm, start, record, points[index])
            line = self._line(place.arm, place.level)
            trained.append(Trained(record, columns[0], ticket, line))
        return trained

    def initial_states(self, count):
        """The `Stack`, and the state that level 0 starts from, repeated."""
        self.open(0)
        self._load("ticket", 0)
        self.pruner.rewind()
        stack = self._stack_of_all()
        return stack, [stack.state()] * count

    def _stack_of_all(self):
        """The `Stack`, which has the data of all trials."""
        if self._stack is None:
            experiment, trial, sets = self.experiment, self.trial, []
            for other in range(experiment.trials):
                self.open(other)
                names = "train", "validation", "test"
                sets.append(dict(zip(names, _sets(self.data))))
            self.open(trial)
            self._stack = Stack(
                self.model,
                sets,
                experiment.stack,
                batch_size=experiment.batch_size,
                eval_every=experiment.eval_every,
                early_stop_metric=experiment.early_stop_metric,
            )
        return self._stack

    def _use_data(self):
        """Makes the data of the trial those of the loop."""
        if self._loop_data is not self.data:
            self._loop.set_data(*_sets(self.data))
            self._loop_data = self.data

    def _load(self, arm, level):
        """The start of a level, which the model is at now."""
        start = self.start(arm, level)
        self.pruner.load(start, with_optimizers=True)
        empty = [path for path, mask in start.masks.items() if not mask.any()]
        if empty:
            place = f"Level {level} of the arm {arm!r}, trial {self.trial},"
            logging.warning("%s", without_connection(place, empty[0]))
        return start

    def _record(self, start, training, test_at_early_stop, train, test):
        """The columns of `Result` that a training and accuracies make."""
        best = int(
            np.flatnonzero(
                training.iterations == training.early_stop_iteration
            )[0]
        )
        return {
            "density": start.density,
            "iterations": self.experiment.iterations,
            "early_stop_iteration": int(training.early_stop_iteration),
            "early_stop_val_loss": float(training.val_loss[best]),
            "early_stop_val_accuracy": float(training.val_accuracy[best]),
            "early_stop_test_accuracy": float(test_at_early_stop),
            "final_train_accuracy": float(train),
            "final_val_accuracy": float(training.val_accuracy[-1]),
            "final_test_accuracy": float(test),
        }

    def _ticket(self, arm, start, record, rewind_point):
        """The `Ticket` of what the model holds, if the arm keeps it."""
        if not keeps_ticket(self.experiment, arm):
            return None
        rewind_to = ARMS[arm].rewind_to(self.experiment)
        return Ticket(
            start.masks,
            rewind_point,
            start.level,
            {"key": self.key(arm, start.level), **record},
            {p: np.array(v) for p, v in model_state(self.model).items()},
            # Who rewinds optimizers does not need them.
            copy_optimizers(self.model) if rewind_to is None else None,
        )

    def _line(self, arm, level):
        """Test errors from the first training of a start to this second one,
        or `None` if it is no second."""
        if not ARMS[arm].second_of:
            return None
        self._use_data()
        first = self.trained(ARMS[arm].second_of, level)
        return errors_between(
            first.trained_weights(self.model),
            self.model.get_weights(),
            lambda weights: 1 - self._loop.evaluate("test", weights)[1],
        )

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


def train_places(experiment, places, tickets, known, progress=None):
    """Trains places, those aside whose training is known.

    A worker needs no file of the coordinator's: what a training builds on is
    sent to it, and what it came to is sent back.

    Args:
        experiment: `Protocol`.
        places: list of `Place`; of several, the trainings are stacked.
        tickets: dict, `Place` -> the trained `Ticket` of one that is needed.
        known: list of sets of str, of each place the keys of trainings that
            need not be repeated.
        progress: optional function of the iteration.

    Returns:
        A list of pairs: the key, and a `Trained`, or `None` if the key is
        known or another of the places has it too.
    """
    with _one_at_a_time:
        bench = _bench_for(experiment)
        keys, to_train = [], {}
        for place, keys_known in zip(places, known):
            bench.open(place.trial)
            if place.needs:
                ticket = tickets[place.needs]
                bench.tickets[place.needs.arm, place.needs.level] = ticket
            key = bench.key(place.arm, place.level)
            keys.append(key)
            # Tickets of one training differ by what they can rewind to.
            kept = keeps_ticket(experiment, place.arm)
            kind = kept and ARMS[place.arm].rewind_to(experiment)
            others = [k for k in to_train if k[0] == key]
            known_here = (key, kind) in others or (others and not kept)
            if key not in keys_known and not known_here:
                to_train[key, kind] = place
        trained = bench.train_all(list(to_train.values()), progress)
        found = dict(zip(to_train.values(), trained))
        bench.forget()
        return [(k, found.get(p)) for k, p in zip(keys, places)]


# An executor of threads shares one bench, which has one model.
_one_at_a_time = threading.Lock()
_bench = None


def _bench_for(experiment):
    """The bench of this process; it keeps its model and compilation."""
    global _bench
    if _bench is None or not _bench.serves(experiment):
        _bench = Bench(experiment)
    return _bench
