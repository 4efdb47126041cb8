"""LotteryTuner: a KerasTuner tuner of whole lottery searches."""

import os
import time

import keras_tuner
from absl import logging

from keras_lottery.experiments import Experiment, Progress
from keras_lottery.experiments.progress import Silence
from keras_lottery.experiments.store import Store
from keras_lottery.tuner import (
    distribution,
    examples,
    oracles,
    searches,
    settings,
)
from keras_lottery.tuner.hypermodels import LotteryHyperModel, check
from keras_lottery.tuner.knobs import Knobs, lowest_rate
from keras_lottery.tuner.table import table


class LotteryTuner(keras_tuner.Tuner):
    """Tunes a hypermodel together with the search for its tickets.

    Each trial of KerasTuner is a whole lottery search: levels 0 to `rounds`
    of the arm `ticket` of an `Experiment`, in the trial's own directory. All
    trials start from the same seed and share what they train: those that
    differ only in how they prune train the dense network once (for each
    `rewind_to`, which is a part of what they keep of it). A search that was
    killed goes on inside its trial, from the last level.

    Searches are compared by validation data alone, at the early-stop
    iteration of each level:

    - `"density"`: the smallest density whose accuracy is not more than
      `margin` below that of the search's own dense level; minimised.
    - `"accuracy"`: the accuracy at the first level at or below `density`; 0
      if the search does not get there.
    - `"area"`: the area under accuracy over log density, from 1 to
      `density`, divided by its width. What is not reached counts as 0.

    Every level's metrics are in the trial, its step being the level:
    `density`, `val_loss` and `val_accuracy` at the early-stop iteration,
    `early_stop_iteration`, `final_val_accuracy`, `final_train_accuracy` and
    `seconds`. The objective stands at the level picked, which is the trial's
    `best_step`; its worst value stands at the others. What the test set says
    is in the `results.csv` of the trial, out of the oracle's sight.

    The oracle `"hyperband"` gives searches more and more rounds, up to
    `rounds`; the levels that a search had before are found.

    KerasTuner's distribution works as documented there, by the environment
    variables `KERASTUNER_TUNER_ID`, `KERASTUNER_ORACLE_IP` and
    `KERASTUNER_ORACLE_PORT` and a directory that all processes see. A worker
    that dies costs its trial at most: another goes on with it.

    Args:
        hypermodel: function of `keras_tuner.HyperParameters` that returns a
            `keras.Model`, compiled or not; a `keras_tuner.HyperModel`; or a
            network of `keras_lottery.models` by name.
        objective: `"density"`, `"accuracy"` or `"area"`.
        max_trials: optional int. Defaults to 10 with the oracles `"random"`
            and `"bayesian"`, to no limit with the others.
        oracle: `"random"`, `"bayesian"`, `"hyperband"`, `"grid"`, or a
            `keras_tuner.Oracle`.
        knobs: what is tuned beside the hypermodel: names, of `rate`,
            `output_rate`, `scope`, `rewind_to`, `learning_rate`, `warmup`,
            `criterion` and `rates.KEY` (the rate of a layer class of Keras,
            a layer's name or a regular expression in weight paths); a dict
            from name to range, a list of choices or a tuple `(low, high)` or
            `(low, high, "log")`; or a function of
            `keras_tuner.HyperParameters` that returns a dict of arguments of
            `Experiment`.
        rounds: int, of each search.
        iterations: int, the training steps of each level.
        margin: float, an accuracy: see the objectives.
        density: float in (0, 1): see the objectives.
        seed: int, of the oracle and of every search.
        directory: optional str, where projects are. Defaults to `"."`.
        project_name: optional str.
        overwrite: bool. Defaults to `False`: goes on with the project there
            is. Of a distributed search only the chief's counts.
        **arguments: others of `Experiment`, such as `dataset`, `batch_size`
            or `optimizer`.

    Raises:
        ValueError: If an argument is wrong, or the project is of a search
            with others.

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
        hypermodel,
        objective="density",
        max_trials=None,
        oracle="random",
        knobs=("rate", "output_rate", "criterion"),
        rounds=8,
        iterations=1000,
        margin=0.005,
        density=0.2,
        seed=0,
        directory=None,
        project_name=None,
        overwrite=False,
        **arguments,
    ):
        settings.check(arguments, margin, density)
        check(hypermodel)
        self.margin, self.density, self.rounds = margin, density, rounds
        self._arguments = {
            **arguments,
            "arms": ("ticket",),
            "iterations": iterations,
            "seed": seed,
        }
        reference = Experiment(
            **self._arguments,
            model=getattr(hypermodel, "build", hypermodel),
            rounds=rounds,
        )
        self.objective = objective
        made = oracles.get(oracle, objective, max_trials, rounds, seed)
        lowest = lowest_rate(objective, density, rounds)
        knobs = Knobs(knobs, reference, lowest)
        oracles.keep_whole(made)
        self._settings = settings.of(self, hypermodel, reference, made, knobs)
        super().__init__(
            made,
            LotteryHyperModel(hypermodel, knobs),
            directory=directory and os.fspath(directory),
            project_name=project_name,
            # Or each worker would throw away what the others have done.
            overwrite=overwrite and not distribution.is_worker(),
        )
        self.hypermodel.data = examples.stand_in(self.project_dir)
        self._waiting = False

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
                Without it their test columns repeat the validation set.
            verbose: 0 for silence.

        Raises:
            ValueError: If the data do not fit, or the default values of all
                hyperparameters make no search.
            RuntimeError: If another process searches in the project.
        """
        if others:
            raise ValueError(
                "`search` takes examples and `verbose`; how a level is "
                "trained is said to the tuner (`iterations`, `batch_size`, "
                f"`optimizer`, ...). Received: {sorted(others)}"
            )
        dataset = examples.choose(
            self._arguments.get("dataset"),
            (x, y, validation_data, validation_split, test_data),
            self._arguments["seed"],
        )
        if self._is_worker():
            self._work(dataset, verbose)
            return
        with Store(self.project_dir).alone():
            self._prepare(dataset)
            if distribution.is_chief():
                self.oracle.verbose = verbose
                distribution.serve(self.oracle)
            else:
                super().search(dataset, verbose=verbose)

    def _prepare(self, dataset):
        """Refuses, before any work, what could not be searched."""
        experiment = self._experiment(self.oracle.get_space(), dataset)
        data = experiment.load_data(0)
        searches.check(experiment, data)
        examples.claim(self.project_dir, dataset, data)
        self.hypermodel.data = data
        # For a search that is killed in its first trial to be known again.
        self.save()

    def _work(self, dataset, verbose):
        with distribution.heartbeat(self.tuner_id):
            super().search(dataset, verbose=verbose)
        # The chief goes; what it wrote tells the results.
        self.oracle = self.oracle._oracle
        if os.path.exists(self.oracle._get_oracle_fname()):
            self.oracle.reload()
        self.hypermodel.data = examples.stand_in(self.project_dir)

    def run_trial(self, trial, dataset, verbose="auto"):
        """Runs a whole lottery search.

        Args:
            trial: `keras_tuner.engine.trial.Trial`.
            dataset: `Arrays`, or the name of a data set.
            verbose: 0 for silence.

        Returns:
            `keras.callbacks.History` with a level in place of an epoch.
        """
        hp = trial.hyperparameters
        if self.hypermodel.own:
            # What only these values make it ask for joins the space.
            self.hypermodel.build(hp)
        try:
            results = self._experiment(hp, dataset).run(
                self.get_trial_dir(trial.trial_id),
                Progress() if verbose else Silence(),
                shared=os.path.join(self.project_dir, "shared"),
            )
        except OSError as error:
            # A full disk is no trial's fault: it must not be struck off.
            raise keras_tuner.errors.FatalRuntimeError(str(error)) from error
        return searches.history(
            results, self.objective, self.margin, self.density
        )

    def _experiment(self, hp, dataset=None):
        arguments = {**self._arguments, **self.hypermodel.knobs(hp)}
        if dataset is not None:
            arguments["dataset"] = dataset
        # Hyperband's resource: how far a search goes.
        rounds = hp.values.get("tuner/epochs", self.rounds)
        model = self.hypermodel.at(hp)
        return Experiment(**arguments, model=model, rounds=rounds)

    def _run_and_update_trial(self, trial, *args, **kwargs):
        # KerasTuner's keeps the best epoch of a history; here all count.
        history = self.run_trial(trial, *args, **kwargs).history
        for level, metrics in searches.levels(history):
            self.oracle.update_trial(trial.trial_id, metrics, step=level)

    def pre_create_trial(self):
        """Waits a second if the last answer was to wait."""
        if self._waiting:
            time.sleep(1)
        self._waiting = True

    def on_trial_begin(self, trial):
        """Called with a trial that was given."""
        self._waiting = False

    def on_trial_end(self, trial):
        """Tells why a trial failed, which KerasTuner only notes."""
        if trial.message:
            *_, line = trial.message.strip().splitlines()
            logging.warning("Trial %s failed: %s", trial.trial_id, line)
        super().on_trial_end(trial)

    # What came of it.

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
        return searches.trained_model(experiment, self.hypermodel.data, ticket)

    def load_ticket(self, trial):
        """The `Ticket` of the level that a trial's objective picked.

        Args:
            trial: `keras_tuner.engine.trial.Trial`, completed.

        Returns:
            A `Ticket`, with the weights it was trained to.

        Raises:
            OSError: If its file is not there any more, or damaged.
        """
        store = Store(self.get_trial_dir(trial.trial_id))
        ticket = store.load_ticket(0, "ticket", trial.best_step)
        if ticket is None:
            raise OSError(f"{self.ticket_path(trial)} cannot be read.")
        return ticket

    def ticket_path(self, trial):
        """The path of the file that `load_ticket` reads."""
        store = Store(self.get_trial_dir(trial.trial_id))
        return store.path(store.ticket_path(0, "ticket", trial.best_step))

    def table(self, num_trials=None):
        """A line for each trial, the best first.

        Args:
            num_trials: optional int. Defaults to all.

        Returns:
            A str: objective, accuracy of the dense level, density and
            accuracy of the ticket, and the hyperparameters.
        """
        return table(self.oracle, num_trials)

    # What is kept.

    def get_state(self):
        """The settings, for another search not to go on with this one."""
        return self._settings

    def set_state(self, state):
        """Refuses to go on with a search of other settings."""
        settings.refuse_others(self.project_dir, state, self._settings)

    def save(self):
        """Saves the state of the search; a worker has none of its own."""
        if not self._is_worker():
            self.oracle.save()
            oracles.write(self._get_tuner_fname(), self.get_state())

    def reload(self):
        """Goes on with the project there is."""
        super().reload()
        if not self._is_worker():
            oracles.take_up(self.oracle)

    def _get_tuner_fname(self):
        # One for all processes: whoever looks at a project finds it.
        return os.path.join(self.project_dir, "tuner.json")
