"""Measures what a ticket gains where it is served: size, latency, accuracy.

    python tools/measure_gains.py --run_dir=runs/lenet_mnist
    python tools/measure_gains.py --width=4096 --dataset=mnist
    python tools/measure_gains.py --network=resnet_18 --block_size=channel \\
        --dataset=cifar10 --rate=0.5
    python tools/measure_gains.py --run_dirs=runs/single,runs/blocks

Of a run it measures the level that tools/export_ticket.py exports, compared
with level 0, in every form: dense, masked, compacted, and as LiteRT files.
With --width it first trains a network with two hidden layers of that width,
and prunes it in a few large rounds. With --network it prunes a network of the
paper once and trains nothing: for its speed alone. With --run_dirs it measures
every level of runs of one network, and draws accuracy against latency and
size: in the first run's directory, where its report shows them, or in
--output. All that is compared is timed in turn. Run nothing else
meanwhile.
"""

import os

import common
from absl import flags

common.start()

with common.importing():
    from keras_lottery import report
    from keras_lottery.export import (
        measure_network_gains,
        measure_run_gains,
        measure_tradeoff,
        measure_width_gains,
    )

_WIDTH = ("width", "dataset", "rounds", "rate", "epochs", "block_size")
_TRADEOFF = ("run_dirs", "forms")
FLAGS = flags.FLAGS

common.define_flags(measure_run_gains, run_dir=None)
common.define_flags(measure_width_gains, _WIDTH, width=None)
common.define_flags(measure_network_gains, ("network",), network=None)
common.define_flags(measure_tradeoff, _TRADEOFF, run_dirs=())
flags.DEFINE_string(
    "output", None, "A CSV file to write the table to; with --run_dirs a "
    "directory, for tradeoff.csv and its figure.",
)  # fmt: skip


def main():
    names = "run_dir", "width", "network", "run_dirs"
    given = [
        f"--{name}" for name in names if FLAGS[name].value not in (None, "", [])
    ]
    if len(given) != 1:
        raise ValueError(
            "One of --run_dir, --width, --network and --run_dirs must be "
            f"given. Received: {' '.join(given) or 'none of them'}"
        )
    if FLAGS.output:
        # What cannot be made is refused before anything is measured.
        of_a_file = not FLAGS.run_dirs
        directory = os.path.dirname(FLAGS.output) if of_a_file else FLAGS.output
        os.makedirs(directory or ".", exist_ok=True)
    if FLAGS.run_dirs:
        return _tradeoff()
    if FLAGS.run_dir:
        gains = measure_run_gains(**common.values(measure_run_gains))
    elif FLAGS.network:
        gains = measure_network_gains(**common.values(measure_network_gains))
    else:
        gains = measure_width_gains(
            **common.values(measure_width_gains, _WIDTH),
            batch_sizes=FLAGS.batch_sizes,
            verbose=2,
            data_dir=FLAGS.data_dir,
        )
    print(gains.table())
    if FLAGS.output:
        gains.to_csv(FLAGS.output)
        print(f"\nThe table is also in {FLAGS.output}")


def _tradeoff():
    output = FLAGS.output or FLAGS.run_dirs[0]
    points = measure_tradeoff(
        **common.values(measure_tradeoff, _TRADEOFF),
        batch_sizes=FLAGS.batch_sizes,
        trial=FLAGS.trial,
        data_dir=FLAGS.data_dir,
    )
    points.to_csv(os.path.join(output, "tradeoff.csv"))
    figure = report.tradeoff(points.to_pandas())
    for name, content in figure.files.items():
        with open(os.path.join(output, name), "wb") as file:
            file.write(content)
    print(points.table())
    print(f"\nThe table and the figure are in {output}")


if __name__ == "__main__":
    common.run(main)
