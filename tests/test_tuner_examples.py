"""Examples of the tuner: what `search` is given."""

import numpy as np
import pytest

from keras_lottery.datasets import Arrays
from keras_lottery.experiments.run import Run
from keras_lottery.tuner import examples


def data(count=120, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 6)).astype("float32")
    return x, np.argmax(x[:, :3], axis=1)


def test_examples_as_keras_fit_takes_them():
    x, y = data()
    held = data(30, 1)
    split = examples.fit_arrays(x, y, validation_data=held).split(5)
    assert np.array_equal(split.train[0], x) and split.classes == 3
    assert np.array_equal(split.validation[1], held[1])
    assert np.array_equal(split.test[0], held[0])
    split = examples.fit_arrays(x, y, validation_split=0.25).split(0)
    assert np.array_equal(split.validation[0], x[90:])
    drawn = examples.fit_arrays(x, y, seed=1).split(0)
    assert len(drawn.validation[1]) == 12
    assert not np.array_equal(drawn.validation[0], x[-12:])
    assert examples.fit_arrays(
        x, y, validation_split=0.25
    ) == examples.fit_arrays(x[:90], y[:90], validation_data=(x[90:], y[90:]))
    assert examples.fit_arrays(x, y, seed=1) != examples.fit_arrays(
        x, y, seed=2
    )


def test_a_placeholder_has_the_shape_of_structures(tmp_path):
    x = {"a": np.zeros((9, 4, 2), "uint8"), "b": [np.zeros((9, 3))]}
    pair = Arrays((x, np.zeros(9)), (x, np.zeros(9)))
    project = Run(tmp_path / "project")
    examples.claim(project, pair, pair.split(0))
    placeholder = examples.placeholder(project)
    assert placeholder.input_shape == {"a": (4, 2), "b": [(3,)]}
    assert placeholder.train[0]["a"].dtype == "uint8"
    assert placeholder.classes is None
    assert examples.placeholder(Run(tmp_path / "other")) is None


def test_a_placeholder_standardises_as_the_examples_do(tmp_path):
    draw = np.random.default_rng(0)
    x = draw.uniform(1, 3, (20, 4, 4, 2)).astype("float32")
    pair = Arrays((x, np.zeros(20)), (x, np.zeros(20)), 5)
    data, project = pair.split(0), Run(tmp_path)
    examples.claim(project, pair, data)
    with pytest.raises(ValueError, match="call `search` with them first"):
        examples.placeholder(project).channel_statistics()
    examples.claim(project, pair, data, standardize=True)
    found = examples.placeholder(project).channel_statistics()
    assert found == data.channel_statistics()
