"""Arms: each starts from the masks and weights that its docstring says."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import same

from keras_lottery.experiments import Experiment
from keras_lottery.experiments.arms import ARMS
from keras_lottery.experiments.arms_at_initialisation import (
    grasp_scores,
    scored_model,
    snip_scores,
    synflow_masks,
    synflow_scores,
)
from keras_lottery.experiments.bench import Bench
from keras_lottery.experiments.run import Run
from keras_lottery.patterns import Blocks, Pattern

ROUNDS = 2
LATE = 4
ALL = tuple(arm.name for arm in ARMS.values() if arm.shown)
SMALL = Experiment(
    rounds=ROUNDS,
    iterations=20,
    eval_every=10,
    late_rewind_to=LATE,
    # The others need another process, or another run.
    arms=tuple(n for n in ALL if n != "tfmot" and "transferred" not in n),
    backend="graph",
)
OF_THE_TICKET = ("reinit", "reinit_2", "reinit_3", "random_mask")
SHUFFLED = ("random_mask", "shuffled_mask", "random_ticket")
AT_INITIALISATION = ("snip", "grasp", "synflow")
GLOBAL = (
    "global",
    *AT_INITIALISATION,
    *(f"{name}_shuffled" for name in AT_INITIALISATION),
)


def opened(experiment, directory, trial=0):
    bench = Bench(experiment)
    bench.open(trial)
    for arm in ARMS:
        for level in range(ROUNDS + 1):
            ticket = Run(directory).load_ticket(trial, arm, level)
            if ticket:
                bench.tickets[arm, level] = ticket
    return bench


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Every arm trained: its directory and results."""
    directory = tmp_path_factory.mktemp("arms")
    return directory, SMALL.run(directory)


@pytest.fixture(scope="module")
def bench(run):
    return opened(SMALL, run[0])


@pytest.fixture(scope="module")
def same_bench(run):
    return opened(SMALL, run[0])


@pytest.fixture(scope="module")
def other_bench(run):
    return opened(dataclasses.replace(SMALL, seed=1), run[0])


def counts(masks):
    return [int(np.count_nonzero(mask)) for mask in masks.values()]


def nested(later, earlier):
    return all(
        not (mask & ~earlier[path]).any() for path, mask in later.items()
    )


def weights(bench, arm, level):
    return bench.start(arm, level).rewind_point.weights


def split(state, masks):
    """The kernels and the other weights of a state."""
    kernels = {path: state[path] for path in masks}
    return kernels, {p: a for p, a in state.items() if p not in masks}


def test_every_arm_has_a_row_at_every_level(run):
    rows = {(r.arm, r.level) for r in run[1]}
    assert rows == {(a, k) for a in SMALL.arms for k in range(ROUNDS + 1)}


def test_every_arm_has_the_ticket_s_density(run):
    for level in range(ROUNDS + 1):
        densities = {r.density for r in run[1] if r.level == level}
        assert len(densities) == 1


@pytest.mark.parametrize("arm", [a for a in SMALL.arms if a not in GLOBAL])
def test_layers_have_the_ticket_s_counts(bench, arm):
    for level in range(ROUNDS + 1):
        masks = bench.start(arm, level).masks
        expected = counts(bench.start("ticket", level).masks)
        # The sums of two rounded counts, or one rounded count.
        assert counts(masks) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("arm", GLOBAL)
def test_global_arms_have_the_ticket_s_count_in_all(bench, arm):
    for level in range(ROUNDS + 1):
        masks = bench.start(arm, level).masks
        ticket = bench.start("ticket", level).masks
        assert sum(counts(masks)) == sum(counts(ticket)) == bench.kept(level)
        assert level == 0 or counts(masks) != counts(ticket)


@pytest.mark.parametrize("arm", SMALL.arms)
def test_a_start_is_a_pure_function_of_the_seed(bench, same_bench, arm):
    for level in range(1, ROUNDS + 1):
        assert bench.key(arm, level) == same_bench.key(arm, level)


@pytest.mark.parametrize(
    "arm", (*OF_THE_TICKET, *SHUFFLED, "snip", "grasp", "synflow")
)
def test_trials_differ(bench, other_bench, arm):
    one, two = bench.start(arm, 1), other_bench.start(arm, 1)
    kernels = [split(s.rewind_point.weights, s.masks)[0] for s in (one, two)]
    assert not same(*kernels)
    if arm not in OF_THE_TICKET or arm == "random_mask":
        assert not same(one.masks, two.masks)


