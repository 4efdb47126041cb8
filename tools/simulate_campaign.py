"""Says what a campaign costs and what the coordinator can keep busy.

    python tools/simulate_campaign.py
    python tools/simulate_campaign.py --jobs=1000 --workers=8

First the coordinator hands out trainings that take no time and writes the run
directory, while some of the workers die: jobs a second, bytes and memory. Then
the paper's campaign (six networks, every arm, five trials) is laid out on
workers by the cost of one training: where the chain of levels limits it.
"""

import common
from absl import flags

FLAGS = flags.FLAGS

flags.DEFINE_integer("jobs", 10_000, "Trainings to hand out.", lower_bound=1)
flags.DEFINE_integer("workers", 64, "Workers that take them.", lower_bound=1)
flags.DEFINE_float(
    "deaths",
    0.05,
    "Share of the jobs during which their worker dies.",
    lower_bound=0.0,
    upper_bound=0.5,
)
flags.DEFINE_float(
    "ticket_mb", 2.2, "Size of a ticket: LeNet's.", lower_bound=0.0
)
flags.DEFINE_list(
    "step_ms",
    [
        "lenet_300_100:1.1",
        "conv_2:150",
        "conv_4:290",
        "conv_6:430",
        "resnet_18:400",
        "vgg_19:1200",
    ],
    "Milliseconds of a training step on one worker, evaluation included.",
)
flags.DEFINE_integer("trials", 5, "Trials of the campaign.", lower_bound=1)


def main():
    from benchmarks import campaign

    steps = _step_ms(campaign.ROUNDS)
    measured = campaign.measure(
        FLAGS.jobs, FLAGS.workers, FLAGS.deaths, FLAGS.ticket_mb
    )
    for name, value in measured.items():
        print(f"{name:>18}  {value:,.0f}")
    campaigns = [
        (experiment, experiment.iterations * steps[experiment.model] / 1e3)
        for experiment in campaign.experiments(FLAGS.trials)
    ]
    print(f"\n{campaign.costs(campaigns)}")


def _step_ms(networks):
    try:
        pairs = [pair.split(":") for pair in FLAGS.step_ms]
        steps = {name: float(ms) for name, ms in pairs}
    except ValueError:
        steps = {}
    if set(steps) != set(networks) or not all(ms > 0 for ms in steps.values()):
        raise ValueError(
            "--step_ms must be NAME:MILLISECONDS, greater than 0, for each of "
            f"{', '.join(networks)}. Received: {','.join(FLAGS.step_ms)}"
        )
    return steps


if __name__ == "__main__":
    common.run(main)
