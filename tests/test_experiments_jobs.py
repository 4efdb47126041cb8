"""Jobs: which there are, what each needs, and what it sends back."""

import pytest
from keras_lottery.experiments.jobs import run_job
from keras_lottery.experiments.places import Place, plan

from keras_lottery.experiments import Experiment
from keras_lottery.experiments.arms import ARMS, arm

SMALL = Experiment(rounds=1, iterations=20, eval_every=10)


def test_what_a_place_needs_comes_before_it():
    arms = tuple(a.name for a in ARMS.values() if a.shown)
    places = plan(Experiment(rounds=3, trials=2, arms=arms))
    assert len(set(places)) == len(places)
    for i, place in enumerate(places):
        assert place.needs is None or place.needs in places[:i]


def test_an_arm_brings_along_what_serves_it():
    places = plan(Experiment(rounds=1, arms=("continued",)))
    assert Place(0, 0, "continued_search") in places
    assert Place(0, 1, "continued_search") not in places


def test_a_job_is_a_function_of_what_it_is_sent():
    first = Place(0, 0, "ticket")
    key, files = run_job(SMALL, first, {}, set())
    ticket = "tickets/trial_0/level_00.ticket"
    assert set(files) == {f"trainings/{key}.training", "timings.json", ticket}
    sent = {ticket: files[ticket]}
    second = Place(0, 1, "reinit")
    other, files = run_job(SMALL, second, sent, {key})
    assert other != key and f"trainings/{other}.training" in files
    assert run_job(SMALL, second, sent, {other}) == (other, {})


def test_an_arm_of_one_s_own():
    @arm
    def doubled(bench, level):
        start = bench.start("ticket", level)
        weights = start.rewind_point.weights
        return bench.with_weights(
            start.masks, {path: 2 * w for path, w in weights.items()}
        )

    try:
        experiment = Experiment(rounds=1, iterations=20, arms=("doubled",))
        places = plan(experiment)
        assert places[-1].needs == Place(0, 0, "ticket")
    finally:
        del ARMS["doubled"]
    with pytest.raises(ValueError, match="`arms` must be among"):
        Experiment(arms=("doubled",))
