"""Experiment: a protocol that can be run into a directory."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import time

from keras_lottery.checks import check_integer
from keras_lottery.experiments import transfer
from keras_lottery.experiments.arms import ARMS, keeps_ticket
from keras_lottery.experiments.bench import choose_backend, train_places
from keras_lottery.experiments.plan import Queue, plan
from keras_lottery.experiments.progress import Silence
from keras_lottery.experiments.protocol import Protocol
from keras_lottery.experiments.results import Board, Result, Results
from keras_lottery.experiments.run import Run
from keras_lottery.experiments.store import Store
from keras_lottery.processes import Cluster, Processes, Serial

_WRITTEN_EVERY = 1.0
# Trainings handed at once to an executor that does not say how many it runs.
_SLOTS = 64
# The level before, the one just trained, and level 0.
_REMEMBERED = 3


@dataclasses.dataclass(frozen=True)
class Experiment(Protocol):
    """A comparison of arms over levels and trials.

    What is left `None` is taken from the paper's recipe for the model, one
    setting at a time: a `rate` that is given leaves the other rates of the
    recipe as they are. A model of one's own has the recipe
    `keras_lottery.recipes.OWN`.

    In Python, `dataset` may also be `keras_lottery.datasets.Arrays`, and
    `model` a function that returns a Keras model. It is called with those of
    the arguments `input_shape`, `classes` and `seed` that it has. A model that
    it compiles keeps its optimizer, loss and metrics; another is compiled for
    classification by logits.

    Args:
        dataset: str, `"digits"` or a TFDS image classification set.
        data_dir: optional str, where TFDS has it. It is no part of what
            identifies a run.
        image_size: optional int, to which height and width of the images are
            reduced, by area averages, before anything else is done with them.
        classes: optional str, such as 0-4 or 0,2,7: the labels of the
            examples that are taken. They are numbered from 0.
        model: str, a network of `keras_lottery.models`.
        rounds: int, levels 0 to `rounds` are trained. Defaults to 16.
        rate: optional float, of survivors, per round.
        output_rate: optional float, of output layers. Defaults to the
            recipe's, or to half of `rate`; with `scope="global"` to `rate`.
        rates: optional tuple of pairs (str, float): the rates of the weights
            of a layer of this name, of a class of `keras.layers`, or of a
            path in which this regular expression is found.
        scope: optional str, `"layerwise"` or `"global"`.
        criterion: str, of `keras_lottery.criteria`.
        block_size: optional str, what is pruned as one: `"4x1"`, so many
            inputs of so many outputs; `"2:4"`, single weights of which at
            most 2 of every 4 inputs survive; or `"channel"`, all that leads
            to one unit or filter. Defaults to `"1x1"`, single weights.
        rewind_to: int, the training step of the rewind point.
        late_rewind_to: optional int, that of the arm `late_rewind`. Defaults
            to a fiftieth of `iterations`, at least 1.
        iterations: optional int, the budget of each training; on `digits`
            1,000. A model of one's own has no other default.
        batch_size: optional int.
        optimizer: optional str, a name that Keras knows.
        learning_rate: optional float.
        momentum: optional float, of `"sgd"` and `"rmsprop"`.
        warmup: optional float, steps in which the learning rate rises from 0;
            below 1, the fraction of `iterations`.
        drops: optional tuple of float, steps at which it is divided by 10;
            below 1, fractions of `iterations`.
        dropout: optional float, of the Conv networks.
        weight_decay: optional float, of the deep networks.
        augment: optional bool, of the deep networks: whether training images
            are flipped and shifted at random.
        standardize: optional bool, whether a network begins by standardising
            each channel, by mean and deviation of the training examples.
        network: tuple of pairs, or of NAME:VALUE: further arguments of the
            network, such as norm_epsilon:1e-5; see `keras_lottery.models`.
        eval_every: optional int, iterations between evaluations. Defaults to
            a fiftieth of `iterations`, at most 100.
        early_stop_metric: `"val_loss"` or `"val_accuracy"`.
        trials: int.
        arms: tuple of str.
        ticket_from: optional str, the directory of another run, of which the
            arms `transferred` and `transferred_reinit` train the tickets, each
            trial and level that of the same number. What identifies this run
            is what those tickets came from, not where they are.
        instability: bool, whether each start is trained once more, in another
            order of the examples, and the test error is measured on the line
            between the two.
        seed: int, from which all other seeds are derived.
        backend: `"auto"`: a rule chooses by the operations of the network;
            `"measure"`: it is measured; or a backend of
            `keras_lottery.training`. Backends differ in the last bits. With
            Numba the rule is `"sparse_or_xla"` for chains of dense layers:
            sparse kernels train the levels at which they are faster.
        precision: str, the dtype policy of the model: `"float32"`,
            `"mixed_bfloat16"` or `"mixed_float16"`.
        stack: int, trainings at once in one program, of any level, arm and
            trial that can be trained then; under Keras' JAX backend, for a
            GPU that one training of a small network leaves idle. Each gives
            the same numbers as alone to float tolerance, so it is no part of
            what identifies a run. An interrupt loses all trainings of the
            stack. Defaults to 1.

    Example:

    ```python
    experiment = Experiment(dataset="digits", rounds=3)
    results = experiment.run("runs/digits")
    frame = results.to_pandas()
    frame.groupby(["arm", "level"])["final_test_accuracy"].mean()
    ```

    With a model and data of one's own:

    ```python
    def build(seed):
        keras.utils.set_random_seed(seed)
        return keras.Sequential(
            [
                keras.Input((20,)),
                keras.layers.Dense(64, "relu"),
                keras.layers.Dense(3),
            ]
        )

    x, y = np.random.rand(500, 20), np.random.randint(0, 3, 500)
    data = Arrays(train=(x[100:], y[100:]), test=(x[:100], y[:100]))
    experiment = Experiment(data, model=build, rounds=3, iterations=200)
    ```

    Source: Frankle & Carbin, 1803.03635, section 2 and figure 2;
    `instability`: Frankle et al., 1912.05671, section 2; `ticket_from`: Morcos
    et al., 1906.02773, section 3.
    """

    @property
    def default_run_dir(self):
        """Where it is run if nobody says where: `runs/DATASET_MODEL`."""
        return os.path.join("runs", f"{self.dataset}_{self.model}")

    def run(
        self,
        run_dir: str | None = None,
        progress=None,
        workers: int = 1,
        executor=None,
        scheduler: str | None = None,
        tensorboard_dir: str | None = None,
        shared=None,
    ):
        """Trains whatever of it is not in the run directory yet.

        A run that is killed loses at most the trainings in progress; what was
        trained is in `results.csv` a second later.

        Args:
            run_dir: str or path-like. The same experiment on the same
                directory goes on where it was stopped. Defaults to
                `runs/DATASET_MODEL`.
            progress: optional `Progress`. Defaults to silence.
            workers: int, processes to train in. Defaults to 1, this process.
            executor: optional `concurrent.futures.Executor` to train on
                instead.
            scheduler: optional str, the address of a Dask scheduler, such as
                `"tcp://host:8786"`, whose workers train instead.
            tensorboard_dir: optional str or path-like, to write the curves
                to for TensorBoard.
            shared: optional str or path-like, a directory of trainings that
                several runs share: what one has trained the others find.

        Returns:
            `Results`: a list of `Result` by trial, arm and level.

        Raises:
            ValueError: If the run directory holds another experiment, or
                `executor` and `scheduler` are both given.
            RuntimeError: If another process runs in it.
        """
        check_integer("workers", workers, minimum=1)
        _check_has(
            "executor", executor, "submit", "`concurrent.futures.Executor`"
        )
        _check_has("progress", progress, "begin", "`Progress`")
        if None not in (executor, scheduler):
            raise ValueError(
                "`executor` and `scheduler` both say who trains: give one. "
                f"Received: executor={executor!r}, scheduler={scheduler!r}"
            )
        run_dir = self.default_run_dir if run_dir is None else run_dir
        directory = Run(run_dir)
        with contextlib.ExitStack() as stack:
            if scheduler is not None:
                executor = stack.enter_context(Cluster(scheduler))
            elif executor is None:
                executor = Serial() if workers == 1 else Processes(workers)
                stack.callback(
                    executor.shutdown, wait=False, cancel_futures=True
                )
            stack.enter_context(directory.lock())
            stack.enter_context(directory.restored())
            self.check_data()
            board = Board(tensorboard_dir) if tensorboard_dir else None
            experiment, tickets = transfer.find(self)
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
                needed.setdefault(other, set()).add(place.arm)
        for other, found in needed.items():
            these = [arm for arm in arms if arm in found]
            if not ARMS[other].taken_over:
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
