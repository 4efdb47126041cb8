"""Coordinates the trainings of an experiment and writes its run directory."""

import concurrent.futures
import dataclasses
import functools
import time

from keras_lottery.checks import check_integer
from keras_lottery.experiments import transfer
from keras_lottery.experiments.arms import ARMS, keeps_ticket
from keras_lottery.experiments.bench import choose_backend, train_places
from keras_lottery.experiments.plan import Queue, plan
from keras_lottery.experiments.progress import Silence
from keras_lottery.experiments.results import Board, Result, Results
from keras_lottery.experiments.run import Run
from keras_lottery.experiments.store import Store
from keras_lottery.processes import Processes, Serial


def run(
    experiment,
    run_dir,
    progress=None,
    workers=1,
    executor=None,
    tensorboard_dir=None,
    shared=None,
):
    """Trains whatever of an experiment is not in the run directory yet.

    A run that is killed loses at most the trainings in progress; what was
    trained is in `results.csv` a second later. `Experiment.run` has the
    arguments, what is returned and what is raised.
    """
    check_integer("workers", workers, minimum=1)
    _check_has("executor", executor, "submit", "`concurrent.futures.Executor`")
    _check_has("progress", progress, "begin", "`Progress`")
    own = executor is None
    if own:
        executor = Serial() if workers == 1 else Processes(workers)
    directory = Run(run_dir)
    try:
        with directory.lock(), directory.restored():
            experiment.check_data()
            board = Board(tensorboard_dir) if tensorboard_dir else None
            experiment, tickets = transfer.find(experiment)
            sent = experiment
            if not getattr(executor, "shares_files", True):
                # Where the data are on other machines, those know.
                sent = dataclasses.replace(experiment, data_dir=None)
            choice = _choose_backend(directory, sent, executor)
            backend = {"backend": choice["backend"]}
            directory.claim(dataclasses.replace(experiment, **backend), choice)
            directory.add_environment(workers)
            transfer.take_over(tickets, directory)
            return Coordinator(
                dataclasses.replace(sent, **backend),
                directory,
                progress or Silence(),
                Store(experiment, directory, shared),
                board,
            ).run(executor)
    finally:
        if own:
            executor.shutdown(wait=False, cancel_futures=True)


def _check_has(name, value, method, kind):
    if value is not None and not hasattr(value, method):
        raise ValueError(
            f"`{name}` must be a {kind} or None. Received: {name}={value!r}"
        )


def _choose_backend(directory, experiment, executor):
    """What trains the run, as `Run.backend` has it: chosen once for all."""
    known = directory.backend
    if known and experiment.backend in (known["asked"], known["backend"]):
        return known
    backend, why = executor.submit(choose_backend, experiment).result()
    return {"backend": backend, "why": why, "asked": experiment.backend}


