"""TicketMask: the constraint that keeps pruned weights at zero."""

from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_lottery import backend
from keras_lottery.masks import Mask


@keras.saving.register_keras_serializable(package="keras_lottery")
class TicketMask(keras.constraints.Constraint):
    """Sets pruned weights to zero after every optimizer step.

    It holds the weight's mask in one boolean variable, a byte a weight, which
    belongs to no layer and so is not among the model's weights. Compiled
    training functions read the variable, so a new mask is assigned into it
    and nothing is compiled again.

    Zero is selected, not multiplied: 0 * NaN is NaN, and would hide under
    the mask.

    Args:
        shape: tuple of ints, the weight's shape.
        constraint: optional `keras.constraints.Constraint`, the user's own.
            It is applied between two maskings, so that it neither sees what
            the step left in pruned weights nor brings them back.

    Example:

    ```python
    mask = TicketMask((2,))
    mask.assign([True, False])
    mask(np.array([3.0, 4.0]))  # [3., 0.]
    ```
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        constraint: keras.constraints.Constraint | None = None,
    ) -> None:
        self.shape = tuple(shape)
        self.constraint = keras.constraints.get(constraint)
        self.mask = keras.Variable(
            np.ones(self.shape, bool), dtype="bool", trainable=False,
            name="ticket_mask",
        )  # fmt: skip

    def assign(self, mask: ArrayLike) -> None:
        """Makes the boolean array `mask` the mask from now on."""
        self.mask.assign(np.asarray(mask, bool))

    def numpy(self) -> Mask:
        """The mask as a boolean array."""
        return np.asarray(self.mask.numpy())

    def select(self, values: Any) -> Any:
        """`values` where the mask keeps, zero elsewhere."""
        return backend.select(self.mask, values)

    def __call__(self, w: Any) -> Any:
        w = self.select(w)
        if self.constraint is not None:
            w = self.select(self.constraint(w))
        return w

    def get_config(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "constraint": keras.constraints.serialize(self.constraint)
            if self.constraint
            else None,
        }


def mask_of(variable: Any) -> TicketMask | None:
    """The `TicketMask` of a variable, or `None`."""
    constraint = getattr(variable, "constraint", None)
    return constraint if isinstance(constraint, TicketMask) else None
