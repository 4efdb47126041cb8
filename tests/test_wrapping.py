"""wrap / unwrap: the model is the same object, before, between and after."""

import io

import keras
import numpy as np
import pytest
from small import arrays, compiled, data, fit, mlp, same

import keras_lottery
from keras_lottery.constraints import TicketMask
from keras_lottery.wrapping import LotteryModel


def wrap(model, **kwargs):
    return keras_lottery.wrap(model, **{"rate": 0.5, **kwargs})


class Own(keras.Model):
    """A model with a train_step, a fit and methods of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(6, name="hidden")
        self.head = keras.layers.Dense(3, name="head")
        self.calls = []

    def call(self, x):
        return self.head(self.hidden(x))

    def train_step(self, data):
        self.calls.append("train_step")
        return super().train_step(data)

    def fit(self, x, y, **kwargs):
        self.calls.append("fit")
        return super().fit(x, y, **kwargs)

    def greet(self):
        return "hello"


keras.saving.register_keras_serializable("tests")(Own)


def summary(model):
    lines = io.StringIO()
    model.summary(print_fn=lambda line: lines.write(line + "\n"))
    return lines.getvalue()


def facts(model):
    return {
        "layers": [id(layer) for layer in model.layers],
        "weights": [id(w) for w in model.weights],
        "trainable": [id(w) for w in model.trainable_weights],
        "non": [id(w) for w in model.non_trainable_weights],
        "variables": [id(v) for v in model.variables],
        "count": model.count_params(),
        "name": model.name,
        "summary": summary(model),
        "losses": len(model.losses),
        "metrics": [m.name for m in model.metrics],
    }


def test_identity():
    model = compiled(mlp(), metrics=["accuracy"])
    before, weights, own = facts(model), arrays(model), type(model)
    x, y = data()
    said = model.predict(x, verbose=0)
    scores = model.evaluate(x, y, verbose=0)
    got = wrap(model)
    assert got is model and isinstance(model, own)
    assert isinstance(model, keras.Sequential) and isinstance(
        model, LotteryModel
    )
    assert facts(model) == before
    assert same(arrays(model), weights)
    np.testing.assert_array_equal(model.predict(x, verbose=0), said)
    assert model.evaluate(x, y, verbose=0) == scores
    model.set_weights(weights)
    model.lottery.prune()
    assert facts(model) == before


def test_classes_are_made_once_and_keep_their_names():
    one, other = wrap(mlp()), wrap(mlp())
    assert type(one) is type(other)
    assert type(wrap(Own())).__name__ == "Own of keras_lottery"


def test_own_methods_are_kept():
    model = compiled(wrap(Own()))
    assert model.greet() == "hello" and isinstance(model, Own)
    x, y = data()
    model.fit(x, y=y, verbose=0)  # Unbuilt until now.
    assert model.calls[0] == "fit" and "train_step" in model.calls
    assert model.lottery.level == 1 and len(model.lottery.masks) == 2
    keras_lottery.unwrap(model)
    assert type(model) is Own and model.greet() == "hello"


def test_functional_models_stay_functional():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6, name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    own = type(model)
    wrap(model)
    assert isinstance(model, own)
    features = keras.Model(model.inputs, model.get_layer("hidden").output)
    assert type(features) is own
    assert features.predict(data()[0], verbose=0).shape == (16, 6)
    clone = keras.models.clone_model(model)
    assert type(clone) is own and not hasattr(clone, "lottery")
    fit(compiled(clone))


def test_fit_without_compile_gives_keras_own_error():
    with pytest.raises(ValueError) as plain:
        fit(mlp())
    with pytest.raises(ValueError) as ours:
        fit(wrap(mlp()))
    assert str(ours.value) == str(plain.value)
    assert not hasattr(ours.value, "__notes__")


def test_callbacks_however_they_are_given():
    seen = []

    def spy():
        return keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs: seen.append(1)
        )

    model = compiled(wrap(mlp()))
    x, y = data()
    given = [spy(), spy()]
    model.fit(x, y, 8, 1, 0, given)  # By position.
    assert len(seen) == 2 and len(given) == 2
    model.fit(x, y, verbose=0, callbacks=spy())
    group = keras.callbacks.CallbackList(
        [spy()], add_history=True, model=model, epochs=1, steps=1
    )
    for _ in range(2):
        model.fit(x, y, verbose=0, callbacks=group)
    assert len(seen) == 5 and model.lottery.level == 4
    assert len(group.callbacks) == 3  # The spy, History, and one of ours.


def test_recompile_between_rounds():
    model = compiled(wrap(mlp()), keras.optimizers.SGD(0.1, momentum=0.9))
    first = model.optimizer
    fit(model)
    compiled(model, keras.optimizers.Adam(0.1))
    fit(model)
    assert model.lottery.level == 2 and len(model.lottery.levels) == 2
    level = model.lottery.levels[1]
    for path, mask in level.masks.items():
        assert not level.trained_weights[path][~mask].any()
    # Adam is at its beginning again, and SGD is free.
    assert int(model.optimizer.iterations) == 0
    assert not any(np.any(v) for v in model.optimizer.variables[2:])
    assert "apply" not in vars(first)


def test_wrap_after_a_fit():
    """What was trained before is where the search begins."""
    model = compiled(mlp(), keras.optimizers.Adam(0.1))
    fit(model)
    start = arrays(model)
    state = [np.array(v) for v in model.optimizer.variables]
    wrap(model)
    fit(model)
    # The train function of before did not survive to ignore the masks.
    masks = list(model.lottery.masks.values())
    assert same(
        arrays(model)[:1], [np.where(masks[0], start[0], np.float32(0))]
    )
    assert int(model.optimizer.iterations) == int(state[0]) == 4
    fit(model)
    level = model.lottery.levels[1]
    for path, mask in level.masks.items():
        assert not level.trained_weights[path][~mask].any()


def members(model):
    return {
        "model": set(vars(model)),
        "class": type(model),
        "optimizer": set(vars(model.optimizer)),
        "layers": [set(vars(layer)) for layer in model.layers],
        "constraints": [w.constraint for w in model.weights],
        "facts": facts(model),
    }


def test_unwrap_leaves_nothing(tmp_path):
    model = compiled(mlp())
    fit(model)
    before = members(model)
    wrap(model)
    fit(model)
    masks = list(model.lottery.masks.values())
    now = arrays(model)
    assert keras_lottery.unwrap(model) is model
    after = members(model)
    # Those that Keras itself adds when it compiles again are its own.
    assert after == before
    assert not isinstance(model, LotteryModel)
    assert same(arrays(model), now) and not now[0][~masks[0]].any()
    # It trains as any model: zeros come to life again.
    fit(model)
    assert arrays(model)[0][~masks[0]].any()
    model.save(tmp_path / "m.keras")
    assert (
        type(keras.models.load_model(tmp_path / "m.keras")) is keras.Sequential
    )
    assert "lottery" not in str(model.get_config())
    # And may be wrapped again.
    wrap(model)
    assert model.lottery.level == 0 and model.lottery.density == 1.0


def test_unwrap_what_was_never_trained():
    for model in (mlp(), Own()):
        own, members = type(model), set(vars(model))
        keras_lottery.unwrap(wrap(model))
        assert type(model) is own and set(vars(model)) == members


def test_users_constraint_is_kept_and_given_back():
    class Recorded(keras.constraints.NonNeg):
        pass

    constraint = Recorded()
    layer = keras.layers.Dense(6, kernel_constraint=constraint, name="hidden")
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(3)])
    layer.kernel.assign(np.abs(layer.kernel.numpy()))
    compiled(wrap(model), keras.optimizers.SGD(1.0))
    assert isinstance(layer.kernel.constraint, TicketMask)
    assert layer.kernel.constraint.constraint is constraint
    for _ in range(2):
        fit(model)
    for level in model.lottery.levels:
        kernel = level.trained_weights[layer.kernel.path]
        assert (kernel >= 0).all() and (kernel > 0).any()
    keras_lottery.unwrap(model)
    assert layer.kernel.constraint is constraint


@pytest.mark.parametrize("kind", ["sequential", "subclassed"])
def test_saved_and_loaded_it_still_holds_its_masks(tmp_path, kind):
    model = mlp() if kind == "sequential" else Own()
    compiled(wrap(model, rounds=3, seed=np.int64(2)), keras.optimizers.SGD(0.1))
    fit(model)
    model.save(tmp_path / "m.keras")
    back = keras.models.load_model(tmp_path / "m.keras")
    assert type(back) is type(model)
    assert isinstance(back, LotteryModel) and back.lottery.level == 1
    assert back.lottery.rounds == 3 and back.lottery.seed == 2
    assert same(arrays(back), arrays(model))
    masks = list(model.lottery.masks.values())
    assert same(list(back.lottery.masks.values()), masks)
    for m in (model, back):
        fit(m)
    assert same(arrays(back), arrays(model)) and back.lottery.level == 2
    assert same(
        list(back.lottery.masks.values()), list(model.lottery.masks.values())
    )


def test_rate_0_and_left_alone_survive_the_file(tmp_path):
    model = wrap(mlp(), rate=0, rates={"head": 0}, masks=None)
    model.save(tmp_path / "m.keras")
    back = keras.models.load_model(tmp_path / "m.keras")
    (path,) = back.lottery.masks
    assert path.endswith("hidden/kernel")
    back.lottery.prune()
    assert back.lottery.density == 1.0


@pytest.mark.parametrize("arguments, rate", [({}, 0.25), ({"rate": 0.5}, 0.5)])
def test_a_ticket_is_applied_with_another_rate(arguments, rate):
    found = wrap(compiled(mlp()), rate=0.25, rates={"head": 0.0})
    fit(found)
    model = found.lottery.ticket().apply(compiled(mlp()), **arguments)
    assert model.lottery.level == 1 and model.lottery.density == 18 / 24
    model.lottery.prune()
    # What was left alone still is, and has no mask.
    (density,) = model.lottery.densities().values()
    assert density == (18 - round(rate * 18)) / 24


def test_a_ticket_without_arguments_is_applied_with_the_defaults():
    found = wrap(compiled(mlp()))
    plain = keras_lottery.Ticket(
        found.lottery.masks, found.lottery.rewind_point
    )
    assert plain.apply(compiled(mlp())).lottery.rate == 0.2


def test_unwrap_is_refused_while_weights_are_lent():
    model = wrap(compiled(mlp()))
    fit(model)
    with model.lottery.trained():
        with pytest.raises(ValueError, match="`unwrap` must not be called"):
            keras_lottery.unwrap(model)
    keras_lottery.unwrap(model)


def test_a_table_keeps_the_rate_that_it_needs():
    def network():
        layers = keras.layers
        inputs = keras.Input((3,), dtype="int32")
        x = layers.Flatten()(layers.Embedding(9, 4, name="table")(inputs))
        return compiled(keras.Model(inputs, layers.Dense(3, name="head")(x)))

    found = wrap(network(), rate=0.25, rates={keras.layers.Embedding: 0.25})
    model = found.lottery.ticket().apply(network(), rate=0.5)
    model.lottery.prune()
    assert model.lottery.densities()["table/embeddings"] == 0.75
