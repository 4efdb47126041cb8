"""Measures what a ticket gains where it is served: size, latency, accuracy.

    python tools/measure_gains.py --run_dir=runs/lenet_mnist
    python tools/measure_gains.py --width=4096 --dataset=mnist

Of a run it takes the level that tools/export_ticket.py would take, against
level 0. With --width it first trains a network with two hidden layers of that
width, and prunes it in a few large rounds. Dense, masked, compacted, sparse
and int8 take turns, so that nothing else should run beside.
"""

import os

import common
from absl import flags

FLAGS = flags.FLAGS

flags.DEFINE_string("run_dir", None, "A directory of tools/find_ticket.py.")
flags.DEFINE_string("level", "best", "As in tools/export_ticket.py.")
flags.DEFINE_integer("trial", 0, "Which trial.")
flags.DEFINE_integer(
    "width", None, "Of a network to train instead.", lower_bound=1
)
flags.DEFINE_string("dataset", "digits", "With --width: to train on.")
flags.DEFINE_integer("rounds", 3, "With --width.", lower_bound=1)
flags.DEFINE_float("rate", 0.7, "With --width: pruned per round.")
flags.DEFINE_integer("epochs", 1, "With --width: of each round.")
flags.DEFINE_string("output", None, "A CSV file to write the table to.")


def main():
    if bool(FLAGS.run_dir) == bool(FLAGS.width):
        raise ValueError("One of --run_dir and --width must be given.")
    from keras_lottery.export import measure_gains

    model, dense, data = _of_a_run() if FLAGS.run_dir else _of_a_width()
    gains = measure_gains(
        model, data.test, dense=dense, representative=data.train[0][:256]
    )
    print(gains.table())
    if FLAGS.output:
        os.makedirs(os.path.dirname(FLAGS.output) or ".", exist_ok=True)
        gains.to_pandas().to_csv(FLAGS.output, index=False)
        print(f"\nThe table is also in {FLAGS.output}")


def _of_a_run():
    from keras_lottery.export import model_of_run

    run = model_of_run(FLAGS.run_dir, common.level(FLAGS.level), FLAGS.trial)
    dense = model_of_run(FLAGS.run_dir, 0, FLAGS.trial)
    print(
        f"level {run.result.level}: {run.result.density:.2%} of the prunable "
        "weights"
    )
    return run.model, dense.model, run.data


def _of_a_width():
    import keras

    from keras_lottery import datasets, wrap

    data = datasets.load(FLAGS.dataset)
    model, dense = _network(data), _network(data)
    wrap(model, rate=FLAGS.rate, output_rate=FLAGS.rate / 2)
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.lottery.find(
        *data.train,
        rounds=FLAGS.rounds,
        epochs=FLAGS.epochs,
        batch_size=100,
        verbose=2,
    )
    with model.lottery.trained(0):
        dense.set_weights(model.get_weights())
    print(f"{model.lottery.density:.2%} of the prunable weights")
    return model, dense, data


def _network(data):
    import keras

    return keras.Sequential(
        [
            keras.Input(data.input_shape, name="images"),
            keras.layers.Flatten(),
            keras.layers.Dense(FLAGS.width, "relu", name="hidden_1"),
            keras.layers.Dense(FLAGS.width, "relu", name="hidden_2"),
            keras.layers.Dense(data.classes, name="output"),
        ]
    )


if __name__ == "__main__":
    common.run(main)
