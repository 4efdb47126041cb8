"""What is trained: a network, its batch, and made-up data of its shapes.

Imports no framework: every subject's process imports its own.
"""

import dataclasses

import numpy as np

# Steps of one repetition: about two seconds of the compiled loop each. For
# LeNet that is also an epoch of MNIST.
STEPS = {"lenet_300_100": 900, "conv_2": 15, "resnet_18": 6, "vgg_19": 1}
# More than any cache holds; LeNet's is MNIST without 5,000 of validation.
_EXAMPLES = {"lenet_300_100": 55_000, "conv_2": 10_000, "resnet_18": 10_000}
_SHAPES = {"lenet_300_100": (28, 28, 1)}
NETWORKS = tuple(STEPS)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One network and how it is trained, the paper's way.

    Attributes:
        network: str, a name of `keras_lottery.models.NETWORKS`.
        steps: int, training steps of one repetition.
        batch_size: int.
        optimizer: `"adam"` or `"sgd"`.
        learning_rate: float.
        momentum: float, of sgd.
        augment: bool, whether the network augments its images.
        examples: int, how many the made-up data set has.
        shape: tuple, of one image.
        experiment: dict, arguments of the `Experiment` that is run as a
            whole.
    """

    network: str
    steps: int
    batch_size: int
    optimizer: str
    learning_rate: float
    momentum: float = 0.0
    augment: bool = False
    examples: int = 10_000
    shape: tuple = (32, 32, 3)
    experiment: dict = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, network, steps=None, experiment=None):
        """The problem of a network.

        Args:
            network: str, one of `NETWORKS`.
            steps: optional int. Defaults to that of `STEPS`.
            experiment: optional dict, arguments of an `Experiment`.

        Returns:
            A `Problem`.
        """
        from keras_lottery.recipes import RECIPES

        recipe = RECIPES[network]
        steps = steps or STEPS[network]
        return cls(
            network,
            steps,
            recipe.batch_size,
            recipe.optimizer,
            recipe.learning_rate,
            recipe.momentum,
            recipe.augment,
            # An epoch must hold the steps: `fit` wraps around no data.
            max(_EXAMPLES.get(network, 0), steps * recipe.batch_size),
            _SHAPES.get(network, (32, 32, 3)),
            experiment or {},
        )

    @property
    def data_mb(self):
        """Size of the images, in MB."""
        return 4e-6 * self.examples * int(np.prod(self.shape))

    def data(self, examples=None):
        """Images of noise and labels of chance.

        Args:
            examples: optional int. Defaults to `self.examples`.

        Returns:
            Pair of a float32 array `(examples, *shape)` and an int32 array
            `(examples,)`.
        """
        rng = np.random.default_rng(0)
        examples = examples or self.examples
        x = rng.random((examples, *self.shape), dtype=np.float32)
        return x, rng.integers(0, 10, examples, dtype=np.int32)


def share_kept(kernels):
    """Density, counted in the arrays of the kernels themselves."""
    kernels = [np.asarray(kernel) for kernel in kernels]
    kept = sum(int(np.count_nonzero(kernel)) for kernel in kernels)
    return kept / sum(kernel.size for kernel in kernels)
