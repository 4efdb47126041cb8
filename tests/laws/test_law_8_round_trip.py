"""Law 8, round trip: saving and loading loses no bit."""

import copy
import itertools
import pickle

import keras
import numpy as np
import pytest
import zoo
import zoo_steps
from small import some

import keras_lottery

SAVED = [
    "sequential",
    "own_call",
    "own_train_step",
    "nested",
    "dicts",
    "normalised",
    "attention",
    "embedding",
    "own_layer",
    "constrained",
]


def assert_same_search(model, loaded):
    """All that a search consists of."""
    a, b = model.lottery, loaded.lottery
    assert a.level == b.level
    assert zoo.same(list(a.masks.values()), list(b.masks.values()))
    points = a.rewind_point, b.rewind_point
    assert zoo.same(*(list(p.weights.values()) for p in points))
    optimizers = [
        {n: list(s.values()) for n, s in p.optimizers.items()} for p in points
    ]
    assert zoo.same(*optimizers)
    assert points[0].step == points[1].step
    assert zoo.same(zoo.weights(model), zoo.weights(loaded))


def assert_goes_on_alike(model, loaded, kind):
    recorders = zoo.Recorder(), zoo.Recorder()
    for one, recorder in zip((model, loaded), recorders):
        keras.utils.set_random_seed(9)
        zoo.fit(one, kind, callbacks=[recorder], **zoo.SAME_ORDER)
        assert not recorder.violations
    assert zoo.same(recorders[0].ends, recorders[1].ends)
    a, b = (list(m.lottery.masks.values()) for m in (model, loaded))
    assert zoo.same(a, b)


@pytest.mark.parametrize(
    "kind",
    some(SAVED, "unbuilt_sequential", "own_train_step", "shared", "embedding"),
)
def test_a_model_between_rounds(kind, tmp_path):
    model = zoo.compiled(kind, wrap={"rate": 0.3})
    zoo.fit(model, kind)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert isinstance(loaded, type(zoo.build(kind)))
    assert_same_search(model, loaded)
    assert zoo.same(zoo.optimizer_states(model), zoo.optimizer_states(loaded))
    x, _ = zoo.data(kind)
    outputs = [keras.tree.flatten(one(x)) for one in (model, loaded)]
    assert zoo.same(*outputs)
    assert_goes_on_alike(model, loaded, kind)


@pytest.mark.parametrize(
    "name, rewind_to",
    some(
        itertools.product(
            zoo.available("Adam", "LossScaleOptimizer", "MultiOptimizer"),
            [0, 3],
        ),
        ("Adam", 3),
        ("MultiOptimizer", 0),
    ),
)
def test_a_model_amid_a_level(name, rewind_to, tmp_path):
    """Saved while its weights and slots are trained, not rewound."""
    if name == "MultiOptimizer":
        kinds = keras.optimizers.OptimizerMap(keras.optimizers.Adam(0.02))
        kinds[".*bias"] = keras.optimizers.SGD(0.1, momentum=0.9)
        optimizer = keras.optimizers.MultiOptimizer(kinds)
    else:
        optimizer = zoo.OPTIMIZERS[name]()
    model = zoo.compiled(
        optimizer=optimizer, wrap={"rate": 0.3, "rewind_to": rewind_to}
    )
    zoo.fit(model)
    with model.lottery.paused():
        zoo.fit(model)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert_same_search(model, loaded)
    assert zoo.same(zoo.optimizer_states(model), zoo.optimizer_states(loaded))
    for one in (model, loaded):
        one.lottery.rewind()
    assert zoo.same(zoo.weights(model), zoo.weights(loaded))
    assert zoo.same(zoo.optimizer_states(model), zoo.optimizer_states(loaded))


def test_the_last_ticket_stays_trained(tmp_path):
    model = zoo.compiled(wrap={"rate": 0.3, "rounds": 1})
    for _ in range(2):
        zoo.fit(model)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert_same_search(model, loaded)
    zoo.assert_zero(loaded)


@pytest.mark.parametrize("scope", ["layerwise", "global"])
def test_arguments_come_back(scope, tmp_path):
    rates = {"output_rate": 0.15} if scope == "layerwise" else {}
    arguments = {"rate": 0.3, "scope": scope, "criterion": "movement"}
    model = zoo.compiled(
        wrap={**arguments, **rates, "rounds": 4, "seed": 2, "rewind_to": 2}
    )
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    configs = [one.lottery.get_config() for one in (model, loaded)]
    rates = [list(config.pop("rates").values()) for config in configs]
    assert configs[0] == configs[1] and rates[0] == rates[1]
    assert configs[0]["rewind_to"] == 2 and configs[0]["seed"] == 2
    for one in (model, loaded):
        keras.utils.set_random_seed(1)
        zoo.fit(one)
    assert_same_search(model, loaded)


def test_an_unbuilt_model(tmp_path):
    model = zoo.compiled("own_call", wrap={"rate": 0.3})
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    assert not loaded.lottery.attached
    for _ in range(2):
        zoo.fit(loaded, "own_call")
    assert loaded.lottery.level == 2


def test_weights_alone(tmp_path):
    model = zoo.compiled(wrap={"rate": 0.3})
    zoo.fit(model)
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    plain = zoo.compiled()
    plain.load_weights(path)
    assert zoo.same(zoo.weights(plain), zoo.weights(model))


