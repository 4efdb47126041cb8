"""Ticket: found in one process, applied in another."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from small import arrays, compiled, fit, mlp, same

import keras_lottery
from keras_lottery import Ticket, schedules
from keras_lottery.rewinding import RewindPoint
from keras_lottery.tickets import match_weights
from keras_lottery.wrapping import LotteryModel


def pruned(model=None, rounds=1, **kwargs):
    """A model wrapped and pruned without any training."""
    model = keras_lottery.wrap(model or mlp(), **{"rate": 0.5, **kwargs})
    for _ in range(rounds):
        model.lottery.prune()
        model.lottery.rewind()
    return model


def test_members():
    model = pruned()
    ticket = model.lottery.ticket()
    assert (
        ticket.density
        == model.lottery.density
        == pytest.approx(25.5 / 42, 0.02)
    )
    assert ticket.densities() == model.lottery.densities()
    assert same(ticket.masks, model.lottery.masks)
    assert isinstance(ticket.rewind_point, RewindPoint)
    assert ticket.level == 1 and ticket.trained is None


def test_file_round_trip(tmp_path):
    model = compiled(pruned(rate=schedules.ToDensity(0.3, 3)))
    fit(model)
    for level in (None, 1):
        ticket = model.lottery.ticket(level)
        ticket.save(tmp_path / "t.ticket")
        back = Ticket.load(tmp_path / "t.ticket")
        assert same(back.masks, ticket.masks)
        assert same(back.rewind_point.weights, ticket.rewind_point.weights)
        assert back.rewind_point.step == 0 and back.level == ticket.level
        one, other = (
            t.rewind_point.optimizers["optimizer"] for t in (back, ticket)
        )
        assert same(one, other)
        assert back.config == ticket.config
        if level is None:
            assert back.trained is None
        else:
            assert same(back.trained, ticket.trained)


def test_apply_gives_the_state_the_level_begins_in(tmp_path):
    model = pruned(rounds=2)
    model.lottery.ticket().save(tmp_path / "t.ticket")
    fresh = mlp(seed=5)
    back = Ticket.load(tmp_path / "t.ticket").apply(fresh)
    assert back is fresh and isinstance(fresh, LotteryModel)
    assert fresh.lottery.level == 2 and fresh.lottery.rate is not None
    assert same(arrays(fresh), arrays(model))
    masks = [m for m in model.lottery.masks.values()]
    assert same(masks, list(fresh.lottery.masks.values()))
    # The next round has the rates of the search, the output layer its own.
    for m in (model, fresh):
        m.lottery.prune()
    assert same(
        list(fresh.lottery.masks.values()), list(model.lottery.masks.values())
    )


def test_a_ticket_is_not_changed_by_what_is_done_with_it():
    source = compiled(pruned(), keras.optimizers.SGD(0.1))
    fit(source)
    ticket = source.lottery.ticket()

    def rate(ticket):
        state = ticket.rewind_point.optimizers["optimizer"]
        return float(state["1:learning_rate"])

    assert rate(ticket) == np.float32(0.1)
    fit(compiled(ticket.apply(mlp()), keras.optimizers.SGD(0.7)))
    fit(compiled(source, keras.optimizers.SGD(0.3)))
    assert rate(ticket) == np.float32(0.1)
    assert rate(source.lottery.ticket()) == np.float32(0.3)


def test_another_process_trains_it(tmp_path):
    """Same bits in a process that never saw the search."""
    model = compiled(pruned(), keras.optimizers.SGD(0.1))
    model.lottery.ticket().save(tmp_path / "t.ticket")
    with model.lottery.paused():
        fit(model)
    np.savez(tmp_path / "end.npz", *arrays(model))
    code = f"""
import sys; sys.path.insert(0, {str(__file__).rsplit("/", 1)[0]!r})
import keras, numpy as np
from small import arrays, compiled, fit, mlp, same
from keras_lottery import Ticket
model = Ticket.load({str(tmp_path / "t.ticket")!r}).apply(mlp(seed=9))
compiled(model, keras.optimizers.SGD(0.1))
with model.lottery.paused():
    fit(model)
end = np.load({str(tmp_path / "end.npz")!r})
assert same(arrays(model), [end[k] for k in end.files])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def other_shape():
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(6), keras.layers.Dense(5)]
    )


def too_short():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])


def too_long():
    layers = [keras.layers.Dense(n) for n in (6, 3, 3)]
    return keras.Sequential([keras.Input((4,)), *layers])


@pytest.mark.parametrize(
    "make, named",
    [
        (
            other_shape,
            r"first weight.*head/kernel.*\(6, 3\).*has shape \(6, 5\)",
        ),
        (too_short, "first weight.*head/kernel.*no such weight"),
        (too_long, r"no weight for.*kernel' of shape \(3, 3\)"),
    ],
)
def test_a_model_that_does_not_fit(make, named):
    ticket, model = pruned().lottery.ticket(), make()
    before, cls = arrays(model), type(model)
    with pytest.raises(ValueError, match=f"does not fit the model.*{named}"):
        ticket.apply(model)
    assert type(model) is cls and not hasattr(model, "lottery")
    assert same(before, arrays(model))


