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

common.start()

from keras_lottery.export import (  # noqa: E402
    measure_run_gains,
    measure_width_gains,
)

_WIDTH = ("width", "dataset", "rounds", "rate", "epochs")
FLAGS = flags.FLAGS

common.define_flags(measure_run_gains, run_dir=None)
common.define_flags(measure_width_gains, _WIDTH, width=None)
flags.DEFINE_string("output", None, "A CSV file to write the table to.")


def main():
    if bool(FLAGS.run_dir) == bool(FLAGS.width):
        raise ValueError("One of --run_dir and --width must be given.")
    if FLAGS.run_dir:
        gains = measure_run_gains(**common.values(measure_run_gains))
    else:
        gains = measure_width_gains(
            **common.values(measure_width_gains, _WIDTH),
            verbose=2,
            data_dir=FLAGS.data_dir,
        )
    print(gains.table())
    if FLAGS.output:
        gains.to_csv(FLAGS.output)
        print(f"\nThe table is also in {FLAGS.output}")


if __name__ == "__main__":
    common.run(main)
