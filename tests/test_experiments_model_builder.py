"""What a model that a function builds is identified by, and what is refused."""

import keras
import numpy as np
import pytest

import keras_lottery
from keras_lottery.datasets import Arrays
from keras_lottery.experiments import Experiment
from keras_lottery.experiments.model_builder import fingerprint
from keras_lottery.keras_internals import names_from_the_first


def network(units=8, rate=0.1, loss="mse", seed=0):
    keras.utils.set_random_seed(seed)
    with names_from_the_first():
        layers = [keras.layers.Dense(units, "relu"), keras.layers.Dense(3)]
        model = keras.Sequential([keras.Input((6,)), *layers])
        model.compile(keras.optimizers.SGD(rate), loss)
    return model


def test_a_fingerprint_is_the_same_for_other_weights():
    found, other = network(seed=0), network(seed=1)
    assert not np.array_equal(found.get_weights()[0], other.get_weights()[0])
    assert len(fingerprint(found)) == 32
    assert fingerprint(found) == fingerprint(other)


@pytest.mark.parametrize(
    "change", [{"units": 9}, {"rate": 0.2}, {"loss": "mae"}], ids=str
)
def test_a_fingerprint_is_of_layers_optimizer_and_loss(change):
    assert fingerprint(network()) != fingerprint(network(**change))


def test_how_a_model_is_pruned_is_not_in_its_fingerprint():
    found = keras_lottery.wrap(network(), rate=0.2)
    other = keras_lottery.wrap(network(), rate=0.5, criterion="movement")
    assert fingerprint(found) == fingerprint(other)
    faster = keras_lottery.wrap(network(rate=0.2), rate=0.2)
    assert fingerprint(found) != fingerprint(faster)


def doubled():
    class Own(keras.Model):
        def call(self, x):
            return 2 * x

    with names_from_the_first():
        return Own()


def tripled():
    class Own(keras.Model):
        def call(self, x):
            return 3 * x

    with names_from_the_first():
        return Own()


def test_a_class_of_one_s_own_is_identified_by_its_source():
    assert fingerprint(doubled()) == fingerprint(doubled())
    assert fingerprint(doubled()) != fingerprint(tripled())


# What does not fit is refused before a run trains anything.


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
