"""The campaign simulation: nothing is lost, and the schedule adds up."""

import sys

import pytest
import scripts

sys.path.insert(0, str(scripts.ROOT / "tools"))

from benchmarks import campaign  # noqa: E402

from keras_lottery.experiments import Experiment  # noqa: E402
from keras_lottery.experiments.plan import plan  # noqa: E402


def test_no_training_is_lost_when_workers_die():
    measured = campaign.measure(60, workers=3, deaths=0.2, ticket_mb=0.01)
    assert measured["jobs"] >= 60
    assert measured["workers lost"] > 0
    assert measured["results missing"] == measured["results twice"] == 0
    assert measured["sent MB"] > 0 and measured["returned MB"] > 0


def test_a_ticket_has_the_size_that_is_asked_for(tmp_path):
    executor = campaign.Instant(1, deaths=0.0, ticket_mb=0.5)
    place = plan(Experiment(rounds=1))[0]
    _, trained = campaign._training(place, executor._weights)
    trained.ticket.save(tmp_path / "ticket")
    size = (tmp_path / "ticket").stat().st_size
    assert size == pytest.approx(5e5, rel=0.01)


def test_a_schedule_lies_between_the_work_and_the_chain():
    experiment = Experiment(rounds=3, trials=2, arms=("ticket", "reinit"))
    one = [(experiment, 10.0)]
    assert campaign.makespan(one, 1) == 10.0 * len(plan(experiment)) == 160
    # The reinitialisation of the last ticket starts with its own training.
    assert campaign.makespan(one, 1000) == campaign.chain(*one[0]) == 40
    assert 80 <= campaign.makespan(one, 2) <= 90
    table = campaign.costs(one, sizes=(1, 1000))
    assert table.splitlines()[-1].split()[:2] == ["all", "16"]


def test_the_campaign_has_every_network():
    found = campaign.experiments(trials=2)
    assert {e.model: e.rounds for e in found} == campaign.ROUNDS
