"""Law 3, subnetwork: a ticket trains as the network without what it lacks.

Whole units are masked off in one network and left out of another, which is
plain Keras. Both are trained on the same data: the losses and the weights that
both have must agree.
"""

import keras
import numpy as np
import pytest
import zoo
import zoo_steps
from small import some

import keras_lottery

# Units of the two hidden layers that live, of 8 and of 7.
ALIVE = [np.array([0, 2, 3, 5, 7]), np.array([1, 2, 3, 4, 6])]
SIZES = (6, 8, 7, 3)
TOLERANCE = {"rtol": 2e-4, "atol": 2e-5}


def dense(first, second, bias=True, seed=3):
    zoo.build(seed=seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(first, "tanh", use_bias=bias),
            keras.layers.Dense(second, "tanh", use_bias=bias),
            keras.layers.Dense(3),
        ]
    )


def living(i):
    """(rows, columns) of the i-th kernel that live."""
    units = [np.arange(6), *ALIVE, np.arange(3)]
    return units[i], units[i + 1]


def structural_masks(model):
    """Masks of a big network: the units that live, and nothing else."""
    masks = {}
    for i, layer in enumerate(model.layers):
        mask = np.zeros(layer.kernel.shape, bool)
        mask[np.ix_(*living(i))] = True
        masks[layer.kernel.path] = mask
    return masks


def cut(array, i, is_kernel):
    """What the small network has of an array that serves layer i.

    Of a factored second moment: its rows or its columns.
    """
    rows, columns = living(i)
    if array.ndim == 2:
        return array[np.ix_(rows, columns)]
    if array.ndim == 0:
        return array
    by_row = is_kernel and array.shape[0] == SIZES[i]
    return array[rows] if by_row else array[columns]


def small_from(model, bias):
    """The small network with the weights of the big one."""
    small = dense(5, 5, bias)
    for i, (layer, big) in enumerate(zip(small.layers, model.layers)):
        layer.set_weights([cut(w, i, w.ndim == 2) for w in big.get_weights()])
    return small


def assert_agree(model, small, losses=(), small_losses=()):
    np.testing.assert_allclose(losses, small_losses, **TOLERANCE)
    for i, (layer, big) in enumerate(zip(small.layers, model.layers)):
        for a, b in zip(layer.get_weights(), big.get_weights()):
            np.testing.assert_allclose(cut(b, i, b.ndim == 2), a, **TOLERANCE)


def has_bias(name):
    # These two scale by the size of a bias, which in the big network is one
    # of more units. Biases are not pruned.
    return "Adafactor" not in name and name != "Lamb"


@pytest.mark.parametrize("name", zoo.OPTIMIZERS)
def test_every_optimizer(name):
    x, y = zoo.data()
    bias = has_bias(name)
    model = dense(8, 7, bias)
    keras_lottery.wrap(model, masks=structural_masks(model))
    small = small_from(model, bias)
    start = small.get_weights()
    losses = []
    for network in (model, small):
        network.compile(zoo.OPTIMIZERS[name](), "mse")
        losses.append(zoo.train_eagerly(network, network.optimizer, x, y))
    assert any(not zoo.same(a, b) for a, b in zip(start, small.get_weights()))
    assert_agree(model, small, *losses)


@pytest.fixture(scope="module")
def pair():
    model = dense(8, 7, bias=False)
    keras_lottery.wrap(model, masks=structural_masks(model))
    return model, small_from(model, bias=False)


@pytest.mark.parametrize("option", zoo.CROSSED)
@pytest.mark.parametrize("name", zoo.OPTIMIZERS)
def test_every_optimizer_with_every_option(pair, name, option):
    """The same gradients for both, and noise where there is no weight."""
    starts, draw = [n.get_weights() for n in pair], np.random.default_rng(0)
    optimizers = [zoo.OPTIMIZERS[name](**zoo.OPTIONS[option]) for _ in pair]
    keras_lottery.optimizers.wrap_optimizer(optimizers[0])
    for _ in range(3):
        gradients = []
        for variable in pair[0].trainable_variables:
            gradient = draw.normal(size=variable.shape)
            gradients.append(gradient.astype("float32"))
        small = [cut(g, min(i, 2), i < 3) for i, g in enumerate(gradients)]
        for one, network, own in zip(optimizers, pair, (gradients, small)):
            own = [keras.ops.convert_to_tensor(gradient) for gradient in own]
            zoo_steps.apply(one, own, network.trainable_variables)
    for one, network in zip(optimizers, pair):
        one.finalize_variable_values(network.trainable_variables)
    try:
        assert not zoo.same(pair[1].get_weights(), starts[1])
        assert_agree(*pair)
    finally:
        for network, start in zip(pair, starts):
            network.set_weights(start)


def copy_slots(model, small, bias):
    """Gives the small network's optimizer what the big one's holds."""
    served = [(i, k) for i in range(3) for k in (True, False)]
    if not bias:
        served = [(0, True), (1, True), (2, True), (2, False)]
    small.optimizer.build(small.trainable_variables)
    to = zoo.optimizer_variables(small.optimizer)
    for key, value in zoo.optimizer_state(model.optimizer).items():
        if "[" in key:
            which = int(key.rsplit("[", 1)[1][:-1])
            value = cut(value, *served[which])
        to[key].assign(value)


