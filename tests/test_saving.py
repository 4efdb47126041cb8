"""Files of a search: what is rewound later, and a kill while they are made."""

import os

import keras
import pytest
from small import arrays, compiled, data, fit, mlp, same

import keras_lottery
from keras_lottery import saving


class Save(keras.callbacks.Callback):
    """Saves the model inside `fit`, at a lowered learning rate."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        self.model.optimizer.learning_rate = 0.001
        self.model.save(self.path)


def wrapped(**arguments):
    optimizer = keras.optimizers.Adam(0.1)
    return keras_lottery.wrap(compiled(mlp(), optimizer), **arguments)


def rate(model):
    return float(model.optimizer.learning_rate)


def test_what_a_callback_changed_is_rewound_after_loading(tmp_path):
    path = tmp_path / "m.keras"
    fit(wrapped(), callbacks=[Save(path)])
    model = keras.models.load_model(path)
    assert model.lottery.level == 0 and rate(model) == pytest.approx(0.001)
    fit(model)
    assert model.lottery.level == 1 and rate(model) == pytest.approx(0.1)


def test_an_optimizer_that_was_used_before_goes_back_to_there(tmp_path):
    model = compiled(mlp(), keras.optimizers.Adam(0.1))
    fit(model)
    model = keras_lottery.wrap(model)
    fit(model)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    points = [m.lottery.rewind_point.optimizers for m in (model, loaded)]
    assert same(*(list(p["optimizer"].values()) for p in points))
    for one in (model, loaded):
        fit(one)
        assert int(one.optimizer.iterations) == 4
    assert same(arrays(model), arrays(loaded))


def test_a_rate_that_came_with_the_best_weights_does_not_stay(tmp_path):
    path = tmp_path / "best.weights.h5"
    best = keras.callbacks.ModelCheckpoint(
        path, monitor="loss", save_weights_only=True
    )
    model = wrapped()
    lower = keras.callbacks.LearningRateScheduler(lambda epoch: 0.001)
    fit(model, callbacks=[lower, best])
    model.load_weights(path)
    assert rate(model) == pytest.approx(0.001)
    model.evaluate(*data(), verbose=0)
    seen = []
    begin = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(rate(model))
    )
    fit(model, callbacks=[begin])
    assert seen[0] == pytest.approx(0.1)


def test_a_kill_while_weights_are_saved_leaves_the_file_there_was(
    tmp_path, monkeypatch
):
    path = tmp_path / "m.weights.h5"
    model = wrapped()
    model.save_weights(path)
    before = path.read_bytes()
    fit(model)

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "save_search", killed)
    with pytest.raises(KeyboardInterrupt):
        model.save_weights(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_a_link_to_a_file_of_weights_stays_one(tmp_path):
    place, link = tmp_path / "elsewhere", tmp_path / "m.weights.h5"
    link.symlink_to(place)
    model = wrapped()
    fit(model)
    model.save_weights(link)
    assert link.is_symlink() and place.is_file()
    other = wrapped()
    other.load_weights(link)
    assert other.lottery.level == 1


def test_weights_that_are_there_are_not_replaced_unasked(tmp_path):
    path = tmp_path / "m.weights.h5"
    model = wrapped()
    model.save_weights(path)
    with pytest.raises(ValueError, match="`overwrite` must be True"):
        model.save_weights(path, overwrite=False)


@pytest.mark.parametrize("name", ["none/m.weights.h5", "m.h5"])
def test_where_weights_cannot_be_is_said_by_keras(name, tmp_path):
    with pytest.raises((ValueError, OSError)):
        wrapped().save_weights(tmp_path / name)
