"""What does not fit is refused before a run trains anything."""

import keras
import numpy as np
import pytest

from keras_lottery.datasets import Arrays
from keras_lottery.experiments import Experiment


def data(change=lambda y: y, x=None):
    draw = np.random.default_rng(0)
    if x is None:
        x = draw.normal(size=(90, 6)).astype("float32")
    y = change(np.arange(90) % 3)
    return Arrays((x[:60], y[:60]), (x[60:], y[60:]), 20)


def builder(outputs=3, loss=None, inputs=6):
    def build():
        model = keras.Sequential(
            [
                keras.Input((inputs,)),
                keras.layers.Dense(4, "relu"),
                keras.layers.Dense(outputs),
            ]
        )
        if loss is not None:
            model.compile("adam", loss)
        return model

    return build


def two_outputs():
    x = keras.Input((6,))
    return keras.Model(x, [keras.layers.Dense(3)(x), keras.layers.Dense(3)(x)])


def run(directory, dataset, model):
    experiment = Experiment(
        dataset,
        model=model,
        rounds=1,
        iterations=4,
        arms=("ticket",),
        batch_size=10,
    )
    return experiment.run(directory)


def with_label(label):
    def change(y):
        y[7] = label
        return y

    return change


def sparse(**options):
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, **options
    )


@pytest.mark.parametrize(
    "dataset, model, message",
    [
        (data(lambda y: y / 3), builder(1), "must come compiled.*None, 1"),
        (data(lambda y: y / 3), builder(3), "targets that are no integers"),
        (data(lambda y: np.eye(3)[y]), builder(3), "must come compiled.*3\\)"),
        (data(), two_outputs, "must come compiled.*2 outputs"),
        (data(lambda y: y + 1), builder(3), r"in \[0, 3\).*from 1 to 3"),
        (data(with_label(-1)), builder(3), r"in \[0, 3\).*from -1 to 2"),
        (data(with_label(7)), builder(3, sparse()), "label value of 7"),
        ("digits", lambda: digits_model(9), r"in \[0, 9\).*from 0 to 9"),
        (data(), builder(3, inputs=5), "evaluated on the examples.*value 5"),
        (data(x=np.full((90, 6), "a")), builder(3), "x of str.*Cast string"),
        (data(), builder(3, lambda y, p: p[0, 0] / 0 * 0), "is NaN.*0 to 2"),
    ],
)
def test_what_does_not_fit_is_refused(dataset, model, message, tmp_path):
    for _ in range(2):  # The second time as the first.
        with pytest.raises(ValueError, match=message) as told:
            run(tmp_path, dataset, model)
        assert "\n" not in str(told.value)
    assert not (tmp_path / "results.csv").exists()


def digits_model(outputs):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(outputs),
        ]
    )


@pytest.mark.parametrize(
    "dataset, model",
    [
        (data(lambda y: y[:, None]), builder(3)),
        (data(lambda y: y.astype("float32")), builder(3)),
        pytest.param(
            data(lambda y: y / 3), builder(1, "mse"), marks=pytest.mark.slow
        ),
        (data(with_label(-1)), builder(3, sparse(ignore_class=-1))),
    ],
)
def test_what_fits_is_trained(dataset, model, tmp_path):
    assert len(run(tmp_path, dataset, model)) == 2
