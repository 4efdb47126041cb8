"""Says what a campaign costs and what the coordinator can keep busy.

    python tools/simulate_campaign.py
    python tools/simulate_campaign.py --jobs=1000 --workers=8

First the coordinator hands out trainings that take no time, through the real
store and executor, while some of the workers die: jobs a second, bytes and
memory. Then the paper's campaign (six networks, every arm, five trials) is
laid out on workers by the cost of one training: where the chain of levels
limits it.
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
    from campaign import schedule, throughput

    steps = _step_ms(schedule.ROUNDS)
    measured = throughput.measure(
        FLAGS.jobs,
        FLAGS.workers,
        FLAGS.deaths,
        round(1e6 * FLAGS.ticket_mb),
    )
    for name, value in measured.items():
        print(f"{name:>18}  {value:,.0f}")
    campaign = [
        (experiment, experiment.iterations * steps[experiment.model] / 1e3)
        for experiment in schedule.experiments(FLAGS.trials)
    ]
    campaign.sort(key=lambda pair: -schedule.chain(*pair))
    print()
    _print_costs(schedule, campaign)


def _step_ms(networks):
    try:
        pairs = [pair.split(":") for pair in FLAGS.step_ms]
        steps = {name: float(ms) for name, ms in pairs}
    except ValueError:
        steps = {}
    if set(steps) != set(networks):
        raise ValueError(
            "--step_ms must be NAME:MILLISECONDS for each of "
            f"{', '.join(networks)}. Received: {','.join(FLAGS.step_ms)}"
        )
    return steps


def _print_costs(schedule, campaign):
    from keras_lottery.experiments.places import plan

    sizes = (2, 64, 1000)
    print(
        f"{'hours':>14}{'trainings':>11}{'each':>8}{'worker h':>10}"
        f"{'chain':>8}" + "".join(f"{n:>7} w" for n in sizes)
    )
    rows = [(e.model, [(e, seconds)]) for e, seconds in campaign]
    for name, part in [*rows, ("all", campaign)]:
        trainings = [len(plan(e)) for e, _ in part]
        total = sum(n * s for n, (_, s) in zip(trainings, part))
        chain = max(schedule.chain(*pair) for pair in part)
        each = part[0][1] if len(part) == 1 else float("nan")
        times = [schedule.makespan(part, workers) for workers in sizes]
        print(
            f"{name:>14}{sum(trainings):>11,}{each / 3600:>8.2f}"
            f"{total / 3600:>10,.0f}{chain / 3600:>8,.1f}"
            + "".join(f"{time / 3600:>9,.0f}" for time in times)
        )


if __name__ == "__main__":
    common.run(main)
