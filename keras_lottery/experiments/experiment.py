"""Experiment: a protocol that can be run."""

import contextlib
import dataclasses
import os

from keras_lottery.experiments import runner
from keras_lottery.experiments.protocol import Protocol
from keras_lottery.processes import Cluster


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
            what identifies a run. What is interrupted is lost together.
            Defaults to 1.

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
            ValueError: If the run directory holds another experiment.
            RuntimeError: If another process runs in it.
        """
        with contextlib.ExitStack() as stack:
            if scheduler is not None:
                executor = stack.enter_context(Cluster(scheduler))
            return runner.run(
                self,
                self.default_run_dir if run_dir is None else run_dir,
                progress,
                workers,
                executor,
                tensorboard_dir,
                shared,
            )
