"""The learning-rate schedule of the paper's deep networks."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_lottery")
class WarmupAndDrops(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly from 0, then is divided by 10 at given steps.

    Args:
        learning_rate: float, reached at the end of the warmup.
        warmup: int, its number of steps; 0 for none.
        drops: sequence of int, steps from which it is a tenth of before.

    Example:

    ```python
    schedule = WarmupAndDrops(0.03, warmup=20_000, drops=(20_000, 25_000))
    schedule(10_000)  # 0.015
    ```

    Source: Frankle & Carbin, 1803.03635, section 4 and figure 2.
    """

    def __init__(self, learning_rate, warmup=0, drops=()):
        self.learning_rate = learning_rate
        self.warmup = warmup
        self.drops = tuple(drops)

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rate = ops.convert_to_tensor(self.learning_rate, "float32")
        if self.warmup:
            rate = rate * ops.minimum(1.0, step / self.warmup)
        for drop in self.drops:
            rate = ops.where(step < drop, rate, rate / 10.0)
        return rate

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "warmup": self.warmup,
            "drops": self.drops,
        }
