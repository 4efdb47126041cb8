"""KerasTuner's chief and workers: processes of their own, on one machine."""

import concurrent.futures
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import grpc
import keras_tuner
import pytest

from keras_lottery.tuner import distribution

# Processes that start TensorFlow, each of them.
pytestmark = pytest.mark.slow

TESTS = pathlib.Path(__file__).parent

# A worker is taken for dead soon, for the test not to wait long.
SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import test_tuner
from keras_lottery.tuner import distribution
distribution.EVERY, distribution.SILENCE = 0.5, 10.0
made = test_tuner.tuner({directory!r}, **{changes!r})
made.search(*test_tuner.data(), verbose=0)
print(made.table())
"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(name, port, directory, **changes):
    code = SCRIPT.format(
        tests=str(TESTS), directory=str(directory), changes=changes
    )
    environment = {
        "KERASTUNER_TUNER_ID": name,
        "KERASTUNER_ORACLE_IP": "127.0.0.1",
        "KERASTUNER_ORACLE_PORT": str(port),
        "PYTHONPATH": str(TESTS.parent),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def processes():
    """Starts a chief and workers; none is left behind."""
    started = []

    def run(directory, workers=("tuner0", "tuner1"), **changes):
        port = free_port()
        for name in ("chief", *workers):
            started.append(start(name, port, directory, **changes))
        return started

    yield run
    for process in started:
        process.kill()
        process.communicate()


def table(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out[out.index("trial  ticket_density") :]


def statuses(directory):
    return [
        json.loads(path.read_text())["status"]
        for path in sorted(directory.glob("search/trial_*/trial.json"))
    ]


def trial_of(process, directory):
    """The trial that a worker is in, once it has a trained level."""
    while True:
        assert process.poll() is None
        for trial in directory.glob("search/trial_*"):
            lock = trial / ".lock"
            trained = list(trial.glob("tickets/trial_0/level_01.ticket"))
            if trained and lock.read_text() == str(process.pid):
                return trial
        time.sleep(0.05)


def test_a_chief_and_two_workers(tmp_path, processes):
    everyone = processes(tmp_path, max_trials=4)
    tables = [table(process) for process in everyone]
    assert statuses(tmp_path) == ["COMPLETED"] * 4
    # Whoever asks afterwards, chief, worker or a stranger, gets the same.
    from test_tuner import data, tuner

    assert tables[1:] == tables[:1] * 2
    made = tuner(tmp_path, max_trials=4)
    assert made.table() == tables[0].strip("\n")
    assert made.get_best_tickets()[0].density < 1.0
    alone = tuner(tmp_path / "alone", max_trials=4)
    alone.search(*data(), verbose=0)
    assert alone.table() == made.table()


def test_a_worker_that_is_killed_costs_its_trial_only(tmp_path, processes):
    changes = {"rounds": 4, "iterations": 2000, "eval_every": 100}
    chief, victim, survivor = processes(tmp_path, max_trials=4, **changes)
    trial = trial_of(victim, tmp_path)
    kept = (trial / "tickets/trial_0/level_01.ticket").read_bytes()
    victim.send_signal(signal.SIGKILL)
    assert table(chief) == table(survivor)
    assert statuses(tmp_path) == ["COMPLETED"] * 4
    # Another went on with it, and did not begin anew.
    again = (trial / "tickets/trial_0/level_01.ticket").read_bytes()
    assert again == kept


# The chief alone, its oracle a stub of KerasTuner's own.


def oracle(**arguments):
    made = keras_tuner.oracles.RandomSearchOracle("val_loss", **arguments)
    made.verbose = 0
    space = keras_tuner.HyperParameters()
    space.Float("x", 0, 1)
    made.update_space(space)
    return made


class Asked:
    """A request as gRPC gives it."""

    def __init__(self, **values):
        self.__dict__.update(values)


@pytest.fixture
def chief(tmp_path):
    made = oracle(max_trials=2)
    made._set_project_dir(tmp_path, "search")
    return distribution.Chief(made, silence=30.0)


def ask(chief, name):
    response = chief.CreateTrial(Asked(tuner_id=name), None)
    return keras_tuner.engine.trial.Trial.from_proto(response.trial)


def end(chief, trial, status="COMPLETED"):
    if status == "COMPLETED":
        chief.oracle.update_trial(trial.trial_id, {"val_loss": 1.0})
    trial.status = status
    chief.EndTrial(Asked(trial=trial.to_proto()), None)


def test_nobody_goes_home_before_all_is_over(chief):
    first, second = ask(chief, "a"), ask(chief, "b")
    end(chief, first)
    assert ask(chief, "a").status == "IDLE" and not chief.is_done()
    end(chief, second)
    assert ask(chief, "a").status == "STOPPED" and not chief.is_done()
    assert ask(chief, "b").status == "STOPPED" and chief.is_done()


def test_the_trial_of_a_dead_worker_is_given_to_another(chief):
    first, second = ask(chief, "a"), ask(chief, "b")
    end(chief, second)
    chief._heard["a"] -= 31
    assert not chief.is_done()
    again = ask(chief, "b")
    assert again.trial_id == first.trial_id
    assert again.hyperparameters.values == first.hyperparameters.values
    end(chief, again)
    assert ask(chief, "b").status == "STOPPED" and chief.is_done()


def test_a_trial_that_kills_its_workers_fails(chief):
    first = ask(chief, "a")
    for _ in range(distribution.ATTEMPTS):
        chief._heard["a"] -= 31
        chief.is_done()
        latest = ask(chief, "a")
    assert chief.oracle.trials[first.trial_id].status == "FAILED"
    assert latest.trial_id != first.trial_id


def test_too_many_failures_end_the_search_with_their_error(tmp_path):
    made = oracle(max_trials=5, max_consecutive_failed_trials=1)
    made._set_project_dir(tmp_path, "search")
    chief = distribution.Chief(made, silence=30.0)
    trial, _ = ask(chief, "a"), ask(chief, "b")
    end(chief, trial, "FAILED")
    assert ask(chief, "a").status == "STOPPED"
    assert ask(chief, "b").status == "STOPPED" and chief.is_done()
    assert "consecutive failures" in str(chief.error)


def test_an_oracle_that_raises_ends_the_search(chief, monkeypatch):
    def broken(trial_id):
        raise IndexError("of a Gaussian process")

    monkeypatch.setattr(chief.oracle, "populate_space", broken)
    assert ask(chief, "a").status == "STOPPED" and chief.is_done()
    assert isinstance(chief.error, IndexError)


def test_no_chief_is_one_line(monkeypatch):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", str(free_port()))
    monkeypatch.setattr(distribution, "PATIENCE", 0.2)
    with pytest.raises(RuntimeError, match="No chief answers at 127.0.0.1"):
        with distribution.heartbeat("a"):
            pass


def test_a_second_chief_on_a_port_is_refused(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
        monkeypatch.setenv("KERASTUNER_ORACLE_PORT", str(port))
        with pytest.raises(RuntimeError):
            distribution.serve(oracle(max_trials=1))


def test_signs_of_life_keep_a_worker(chief, monkeypatch):
    port = free_port()
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", str(port))
    monkeypatch.setattr(distribution, "EVERY", 0.05)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((chief.beats(),))
        server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        chief._heard["a"] = 0.0
        with distribution.heartbeat("a"):
            while not chief._heard["a"]:
                time.sleep(0.01)
        server.stop(None).wait()
    # One that comes after its worker was sent home is not heard.
    chief._gone.add("b")
    chief.beats().service(Beat()).unary_unary(b"b", None)
    assert "b" not in chief._heard


class Beat:
    method = "/keras_lottery.Chief/Beat"