@pytest.mark.parametrize("arm", ("reinit", "reinit_2", "reinit_3"))
def test_reinit_has_the_ticket_s_masks_and_new_weights(bench, arm):
    for level in range(ROUNDS + 1):
        start, ticket = bench.start(arm, level), bench.start("ticket", level)
        assert same(start.masks, ticket.masks)
        for path, mask in start.masks.items():
            drawn = start.rewind_point.weights[path][mask]
            assert np.mean(drawn == bench.initial[path][mask]) < 0.001


def test_reinit_with_signs_has_new_sizes_and_the_initial_signs(bench):
    for level in range(ROUNDS + 1):
        start, drawn = (
            bench.start(a, level) for a in ("reinit_signs", "reinit")
        )
        assert same(start.masks, drawn.masks)
        kernels, others = split(start.rewind_point.weights, start.masks)
        sizes, drawn_others = split(drawn.rewind_point.weights, start.masks)
        assert same(others, drawn_others)
        for path, kernel in kernels.items():
            assert np.array_equal(np.abs(kernel), np.abs(sizes[path]))
            signs = np.signbit(bench.initial[path])
            assert np.array_equal(np.signbit(kernel), signs)
            assert not np.array_equal(np.signbit(sizes[path]), signs)


@pytest.mark.parametrize("arm", AT_INITIALISATION)
def test_shuffled_controls_keep_counts_and_nothing_else(bench, arm):
    for level in range(1, ROUNDS + 1):
        own, other = (bench.start(a, level) for a in (arm, f"{arm}_shuffled"))
        assert counts(own.masks) == counts(other.masks)
        for path, mask in own.masks.items():
            assert mask.all() or not same([mask], [other.masks[path]])


def test_draws_are_all_different(bench):
    arms = ("reinit", "reinit_2", "reinit_3", "random_ticket")
    drawn = [
        weights(bench, arm, level)["fc1/kernel"].tobytes()
        for arm in arms
        for level in range(ROUNDS + 1)
    ]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(
    "arm",
    ("random_mask", "shuffled_mask", "one_shot", "continued", *GLOBAL),
)
def test_arms_that_start_from_the_initial_weights(bench, arm):
    for level in range(ROUNDS + 1):
        assert same(weights(bench, arm, level), bench.initial)


@pytest.mark.parametrize("arm", SHUFFLED)
def test_masks_drawn_at_random_are_not_the_ticket_s(bench, arm):
    start, ticket = bench.start(arm, 1), bench.start("ticket", 1)
    assert counts(start.masks) == counts(ticket.masks)
    for path, mask in start.masks.items():
        assert not same([mask], [ticket.masks[path]])


@pytest.mark.parametrize(
    "arm, expected",
    [
        ("shuffled_mask", True),
        ("random_mask", False),
        ("late_rewind", True),
        ("global", True),
        ("lr_rewind", True),
        ("snip", True),
        ("snip_shuffled", True),
    ],
)
def test_which_masks_are_nested(bench, arm, expected):
    later, earlier = (bench.start(arm, level).masks for level in (2, 1))
    assert nested(later, earlier) is expected


def test_one_shot_is_one_round_of_the_summed_counts(bench):
    dense = bench.trained("ticket", 0).trained
    for level in range(1, ROUNDS + 1):
        masks = bench.start("one_shot", level).masks
        assert counts(masks) == counts(bench.start("ticket", level).masks)
        for path, mask in masks.items():
            size = np.abs(dense[path])
            assert size[mask].min() >= size[~mask].max()


def test_continued_prunes_what_was_trained_on(bench):
    before = bench.trained("continued_search", 1)
    assert not same(before.rewind_point.weights, bench.initial)
    masks = bench.start("continued", 2).masks
    for path, mask in masks.items():
        size, alive = np.abs(before.trained[path]), before.masks[path]
        assert size[mask].min() >= size[alive & ~mask].max()


def test_lr_rewind_keeps_the_trained_weights_and_a_fresh_optimizer(bench):
    start = bench.start("lr_rewind", 1)
    assert same(
        start.rewind_point.weights, bench.trained("lr_rewind", 0).trained
    )
    for slots in start.rewind_point.optimizers.values():
        assert slots["0:iteration"] == 0
        assert not any(s.any() for n, s in slots.items() if "learning" not in n)


