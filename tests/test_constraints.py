"""TicketMask: zero is selected, and the user's constraint stays."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lottery.constraints import TicketMask, mask_of

MASK = np.array([[True, False], [False, True]])
BAD = [np.nan, np.inf, -np.inf]


def ticket_mask(constraint=None):
    mask = TicketMask((2, 2), constraint)
    mask.assign(MASK)
    return mask


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_keeps_dtype_and_bits(dtype):
    w = tf.cast([[1.5, 2.0], [3.0, -0.0]], dtype)
    out = ticket_mask()(w)
    assert out.dtype == w.dtype
    expected = tf.cast([[1.5, 0.0], [0.0, -0.0]], dtype)
    assert out.numpy().tobytes() == expected.numpy().tobytes()


@pytest.mark.parametrize("bad", BAD)
def test_pruned_nan_and_inf_become_zero(bad):
    w = np.full((2, 2), bad, np.float32)
    out = ticket_mask()(w).numpy()
    assert (out[~MASK] == 0).all()
    # A surviving one is not hidden.
    np.testing.assert_array_equal(out[MASK], [bad, bad])


def test_starts_with_all_kept():
    w = np.arange(4, dtype=np.float32).reshape(2, 2)
    np.testing.assert_array_equal(TicketMask((2, 2))(w), w)
    assert TicketMask((2, 2)).numpy().all()


def test_a_byte_a_weight_that_is_not_trained():
    mask = ticket_mask()
    assert mask.mask.dtype == "bool" and not mask.mask.trainable
    got = mask.numpy()
    assert got.dtype == bool
    got[:] = True
    np.testing.assert_array_equal(mask.numpy(), MASK)


def test_assign_takes_ones_and_zeros():
    mask = TicketMask((2, 2))
    mask.assign([[1, 0], [0, 1]])
    np.testing.assert_array_equal(mask.numpy(), MASK)


def test_a_compiled_function_sees_a_new_mask():
    mask, traces = ticket_mask(), []

    @tf.function
    def apply(w):
        traces.append(1)
        return mask(w)

    ones = np.ones((2, 2), np.float32)
    np.testing.assert_array_equal(apply(ones), MASK)
    mask.assign(~MASK)
    np.testing.assert_array_equal(apply(ones), ~MASK)
    assert len(traces) == 1


class AddOne(keras.constraints.Constraint):
    """Brings zeros back to life."""

    def __call__(self, w):
        return w + 1


def test_users_constraint_neither_sees_nor_revives_pruned_weights():
    w = np.array([[3.0, 100.0], [100.0, 4.0]], np.float32)
    out = ticket_mask(AddOne())(w).numpy()
    np.testing.assert_array_equal(out, [[4, 0], [0, 5]])
    unit = ticket_mask(keras.constraints.MaxNorm(1.0, axis=None))(w).numpy()
    np.testing.assert_allclose(unit, [[0.6, 0], [0, 0.8]], rtol=1e-5)
    assert (ticket_mask("non_neg")(-w).numpy() == 0).all()


@pytest.mark.parametrize("constraint", [None, keras.constraints.MaxNorm(2.0)])
def test_config_round_trip(constraint):
    config = keras.saving.serialize_keras_object(ticket_mask(constraint))
    config = json.loads(json.dumps(config))
    back = keras.saving.deserialize_keras_object(config)
    assert isinstance(back, TicketMask) and back.shape == (2, 2)
    assert type(back.constraint) is type(constraint)
    if constraint is not None:
        assert back.constraint.max_value == 2.0


def test_mask_of():
    variable = keras.Variable(np.ones((2, 2)))
    assert mask_of(variable) is None
    variable.constraint = keras.constraints.NonNeg()
    assert mask_of(variable) is None
    variable.constraint = mask = ticket_mask()
    assert mask_of(variable) is mask
    assert mask_of(tf.Variable(1.0)) is None
