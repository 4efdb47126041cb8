"""Where a search starts from."""

import keras
import numpy as np
import pytest

from keras_lottery.attachment import zeros_as_masks


def test_zeros_as_masks():
    values = {"a": np.array([[0.0, -0.0], [1e-30, np.nan]])}
    variables = {
        p: keras.Variable(v, dtype="float64") for p, v in values.items()
    }
    masks = zeros_as_masks(variables)
    np.testing.assert_array_equal(masks["a"], [[False, False], [True, True]])
    variables["z"] = keras.Variable(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="would prune all of 'z'"):
        zeros_as_masks(variables)
