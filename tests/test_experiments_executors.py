"""Executors: this process."""

from keras_lottery.experiments.executors import Serial


def test_serial_runs_at_once():
    ran = []
    Serial().submit(ran.append, 1)
    assert ran == [1]
