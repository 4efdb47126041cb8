"""How the paper trains and prunes each of its networks.

Source: Frankle & Carbin, 1803.03635, figure 2 and section 4.
"""

import dataclasses

import keras
from keras import ops


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the paper trains and prunes one of its networks.

    `rate` is that of fully-connected layers where `rates`, pairs of regular
    expression and rate, give convolutions one of their own. The learning
    rate rises from 0 to `learning_rate` in the fraction `warmup` of the
    budget and is divided by 10 at each of the fractions `drops`, so that the
    whole schedule goes with the budget. `iterations` are training steps per
    level; `dropout`, `weight_decay` and `augment` are arguments of the network.
    `standardize` says whether the network standardises the channels of its
    images by the statistics of the training set. An `output_rate` of `None`
    stands for half of `rate`.
    """

    dataset: str | None
    optimizer: str | None
    learning_rate: float | None
    batch_size: int
    iterations: int | None
    rate: float
    output_rate: float | None
    rates: tuple = ()
    scope: str = "layerwise"
    momentum: float = 0.0
    warmup: float = 0.0
    drops: tuple = ()
    dropout: float = 0.0
    weight_decay: float = 0.0
    augment: bool = False
    # Not stated in the paper. The authors' later code does so for CIFAR-10.
    standardize: bool = False

    @property
    def pruning(self):
        """A dict of the arguments that `keras_lottery.wrap` takes."""
        return {
            "rate": self.rate,
            "output_rate": self.output_rate,
            "rates": dict(self.rates),
            "scope": self.scope,
        }


def _conv_recipe(learning_rate, iterations, conv_rate):
    return Recipe(
        dataset="cifar10",
        optimizer="adam",
        learning_rate=learning_rate,
        batch_size=60,
        iterations=iterations,
        rate=0.2,
        output_rate=None,
        rates=((r"conv\d", conv_rate),),
        standardize=True,
    )


def _deep_recipe(learning_rate, batch_size, iterations, **options):
    return Recipe(
        dataset="cifar10",
        optimizer="sgd",
        momentum=0.9,
        learning_rate=learning_rate,
        batch_size=batch_size,
        iterations=iterations,
        rate=0.2,
        output_rate=0.0,
        scope="global",
        weight_decay=1e-4,
        augment=True,
        standardize=True,
        **options,
    )


# 1803.03635, Figure 2. The two deep networks: the learning rate with warmup,
# the only high one at which the paper finds winning tickets (section 4).
RECIPES = {
    "lenet_300_100": Recipe(
        dataset="mnist",
        optimizer="adam",
        learning_rate=1.2e-3,
        batch_size=60,
        iterations=50_000,
        rate=0.2,
        output_rate=None,
    ),
    "conv_2": _conv_recipe(2e-4, 20_000, 0.10),
    "conv_4": _conv_recipe(3e-4, 25_000, 0.10),
    "conv_6": _conv_recipe(3e-4, 30_000, 0.15),
    "resnet_18": _deep_recipe(
        0.03,
        128,
        30_000,
        rates=(("shortcut", 0.0),),
        warmup=20_000 / 30_000,
        drops=(20_000 / 30_000, 25_000 / 30_000),
    ),
    # Epochs 80 and 120 of 160, at 703 steps of 64 out of 45,000 examples.
    "vgg_19": _deep_recipe(
        0.1, 64, 112_480, warmup=10_000 / 112_480, drops=(0.5, 0.75)
    ),
}

# The same with dropout: three times the iterations (1803.03635, section 3).
DROPOUT_RECIPES = {
    name: dataclasses.replace(
        RECIPES[name],
        learning_rate=learning_rate,
        iterations=3 * RECIPES[name].iterations,
        dropout=0.5,
    )
    for name, learning_rate in (
        ("conv_2", 3e-4),
        ("conv_4", 2e-4),
        ("conv_6", 2e-4),
    )
}

# For a model of one's own: its optimizer is in it, or else Keras' Adam.
OWN = Recipe(
    dataset=None,
    optimizer=None,
    learning_rate=None,
    batch_size=60,
    iterations=None,
    rate=0.2,
    output_rate=None,
)


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
