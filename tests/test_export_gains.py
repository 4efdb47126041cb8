"""The report of what was gained: every number is measured."""

import exports
import keras
import numpy as np
import pytest
import small

from keras_lottery import wrap
from keras_lottery.export import gains as gains_module
from keras_lottery.export import measure_gains, measure_width_gains, serving

FORMS = ["dense", "masked", "compacted", "dense_litert", "litert", "int8"]


def network():
    return keras.Sequential(
        [
            keras.Input((6,), name="features"),
            keras.layers.Dense(32, "relu", name="hidden"),
            keras.layers.Dense(3, name="classes"),
        ]
    )


@pytest.fixture(scope="module")
def measured():
    """A model with 24 of 32 units dead, its twin, and what they gain."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)).astype("float32")
    y = np.argmax(x[:, :3], axis=1)
    dense = network()
    dense.compile(
        keras.optimizers.Adam(0.03),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    dense.fit(x, y, epochs=8, verbose=0)
    mask = np.zeros((6, 32), bool)
    mask[:, :8] = True
    model = network()
    model.set_weights(dense.get_weights())
    wrap(model, masks={model.layers[0].kernel.path: mask})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "verify_saved_model", exports.verify_here)
        gains = measure_gains(
            model,
            (x[:90], y[:90]),
            dense=dense,
            representative=x[90:],
            batch_sizes=(1, 8),
        )
    return dense, model, (x[:90], y[:90]), gains


def test_every_form_is_measured(measured):
    dense, model, (x, y), gains = measured
    assert [gain.form for gain in gains] == FORMS
    for gain in gains:
        assert 0 < gain.compressed_bytes <= gain.bytes
        assert list(gain.seconds) == [1, 8]
        assert all(0 < seconds < 10 for seconds in gain.seconds.values())
    by_form = {gain.form: gain for gain in gains}
    for form, net in (("dense", dense), ("masked", model)):
        right = np.argmax(net.predict(x, verbose=0), -1) == y
        assert by_form[form].accuracy == pytest.approx(right.mean())
    for form in ("compacted", "litert"):
        assert by_form[form].accuracy == by_form["masked"].accuracy
    # Two for each weight of a kernel, and the biases and activations.
    kernels = {"dense": 6 * 32 + 32 * 3, "compacted": 6 * 8 + 8 * 3}
    for form, weights in kernels.items():
        assert 0 <= by_form[form].flops - 2 * weights < 100
    assert by_form["compacted"].parameters == 6 * 8 + 8 + 8 * 3 + 3
    assert by_form["int8"].bytes < by_form["masked"].bytes
    assert by_form["compacted"].note == "units removed: hidden 24"


def test_as_a_table_and_as_a_frame(measured, tmp_path):
    *_, gains = measured
    lines = gains.table().splitlines()
    assert "batch 8" in lines[0] and len(lines) == 1 + len(FORMS)
    assert [line.split()[0] for line in lines[1:]] == FORMS
    assert lines[3].endswith("  units removed: hidden 24")
    starts = {line.find("  units") for line in lines if "units" in line}
    assert len(starts) == 1 and all(line == line.rstrip() for line in lines)
    gains.to_csv(str(tmp_path / "new" / "gains.csv"))
    text = (tmp_path / "new" / "gains.csv").read_text()
    assert text.startswith("form,bytes,") and text.count("\n") == 7
    frame = gains.to_pandas()
    assert list(frame["form"]) == FORMS
    assert frame["milliseconds_at_8"][1] == 1e3 * gains[1].seconds[8]


def test_wrong_batch_sizes_are_refused(measured):
    _, model, test, _ = measured
    with pytest.raises(ValueError, match="`batch_sizes` must be an integer"):
        measure_gains(model, test, batch_sizes=(0,))


def test_a_wide_network_is_trained_and_measured(monkeypatch):
    given = []

    def measure(model, test, *, dense, representative, batch_sizes):
        assert batch_sizes == (1, 32, 256)
        given.extend([model, dense, representative])
        return gains_module.Gains()

    monkeypatch.setattr(gains_module, "measure_gains", measure)
    gains = measure_width_gains(8, rounds=1, rate=0.5, verbose=0)
    model, dense, representative = given
    assert gains.title == f"{model.lottery.density:.2%} of the prunable weights"
    assert 0.5 < model.lottery.density < 0.54
    assert len(representative) == 256 and dense.layers[1].kernel.shape[1] == 8
    with model.lottery.trained(0):
        assert small.same(small.arrays(model), small.arrays(dense))


def test_a_single_score_is_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    test = np.zeros((4, 3)), np.zeros(4)
    with pytest.raises(ValueError, match="`model` must have a score for each"):
        measure_gains(model, test)
