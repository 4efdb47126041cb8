"""Measures speed and memory side by side with what one would run instead.

    python tools/benchmark.py
    python tools/benchmark.py --networks=lenet_300_100 --repetitions=9

Training steps of this package's compiled loop and of its wrapped `fit`, of
Keras' `fit`, tfmot and PyTorch; LeNet's matrix products alone; and pruning at
VGG-19's shapes against sorting. Each subject lives in a process of its own
and they take turns, so that compare only numbers of one run, as the ratios
do. About eight minutes on two cores that have nothing else to do.
"""

import json
import os
import sys

import common
from absl import flags
from benchmarks.machine import cores, load, machine
from benchmarks.problem import NETWORKS, Problem
from benchmarks.subjects import LOOP, SUBJECTS, main_metric, subjects_of

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


def main():
    steps = _steps()
    plans = [
        (Problem.of(network, count), subjects)
        for network, count in zip(FLAGS.networks, steps)
        if (subjects := subjects_of(network, FLAGS.subjects))
    ]
    os.makedirs(FLAGS.output_dir, exist_ok=True)
    facts = {**machine(), "load_before": load()}
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


def _steps():
    for name, allowed in (("networks", NETWORKS), ("subjects", SUBJECTS)):
        for value in getattr(FLAGS, name) or ():
            if value not in allowed:
                raise ValueError(
                    f"--{name} must be of {', '.join(allowed)}. "
                    f"Received: {value}"
                )
    if not FLAGS.networks:
        raise ValueError("--networks must name at least one.")
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
    before = facts["load_before"]
    if before is not None and before > 0.5:
        print(
            f"Other processes keep {before:.1f} of {cores()} cores busy: do "
            "not trust these numbers.",
            file=sys.stderr,
        )


def _measure(plans, facts):
    from benchmarks.summary import summarise, table
    from benchmarks.turns import take_turns

    tell, skip = _progress()
    rows, about, summaries = [], {}, {}
    for problem, subjects in plans:
        network = problem.network
        new, about[network] = take_turns(
            subjects, problem, FLAGS.repetitions, tell, skip
        )
        tell("")
        rows += new
        summaries[network] = summarise(rows, network)
        print(f"\n{_title(problem)}")
        print(table(summaries[network], network, about[network]))
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
    from benchmarks.figure import draw
    from benchmarks.summary import write_csv

    def path(suffix):
        return os.path.join(FLAGS.output_dir, f"benchmark.{suffix}")

    write_csv(rows, path("csv"))
    with open(path("json"), "w") as file:
        json.dump(facts, file, indent=2)
    draw(facts["summary"], path("png"))


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
