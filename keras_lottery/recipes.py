"""How the paper trains and prunes each of its networks. Pure Python.

Source: Frankle & Carbin, 1803.03635, figure 2 and section 4.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the paper trains and prunes one of its networks.

    `rate` is that of fully-connected layers where `rates`, pairs of regular
    expression and rate, give convolutions one of their own. The learning
    rate rises from 0 to `learning_rate` in `warmup` steps and is divided by
    10 at each step of `drops`. `iterations` are training steps per level;
    `dropout`, `weight_decay` and `augment` are arguments of the network;
    `standardize` says that it gets the statistics of the channels of its
    training images. An `output_rate` of `None` is half of `rate`.
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
    warmup: int = 0
    drops: tuple = ()
    dropout: float = 0.0
    weight_decay: float = 0.0
    augment: bool = False
    # The paper does not say; the authors' later code does for CIFAR-10.
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
        warmup=20_000,
        drops=(20_000, 25_000),
    ),
    # Epochs 80 and 120 of 160, at 703 steps of 64 out of 45,000 examples.
    "vgg_19": _deep_recipe(
        0.1, 64, 112_480, warmup=10_000, drops=(56_240, 84_360)
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
