"""Measures what a ticket gains where it is served: size, latency, accuracy.

    python tools/measure_gains.py --run_dir=runs/lenet_mnist
    python tools/measure_gains.py --width=4096 --dataset=mnist
    python tools/measure_gains.py --network=resnet_18 --block_size=channel
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

import inspect
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

# By the flag that must be given.
_FUNCTIONS = {
    "run_dir": measure_run_gains,
    "width": measure_width_gains,
    "network": measure_network_gains,
    "run_dirs": measure_tradeoff,
}
_WIDTH = ("width", "dataset", "rounds", "rate", "epochs", "block_size")
FLAGS = flags.FLAGS

common.define_flags(measure_run_gains, run_dir=None)
common.define_flags(measure_width_gains, _WIDTH, width=None)
common.define_flags(measure_network_gains, ("network",), network=None)
common.define_flags(measure_tradeoff, ("run_dirs", "forms"), run_dirs=())
flags.DEFINE_string(
    "output", None, "A CSV file to write the table to; with --run_dirs a "
    "directory, for tradeoff.csv and its figure.",
)  # fmt: skip


def main():
    given = [n for n in _FUNCTIONS if FLAGS[n].value not in (None, "", [])]
    if len(given) != 1:
        text = " ".join(f"--{name}" for name in given)
        raise ValueError(
            "One of --run_dir, --width, --network and --run_dirs must be "
            f"given. Received: {text or 'none of them'}"
        )
    arguments = _arguments(given[0])
    if FLAGS.output:
        # What cannot be made is refused before anything is measured.
        of_a_file = not FLAGS.run_dirs
        if of_a_file and os.path.isdir(FLAGS.output):
            raise ValueError(
                "--output must be a file. Received: the directory "
                f"--output={FLAGS.output}"
            )
        directory = os.path.dirname(FLAGS.output) if of_a_file else FLAGS.output
        os.makedirs(directory or ".", exist_ok=True)
    if FLAGS.run_dirs:
        return _tradeoff(arguments)
    if FLAGS.width:
        arguments["verbose"] = 2
    gains = _FUNCTIONS[given[0]](**arguments)
    print(gains.table())
    if FLAGS.output:
        gains.to_csv(FLAGS.output)
        print(f"\nThe table is also in {FLAGS.output}")


def _arguments(mode):
    """Dict, name -> value, of the given flags; the defaults are those of the
    function of the mode."""
    taken = inspect.signature(_FUNCTIONS[mode]).parameters
    flags_of_all = {
        name
        for function in _FUNCTIONS.values()
        for name in inspect.signature(function).parameters
        if name in FLAGS and FLAGS[name].present
    }
    stray = sorted(flags_of_all - taken.keys())
    if stray:
        raise ValueError(
            f"--{stray[0]} must be left out with --{mode}, which does not take "
            f"it. Received: --{stray[0]}={FLAGS[stray[0]].value}"
        )
    return {name: FLAGS[name].value for name in flags_of_all}


def _tradeoff(arguments):
    output = FLAGS.output or FLAGS.run_dirs[0]
    points = measure_tradeoff(**arguments)
    points.to_csv(os.path.join(output, "tradeoff.csv"))
    figure = report.tradeoff(points.to_pandas())
    for name, content in figure.files.items():
        with open(os.path.join(output, name), "wb") as file:
            file.write(content)
    print(points.table())
    print(f"\nThe table and the figure are in {output}")


if __name__ == "__main__":
    common.run(main)