class Coordinator:
    """Hands out what can be trained now, and writes what comes back.

    Args:
        experiment: `Protocol`.
        run: `Run`, which nobody else writes.
        progress: `Progress`.
        store: `Store`.
        board: optional `Board`.
    """

    def __init__(self, experiment, run, progress, store, board=None):
        self.experiment = experiment
        self.directory = run
        self.progress = progress
        self.store = store
        self.board = board
        self.results = {}
        self.keys = run.load_places()
        # Tickets that a place to come may need, to be read no more.
        self._tickets = {}
        self._written = float("-inf")

    def run(self, executor):
        """Trains all places on an executor; returns `Results`."""
        stack = self.experiment.stack
        places = plan(self.experiment)
        if stack > 1:
            # What a level of one trial waits for, all trials wait for.
            places.sort(key=lambda place: place.level)
        self.progress.begin(len(places), self.experiment.iterations)
        self._tell_backend()
        found = {place for place in places if self._found(place)}
        self._tell_arms(place for place in places if place not in found)
        queue = Queue(places, found)
        running = {}
        try:
            while len(queue) or running:
                slots = getattr(executor, "slots", _SLOTS)
                while len(running) < slots and queue.ready:
                    ready = min(stack, len(queue.ready))
                    taken = [queue.next() for _ in range(ready)]
                    running[self._submit(executor, taken)] = taken
                done, _ = concurrent.futures.wait(
                    running, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    taken = running.pop(future)
                    for place, came_of_it in zip(taken, future.result()):
                        if self._finish(place, *came_of_it):
                            queue.done(place)
                        else:
                            queue.again(place)
        finally:
            for future in running:
                future.cancel()
            results = self._write_results()
        self.progress.end()
        return results

    def _found(self, place):
        """Takes a place's result from the run, if it is all there."""
        key = self.keys.get(place)
        record = key and self.directory.load_record(key)
        if not record:
            return False
        if keeps_ticket(self.experiment, place.arm):
            ticket = self.directory.load_ticket(*_ticket_of(place))
            if ticket is None or ticket.config["key"] != key:
                return False
        self.store.add(place, key)
        self._take(place, record, found=True)
        return True

    def _submit(self, executor, places):
        for place in places:
            self.progress.training(place)
        job = functools.partial(
            train_places,
            self.experiment,
            places,
            {p.needs: self._ticket(p.needs) for p in places if p.needs},
            [self.store.known(place) for place in places],
        )
        if isinstance(executor, Serial):
            return executor.submit(job, progress=self.progress.iteration)
        return executor.submit(job)

    def _ticket(self, place):
        """The trained ticket of a place; the last ones are remembered."""
        if place not in self._tickets:
            ticket = self.directory.load_ticket(*_ticket_of(place))
            if ticket is None:
                raise OSError(
                    f"The ticket of trial {place.trial}, arm {place.arm!r}, "
                    f"level {place.level} is missing or damaged. The same "
                    "command trains it again."
                )
            self._remember(place, ticket)
        return self._tickets[place]

    def _remember(self, place, ticket):
        self._tickets[place] = ticket
        while len(self._tickets) > _REMEMBERED * self.experiment.stack:
            del self._tickets[next(iter(self._tickets))]

    def _finish(self, place, key, trained):
        """Keeps what came of a training; `False` if it is to be repeated."""
        if trained is not None:
            record = trained.record
            self.directory.save_training(
                key, record, trained.training, trained.line
            )
            if trained.ticket is not None:
                self.directory.save_ticket(
                    place.trial, place.arm, trained.ticket
                )
                self._remember(place, trained.ticket)
        elif self.store.fetch(place, key):
            record = self.directory.load_record(key)
        else:
            return False
        self.store.add(place, key)
        self.keys[place] = key
        self.directory.add_place(place, key)
        self._take(place, record, found=trained is None)
        if time.monotonic() - self._written > _WRITTEN_EVERY:
            self._write_results()
        return True

    def _take(self, place, record, found=False):
        result = Result(place.trial, place.arm, place.level, **record)
        self.results[place] = result
        self.progress.done(place, result, found)
        if self.board and ARMS[place.arm].shown:
            curves = self.directory.load_curves(self.keys[place])
            self.board.add(result, curves)

    def _tell_backend(self):
        """Says what trains the run, and why, unless it was asked for."""
        choice = self.directory.backend
        if choice and choice["asked"] != choice["backend"]:
            name, why = choice["backend"], choice["why"]
            self.progress.note(f"Training by {name}: {why}.")

    def _tell_arms(self, places):
        """Says which arms are trained because those asked for need them."""
        arms, needed = self.experiment.arms, {}
        for place in places:
            other = place.needs.arm if place.needs else None
            if other and place.arm in arms and other not in arms:
                needed.setdefault(other, {})[place.arm] = None
        for other, these in needed.items():
            if other != transfer.source.__name__:
                self.progress.note(
                    f"{', '.join(these)} need{'s' * (len(these) == 1)} "
                    f"{other}, which is trained too, but not shown."
                )

    def _write_results(self):
        self._written = time.monotonic()
        arms = self.experiment.arms
        shown = sorted(
            (r for r in self.results.values() if r.arm in arms),
            key=lambda r: (r.trial, arms.index(r.arm), r.level),
        )
        self.directory.write_results(shown)
        return Results(shown)


def _ticket_of(place):
    return place.trial, place.arm, place.level


_WRITTEN_EVERY = 1.0
# Trainings handed at once to an executor that does not say how many it runs.
_SLOTS = 64
# The level before, the one just trained, and level 0.
_REMEMBERED = 3
