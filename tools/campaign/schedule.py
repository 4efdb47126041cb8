"""How long a campaign takes on so many workers, by list scheduling."""

import heapq

from keras_lottery.experiments import Experiment
from keras_lottery.experiments.arms import ARMS
from keras_lottery.experiments.places import Line, plan

# Levels 0 to these: as far as the paper prunes each network.
ROUNDS = {
    "lenet_300_100": 18,
    "conv_2": 16,
    "conv_4": 16,
    "conv_6": 20,
    "resnet_18": 14,
    "vgg_19": 20,
}


def experiments(trials):
    """The paper's campaign: six networks, each with every arm it can have.

    Args:
        trials: int.

    Returns:
        A list of `Experiment`.
    """
    found = []
    for model, rounds in ROUNDS.items():
        dataset = "mnist" if model == "lenet_300_100" else "cifar10"
        arms = [arm.name for arm in ARMS.values() if arm.shown]
        if model in ("resnet_18", "vgg_19"):
            # They are pruned globally, and tfmot's arm does not know them.
            arms = [name for name in arms if name not in ("global", "tfmot")]
        found.append(
            Experiment(
                dataset, model=model, rounds=rounds, trials=trials, arms=arms
            )
        )
    return found


def makespan(campaign, workers):
    """Seconds from the first training to the end of the last.

    Args:
        campaign: list of (`Experiment`, seconds of one training). The longest
            chains come first.
        workers: int, trainings at a time.

    Returns:
        A float.
    """
    lines = [Line(plan(experiment)) for experiment, _ in campaign]
    running, now, free = [], 0.0, workers
    while any(map(len, lines)):
        for i, line in enumerate(lines):
            while free and line.ready:
                free -= 1
                end = now + campaign[i][1]
                heapq.heappush(running, (end, i, line.next()))
        now, i, place = heapq.heappop(running)
        lines[i].done(place)
        free += 1
    return now


def chain(experiment, seconds):
    """Seconds of the longest chain: what no number of workers shortens."""
    return (experiment.rounds + 1) * seconds
