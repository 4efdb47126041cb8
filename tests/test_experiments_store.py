"""The store: found again, never trusted when damaged."""

import json
import types

import numpy as np
import pytest

from keras_lottery import RewindPoint, Ticket
from keras_lottery.experiments import Experiment
from keras_lottery.experiments.store import Store


def ticket(level=0, **changes):
    parts = {
        "mask": np.array([True, False]),
        "weight": np.array([1.0, 2.0], np.float32),
        "slot": np.zeros(2, np.float32),
        **changes,
    }
    point = RewindPoint(
        0, {"kernel": parts["weight"]}, {"optimizer": {"0:m": parts["slot"]}}
    )
    return Ticket({"kernel": parts["mask"]}, point, level)


def run():
    return types.SimpleNamespace(
        iterations=np.array([10, 20]),
        val_loss=np.array([0.5, 0.4]),
        val_accuracy=np.array([0.8, 0.9]),
        train_loss=np.array([0.6, 0.3]),
    )


def test_what_was_written_is_found(tmp_path):
    store = Store(tmp_path)
    assert store.load_record("ab") is None
    store.save_record("ab", {"density": 0.5}, run())
    assert Store(tmp_path).load_record("ab") == {"density": 0.5}
    curves = store.load_curves("ab")
    assert np.array_equal(curves["val_loss"], run().val_loss)


def test_a_damaged_record_is_named_and_not_trusted(tmp_path, caplog):
    store = Store(tmp_path)
    store.save_record("ab", {"density": 0.5}, run())
    path = tmp_path / "trainings" / "ab.training"
    path.write_bytes(path.read_bytes()[:-40])
    assert store.load_record("ab") is None
    assert "ab.training" in caplog.text


def test_the_key_depends_on_all_that_determines_a_training(tmp_path):
    store = Store(tmp_path)
    same = store.key({"iterations": 10}, ticket(), [1, 2])
    assert store.key({"iterations": 10}, ticket(), [1, 2]) == same
    others = {
        store.key({"iterations": 11}, ticket(), [1, 2]),
        store.key({"iterations": 10}, ticket(), [1, 3]),
        *(
            store.key({"iterations": 10}, ticket(**change), [1, 2])
            for change in (
                {"mask": np.array([True, True])},
                {"weight": np.array([1.0, 3.0], np.float32)},
                {"slot": np.ones(2, np.float32)},
            )
        ),
    }
    assert len(others) == 5 and same not in others


def test_tickets_lie_where_the_readme_says(tmp_path):
    store = Store(tmp_path)
    store.save_ticket(0, "ticket", ticket(level=7))
    assert (tmp_path / "tickets/trial_0/level_07.ticket").exists()
    assert store.load_ticket(0, "ticket", 7).level == 7
    assert store.load_ticket(0, "ticket", 8) is None


def test_a_run_from_before_a_setting_was_known_had_its_default(tmp_path):
    store, now = Store(tmp_path), Experiment(iterations=500)
    store.claim(now)
    path = tmp_path / "experiment.json"
    flags = json.loads(path.read_text())
    assert flags.pop("late_rewind_to") == 10
    path.write_text(json.dumps(flags))
    with pytest.raises(ValueError, match="late_rewind_to=10 before, 20 now"):
        store.claim(Experiment(iterations=500, late_rewind_to=20))
    assert "late_rewind_to" not in json.loads(path.read_text())
    store.claim(now)
    assert json.loads(path.read_text())["late_rewind_to"] == 10
    path.write_text(json.dumps({**flags, "forgotten": 1}))
    with pytest.raises(ValueError, match="forgotten=1 before, None now"):
        store.claim(now)


def test_other_settings_are_refused_naming_the_difference(tmp_path):
    Store(tmp_path).claim(Experiment(iterations=50))
    Store(tmp_path).claim(Experiment(iterations=50))
    with pytest.raises(ValueError, match="iterations=50 before, 60 now"):
        Store(tmp_path).claim(Experiment(iterations=60))