def heads(order):
    """Two heads of one shape, built in the given order."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4,))
    outs = {n: keras.layers.Dense(3, name=n) for n in order}
    return keras.Model(inputs, [outs[n](inputs) for n in order])


def test_names_for_weights_in_another_order():
    model = pruned(heads(["a", "b"]))
    swapped = heads(["b", "a"])
    names = {f"{n}/{w}": f"{n}/{w}" for n in "ab" for w in ("kernel", "bias")}
    model.lottery.ticket().apply(swapped, names=names)
    for n in "ab":
        one, other = model.get_layer(n), swapped.get_layer(n)
        assert same(one.get_weights(), other.get_weights())
        mask = swapped.lottery.masks[f"{n}/kernel"]
        np.testing.assert_array_equal(mask, model.lottery.masks[f"{n}/kernel"])
    # Equal names need not be told, and other names are taken in order.
    by_name = model.lottery.ticket().apply(heads(["b", "a"]))
    assert same(
        by_name.get_layer("b").get_weights(),
        model.get_layer("b").get_weights(),
    )
    by_order = model.lottery.ticket().apply(heads(["c", "a"]))
    assert same(
        by_order.get_layer("c").get_weights(),
        model.get_layer("a").get_weights(),
    )


def test_another_number_of_dropout_layers_is_no_other_architecture():
    def build(dropouts):
        keras.utils.set_random_seed(0)
        drops = [keras.layers.Dropout(0.5) for _ in range(dropouts)]
        dense = [keras.layers.Dense(3), keras.layers.Dense(2)]
        return keras.Sequential([keras.Input((4,)), *drops, *dense])

    ticket = pruned(build(1)).lottery.ticket()
    for dropouts in (0, 2):
        other = ticket.apply(build(dropouts))
        assert same(
            list(other.lottery.masks.values()), list(ticket.masks.values())
        )
        other.lottery.rewind()


def test_an_unbuilt_model_cannot_take_a_ticket():
    model = keras.Sequential([keras.layers.Dense(3)])
    ticket = pruned(heads(["a", "b"])).lottery.ticket()
    with pytest.raises(ValueError, match="`model` must be built.*Received"):
        ticket.apply(model)


def test_some_names_and_the_rest_by_order():
    found = {"p": np.ones(2), "q": np.ones(3), "r": np.ones(2)}
    variables = {
        k: keras.Variable(np.ones(n)) for k, n in zip("xyz", (2, 2, 3))
    }
    places = match_weights(found, variables, {"q": "z"})
    assert places == {"p": "x", "q": "z", "r": "y"}


@pytest.mark.parametrize("names", [{"nothing": "x"}, {"p": "nothing"}])
def test_names_that_name_nothing(names):
    variables = {"x": keras.Variable(np.ones(2))}
    with pytest.raises(ValueError, match="`names` must map.*Received:"):
        match_weights({"p": np.ones(2)}, variables, names)


def test_apply_with_other_arguments():
    ticket = pruned(rates={"head": 0}).lottery.ticket()
    model = ticket.apply(mlp(), rates=None, rate=0.25, rounds=7)
    # The head is prunable now, and all of it is kept.
    masks = list(model.lottery.masks.values())
    assert len(masks) == 2 and masks[1].all() and not masks[0].all()
    assert model.lottery.rounds == 7 and model.lottery.level == 1


def test_apply_refuses_to_forget_a_mask():
    ticket, model = pruned().lottery.ticket(), mlp()
    before = arrays(model)
    with pytest.raises(
        ValueError, match="`rates` must not.*Received: .*hidden"
    ):
        ticket.apply(model, rates={"hidden": 0})
    assert type(model) is keras.Sequential and not hasattr(model, "lottery")
    assert model.layers[0].kernel.constraint is None
    assert same(before, arrays(model))


def test_a_search_by_callables_can_be_applied_but_not_gone_on_with(tmp_path):
    model = pruned(rate=lambda r: 0.5, criterion=lambda i, t: np.abs(t))
    model.lottery.ticket().save(tmp_path / "t.ticket")
    back = Ticket.load(tmp_path / "t.ticket")
    fresh = back.apply(mlp())
    assert same(arrays(fresh), arrays(model))
    with pytest.raises(ValueError, match="Give `rate`|Give `criterion`"):
        fresh.lottery.prune()
    again = back.apply(mlp(), rate=0.5, rates=None, criterion="magnitude")
    again.lottery.prune()
    assert again.lottery.level == 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16"])
def test_small_floats(tmp_path, dtype):
    def make():
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(dtype)
        try:
            return mlp()
        finally:
            keras.config.set_dtype_policy(before)

    model = pruned(make())
    model.lottery.ticket().save(tmp_path / "t.ticket")
    back = Ticket.load(tmp_path / "t.ticket").apply(make())
    assert same(arrays(back), arrays(model))
    assert same(back.lottery.masks.values(), model.lottery.masks.values())


def test_config_is_json_whatever_numbers_were_given(tmp_path):
    model = pruned(
        rate=np.float32(0.5), rounds=np.int64(4), seed=np.uint8(3),
        rewind_to=np.int32(0),
    )  # fmt: skip
    config = model.lottery.get_config()
    assert json.loads(json.dumps(config)) == config
    model.lottery.ticket().save(tmp_path / "t.ticket")


def test_failed_save_leaves_the_older_ticket(tmp_path, monkeypatch):
    model = pruned()
    model.lottery.ticket().save(tmp_path / "t.ticket")
    model.lottery.prune()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        model.lottery.ticket().save(tmp_path / "t.ticket")
    monkeypatch.undo()
    assert Ticket.load(tmp_path / "t.ticket").level == 1


def test_a_ticket_as_masks_takes_the_masks_alone():
    ticket, fresh = pruned().lottery.ticket(), mlp(seed=4)
    before = arrays(fresh)
    keras_lottery.wrap(fresh, masks=ticket)
    masks = list(fresh.lottery.masks.values())
    assert same(masks, list(ticket.masks.values()))
    assert fresh.lottery.level == 0
    np.testing.assert_array_equal(
        arrays(fresh)[0], np.where(masks[0], before[0], 0)
    )