def test_pickle():
    model = zoo.compiled(wrap={"rate": 0.3})
    zoo.fit(model)
    loaded = pickle.loads(pickle.dumps(model))
    assert_same_search(model, loaded)
    assert_goes_on_alike(model, loaded, "sequential")


def test_deepcopy():
    model = zoo.compiled(wrap={"rate": 0.3})
    zoo.fit(model)
    copied = copy.deepcopy(model)
    assert copied.lottery is not model.lottery
    assert_same_search(model, copied)
    before = zoo.weights(model)
    zoo.fit(copied)
    assert zoo.same(zoo.weights(model), before)


@pytest.mark.parametrize("kind", ["sequential", "functional", "nested"])
def test_clone_model_gives_a_plain_model(kind):
    model = zoo.compiled(kind, wrap={"rate": 0.3})
    zoo.fit(model, kind)
    clone = keras.models.clone_model(model)
    assert not isinstance(clone, keras_lottery.wrapping.LotteryModel)
    clone.set_weights(model.get_weights())
    assert zoo.same(clone.get_weights(), model.get_weights())
    for variable in clone.trainable_variables:
        name = type(variable.constraint).__name__
        assert name != "TicketMask"
    loss = keras.tree.map_structure(lambda _: "mse", zoo.KINDS[kind].y)
    clone.compile("sgd", loss)
    zoo.fit(clone, kind)
    ticket = model.lottery.ticket()
    fresh = ticket.apply(keras.models.clone_model(model))
    assert_same_search(model, fresh)


TICKETS = [
    *(pytest.param(k, marks=pytest.mark.slow) for k in ("dicts", "attention")),
    pytest.param("sequential", marks=pytest.mark.slow),
    "normalised",
    "shared",
]


@pytest.mark.parametrize("kind", TICKETS)
def test_a_ticket_onto_a_fresh_model_with_other_names(kind, tmp_path):
    search = zoo.search(kind)
    path = tmp_path / "a.ticket"
    for level in (None, 0, 1, -1):
        ticket = search.model.lottery.ticket(level)
        ticket.save(path)
        loaded = keras_lottery.Ticket.load(path)
        assert loaded.level == ticket.level
        assert zoo.same(loaded.masks, ticket.masks)
        points = ticket.rewind_point, loaded.rewind_point
        assert zoo.same(*(p.weights for p in points))
        assert zoo.same(*(p.optimizers for p in points))
        assert (loaded.trained is None) == (level is None)
        if level is not None:
            assert zoo.same(loaded.trained, ticket.trained)

    zoo.build(kind)
    fresh = zoo.KINDS[kind].build()  # a second build: other names
    before = search.model.lottery.masks
    model = loaded.apply(fresh)
    assert list(model.lottery.masks) != list(before)
    assert model.lottery.level == 2
    start = zoo.weights(model)
    assert zoo.same(start, search.wrapped.starts[2][0])
    loss = keras.tree.map_structure(lambda _: "mse", zoo.KINDS[kind].y)
    model.compile(keras.optimizers.Adam(0.05), loss)
    recorder = zoo.Recorder()
    zoo.fit(model, kind, callbacks=[recorder])
    assert not recorder.violations and model.lottery.level == 3


def test_a_late_ticket_brings_its_optimizer(tmp_path):
    model = zoo.compiled(wrap={"rate": 0.3, "rewind_to": 3})
    zoo.fit(model)
    path = tmp_path / "a.ticket"
    model.lottery.ticket().save(path)
    recorders = zoo.Recorder(), zoo.Recorder()
    fresh = keras_lottery.Ticket.load(path).apply(
        zoo.KINDS["sequential"].build()
    )
    fresh.compile(keras.optimizers.Adam(0.05), "mse")
    for one, recorder in zip((model, fresh), recorders):
        keras.utils.set_random_seed(9)
        zoo.fit(one, callbacks=[recorder], **zoo.SAME_ORDER)
    assert zoo.same(recorders[0].ends, recorders[1].ends)
    iterations = recorders[1].ends[0][1]["optimizer"]["._iterations"]
    assert iterations == 3 + zoo.STEPS


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
def test_a_ticket_of_other_floats(kind, tmp_path):
    zoo.build()
    before = keras.config.floatx()
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(4, dtype=kind)]
    )
    assert keras.config.floatx() == before
    pruner = keras_lottery.LotteryTicketPruner(model, 0.5)
    pruner.prune()
    path = tmp_path / "a.ticket"
    pruner.ticket().save(path)
    loaded = keras_lottery.Ticket.load(path)
    weights = pruner.rewind_point.weights
    assert zoo.same(loaded.rewind_point.weights, weights)
    if kind == "float64" and zoo_steps.BACKEND == "jax":
        kind = "float32"  # JAX has no others unless it is told to.
    assert {str(w.dtype) for w in weights.values()} == {kind}


def test_bits_that_arithmetic_does_not_see(tmp_path):
    """Minus zero, subnormal numbers and NaN are values too."""
    odd = np.array([-0.0, np.nan, np.inf, 1e-45, 0.0], "float32")
    point = keras_lottery.RewindPoint(
        3, {"w": odd, "z": np.array([-0.0], "float32")}, {}
    )
    ticket = keras_lottery.Ticket({"w": odd == 0}, point, 2)
    ticket.save(tmp_path / "a.ticket")
    loaded = keras_lottery.Ticket.load(tmp_path / "a.ticket")
    assert zoo.same(loaded.rewind_point.weights, point.weights)
    assert zoo.same(loaded.masks, ticket.masks)
    assert loaded.rewind_point.step == 3 and loaded.level == 2
