"""The plan: which trainings there are, what each needs and sends back."""

import pytest

from keras_lottery.experiments import Experiment
from keras_lottery.experiments.arms import ARMS, arm
from keras_lottery.experiments.bench import train_places
from keras_lottery.experiments.plan import Place, Queue, plan

SMALL = Experiment(rounds=1, iterations=20, eval_every=10)


def test_what_a_place_needs_comes_before_it():
    arms = tuple(a.name for a in ARMS.values() if a.shown)
    places = plan(Experiment(rounds=3, trials=2, arms=arms, ticket_from="a"))
    assert len(set(places)) == len(places)
    for i, place in enumerate(places):
        assert place.needs is None or place.needs in places[:i]


def test_any_number_of_levels_can_be_planned():
    places = plan(Experiment(rounds=3000, arms=("reinit",)))
    assert places[-1] == Place(0, 3000, "reinit")
    assert len(places) == 3001 + 3000


def test_what_is_one_training_is_not_begun_twice():
    arms = "ticket", "reinit", "random_mask", "shuffled_mask", "one_shot"
    queue = Queue(plan(Experiment(rounds=1, arms=arms)))
    begun = [queue.next() for _ in range(len(queue.ready))]
    assert begun == [Place(0, 0, "ticket"), Place(0, 0, "reinit")]
    queue.done(begun[0])
    assert {place.arm for _, place in queue.ready if place.level == 0} == {
        "random_mask",
        "shuffled_mask",
        "one_shot",
    }


def test_an_arm_brings_along_what_serves_it():
    places = plan(Experiment(rounds=1, arms=("continued",)))
    assert Place(0, 0, "continued_search") in places
    assert Place(0, 1, "continued_search") not in places


def test_a_training_is_a_function_of_what_it_is_sent():
    first, second = Place(0, 0, "ticket"), Place(0, 1, "reinit")
    [(key, trained)] = train_places(SMALL, [first], {}, [set()])
    assert trained.ticket.level == 0 and trained.record["density"] == 1.0
    sent = [second], {first: trained.ticket}
    [(other, reinit)] = train_places(SMALL, *sent, [{key}])
    assert other != key and reinit.ticket is None
    assert reinit.record["density"] < 1.0
    assert train_places(SMALL, *sent, [{other}]) == [(other, None)]


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
