"""Optimizers keep class, config and behaviour; their gradients are masked."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from small import same

from keras_lottery import keras_internals as internals
from keras_lottery import optimizers
from keras_lottery.constraints import TicketMask

MASK = np.array([[True, False, True], [False, True, True]])


def adafactor_and_muon():
    return [
        keras.optimizers.Adafactor(0.1),
        keras.optimizers.Muon(0.1, exclude_layers=[]),
    ]


def several():
    kinds = keras.optimizers
    return [
        kinds.SGD(0.1, momentum=0.9, nesterov=True),
        kinds.Adam(0.1, clipnorm=1.0, weight_decay=0.01),
        kinds.AdamW(0.1, use_ema=True, ema_overwrite_frequency=2),
        kinds.LossScaleOptimizer(kinds.RMSprop(0.1), initial_scale=2.0),
        *adafactor_and_muon(),
    ]


def of(optimizer):
    return type(optimizer).__name__


def variables(masked=True):
    kernel = keras.Variable(
        np.arange(1, 7, dtype="float32").reshape(2, 3) / 4, name="kernel"
    )
    bias = keras.Variable(np.zeros(3, "float32"), name="bias")
    if masked:
        kernel.constraint = TicketMask((2, 3))
        kernel.constraint.assign(MASK)
        kernel.assign(kernel.constraint(kernel))
    return [kernel, bias]


def gradients():
    kernel = np.array([[1.0, np.nan, -2.0], [1e30, 0.5, 3.0]], np.float32)
    return [tf.constant(kernel), tf.constant([1.0, -1.0, 0.5])]


def clean_gradients():
    return [tf.constant([[1.0, 2.0, -2.0], [0.1, 0.5, 3.0]]), gradients()[1]]


def state(optimizer):
    return [np.array(ops.convert_to_numpy(v)) for v in optimizer.variables]


@pytest.mark.parametrize("optimizer", several(), ids=of)
def test_wrap_and_unwrap_leave_no_trace(optimizer):
    cls, members = type(optimizer), dict(vars(optimizer))
    config = keras.saving.serialize_keras_object(optimizer)
    assert optimizers.wrap_optimizer(optimizer) is optimizer
    assert type(optimizer) is cls
    assert keras.saving.serialize_keras_object(optimizer) == config
    # A copy: some optimizers eat the config they are made from.
    back = keras.saving.deserialize_keras_object(copy.deepcopy(config))
    assert type(back) is cls and "apply" not in vars(back)
    optimizers.wrap_optimizer(optimizer)
    assert optimizers.unwrap_optimizer(optimizer) is optimizer
    assert vars(optimizer).keys() == members.keys()
    assert keras.saving.serialize_keras_object(optimizer) == config
    for inner in optimizers.inner_optimizers(optimizer):
        assert not set(vars(inner)) & set(internals.REPLACED_METHODS)


@pytest.mark.parametrize("make", range(len(several())))
def test_without_masks_nothing_differs(make):
    plain, wrapped = several()[make], several()[make]
    optimizers.wrap_optimizer(wrapped)
    one, other = variables(masked=False), variables(masked=False)
    for _ in range(3):
        plain.apply(clean_gradients(), one)
        wrapped.apply(clean_gradients(), other)
    assert same([v.numpy() for v in one], [v.numpy() for v in other])
    assert same(state(plain), state(wrapped))


@pytest.mark.parametrize("optimizer", several(), ids=of)
def test_pruned_gradients_leave_nothing_behind(optimizer):
    optimizers.wrap_optimizer(optimizer)
    kernel, bias = variables()
    for _ in range(3):
        optimizer.apply(gradients(), [kernel, bias])
    assert (kernel.numpy()[~MASK] == 0).all()
    assert np.isfinite(kernel.numpy()).all() and kernel.numpy()[MASK].all()
    for array in state(optimizer):
        assert np.isfinite(array).all()
    pairs = [s for s, v in optimizers.slots(optimizer) if v is kernel]
    assert pairs
    if of(optimizer) == "Adafactor":
        return  # Its "velocity" is an outer product, made anew each step.
    for slot in pairs:
        assert (slot.numpy()[~MASK] == 0).all()


@pytest.mark.parametrize("built", (False, True))
def test_gradients_without_a_variable_are_refused_as_by_keras(built):
    optimizer = optimizers.wrap_optimizer(keras.optimizers.SGD())
    variables = [keras.Variable(np.ones(3)) for _ in range(2)]
    if built:
        optimizer.build(variables)
    gradients = [keras.ops.ones(3)] * 3
    with pytest.raises(ValueError, match="one-to-on" if built else "built"):
        optimizer.apply(gradients)
    for variable in variables:
        assert (variable.numpy() == 1).all()


def test_unwrapped_again_it_sees_all_gradients():
    optimizer = keras.optimizers.SGD(1.0)
    optimizers.wrap_optimizer(optimizer)
    optimizers.unwrap_optimizer(optimizer)
    (kernel, _) = variables(masked=False)
    before = kernel.numpy()
    optimizer.apply([tf.ones((2, 3))], [kernel])
    np.testing.assert_allclose(kernel.numpy(), before - 1)


def test_wrapping_twice_masks_once():
    calls = []
    optimizer = keras.optimizers.SGD(1.0)
    optimizers.wrap_optimizer(optimizer, on_build=lambda o: calls.append("old"))
    optimizers.wrap_optimizer(optimizer, on_build=lambda o: calls.append("new"))
    optimizer.apply(clean_gradients(), variables())
    assert calls == ["new"]
    optimizers.unwrap_optimizer(optimizer)
    assert "apply" not in vars(optimizer)


def test_on_build_reads_initial_values_inside_a_graph():
    seen, optimizer = [], keras.optimizers.Adam(0.5)
    kernel_and_bias = variables()

    def met(optimizer):
        seen.append((int(optimizer.iterations.numpy()), state(optimizer)[1]))

    optimizers.wrap_optimizer(optimizer, on_build=met)

    @tf.function
    def step():
        optimizer.apply(clean_gradients(), kernel_and_bias)

    step()
    assert seen == [(0, 0.5)]


def test_apply_gradients_and_generators_go_through_the_mask():
    optimizer = optimizers.wrap_optimizer(
        keras.optimizers.SGD(1.0, momentum=0.5)
    )
    kernel, bias = variables()
    optimizer.apply_gradients(zip(gradients(), [kernel, bias]))
    optimizer.apply(iter(gradients()), iter([kernel, bias]))
    # And without variables, once it is built.
    optimizer.apply(gradients())
    assert (kernel.numpy()[~MASK] == 0).all()
    assert np.isfinite(state(optimizer)[2]).all()


def test_none_gradients_are_left_to_keras():
    kernel, bias = variables()
    assert optimizers.mask_gradient(None, kernel) is None
    optimizer = optimizers.wrap_optimizer(keras.optimizers.SGD(1.0))
    before = bias.numpy()
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([clean_gradients()[0], None], [kernel, bias])
    np.testing.assert_array_equal(bias.numpy(), before)
    with pytest.raises(ValueError, match="No gradients provided"):
        optimizer.apply([None, None], [kernel, bias])


def test_unmasked_variables_get_their_own_gradient():
    _, bias = variables()
    gradient = tf.constant([1.0, np.nan, 2.0])
    assert optimizers.mask_gradient(gradient, bias) is gradient


def slices():
    return tf.IndexedSlices(
        tf.constant([[1.0, 2.0, 3.0], [4.0, np.nan, 6.0], [7.0, 8.0, 9.0]]),
        tf.constant([1, 0, 1]),
        tf.constant([2, 3]),
    )


def test_indexed_slices_stay_sparse():
    kernel, _ = variables()
    masked = optimizers.mask_gradient(slices(), kernel)
    assert isinstance(masked, tf.IndexedSlices)
    np.testing.assert_array_equal(
        masked.values, [[0, 2, 3], [4, 0, 6], [0, 8, 9]]
    )
    np.testing.assert_array_equal(masked.indices, [1, 0, 1])
    dense = tf.convert_to_tensor(masked).numpy()
    np.testing.assert_array_equal(dense, [[4, 0, 6], [0, 10, 12]])


@pytest.mark.parametrize("kind", ["SGD", "Adam", "RMSprop", "Adagrad"])
def test_indexed_slices_through_an_optimizer(kind):
    optimizer = getattr(keras.optimizers, kind)(0.1, clipnorm=1.0)
    optimizers.wrap_optimizer(optimizer)
    kernel, _ = variables()
    for _ in range(2):
        optimizer.apply([slices()], [kernel])
    assert (kernel.numpy()[~MASK] == 0).all()
    assert np.isfinite(kernel.numpy()).all()


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras before 3.15"
)
def test_multi_optimizer():
    kernel, bias = variables()
    inner = [keras.optimizers.Adam(0.1), keras.optimizers.SGD(1.0)]
    multi = keras.optimizers.MultiOptimizer(
        lambda v: inner[0] if v is kernel else inner[1]
    )
    optimizers.wrap_optimizer(multi)
    multi.apply(gradients(), [kernel, bias])
    assert (kernel.numpy()[~MASK] == 0).all()
    assert np.isfinite(kernel.numpy()).all()
    assert len(list(optimizers.slots(multi))) == 2
    optimizers.unwrap_optimizer(multi)
    for optimizer in (multi, *inner):
        assert not set(vars(optimizer)) & set(internals.REPLACED_METHODS)


def test_loss_scale_is_found_by_its_own_gradients():
    # The scale is halved by a NaN that survives, not by one that is pruned.
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=8.0, dynamic_growth_steps=100
    )
    optimizers.wrap_optimizer(optimizer)
    kernel, bias = variables()
    optimizer.apply(gradients(), [kernel, bias])
    assert float(optimizer.dynamic_scale.numpy()) == 8.0
    bad = tf.constant([np.nan, 0.0, 0.0])
    optimizer.apply([clean_gradients()[0], bad], [kernel, bias])
    assert float(optimizer.dynamic_scale.numpy()) == 4.0


def test_averages_are_of_masked_weights():
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    optimizers.wrap_optimizer(optimizer)
    kernel, bias = variables()
    optimizer.build([kernel, bias])
    kernel.assign(np.full((2, 3), 9.0))  # As a step leaves it.
    optimizer.apply(clean_gradients(), [kernel, bias])
    averages = optimizer._model_variables_moving_average[0]
    assert (averages.numpy()[~MASK] == 0).all()
    optimizer.finalize_variable_values([kernel, bias])
    assert (kernel.numpy()[~MASK] == 0).all() and kernel.numpy()[MASK].all()


def test_clear_pruned_slots():
    optimizer = keras.optimizers.Adam(0.1)
    kernel, bias = variables(masked=False)
    optimizer.apply(clean_gradients(), [kernel, bias])
    kernel.constraint = TicketMask((2, 3))
    kernel.constraint.assign(MASK)
    before = state(optimizer)
    optimizers.clear_pruned_slots(optimizer)
    found = [(s, v) for s, v in optimizers.slots(optimizer) if v is kernel]
    assert len(found) == 2
    for slot, _ in found:
        np.testing.assert_array_equal(slot.numpy() != 0, MASK)
    after = state(optimizer)
    # Step, learning rate and the bias' moments are as they were.
    kept = [i for i, a in enumerate(before) if a.shape != (2, 3)]
    assert len(kept) == 4
    assert same([before[i] for i in kept], [after[i] for i in kept])


@pytest.mark.parametrize(
    "optimizer", ["adam", None, tf.Module(), keras.optimizers.Adam]
)
def test_refuses_what_is_no_optimizer(optimizer):
    with pytest.raises(ValueError, match="`optimizer` must .*Received: opti"):
        optimizers.wrap_optimizer(optimizer)
