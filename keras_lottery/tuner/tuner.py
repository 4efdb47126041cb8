"""LotteryTuner: a KerasTuner tuner of whole lottery searches."""

import concurrent.futures
import contextlib
import functools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable

import keras
import keras_tuner
from absl import logging

from keras_lottery import keras_internals
from keras_lottery.backend.common import is_accuracy
from keras_lottery.checks import check_integer, check_positive, check_rate
from keras_lottery.experiments import FIELDS, Experiment, Progress
from keras_lottery.experiments.progress import Silence
from keras_lottery.experiments.run import Run
from keras_lottery.processes import Processes, Serial
from keras_lottery.tuner import examples
from keras_lottery.tuner.hypermodel import (
    DEFAULT_KNOBS,
    PREFIX,
    Knobs,
    LotteryHyperModel,
    TrialBuilder,
    check_hypermodel,
    hypermodel_name,
    lowest_rate,
)
from keras_lottery.tuner.objectives import (
    level_metrics,
    make_oracle,
    objective_name,
)

# Arguments of `Experiment` that are the tuner's own, or always the same.
_FIXED = (
    "model",
    "rounds",
    "iterations",
    "seed",
    "trials",
    "arms",
    "ticket_from",
    "instability",
)
# The others, which a tuner takes.
EXPERIMENT_ARGUMENTS = tuple(name for name in FIELDS if name not in _FIXED)
_SETTINGS = "tuner.json"