def test_late_rewind_starts_at_its_step_with_captured_slots(bench):
    first = bench.trained("late_rewind", 0).rewind_point
    assert first.step == LATE
    assert not same(first.weights, bench.initial)
    start = bench.start("late_rewind", 2)
    assert start.rewind_point.step == LATE
    assert same(start.rewind_point.weights, first.weights)
    (slots,) = start.rewind_point.optimizers.values()
    assert slots["0:iteration"] == LATE
    assert sum(bool(s.any()) for s in slots.values()) > 4
    assert same(
        *(p.optimizers["optimizer"] for p in (first, start.rewind_point))
    )


def test_late_rewind_is_dense_at_first_and_the_ticket_stays_at_0(run, bench):
    assert bench.key("late_rewind", 0) == bench.key("ticket", 0)
    late, ticket = (bench.trained(arm, 0) for arm in ("late_rewind", "ticket"))
    assert same(late.trained, ticket.trained)
    assert ticket.rewind_point.step == 0
    assert bench.key("late_rewind", 1) != bench.key("ticket", 1)


def test_late_rewind_is_the_ticket_of_an_experiment_that_rewinds_late(
    run, tmp_path
):
    late = dataclasses.replace(SMALL, rewind_to=LATE, arms=("ticket",))
    tickets = late.run(tmp_path)
    rows = [r for r in run[1] if r.arm == "late_rewind"]
    for one, two in zip(tickets, rows, strict=True):
        renamed = dataclasses.replace(two, arm="ticket", seconds=one.seconds)
        assert one == renamed
    for level in range(ROUNDS + 1):
        point = Run(tmp_path).load_ticket(0, "ticket", level).rewind_point
        assert point.step == LATE
        (state,) = point.optimizers.values()
        assert state["0:iteration"] == LATE


def test_global_is_one_threshold(bench):
    before = bench.trained("global", 1)
    masks = bench.start("global", 2).masks
    sizes = {path: np.abs(before.trained[path]) for path in masks}
    kept = min(sizes[p][m].min() for p, m in masks.items())
    gone = max(
        sizes[p][before.masks[p] & ~m].max()
        for p, m in masks.items()
        if (before.masks[p] & ~m).any()
    )
    assert gone <= kept


def test_global_leaves_alone_what_the_recipe_leaves_alone(tmp_path):
    alone = Experiment(
        rounds=1,
        rate=0.5,
        output_rate=0.0,
        iterations=4,
        arms=("global",),
        backend="graph",
    )
    bench = opened(alone, tmp_path)
    bench.tickets["global", 0] = bench.train("global", 0).ticket
    masks = bench.start("global", 1).masks
    assert set(masks) == {"fc1/kernel", "fc2/kernel"}
    assert sum(counts(masks)) == (64 * 300 + 300 * 100) // 2


# Pruning at initialisation, by hand.


def linear(*kernels):
    """A network of dense layers without biases, and its kernels."""
    model = keras.Sequential(
        [
            keras.Input((len(kernels[0]),)),
            *(keras.layers.Dense(k.shape[1], use_bias=False) for k in kernels),
        ]
    )
    model.set_weights(kernels)
    return model, {f"k{i}": v for i, v in enumerate(model.variables)}


X = np.array([[1.0, 2.0], [-1.0, 0.5]], "float32")
Y = np.array([0, 1], "int32")
W = np.array([[0.1, -0.2], [0.3, 0.4]], "float32")


def softmax(logits):
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def slope(w, temperature=1.0):
    """The gradient of the mean loss of `X @ w`, in float64."""
    error = softmax(X.astype("float64") @ w / temperature) - np.eye(2)[Y]
    return X.T @ error / (len(X) * temperature)


def test_snip_of_a_linear_network():
    model, kernels = linear(W)
    expected = np.abs(W * slope(W))
    whole = snip_scores(model, kernels, [(X, Y)])
    assert whole["k0"] == pytest.approx(expected, rel=1e-5)
    parts = [(X[:1], Y[:1]), (X[1:], Y[1:])]
    parted = snip_scores(model, kernels, parts)
    assert parted["k0"] == pytest.approx(expected, rel=1e-5)


def test_grasp_of_a_linear_network():
    model, kernels = linear(W)
    # H g is the derivative of the gradient along itself.
    along, tiny = slope(W, 200.0), 1e-3
    ahead, back = (slope(W + s * tiny * along, 200.0) for s in (1, -1))
    expected = W * (ahead - back) / (2 * tiny)
    whole = grasp_scores(model, kernels, [(X, Y)])
    assert whole["k0"] == pytest.approx(expected, rel=1e-3)
    parts = [(X[:1], Y[:1]), (X[1:], Y[1:])]
    parted = grasp_scores(model, kernels, parts)
    assert parted["k0"] == pytest.approx(expected, rel=1e-3)


