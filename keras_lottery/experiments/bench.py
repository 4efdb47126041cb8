"""Bench: one trial's model, data and compiled loop; starts and trainings."""

import dataclasses
import time

import keras
import numpy as np

from keras_lottery import criteria
from keras_lottery.experiments import building
from keras_lottery.experiments.arms import ARMS
from keras_lottery.experiments.seeds import derive
from keras_lottery.optimizers import clear_pruned_slots
from keras_lottery.rewinding import RewindPoint, model_state
from keras_lottery.tickets import Ticket
from keras_lottery.training import Loop
from keras_lottery.wrapping import wrap


class Bench:
    """Trains any level of any arm of one trial.

    All trainings of an architecture share one model and one compilation:
    between two of them only the values of variables change.

    Args:
        experiment: `Experiment`.
        store: `Store`, where what was trained is found again.
    """

    def __init__(self, experiment, store):
        self.experiment = experiment
        self.store = store
        self.trial = None
        self.model = None
        self._settings = experiment.training()
        self._starts, self._known = {}, {}

    def open(self, trial):
        """Makes the bench that of a trial: its data, its initial weights."""
        if trial == self.trial:
            return
        self.trial = trial
        self._starts.clear()
        self._known.clear()
        self.data = self.experiment.load_data(self.seed("split"))
        if self.model is None:
            self._build()
        else:
            self._loop.set_data(self.data.train, self.data.validation)
        self.initial = self._weights(self.seed("weights"))

    def _build(self):
        experiment = self.experiment
        self.model = experiment.build_model(self.data, seed=0)
        if callable(experiment.model):
            self._settings["made"] = building.fingerprint(self.model)
        self.model = wrap(
            self.model,
            seed=experiment.seed,
            **experiment.pruning(),
        )
        experiment.compile(self.model)
        self.model.optimizer.build(self.model.trainable_variables)
        self._fresh = RewindPoint.capture(self.model).optimizers
        self._loop = Loop(
            self.model,
            train=self.data.train,
            validation=self.data.validation,
            batch_size=experiment.batch_size,
            eval_every=experiment.eval_every,
            early_stop_metric=experiment.early_stop_metric,
            backend=experiment.backend,
        )

    # What arms are made of.

    def dense(self):
        """All weights, as initialised."""
        masks = self.model.lottery.masks
        ones = {path: np.ones_like(mask) for path, mask in masks.items()}
        return self.with_weights(ones, self.initial)

    def with_weights(self, masks, weights):
        """A start from these masks and weights, the optimizer fresh."""
        return Ticket(masks, RewindPoint(0, weights, self._fresh))

    def seed(self, *purpose):
        """A seed of this trial for a purpose of its own."""
        return derive(self.experiment.seed, self.trial, *purpose)

    def new_weights(self, *purpose):
        """Weights initialised by a seed for this purpose."""
        return self._weights(self.seed(*purpose))

    def pruned(self, ticket, trained=None):
        """The next level's start: pruned, rewound.

        Args:
            ticket: `Ticket` of a level.
            trained: optional dict, weight path -> array, to prune by.
                Defaults to what the ticket was trained to.

        Returns:
            A `Ticket`.
        """
        point = ticket.rewind_point
        masks = self.model.lottery.next_masks(
            ticket.level,
            ticket.masks,
            point.weights,
            ticket.trained if trained is None else trained,
        )
        return Ticket(masks, point, ticket.level + 1)

    def scores(self, ticket):
        """The criterion's scores of what a ticket was trained to.

        Returns:
            A function, weight path -> array.
        """
        criterion = criteria.get(self.experiment.criterion)
        index = {path: i for i, path in enumerate(ticket.masks)}
        initial = ticket.rewind_point.weights

        def score(path):
            seed = [self.experiment.seed, ticket.level, index[path]]
            return criteria.scores(
                criterion, initial[path], ticket.trained[path], seed
            )

        return score

    def kept(self, level):
        """How many prunable weights the ticket of a level keeps.

        No ticket is needed for it: counts do not depend on scores.
        """
        return self.once(self._counts, self.experiment.rounds)[level]

    def _counts(self, rounds):
        ticket, counts = self.dense(), []
        for _ in range(rounds + 1):
            counts.append(sum(map(np.count_nonzero, ticket.masks.values())))
            ticket = self.pruned(ticket, self.initial)
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
        return model, {path: places[path] for path in self.model.lottery.masks}

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
        return self.store.load_ticket(self.trial, arm, level)

    # Training.

    def key(self, arm, level):
        """The key of a training: the hash of all that determines it."""
        return self.once(self._key, arm, level)

    def _key(self, arm, level):
        settings = dict(self._settings)
        if ARMS[arm].train:
            settings["trained_by"] = arm
        return self.store.key(
            settings,
            self.start(arm, level),
            [self.seed("split"), self.seed("order")],
        )

    def train(self, arm, level, progress=None):
        """Trains one level of one arm and stores what it came to.

        Args:
            arm: str.
            level: int.
            progress: optional function of the iteration.
        """
        began = time.perf_counter()
        start, key = self.start(arm, level), self.key(arm, level)
        self.model.lottery.load(start)
        if ARMS[arm].train:
            run, point = ARMS[arm].train(self, start), start.rewind_point
        else:
            late = ARMS[arm].rewind_to(self.experiment)
            run, point = self._train(start, late, progress)
        record = self._measure(run, start)
        record["seconds"] = time.perf_counter() - began
        if ARMS[arm].chain:
            state = model_state(self.model)
            trained = {p: np.array(v.numpy()) for p, v in state.items()}
            ticket = Ticket(
                start.masks, point, level, {"key": key, **record}, trained
            )
            self.store.save_ticket(self.trial, arm, ticket)
        self.store.save_record(key, record, run)

    def _train(self, start, late, progress):
        """The `Training`, and the rewind point, captured at step `late`."""
        start.rewind_point.restore_optimizers(self.model)
        point = start.rewind_point
        visits = {}
        if point.step < late:

            def capture():
                nonlocal point
                point = RewindPoint.capture(self.model, late)

            visits[late] = capture
        elif point.step:
            clear_pruned_slots(self.model.optimizer)
        run = self._loop.train(
            self.experiment.iterations,
            seed=self.seed("order"),
            start=point.step,
            progress=progress,
            visits=visits,
        )
        return run, point

    def _measure(self, run, start):
        best = int(
            np.flatnonzero(run.iterations == run.early_stop_iteration)[0]
        )
        test = self.data.test
        _, at_early_stop = self._loop.evaluate(test, run.early_stop_weights)
        return {
            "density": start.density,
            "iterations": self.experiment.iterations,
            "early_stop_iteration": int(run.early_stop_iteration),
            "early_stop_val_loss": float(run.val_loss[best]),
            "early_stop_val_accuracy": float(run.val_accuracy[best]),
            "early_stop_test_accuracy": at_early_stop,
            "final_train_accuracy": self._loop.evaluate(self.data.train)[1],
            "final_val_accuracy": float(run.val_accuracy[-1]),
            "final_test_accuracy": self._loop.evaluate(test)[1],
        }

    def _weights(self, seed):
        """Initial values of a model built with a seed."""
        fresh = self.experiment.build_model(self.data, seed)
        return {
            path: np.array(keras.ops.convert_to_numpy(variable))
            for path, variable in zip(model_state(self.model), fresh.variables)
        }
