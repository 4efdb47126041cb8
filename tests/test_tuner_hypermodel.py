"""The hypermodel of a search, and its knobs: what is tuned with a model."""

import keras_tuner
import pytest

from keras_lottery.experiments import Experiment
from keras_lottery.tuner.hypermodel import DEFAULT_KNOBS, Knobs


def reference(**changes):
    return Experiment(**{"iterations": 100, **changes})


def test_all_knobs_have_ranges_around_the_experiment_s_values():
    names = (
        "output_rate",
        "scope",
        "rate",
        "rewind_to",
        "learning_rate",
        "warmup",
        "criterion",
        "block_size",
        "rates.Dense",
    )
    hp = keras_tuner.HyperParameters()
    declared = Knobs(names, reference())
    found = declared(hp)
    assert found == {
        "scope": "layerwise",
        "rate": 0.2,
        "output_rate": 0.1,
        "rewind_to": 0,
        "learning_rate": pytest.approx(1.2e-3),
        "warmup": 0,
        "criterion": "magnitude",
        "block_size": "1x1",
        "rates": (("Dense", 0.2),),
    }
    hp.values["lottery/scope"] = "global"
    found = declared(hp)
    # One threshold for all layers.
    assert found["output_rate"] == found["rate"] and "rates" not in found
    reference(**found)


def test_a_global_scope_keeps_what_is_left_alone():
    hp = keras_tuner.HyperParameters()
    hp.values["lottery/scope"] = "global"
    found = Knobs("scope", reference(model="conv_2"))(hp)
    assert found == {"scope": "global", "output_rate": 0.2, "rates": ()}
    experiment = reference(model="conv_2", **found)
    assert not experiment.pruning()["rates"]
    # The shortcuts and the output layer of the deep networks.
    deep = Knobs(("scope", "rate"), reference(model="resnet_18"))
    assert deep(hp) == {"scope": "global", "rate": 0.2}


def test_under_a_global_scope_no_layer_has_a_knob_of_its_own():
    deep = reference(model="resnet_18")
    assert set(Knobs(DEFAULT_KNOBS, deep).ranges) == {"rate", "criterion"}
    for named in (["output_rate"], ["rate", "rates.conv1"]):
        with pytest.raises(ValueError, match="`knobs` must not name"):
            Knobs(named, deep)


def test_ranges_of_one_s_own_and_a_function():
    hp = keras_tuner.HyperParameters()
    ranges = {"batch_size": (16, 64, "log"), "momentum": [0.5, 0.9]}
    found = Knobs(ranges, reference())(hp)
    assert found == {"batch_size": 60, "momentum": 0.5}

    def tune(hp):
        return {"rate": hp.Float("r", 0.4, 0.5)}

    assert Knobs(tune, reference())(hp) == {"rate": 0.4}
