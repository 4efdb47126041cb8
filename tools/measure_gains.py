"""Measures what a ticket gains where it is served: size, latency, accuracy.

    python tools/measure_gains.py --run_dir=runs/lenet_mnist
    python tools/measure_gains.py --width=4096 --dataset=mnist

Of a run it measures the level that tools/export_ticket.py exports, compared
with level 0. With --width it first trains a network with two hidden layers of
that width, and prunes it in a few large rounds. The forms (dense, masked,
compacted, sparse and int8) are called alternately. Run nothing else meanwhile.
"""

import common
from absl import flags

FLAGS = flags.FLAGS

flags.DEFINE_string("run_dir", None, "A directory of tools/find_ticket.py.")
flags.DEFINE_string(
    "data_dir", None, "Where TFDS keeps data sets. Default: TFDS' own."
)
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
    from keras_lottery import export

    if FLAGS.run_dir:
        gains = export.measure_run_gains(
            FLAGS.run_dir, FLAGS.level, FLAGS.trial, FLAGS.data_dir
        )
    else:
        gains = export.measure_width_gains(
            FLAGS.width,
            FLAGS.dataset,
            FLAGS.rounds,
            FLAGS.rate,
            FLAGS.epochs,
            verbose=2,
            data_dir=FLAGS.data_dir,
        )
    print(gains.table())
    if FLAGS.output:
        gains.to_csv(FLAGS.output)
        print(f"\nThe table is also in {FLAGS.output}")


if __name__ == "__main__":
    common.run(main)
