"""Measures speed and memory side by side with what one would run instead.

    python tools/benchmark.py
    python tools/benchmark.py --networks=lenet_300_100 --repetitions=9

Training steps of this package's compiled loop and of its wrapped `fit`, of
Keras' `fit`, tfmot and PyTorch; LeNet's matrix products alone; a whole
experiment of LeNet, all included, of the size that --iterations, --rounds and
--arms say; and pruning at VGG-19's shapes against sorting. Each subject lives
in a process of its own and they take turns. Compare only numbers of one
run, as the ratios do. About ten minutes on two cores that have nothing
else to do.
"""

import json
import os
import sys

import common
from absl import flags

common.start()

from benchmarks import summary  # noqa: E402
from benchmarks.measurement import machine, take_turns  # noqa: E402
from benchmarks.problem import NETWORKS, Problem  # noqa: E402
from benchmarks.subjects import (  # noqa: E402
    EXPERIMENT,
    LOOP,
    SUBJECTS,
    main_metric,
    subjects_of,
)

from keras_lottery import datasets  # noqa: E402
from keras_lottery.experiments import Experiment  # noqa: E402

FLAGS = flags.FLAGS

flags.DEFINE_list(
    "networks",
    list(NETWORKS),
    "Those to measure: lenet_300_100, conv_2, resnet_18; and vgg_19, of which "
    "only pruning is measured.",
)
flags.DEFINE_integer(
    "repetitions", 5, "How often each subject runs, in turn.", lower_bound=1
)
flags.DEFINE_list(
    "steps",
    None,
    "Training steps of a repetition: one number for each of --networks, or "
    "one for all; vgg_19 has none to train. Default: about two seconds of the "
    "compiled loop.",
)
flags.DEFINE_list(
    "subjects",
    None,
    "Only these, by the names in the table. Default: all there are.",
)
flags.DEFINE_string("output_dir", "runs/benchmark", "Where everything goes.")
flags.DEFINE_string(
    "dataset",
    None,
    "Of the whole experiment. Default: mnist, or digits where mnist is not "
    "to be had.",
)
_EXPERIMENT = ("data_dir", "iterations", "rounds", "arms")
common.define_flags(Experiment, _EXPERIMENT, iterations=3000, rounds=8)
flags.adopt_module_key_flags(common)


def main():
    steps = _steps()
    wanted = {
        name: subjects_of(name, FLAGS.subjects) for name in FLAGS.networks
    }
    experiment = None
    if any(EXPERIMENT in subjects for subjects in wanted.values()):
        experiment = _experiment()
    plans = [
        (Problem.of(network, count, experiment), wanted[network])
        for network, count in zip(FLAGS.networks, steps)
        if wanted[network]
    ]
    os.makedirs(FLAGS.output_dir, exist_ok=True)
    facts = machine()
    _print_machine(facts)
    try:
        _measure(plans, facts)
    except KeyboardInterrupt:
        common.stop(
            f"Stopped. {FLAGS.output_dir} holds the networks finished.", 130
        )
    print(
        f"\nEverything is in {FLAGS.output_dir}: benchmark.csv, "
        "benchmark.json, benchmark.png"
    )


def _experiment():
    """The arguments of the experiment that is run as a whole."""
    arguments = common.values(Experiment, _EXPERIMENT)
    dataset = FLAGS.dataset or "mnist"
    try:
        # It is decoded here, if that was never done: not part of what is timed.
        datasets.check(dataset, FLAGS.data_dir)
    except RuntimeError:
        if FLAGS.dataset:
            raise
        dataset = "digits"
    Experiment(dataset, **arguments)
    return {"dataset": dataset, **arguments}


def _steps():
    for name, allowed in (("networks", NETWORKS), ("subjects", SUBJECTS)):
        given = getattr(FLAGS, name)
        if given == []:
            raise ValueError(f"--{name} must name at least one.")
        for value in given or ():
            if value not in allowed:
                raise ValueError(
                    f"--{name} must be among {', '.join(allowed)}. "
                    f"Received: {value}"
                )
    if FLAGS.steps is None:
        return [None] * len(FLAGS.networks)
    if not all(text.isdigit() and int(text) for text in FLAGS.steps) or len(
        FLAGS.steps
    ) not in (1, len(FLAGS.networks)):
        raise ValueError(
            "--steps must be one positive integer, or one for each of "
            f"--networks. Received: --steps={','.join(FLAGS.steps)}"
        )
    steps = [int(text) for text in FLAGS.steps]
    return steps * len(FLAGS.networks) if len(steps) == 1 else steps


def _print_machine(facts):
    print(f"{facts['cpu']}, {facts['cores']} cores")
    if facts["load_before"] > 0.5:
        print(
            f"Other processes keep {facts['load_before']:.1f} of "
            f"{facts['cores']} cores busy: do not trust these numbers.",
            file=sys.stderr,
        )


def _measure(plans, facts):
    tell, skip = _progress()
    rows, about, summaries = [], {}, {}
    for problem, subjects in plans:
        network = problem.network
        new, about[network] = take_turns(
            subjects, problem, FLAGS.repetitions, tell, skip
        )
        tell("")
        rows += new
        summaries[network] = summary.summarise(rows, network)
        print(f"\n{_title(problem)}")
        print(summary.table(summaries[network], network, about[network]))
        _write(rows, {**facts, "subjects": about, "summary": summaries})


def _title(problem):
    title = f"{problem.network}, {FLAGS.repetitions} repetitions"
    if main_metric(problem.network) == "prune_ms":
        return f"{title} of one round's pruning"
    return (
        f"{title} of {problem.steps} steps, batch {problem.batch_size}, "
        f"{problem.data_mb:,.0f} MB of made-up images; ratio to the {LOOP}"
    )


def _write(rows, facts):
    """All that is known so far: a run that is stopped loses one network."""

    def path(suffix):
        return os.path.join(FLAGS.output_dir, f"benchmark.{suffix}")

    summary.write_csv(rows, path("csv"))
    with open(path("json"), "w") as file:
        json.dump(facts, file, indent=2)
    summary.draw(facts["summary"], path("png"))


def _progress():
    """Two functions of a line: what runs now, and what is worth keeping."""
    live = sys.stderr.isatty()

    def tell(line):
        if live:
            sys.stderr.write("\r\x1b[K" + line)
            sys.stderr.flush()
        elif line:
            print(line, file=sys.stderr)

    def skip(line):
        if live:
            tell("")
        print(line)

    return tell, skip


if __name__ == "__main__":
    common.run(main)