def test_grasp_keeps_what_carries_the_gradient():
    # The paper removes the highest -w * Hg: those whose removal raises the
    # squared norm of the gradient the most. Here the lowest scores go.
    model, kernels = linear(W)
    scores = grasp_scores(model, kernels, [(X, Y)])["k0"]
    step, norms = 1e-3, np.zeros_like(W, dtype="float64")
    for place in np.ndindex(W.shape):
        less = W.astype("float64")
        less[place] *= 1 - step
        norms[place] = np.square(slope(less, 200.0)).sum()
    assert (np.argsort(-norms.ravel()) == np.argsort(scores.ravel())).all()


def test_synflow_of_a_linear_network():
    first = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    second = np.array([[10.0], [100.0]], "float32")
    model, kernels = linear(first, second)
    scores = synflow_scores(model, kernels)
    # Every path from an input to the output, once for each weight on it.
    assert np.array_equal(scores["k0"], [[10, 200], [30, 400]])
    assert np.array_equal(scores["k1"], [[40], [600]])


def hessian_by_differences(function, kernels, direction, step=1e-4):
    """H v, of the gradients that a function returns, by central differences."""
    before = [variable.numpy() for variable in kernels.values()]
    ends = []
    for sign in (1, -1):
        for variable, value, way in zip(kernels.values(), before, direction):
            variable.assign(value + sign * step * way)
        ends.append(function())
    for variable, value in zip(kernels.values(), before):
        variable.assign(value)
    return [(a - b) / (2 * step) for a, b in zip(*ends)]


def test_grasp_is_exact_through_batch_norm_and_without_chance():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float64")
    try:
        inputs = keras.Input((6, 6, 2), dtype="float64")
        x = keras.layers.Conv2D(4, 3, name="conv", use_bias=False)(inputs)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
        x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
        model = keras.Model(inputs, keras.layers.Dense(3, name="out")(x))
    finally:
        keras.config.set_dtype_policy("float32")
    layers = [model.get_layer(name) for name in ("conv", "out")]
    kernels = {layer.name: layer.kernel for layer in layers}
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(12, 6, 6, 2)), np.arange(12) % 3
    scored, copies = scored_model(model, kernels)
    assert all(copies[p] is not kernels[p] for p in kernels)
    # As in training, but for what is drawn.
    without = keras.models.clone_model(
        model,
        clone_function=lambda layer: (
            keras.layers.Identity()
            if isinstance(layer, keras.layers.Dropout)
            else layer.__class__.from_config(layer.get_config())
        ),
    )
    without.set_weights(model.get_weights())
    np.testing.assert_allclose(scored(x), without(x, training=True), rtol=1e-5)

    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(
                    y, scored(x) / 200.0
                )
            )
        values = [variable.value for variable in copies.values()]
        return [g.numpy() for g in tape.gradient(loss, values)]

    products = hessian_by_differences(gradients, copies, gradients())
    found = grasp_scores(scored, copies, [(x, y)])
    for (path, variable), product in zip(copies.items(), products):
        np.testing.assert_allclose(
            found[path], variable.numpy() * product, rtol=1e-4, atol=1e-12
        )


SINGLE = Pattern(
    [Blocks("k0", (2, 2), 0, 1, None), Blocks("k1", (2, 1), 0, 1, None)]
)


def test_synflow_looks_again_after_each_step():
    first = np.array([[1.0, -2.0], [-3.0, 4.0]], "float32")
    second = np.array([[-10.0], [100.0]], "float32")
    masks = synflow_masks(
        *linear(first, second), count=3, pattern=SINGLE, steps=1
    )
    assert np.array_equal(masks["k0"], [[0, 1], [0, 1]])
    assert np.array_equal(masks["k1"], [[0], [1]])
    # All weights of the narrow layer outscore all of the wide one. At once,
    # nothing is left of that.
    layers = np.ones((2, 4), "float32"), np.ones((4, 1), "float32")
    at_once = synflow_masks(*linear(*layers), count=3, pattern=SINGLE, steps=1)
    assert counts(at_once) == [0, 3]
    masks = synflow_masks(*linear(*layers), count=3, pattern=SINGLE)
    assert sum(counts(masks)) == 3
    assert (masks["k0"].any(axis=0) & masks["k1"][:, 0]).any()


