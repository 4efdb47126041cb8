"""Wrong calls: refused where they are given, in Keras' words, untrained."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import arrays, compiled, data, mlp, same

import keras_lottery
from keras_lottery import LotteryTicketPruner, RewindPoint, Ticket, schedules

wrap = keras_lottery.wrap


def path(model, index=0):
    return model.layers[index].kernel.path


def frozen():
    model = mlp()
    model.trainable = False
    return model


def flat():
    return keras.Sequential([keras.Input((4,)), keras.layers.Flatten()])


def only_embedding():
    layers = [keras.layers.Embedding(5, 3), keras.layers.LayerNormalization()]
    return keras.Sequential([keras.Input((4,), dtype="int32"), *layers])


def ticket():
    return wrap(mlp(), rate=0.5).lottery.ticket()


def once(model):
    wrap(model)
    return model


def torch_like():
    """An object of a class that says it is torch's."""
    return type("Linear", (), {"__module__": "torch.nn.modules.linear"})()


def tf_keras_like():
    return type("Sequential", (), {"__module__": "tf_keras.src.engine"})()


# name: (what is called with a fresh model, what the message holds)
ARGUMENTS = {
    "rate=1": (
        lambda m: wrap(m, rate=1),
        "`rate` must be in [0, 1). Received: rate=1",
    ),
    "rate=1.2": (lambda m: wrap(m, rate=1.2), "rate=1.2"),
    "rate=-0.1": (lambda m: wrap(m, rate=-0.1), "rate=-0.1"),
    "rate=nan": (lambda m: wrap(m, rate=float("nan")), "rate=nan"),
    "rate=None": (lambda m: wrap(m, rate=None), "`rate` must"),
    "rate=True": (lambda m: wrap(m, rate=True), "`rate` must"),
    "rate='20%'": (lambda m: wrap(m, rate="20%"), "rate='20%'"),
    "rate=array": (lambda m: wrap(m, rate=np.ones(2)), "`rate` must"),
    "rate=class": (lambda m: wrap(m, rate=schedules.Constant), "`rate` must"),
    "output_rate=2": (lambda m: wrap(m, output_rate=2), "`output_rate` "),
    "output_rate='a'": (lambda m: wrap(m, output_rate="a"), "`output_rate` "),
    "output_rate global": (
        lambda m: wrap(m, output_rate=0.1, scope="global"), "output_rate="
    ),
    "rates=list": (lambda m: wrap(m, rates=[0.1]), "`rates` must be a dict"),
    "rates=0.1": (lambda m: wrap(m, rates=0.1), "`rates` must be a dict"),
    "rates value": (lambda m: wrap(m, rates={"head": 3}), "`rates['head']`"),
    "rates key int": (lambda m: wrap(m, rates={0: 0.1}), "key of `rates`"),
    "rates key None": (lambda m: wrap(m, rates={None: 0.1}), "key of `rates`"),
    "rates key class": (lambda m: wrap(m, rates={int: 0.1}), "key of `rates`"),
    "rates regex": (lambda m: wrap(m, rates={"(": 0.1}), "regular expression"),
    "rates no match": (
        lambda m: wrap(m, rates={"conv": 0.1}), "`rates` must name layers"
    ),
    "rates global": (
        lambda m: wrap(m, rates={"head": 0.1}, scope="global"), "head="
    ),
    "rates leave nothing": (
        lambda m: wrap(m, rates={keras.layers.Dense: 0}), "something to prune"
    ),
    "scope": (lambda m: wrap(m, scope="Global"), "scope='Global'"),
    "scope=None": (lambda m: wrap(m, scope=None), "`scope` must"),
    "criterion": (lambda m: wrap(m, criterion="l1"), "criterion='l1'"),
    "criterion=None": (lambda m: wrap(m, criterion=None), "`criterion` must"),
    "rewind_to=-1": (lambda m: wrap(m, rewind_to=-1), "rewind_to=-1"),
    "rewind_to=0.5": (lambda m: wrap(m, rewind_to=0.5), "rewind_to=0.5"),
    "rewind_to=str": (lambda m: wrap(m, rewind_to="lr"), '"learning_rate"'),
    "rewind_to=True": (lambda m: wrap(m, rewind_to=True), "rewind_to=True"),
    "rewind_to=array": (
        lambda m: wrap(m, rewind_to=np.ones(2)), "`rewind_to` must"
    ),
    "rounds=-1": (lambda m: wrap(m, rounds=-1), "rounds=-1"),
    "rounds=1.0": (lambda m: wrap(m, rounds=1.0), "rounds=1.0"),
    "rounds=True": (lambda m: wrap(m, rounds=True), "rounds=True"),
    "seed=-1": (lambda m: wrap(m, seed=-1), "seed=-1"),
    "seed='a'": (lambda m: wrap(m, seed="a"), "seed='a'"),
    "masks='ones'": (lambda m: wrap(m, masks="ones"), "masks='ones'"),
    "masks=array": (lambda m: wrap(m, masks=np.ones(2)), "`masks` must"),
    "masks=list": (lambda m: wrap(m, masks=[]), "masks=[]"),
    "masks path": (
        lambda m: wrap(m, masks={"nowhere": np.ones((4, 6), bool)}), "'nowhere'"
    ),
    "masks bias": (
        lambda m: wrap(m, masks={m.layers[0].bias.path: np.ones(6, bool)}),
        "`masks` must name prunable weights",
    ),
    "masks shape": (
        lambda m: wrap(m, masks={path(m): np.ones((6, 4), bool)}),
        "must have shape (4, 6). Received: shape=(6, 4)",
    ),
    "masks dtype": (
        lambda m: wrap(m, masks={path(m): np.ones((4, 6))}),
        "must be a boolean array. Received: dtype=float64",
    ),
    "wrapped twice": (lambda m: wrap(once(m)), "must not be wrapped already"),
    "pruner of a wrapped": (
        lambda m: LotteryTicketPruner(once(m)), "must not be wrapped already"
    ),
    "pruner twice": (
        lambda m: (LotteryTicketPruner(m), LotteryTicketPruner(m)),
        "must not be wrapped already",
    ),
    "wrap around a wrapped": (
        lambda m: wrap(keras.Sequential([keras.Input((4,)), once(m)])),
        "must not be wrapped already",
    ),
    "unwrap plain": (keras_lottery.unwrap, "`keras_lottery.wrap` returned"),
    "find without rounds": (
        lambda m: wrap(m).lottery.find(*data()), "rounds=None"
    ),
    "find rounds=-1": (
        lambda m: wrap(m).lottery.find(*data(), rounds=-1), "rounds=-1"
    ),
    "find rounds=2.0": (
        lambda m: wrap(m).lottery.find(*data(), rounds=2.0), "rounds=2.0"
    ),
    "trained": (
        lambda m: wrap(m).lottery.trained().__enter__(), "level=-1"
    ),
    "trained(3)": (
        lambda m: wrap(m).lottery.trained(3).__enter__(), "level=3"
    ),
    "ticket(3)": (lambda m: wrap(m).lottery.ticket(3), "level=3"),
    "ticket('a')": (lambda m: wrap(m).lottery.ticket("a"), "level='a'"),
    "wrap_optimizer('adam')": (
        lambda m: wrap(m).lottery.wrap_optimizer("adam"), "optimizer='adam'"
    ),
    "wrap_optimizer(None)": (
        lambda m: wrap(m).lottery.wrap_optimizer(None), "optimizer=None"
    ),
    "ToDensity(0)": (lambda m: schedules.ToDensity(0, 3), "density=0"),
    "ToDensity(1.5)": (lambda m: schedules.ToDensity(1.5, 3), "density=1.5"),
    "ToDensity('a')": (lambda m: schedules.ToDensity("a", 3), "density"),
    "ToDensity rounds": (lambda m: schedules.ToDensity(0.1, 0), "rounds=0"),
    "Constant(1)": (lambda m: schedules.Constant(1), "rate=1"),
    "one_shot(0)": (lambda m: schedules.one_shot(0), "density=0"),
    "apply wrapped": (lambda m: ticket().apply(once(m)), "wrapped already"),
    "apply rate": (lambda m: ticket().apply(m, rate=2), "rate=2"),
    "apply names": (
        lambda m: ticket().apply(m, names={"x": "y"}), "`names` must map"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_arguments(name):
    call, expected = ARGUMENTS[name]
    model = compiled(mlp())
    before = arrays(model)
    with pytest.raises(ValueError) as caught:
        call(model)
    message = str(caught.value)
    assert expected in message
    assert "must" in message and "Received: " in message
    assert same(before, arrays(model)), "it trained or pruned"
    assert not model.optimizer.built and not hasattr(model, "history")


OBJECTS = {
    "None": (lambda: None, "not a model"),
    "a function": (lambda: len, "not a model"),
    "a class": (lambda: keras.Sequential, "not a model"),
    "a path": (lambda: "m.keras", "not a model"),
    "an array": (lambda: np.ones(3), "not a model"),
    "a layer": (lambda: keras.layers.Dense(3), "a Keras layer, not a model"),
    "an optimizer": (lambda: keras.optimizers.SGD(), "a Keras object, not a"),
    "tf.Module": (tf.Module, "a TensorFlow object"),
    "torch": (torch_like, "a PyTorch module"),
    "tf_keras": (tf_keras_like, "a tf_keras (Keras 2) model"),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_no_keras_3_model_is_called_by_its_name(name):
    make, flavour = OBJECTS[name]
    thing = make()
    for call in (wrap, LotteryTicketPruner, ticket().apply):
        with pytest.raises(ValueError) as caught:
            call(thing)
        message = str(caught.value)
        assert message.startswith("`model` must be a Keras 3 model")
        assert f"Received: {flavour}" in message
        assert type(thing).__name__ in message


@pytest.mark.parametrize("make", [frozen, flat, only_embedding])
def test_models_with_nothing_to_prune(make):
    model = make()
    own = type(model)
    for call in (wrap, LotteryTicketPruner):
        with pytest.raises(ValueError) as caught:
            call(model)
        assert "must have something to prune" in str(caught.value)
        assert f"Received: model={model.name!r}" in str(caught.value)
    assert type(model) is own and not hasattr(model, "lottery")


def test_nothing_to_prune_in_a_model_that_is_built_by_fit():
    model = wrap(
        keras.Sequential([keras.layers.Flatten(), keras.layers.ReLU()])
    )
    model.compile("sgd", "mse")
    x, _ = data()
    with pytest.raises(ValueError, match="must have something to prune"):
        model.fit(x, x, verbose=0)


TF_KERAS = """
import keras_lottery, tf_keras
made = {
    "model": tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,))]),
    "layer": tf_keras.layers.Dense(2),
}
for name, thing in made.items():
    try:
        keras_lottery.wrap(thing)
    except ValueError as error:
        print(name, error)
import keras
try:
    keras_lottery.LotteryTicketPruner(
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    ).wrap_optimizer(tf_keras.optimizers.Adam())
except ValueError as error:
    print("optimizer", error)
"""


@pytest.mark.slow
def test_real_tf_keras():
    # In a process of its own: it prints and registers much.
    done = subprocess.run(
        [sys.executable, "-c", TF_KERAS], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = dict(
        line.split(" ", 1) for line in done.stdout.splitlines() if " `" in line
    )
    assert "a tf_keras (Keras 2) model" in lines["model"]
    assert "tf_keras" in lines["layer"]
    assert "must be a Keras 3 optimizer" in lines["optimizer"]


def test_files_that_are_not_there():
    with pytest.raises(FileNotFoundError):
        Ticket.load("/nowhere/t.ticket")
    with pytest.raises(OSError):
        ticket().save("/proc/nowhere/t.ticket")


def test_an_argument_that_does_not_exist():
    model = mlp()
    with pytest.raises(
        TypeError, match=r"`wrap` takes no argument `sparsity`. It takes \['ra"
    ):
        wrap(model, sparsity=0.5)
    assert not hasattr(model, "lottery")
    with pytest.raises(TypeError, match="Did you mean `rates`"):
        wrap(model, ratess={})


def test_a_model_that_failed_once_may_be_wrapped_rightly():
    model = compiled(mlp())
    for wrong in (
        {"rate": 2},
        {"masks": {"nowhere": None}},
        {"rates": {"q": 0}},
    ):
        with pytest.raises(ValueError):
            wrap(model, **wrong)
    assert type(model) is keras.Sequential
    assert model.layers[0].kernel.constraint is None
    assert wrap(model).lottery.density == 1.0
    assert isinstance(model.lottery.rewind_point, RewindPoint)