class LotteryTuner(keras_tuner.Tuner):
    """Tunes a hypermodel together with the search for its tickets.

    Each trial of KerasTuner is a whole lottery search: levels 0 to `rounds`
    of the arm `ticket` of an `Experiment`, in the trial's own directory. All
    trials start from the same seed and share what they train: those that
    differ only in how they prune train the dense network once (for each
    `rewind_to`, since the rewind point is kept with it). A search that was
    killed goes on inside its trial, from the last level.

    Searches are compared by validation data alone, at the early-stop
    iteration of each level:

    - `"density"`: the smallest density whose accuracy is not more than
      `margin` below that of the search's own dense level; minimised.
    - `"accuracy"`: the accuracy at the first level at or below `density`; 0
      if the search does not get there.
    - `"area"`: the area under accuracy over log density, from 1 to
      `density`, divided by its width. What is not reached counts as 0.

    The trial has the metrics of each level, with the level as their step:
    `density`, `val_loss` and `val_accuracy` at the early-stop iteration,
    `early_stop_iteration`, `final_val_accuracy`, `final_train_accuracy` and
    `seconds`. The objective is a metric of the level picked, which is the
    trial's `best_step`; the other levels have its worst value. Test accuracy
    is in the `results.csv` of the trial, and the oracle does not see it.

    The oracle `"hyperband"` gives searches more and more rounds, up to
    `rounds`; the levels that a search already has are found.

    KerasTuner's own distribution over machines (`KERASTUNER_TUNER_ID`,
    `KERASTUNER_ORACLE_IP`, `KERASTUNER_ORACLE_PORT` and a directory that all
    of them see) works as far as KerasTuner carries it: its chief waits for
    ever for a worker that died, and has to be started again to hand its
    trial to another. On one machine, `workers` has no such limit.

    Args:
        hypermodel: function of `keras_tuner.HyperParameters` that returns a
            `keras.Model`, compiled or not; a `keras_tuner.HyperModel`; or a
            network of `keras_lottery.models` by name.
        objective: `"density"`, `"accuracy"` or `"area"`; or a
            `keras_tuner.Objective` of such a name.
        max_trials: optional int. Defaults to 10 with the oracles `"random"`
            and `"bayesian"`, to no limit with the others.
        oracle: `"random"`, `"bayesian"`, `"hyperband"`, `"grid"`, or a
            `keras_tuner.Oracle`.
        knobs: what is tuned beside the hypermodel: names, of `rate`,
            `output_rate`, `scope`, `rewind_to`, `learning_rate`, `warmup`,
            `criterion`, `block_size` and `rates.KEY` (the rate of a layer
            class of Keras, a layer's name or a regular expression in weight
            paths); a dict from name to range, a list of choices or a tuple
            `(low, high)` or `(low, high, "log")`; or a function of
            `keras_tuner.HyperParameters` that returns a dict of arguments of
            `Experiment`.
        rounds: int, of each search.
        iterations: int, the training steps of each level.
        margin: float, an accuracy: see the objectives.
        density: float in (0, 1): see the objectives.
        seed: int, of the oracle and of every search.
        workers: int, searches at a time, each in a process with its share of
            the cores. Defaults to 1, this process.
        directory: optional str, where projects are. Defaults to `"."`.
        project_name: optional str.
        overwrite: bool. Defaults to `False`: goes on with the project in the
            directory. KerasTuner's workers leave it to the chief.
        **arguments: others of `Experiment`, such as `dataset`, `batch_size`
            or `optimizer`.

    Raises:
        ValueError: If an argument is wrong, or the project is of a search
            with other settings.

    Example:

    ```python
    def build(hp):
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(hp.Int("units", 16, 64, 16), "relu"),
                keras.layers.Dense(3, "softmax"),
            ]
        )
        model.compile(
            "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        return model

    x, y = np.random.rand(300, 8), np.random.randint(0, 3, 300)
    tuner = LotteryTuner(
        build, "density", max_trials=3, rounds=3, iterations=100
    )
    tuner.search(x, y, validation_split=0.2)
    tuner.results_summary()
    model = tuner.get_best_models()[0]  # wrapped, trained
    tuner.get_best_tickets()[0].save("best.ticket")
    ```
    """

    def __init__(
        self,
        hypermodel: object,
        objective: str | keras_tuner.Objective = "density",
        max_trials: int | None = None,
        oracle: object = "random",
        knobs: tuple | dict | Callable = DEFAULT_KNOBS,
        rounds: int = 8,
        iterations: int = 1000,
        margin: float = 0.005,
        density: float = 0.2,
        seed: int = 0,
        workers: int = 1,
        directory: str | os.PathLike | None = None,
        project_name: str | None = None,
        overwrite: bool = False,
        **arguments,
    ):
        _check(arguments, margin, density)
        self.objective = objective = objective_name(objective)
        self.margin, self.density = margin, density
        self.rounds = rounds
        self.workers = check_integer("workers", workers, minimum=1)
        self._role = _distributed_role()
        if self._role and workers > 1:
            raise ValueError(
                "`workers` must be 1 with KerasTuner's chief and workers. "
                f"Received: workers={workers}"
            )
        self._arguments = {
            **arguments,
            "arms": ("ticket",),
            "iterations": iterations,
            "seed": seed,
        }
        own_oracle = make_oracle(oracle, objective, max_trials, rounds, seed)
        reference = self._reference(hypermodel)
        lowest = lowest_rate(objective, density, rounds)
        knobs = Knobs(knobs, reference, lowest)
        super().__init__(
            own_oracle,
            LotteryHyperModel(hypermodel, knobs),
            directory=directory and os.fspath(directory),
            project_name=project_name,
            # A worker would throw away what the others have done.
            overwrite=overwrite and self._role != "worker",
        )
        self._project = Run(self.project_dir)
        self._save_atomically(own_oracle)
        self._settings = self._describe(hypermodel, reference, own_oracle)
        self.hypermodel.data = examples.placeholder(self._project)
        self._resume()

    def _reference(self, hypermodel):
        """The `Experiment` of a search in which nothing is tuned."""
        model = check_hypermodel(hypermodel)
        if not isinstance(model, str):
            model = TrialBuilder(model, keras_tuner.HyperParameters())
        return Experiment(**self._arguments, model=model, rounds=self.rounds)

    # The search.

    def search(
        self,
        x=None,
        y=None,
        validation_data=None,
        validation_split=None,
        test_data=None,
        verbose="auto",
        **others,
    ):
        """Runs the trials that are left.

        Args:
            x, y: arrays or nested structures of arrays; to be left out if
                the tuner was made with a `dataset`.
            validation_data: optional pair (x, y).
            validation_split: optional float, the last part of x and y to
                validate with, as in Keras. Without either, a tenth is drawn.
            test_data: optional pair (x, y), for the `results.csv` of trials.
                Defaults to the validation set.
            verbose: 0 for silence. Progress goes to standard error.

        Raises:
            ValueError: If the data do not fit, or the default values of all
                hyperparameters make no search.
            RuntimeError: If another process searches in the project, or too
                many trials fail one after another.
            OSError: If files cannot be written: the trials in progress go on
                with the next call.
        """
        if others:
            raise ValueError(
                "`search` takes examples and `verbose`; how a level is "
                "trained is said to the tuner (`iterations`, `batch_size`, "
                f"`optimizer`, ...). Received: {sorted(others)}"
            )
        dataset = examples.search_dataset(
            self._arguments.get("dataset"),
            (x, y, validation_data, validation_split, test_data),
            self._arguments["seed"],
        )
        # KerasTuner prints its progress; standard output is the caller's.
        with contextlib.redirect_stdout(sys.stderr):
            if self._role == "worker":
                self._run_trials(dataset, verbose)
                self._leave_chief()
                return
            with self._project.lock():
                self._prepare(dataset)
                if self._role == "chief":
                    super().search(verbose=verbose)
                else:
                    self._run_trials(dataset, verbose)

    def _prepare(self, dataset):
        """Refuses, before any work, what cannot be searched."""
        experiment = self._experiment(self.oracle.get_space(), dataset)
        data = experiment.load_data(0)
        experiment.check_fit(data)
        _check_accuracy(experiment.wrapped_model(data), data)
        knobs = self.hypermodel.knobs.ranges
        standardize = experiment.standardize or "standardize" in knobs
        examples.claim(self._project, dataset, data, standardize)
        self.hypermodel.data = data
        # A search that is killed in its first trial is known again by it.
        self.save()

    def _run_trials(self, dataset, verbose):
        """Keeps `workers` trials running until the oracle has no more."""
        serial = self.workers == 1
        executor = Serial() if serial else Processes(self.workers)
        progress = Progress() if verbose and serial else Silence()
        submit = functools.partial(
            self._submit, dataset=dataset, executor=executor, progress=progress
        )
        self.oracle.verbose = verbose
        # By these names the oracle tells its workers apart.
        free = [self.tuner_id, *map(str, range(1, self.workers))]
        running = {}
        try:
            while True:
                answer = self._start_trials(free, running, submit)
                if running:
                    self._wait(free, running)
                elif answer == "STOPPED":
                    return
                else:
                    # Trials of other machines have to end first.
                    time.sleep(1)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

    def _start_trials(self, free, running, submit):
        """Starts a trial for each free worker; returns the last status."""
        status = "RUNNING"
        while free and status == "RUNNING":
            trial = self.oracle.create_trial(free[-1])
            status = trial.status
            if status == "RUNNING":
                running[submit(trial)] = trial, free.pop()
        return status

    def _wait(self, free, running):
        """Waits for a trial to end."""
        done, _ = concurrent.futures.wait(
            running, return_when=concurrent.futures.FIRST_COMPLETED
        )
        for future in done:
            trial, worker = running.pop(future)
            self._end(trial, future)
            free.append(worker)

    def _submit(self, trial, dataset, executor, progress):
        """The future of a trial's `Results`."""
        hp = trial.hyperparameters
        try:
            if not self.hypermodel.is_network:
                # What the model declares only at these values joins the space.
                self.hypermodel.build(hp)
            return executor.submit(
                self._experiment(hp, dataset).run,
                self.get_trial_dir(trial.trial_id),
                progress,
                shared=os.path.join(self.project_dir, "shared"),
            )
        except Exception as error:
            future = concurrent.futures.Future()
            future.set_exception(error)
            return future

    def _end(self, trial, future):
        """Tells the oracle the metrics of each level, or why there are none."""
        try:
            levels = level_metrics(
                future.result(), self.objective, self.margin, self.density
            )
            for level, metrics in enumerate(levels):
                self.oracle.update_trial(trial.trial_id, metrics, step=level)
            trial.status = "COMPLETED"
        except (OSError, keras_tuner.errors.FatalError):
            # A full disk is not the trial's fault: it stays to be run again.
            raise
        except Exception as error:
            failed = isinstance(error, keras_tuner.errors.FailedTrialError)
            trial.status = "FAILED" if failed else "INVALID"
            trial.message = traceback.format_exc()
            logging.warning("Trial %s failed: %s", trial.trial_id, error)
        self.oracle.end_trial(trial)
        self.save()

    def _experiment(self, hp, dataset=None):
        """The `Experiment` at some values of the hyperparameters."""
        arguments = {**self._arguments, **self.hypermodel.knobs(hp)}
        if dataset is not None:
            arguments["dataset"] = dataset
        # The resource that Hyperband shares out is the number of rounds.
        rounds = hp.values.get("tuner/epochs", self.rounds)
        model = self.hypermodel.builder(hp)
        return Experiment(**arguments, model=model, rounds=rounds)

    def _leave_chief(self):
        """Reads what the chief wrote: it does not answer any more."""
        self.oracle = keras_internals.local_oracle(self.oracle)
        self.reload()
        self.hypermodel.data = examples.placeholder(self._project)

    # The results.

    def get_best_models(self, num_models=1):
        """The models of the best searches' tickets, best first.

        Args:
            num_models: int. Defaults to 1.

        Returns:
            A list of wrapped `keras.Model`s with the weights that the level
            was trained to, compiled. They are those at the end of training;
            the objective was measured at the early-stop iteration.
        """
        return [self.load_model(t) for t in self._best_trials(num_models)]

    def get_best_tickets(self, num_tickets=1):
        """The tickets of the best searches, best first.

        Args:
            num_tickets: int. Defaults to 1.

        Returns:
            A list of `Ticket`, of the levels that the objective picked.
        """
        return [self.load_ticket(t) for t in self._best_trials(num_tickets)]

    def _best_trials(self, number):
        trials = self.oracle.get_best_trials(number)
        return [trial for trial in trials if trial.status == "COMPLETED"]

    def load_model(self, trial):
        """The wrapped model of a trial's ticket, trained.

        Args:
            trial: `keras_tuner.engine.trial.Trial`, completed.

        Returns:
            A `keras.Model`.
        """
        experiment = self._experiment(trial.hyperparameters)
        ticket = self.load_ticket(trial)
        return experiment.trained_model(self.hypermodel.data, ticket)

    def load_ticket(self, trial):
        """The `Ticket` of the level that a trial's objective picked.

        Args:
            trial: `keras_tuner.engine.trial.Trial`, completed.

        Returns:
            A `Ticket`, with the weights it was trained to.

        Raises:
            OSError: If its file is missing or damaged.
        """
        path = self.ticket_path(trial)
        ticket = Run.read_ticket(path)
        if ticket is None:
            raise OSError(
                f"The ticket {path} is missing or damaged. Restore it from a "
                "copy, or search anew with `overwrite=True`."
            )
        return ticket

    def ticket_path(self, trial=None):
        """The path of the file that `load_ticket` reads.

        Args:
            trial: optional `keras_tuner.engine.trial.Trial`. Defaults to the
                best.

        Returns:
            A str.

        Raises:
            RuntimeError: If no trial has completed.
        """
        best = [trial] if trial else self._best_trials(1)
        if not best:
            raise RuntimeError(
                f"No trial of {self.project_dir} has completed. `table()` "
                "lists the state of each; call `search` for more."
            )
        (trial,) = best
        run = Run(self.get_trial_dir(trial.trial_id))
        return run.ticket_path(0, "ticket", trial.best_step)

    def to_pandas(self, num_trials=None):
        """The trials, the best first.

        Args:
            num_trials: optional int. Defaults to all.

        Returns:
            A `pandas.DataFrame`: `trial`, `status`, the objective, the
            accuracy of the dense level, density and accuracy of the ticket,
            and the hyperparameters. All of them are of validation data.
        """
        import pandas

        number = num_trials or len(self.oracle.trials)
        trials = self.oracle.get_best_trials(number)
        name = self.oracle.objective.name
        return pandas.DataFrame([_row(trial, name) for trial in trials])

    def table(self, num_trials=None):
        """`to_pandas` as text."""
        percent = "{:.2%}".format
        return self.to_pandas(num_trials).to_string(
            index=False,
            na_rep="-",
            float_format="{:.4g}".format,
            formatters=dict.fromkeys(_PERCENT, percent),
        )

    # What is kept.

    def save(self):
        """Saves the state of the search; KerasTuner's workers have none."""
        if self._role != "worker":
            self.oracle.save()
            self._project.write(_SETTINGS, json.dumps(self._settings))

    def reload(self):
        """Reads the trials in the project directory."""
        oracle = self.oracle
        oracle.reload()
        # They come in the order of the directory; of equals the first is best.
        oracle.trials = dict(sorted(oracle.trials.items()))
        for trial in oracle.trials.values():
            # KerasTuner misses one that was killed as it began.
            if trial.status not in ("COMPLETED", "FAILED"):
                keras_internals.retry_trial(oracle, trial)
        if isinstance(oracle, keras_tuner.oracles.GridSearchOracle):
            keras_internals.restore_grid(oracle)

    def _resume(self):
        """Goes on with the search in the directory, if there is one."""
        path = self._project.path(_SETTINGS)
        if os.path.exists(path):
            with open(path) as file:
                _refuse_others(
                    self.project_dir, json.load(file), self._settings
                )
            if self._role != "worker":
                self.reload()

    def _save_atomically(self, oracle):
        """Has an oracle replace its files in one step.

        KerasTuner writes over them: a kill meanwhile would leave half a file.
        """

        def save():
            path = keras_internals.oracle_path(oracle)
            self._project.write(path, json.dumps(oracle.get_state()))

        def save_trial(trial):
            run = Run(self.get_trial_dir(trial.trial_id))
            run.write("trial.json", json.dumps(trial.get_state()))

        keras_internals.replace_saving(oracle, save, save_trial)

    def _describe(self, hypermodel, reference, oracle):
        """The settings, for another search not to go on with this one.

        The number of trials is not among them: a search can be prolonged.
        """
        settings = {
            **reference.settings(),
            "model": hypermodel_name(hypermodel),
            "objective": self.objective,
            "margin": self.margin,
            "density": self.density,
            "oracle": type(oracle).__name__,
            "knobs": self.hypermodel.knobs.description(),
        }
        return json.loads(json.dumps(settings, default=str))