def test_batch_norm_and_dropout_do_not_reach_synflow():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(2, use_bias=False),
            keras.layers.Dropout(0.5),
            keras.layers.BatchNormalization(epsilon=0.0),
        ]
    )
    model.layers[0].set_weights([np.abs(W)])
    kernels = {"k": model.layers[0].kernel}
    assert synflow_scores(model, kernels)["k"] == pytest.approx(np.abs(W))


# tfmot.


@pytest.mark.slow
def test_tfmot_ends_at_the_ticket_s_counts(tmp_path):
    experiment = dataclasses.replace(
        SMALL, rounds=1, iterations=40, arms=("tfmot",)
    )
    bench = opened(experiment, tmp_path)
    bench.tickets["ticket", 0] = bench.train("ticket", 0).ticket
    record = bench.train("tfmot", 1).record
    ticket = bench.start("ticket", 1).masks
    for path, variable in zip(
        ("fc1/kernel", "fc2/kernel", "output/kernel"),
        (w for w in bench.model.weights if len(w.shape) == 2),
    ):
        kept = np.count_nonzero(variable.numpy())
        assert kept == pytest.approx(np.count_nonzero(ticket[path]), abs=1)
    assert record["early_stop_iteration"] == 40
    assert record["final_train_accuracy"] > 0.3
    assert bench.key("tfmot", 1) != bench.key("ticket", 1)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"model": "resnet_18"}, "needs `model` to be one of"),
        ({"optimizer": "rmsprop"}, "needs `optimizer` to be one of"),
        ({"warmup": 5}, "without `warmup`"),
        ({"iterations": 3}, "needs `iterations` to be at least 4"),
    ],
)
def test_tfmot_refuses_what_it_cannot_train_alike(wrong, message):
    with pytest.raises(ValueError, match=message):
        Experiment(arms=("tfmot",), **wrong)


@pytest.mark.slow
def test_tfmot_without_pruning_trains_as_the_dense_network(tmp_path):
    bench = opened(dataclasses.replace(SMALL, arms=("tfmot",)), tmp_path)
    losses = []
    for arm in ("ticket", "tfmot"):
        losses.append(bench.train(arm, 0).training.val_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.fixture(scope="module", params=["4x1", "2:4", "channel"])
def patterned(request, tmp_path_factory):
    experiment = dataclasses.replace(SMALL, block_size=request.param, rounds=1)
    directory = tmp_path_factory.mktemp("patterns")
    results = experiment.run(directory)
    return opened(experiment, directory), results


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:block_size='channel' leaves")
@pytest.mark.parametrize("arm", SMALL.arms)
def test_every_arm_keeps_the_pattern(patterned, arm):
    bench, results = patterned
    assert {r.level for r in results if r.arm == arm} == {0, 1}
    masks = bench.start(arm, 1).masks
    assert bench.pattern.count(masks) == bench.kept(1)
    for path, mask in masks.items():
        size = bench.pattern.sizes[path]
        if size == "channel":
            assert np.array_equal(mask.any(0), mask.all(0))
        elif size == "2:4":
            whole = len(mask) // 4 * 4
            fours = mask[:whole].reshape(-1, 4, mask.shape[1])
            assert fours.sum(1).max() <= 2
        else:
            blocks, one = Blocks(path, mask.shape, 0, 1, (4, 1)), {path: mask}
            assert np.array_equal(blocks.spread(blocks.kept(one)), mask)


def test_random_criteria_draw_anew_in_each_trial(tmp_path):
    small = dict(rounds=1, iterations=5, eval_every=5, arms=("ticket",))
    Experiment(**small, criterion="random", trials=2).run(tmp_path)
    masks = [
        Run(tmp_path).load_ticket(trial, "ticket", 1).masks["fc1/kernel"]
        for trial in (0, 1)
    ]
    # Of independent masks that keep 80 %, two thirds of what one keeps.
    common = np.sum(masks[0] & masks[1]) / np.sum(masks[0] | masks[1])
    assert common == pytest.approx(0.64 / 0.96, abs=0.02)


def test_what_a_pattern_leaves_alone_is_told_once(tmp_path):
    small = dict(rounds=1, iterations=5, eval_every=5, arms=("ticket",))
    with pytest.warns(UserWarning, match="block_size='channel' leaves"):
        Experiment(**small, block_size="channel").run(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "block_size=")
        assert Run(tmp_path).trained_model(1).model.lottery.level == 1