def structural_criterion(initial, trained):
    """Units that live score above those that do not."""
    i = {(6, 8): 0, (8, 7): 1, (7, 3): 2}[trained.shape]
    scores = np.zeros(trained.shape)
    scores[np.ix_(*living(i))] = 1.0
    return scores


def structural_rates(model):
    return {
        f"^{path}$": float(1.0 - mask.mean())
        for path, mask in structural_masks(model).items()
    }


# Not Adafactor: its second moments are means over rows and columns, of which
# the dense network's part cannot be told from the rest.
LATE = [
    ("Adam", "use_ema", 2),
    ("Adam", "clipnorm", None),
    ("Ftrl", "plain", 2),
    ("Lamb", "plain", 2),
    ("Lamb", "clipnorm", None),
    ("LossScaleOptimizer", "use_ema", 2),
    ("Muon", "plain", 2),
    ("Muon", "use_ema", None),
]


@pytest.mark.parametrize(
    "name, option, rewind_to", some(LATE, *LATE[:2], *LATE[-2:])
)
def test_from_a_state_of_the_dense_network(name, option, rewind_to):
    """A rewind point past initialisation holds the dense network's slots."""
    x, y = zoo.data()
    bias = has_bias(name)
    model = dense(8, 7, bias)
    keras_lottery.wrap(
        model,
        rewind_to=rewind_to,
        criterion=structural_criterion,
        rates=structural_rates(model),
    )
    model.compile(zoo.OPTIMIZERS[name](**zoo.OPTIONS[option]), "mse")
    zoo.train_eagerly(model, model.optimizer, x, y, 2)
    model.lottery.capture(2)
    zoo.train_eagerly(model, model.optimizer, x, y, 2)
    model.lottery.prune()
    model.lottery.rewind()
    for path, mask in structural_masks(model).items():
        assert zoo.same(model.lottery.masks[path], mask)

    small = small_from(model, bias)
    small.compile(zoo.OPTIMIZERS[name](**zoo.OPTIONS[option]), "mse")
    copy_slots(model, small, bias)
    losses = []
    for network in (model, small):
        losses.append(zoo.train_eagerly(network, network.optimizer, x, y))
        network.optimizer.finalize_variable_values(network.trainable_variables)
    zoo.assert_zero(model)
    assert_agree(model, small, *losses)


def convolution(channels):
    zoo.build()
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(channels, 3, activation="relu"),
            keras.layers.Conv2D(4, 2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )


@pytest.mark.parametrize("name", some(["Adafactor", "Lamb"], "Lamb"))
def test_a_channel_of_a_convolution_by_fit(name):
    alive = np.array([0, 2, 5])
    options = {"global_clipnorm": 0.05}
    big, small = convolution(6), convolution(3)
    first, second, last = (big.layers[i] for i in (0, 1, 3))
    masks = {
        first.kernel.path: np.zeros(first.kernel.shape, bool),
        second.kernel.path: np.zeros(second.kernel.shape, bool),
    }
    masks[first.kernel.path][..., alive] = True
    masks[second.kernel.path][:, :, alive] = True
    small.layers[0].set_weights([w[..., alive] for w in first.get_weights()])
    kernel, bias = second.get_weights()
    small.layers[1].set_weights([kernel[:, :, alive], bias])
    small.layers[3].set_weights(last.get_weights())
    keras_lottery.wrap(big, masks=masks, rounds=0)
    histories = []
    for network in (big, small):
        network.compile(zoo.OPTIMIZERS[name](**options), "mse")
        keras.utils.set_random_seed(5)
        history = zoo.fit(network, "convolutions", epochs=3).history
        histories.append(history["loss"])
    np.testing.assert_allclose(*histories, **TOLERANCE)
    for a, b in (
        (first.kernel.numpy()[..., alive], small.layers[0].kernel),
        (second.kernel.numpy()[:, :, alive], small.layers[1].kernel),
        (last.kernel.numpy(), small.layers[3].kernel),
    ):
        np.testing.assert_allclose(a, b.numpy(), **TOLERANCE)


@pytest.mark.parametrize("rewind_to", [0, 3])
def test_a_ticket_found_by_fit(rewind_to):
    """Rounds of `fit` end in what plain training of the rest ends in."""
    model = dense(8, 7, bias=False)
    keras_lottery.wrap(
        model,
        rounds=1,
        rewind_to=rewind_to,
        criterion=structural_criterion,
        rates=structural_rates(model),
    )
    options = {"global_clipnorm": 0.1}
    model.compile(zoo.OPTIMIZERS["Lamb"](**options), "mse")
    zoo.fit(model)
    small = small_from(model, bias=False)
    small.compile(zoo.OPTIMIZERS["Lamb"](**options), "mse")
    copy_slots(model, small, bias=False)
    losses = []
    for network in (model, small):
        keras.utils.set_random_seed(5)
        losses.append(zoo.fit(network, **zoo.SAME_ORDER).history["loss"])
    assert_agree(model, small, *losses)