def _distributed_role():
    """`"chief"` or `"worker"` by KerasTuner's variables, `None` without."""
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return None
    name = os.environ.get("KERASTUNER_TUNER_ID", "")
    return "chief" if "chief" in name else "worker"


def _check(arguments, margin, density):
    for name, value in arguments.items():
        if name not in EXPERIMENT_ARGUMENTS:
            raise ValueError(
                f"`{name}` must be an argument of `LotteryTuner` or, but for "
                f"{list(_FIXED)}, of `Experiment`. Received: {name}={value!r}"
            )
    check_rate("margin", margin)
    check_rate("density", density)
    check_positive("density", density)


def _check_accuracy(model, data):
    x, y = keras.tree.map_structure(lambda leaf: leaf[:1], data.validation)
    names = model.evaluate(x, y, verbose=0, return_dict=True)
    if not any(map(is_accuracy, names)):
        raise ValueError(
            "`hypermodel` must compile its model with an accuracy metric, by "
            f"which searches are compared. Received: {list(names)}"
        )


def _refuse_others(directory, before, now):
    differ = [
        f"{name}={before[name]!r} before, {value!r} now"
        for name, value in now.items()
        # A setting that an earlier version did not know is none of its.
        if name in before and before[name] != value
    ]
    if differ:
        raise ValueError(
            f"{directory} holds a search with other settings: "
            f"{'; '.join(differ)}. Give the same settings, another directory "
            "(`directory`, `project_name`) or `overwrite=True`."
        )


_PERCENT = ("dense_accuracy", "density", "accuracy")


def _row(trial, objective):
    row = {"trial": trial.trial_id, "status": trial.status.lower()}
    row[objective] = trial.score
    if trial.status == "COMPLETED":
        accuracy = _by_level(trial, "val_accuracy")
        density = _by_level(trial, "density")
        level = trial.best_step
        values = (accuracy[0], density[level], accuracy[level])
        row |= zip(_PERCENT, values)
    for name, value in trial.hyperparameters.values.items():
        if not name.startswith("tuner/"):
            row[name.removeprefix(PREFIX)] = value
    return row


def _by_level(trial, name):
    history = trial.metrics.get_history(name)
    return {observation.step: observation.mean() for observation in history}
