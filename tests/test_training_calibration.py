"""The choice of the backend: by measurement, without a trace of it left."""

import json

import keras
import numpy as np
import pytest

from keras_lottery.training import Loop, calibration


@pytest.fixture(autouse=True)
def forget():
    calibration._chosen.clear()


def noisy_model():
    """Has all the state a calibration could leave marks on."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(16, "relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01, use_ema=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def loop_on(model, **kwargs):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 6)).astype("float32")
    y = rng.integers(0, 3, 100)
    return Loop(model, (x, y), (x, y), batch_size=8, eval_every=5, **kwargs)


def state(model):
    return [
        v.numpy()
        for v in (
            *model.variables,
            *model.optimizer.variables,
            *model.metrics_variables,
        )
    ]


def test_calibration_changes_no_bit():
    model = noisy_model()
    loop = loop_on(model)
    loop._build()
    before = state(model)
    assert loop.choose_backend() in ("graph", "xla", "xla_update")
    after = state(model)
    assert len(before) == len(after) > 10
    for a, b in zip(before, after):
        np.testing.assert_array_equal(a, b)


def test_measured_once_per_architecture(monkeypatch):
    monkeypatch.setattr(calibration, "_fastest", lambda *_: ("xla", "measured"))
    assert loop_on(noisy_model()).choose_backend() == "xla"
    monkeypatch.setattr(
        calibration, "_fastest", lambda *_: ("graph", "measured")
    )
    assert loop_on(noisy_model()).choose_backend() == "xla"
    other = noisy_model()
    other.compile("sgd", other.loss)
    assert loop_on(other).choose_backend() == "graph"


def test_remembered_in_a_file(tmp_path, monkeypatch):
    path = tmp_path / "timings.json"
    monkeypatch.setattr(
        calibration, "_fastest", lambda *_: ("xla_update", "measured")
    )
    loop_on(noisy_model(), timings=path).choose_backend()
    (choice,) = json.loads(path.read_text()).values()
    assert choice == ["xla_update", "measured"]
    calibration._chosen.clear()
    monkeypatch.setattr(calibration, "_fastest", pytest.fail)
    loop = loop_on(noisy_model(), timings=path)
    assert loop.choose_backend() == "xla_update"
    assert [p.name for p in tmp_path.iterdir()] == ["timings.json"]


def test_the_file_outranks_what_this_process_measured(tmp_path, monkeypatch):
    path = tmp_path / "timings.json"
    monkeypatch.setattr(calibration, "_fastest", lambda *_: ("xla", "measured"))
    loop_on(noisy_model(), timings=path).choose_backend()
    path.write_text(path.read_text().replace('"xla"', '"graph"'))
    assert loop_on(noisy_model(), timings=path).choose_backend() == "graph"


def test_two_processes_agree_on_the_first_choice(tmp_path, monkeypatch):
    path = tmp_path / "timings.json"

    def overtaken(*_):
        calibration._chosen.clear()
        monkeypatch.setattr(
            calibration, "_fastest", lambda *_: ("graph", "measured")
        )
        loop_on(noisy_model(), timings=path).choose_backend()
        return "xla", "measured"

    monkeypatch.setattr(calibration, "_fastest", overtaken)
    assert loop_on(noisy_model(), timings=path).choose_backend() == "graph"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": ["b"]}'])
def test_a_damaged_file_is_measured_anew(tmp_path, monkeypatch, content):
    path = tmp_path / "timings.json"
    path.write_text(content)
    monkeypatch.setattr(
        calibration, "_fastest", lambda *_: ("graph", "measured")
    )
    assert loop_on(noisy_model(), timings=path).choose_backend() == "graph"
    assert ["graph", "measured"] in json.loads(path.read_text()).values()


class Pretended:
    """Compiled steps whose speed is given, on a clock of its own."""

    clock = 0.0

    def __init__(self, tiny, full, compiling=0.0):
        self.seconds = {2: tiny, 60: full}
        self.compiling = compiling
        self.batches = []

    def train(self, count, indices, data):
        batch_size = indices.shape[1]
        if batch_size not in self.batches:
            Pretended.clock += self.compiling
        self.batches.append(batch_size)
        Pretended.clock += count * self.seconds[batch_size]


def fastest(monkeypatch, **backends):
    return measured(monkeypatch, **backends)[0]


def measured(monkeypatch, steps=1000, **backends):
    monkeypatch.setattr(
        calibration.time, "perf_counter", lambda: Pretended.clock
    )
    data = (np.zeros((100, 2)), np.zeros(100))
    return calibration._fastest(backends.get, data, (100, 60), steps)


def test_the_fastest_is_chosen(monkeypatch):
    slow, fast = Pretended(0.001, 0.002), Pretended(0.0005, 0.001)
    unused = Pretended(0.0001, 0.0001)
    assert "xla" == fastest(
        monkeypatch, graph=slow, xla=fast, xla_update=unused
    )
    assert not unused.batches
    assert "graph" == fastest(
        monkeypatch, graph=fast, xla=slow, xla_update=slow
    )


def test_a_slow_candidate_never_sees_a_full_batch(monkeypatch):
    graph, slow = Pretended(0.02, 0.1), Pretended(0.1, 26.0)
    middling = Pretended(0.01, 0.3)
    assert "graph" == fastest(
        monkeypatch, graph=graph, xla=slow, xla_update=middling
    )
    assert set(slow.batches) == {2}
    assert set(middling.batches) == {2, 60}


def test_a_near_tie_goes_to_the_graph(monkeypatch):
    graph, near = Pretended(0.02, 0.100), Pretended(0.01, 0.098)
    assert "graph" == fastest(
        monkeypatch, graph=graph, xla=near, xla_update=near
    )


def test_what_takes_too_long_to_compile_is_not_tried(monkeypatch):
    def candidates():
        return {
            "graph": Pretended(0.02, 1.0, compiling=5.0),
            "xla": Pretended(0.01, 0.5, compiling=20.0),
            "xla_update": Pretended(0.01, 0.5, compiling=20.0),
        }

    short, long = candidates(), candidates()
    assert fastest(monkeypatch, steps=10, **short) == "graph"
    assert not short["xla"].batches
    assert fastest(monkeypatch, steps=100_000, **long) == "xla"


def test_a_model_xla_cannot_compile_is_left_to_the_graph(monkeypatch):
    class Broken:
        def train(self, *_):
            raise NotImplementedError

    graph = Pretended(0.02, 0.1)
    assert "graph" == fastest(
        monkeypatch, graph=graph, xla=Broken(), xla_update=Broken()
    )


def test_it_says_what_it_measured(monkeypatch):
    backend, why = measured(
        monkeypatch,
        graph=Pretended(0.02, 0.1),
        xla=Pretended(0.1, 26.0),
        xla_update=Pretended(0.01, 0.05),
    )
    assert backend == "xla_update"
    assert why == (
        "graph 100 ms a step, xla slower on two examples, "
        "xla_update 50 ms a step"
    )
