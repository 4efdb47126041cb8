"""Models and optimizers of every kind, tiny, for the tests of the laws.

Nothing here asks the package what it thinks: states are read by walking
attributes, masks are found by comparing arrays.
"""

import dataclasses
import functools

import keras
import numpy as np
import tensorflow as tf

import keras_lottery

SAMPLES, BATCH, EPOCHS = 24, 8, 2
STEPS = EPOCHS * SAMPLES // BATCH
layers = keras.layers


# Models. Each function returns an uncompiled model.


def sequential():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, "tanh"),
            layers.Dense(7, "relu"),
            layers.Dense(3),
        ]
    )


def functional():
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, "tanh")(inputs)
    outputs = layers.Dense(3)(layers.Concatenate()([hidden, inputs]))
    return keras.Model(inputs, outputs)


def unbuilt_sequential():
    return keras.Sequential(
        [layers.Dense(8, "tanh"), layers.Dropout(0.4), layers.Dense(3)]
    )


@keras.saving.register_keras_serializable("laws")
class OwnCall(keras.Model):
    """A subclass with a `call` of its own; unbuilt until it sees data."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(8, "tanh")
        self.dropout = layers.Dropout(0.4)
        self.out = layers.Dense(3)

    def call(self, inputs, training=None):
        hidden = self.dropout(self.hidden(inputs), training=training)
        return self.out(hidden)


@keras.saving.register_keras_serializable("laws")
class OwnTrainStep(keras.Model):
    """A functional model with a `train_step` of its own."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
            loss = loss + 0.01 * keras.ops.sum(
                keras.ops.square(self.weights[0])
            )
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled, variables)
        self.optimizer.apply(gradients, variables)
        return {"loss": loss}


def own_train_step():
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, "tanh")(inputs)
    return OwnTrainStep(inputs, layers.Dense(3)(hidden))


@keras.saving.register_keras_serializable("laws")
class Adversaries(keras.Model):
    """Like a GAN: two networks, an optimizer for each, noise."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.Sequential(
            [keras.Input((4,)), layers.Dense(8, "tanh"), layers.Dense(6)]
        )
        self.critic = keras.Sequential(
            [keras.Input((6,)), layers.Dense(8, "tanh"), layers.Dense(1)]
        )
        self.noise = keras.random.SeedGenerator(5)
        self.built = True

    def compile(self, optimizer, critic_optimizer=None, **kwargs):
        super().compile(optimizer=optimizer, **kwargs)
        if critic_optimizer is None:
            critic_optimizer = keras.optimizers.RMSprop(0.01)
        self.critic_optimizer = critic_optimizer

    def call(self, inputs):
        return self.critic(inputs)

    def train_step(self, data):
        x, _ = data
        z = keras.random.normal((keras.ops.shape(x)[0], 4), seed=self.noise)
        with tf.GradientTape(persistent=True) as tape:
            real, fake = self.critic(x), self.critic(self.generator(z))
            critic_loss = keras.ops.mean(fake - real)
            loss = -keras.ops.mean(fake)
        for optimizer, part, own in (
            (self.critic_optimizer, self.critic, critic_loss),
            (self.optimizer, self.generator, loss),
        ):
            variables = part.trainable_variables
            optimizer.apply(tape.gradient(own, variables), variables)
        return {"loss": loss, "critic_loss": critic_loss}


def nested():
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, "tanh"), layers.Dense(4)]
    )
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3)(inner(inputs)))


def shared():
    twice = layers.Dense(6, "tanh")
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3)(twice(twice(inputs))))


def lists():
    a, b = keras.Input((6,)), keras.Input((4,))
    hidden = layers.Concatenate()([layers.Dense(5, "tanh")(a), b])
    heads = [layers.Dense(3)(hidden), layers.Dense(2)(hidden)]
    return keras.Model([a, b], heads)


def dicts():
    a, b = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    hidden = layers.Concatenate()([layers.Dense(5, "tanh")(a), b])
    heads = {"p": layers.Dense(3)(hidden), "q": layers.Dense(2)(hidden)}
    return keras.Model({"a": a, "b": b}, heads)


def images(*between):
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            *between,
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )


def convolutions():
    return images(
        layers.Conv2D(4, 3, activation="relu"),
        layers.DepthwiseConv2D(2),
        layers.SeparableConv2D(4, 2),
        layers.Conv2DTranspose(3, 2),
    )


def convolutions_1d_and_3d():
    return images(
        layers.Reshape((36, 2)),
        layers.Conv1D(4, 3),
        layers.Conv1DTranspose(2, 3),
        layers.SeparableConv1D(4, 3, padding="same"),
        layers.Reshape((4, 4, 3, 3)),
        layers.Conv3D(3, 2),
        layers.Conv3DTranspose(2, 2),
        layers.Reshape((8, 6, 2)),
    )


def normalised():
    return images(
        layers.Conv2D(4, 3, use_bias=False),
        layers.BatchNormalization(momentum=0.5),
        layers.Activation("relu"),
        layers.Dropout(0.3),
        layers.GaussianNoise(0.1),
        layers.LayerNormalization(),
    )


def recurrent():
    return keras.Sequential(
        [
            keras.Input((4, 6)),
            layers.LSTM(4, return_sequences=True, dropout=0.2),
            layers.GRU(4, return_sequences=True),
            layers.Bidirectional(layers.SimpleRNN(3, return_sequences=True)),
            layers.TimeDistributed(layers.Dense(4, "tanh")),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


@keras.saving.register_keras_serializable("laws")
class Positions(layers.Layer):
    """A position table, which is no connection."""

    def build(self, shape):
        self.table = self.add_weight(
            shape=shape[1:], initializer="random_normal", name="position"
        )

    def call(self, inputs):
        return inputs + self.table


@keras.saving.register_keras_serializable("laws")
class Bilinear(layers.Layer):
    """A user's own layer, its weight of rank 3."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.form = self.add_weight(
            shape=(shape[-1], shape[-1], self.units), name="form"
        )

    def call(self, x):
        return keras.ops.einsum("bi,bj,ijk->bk", x, x, self.form)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def attention():
    tokens = keras.Input((5,), dtype="int32")
    x = Positions()(layers.Embedding(11, 6)(tokens))
    x = x + layers.MultiHeadAttention(2, 3, dropout=0.2)(x, x)
    x = x + layers.GroupQueryAttention(3, 4, 2)(x, x)
    x = layers.EinsumDense("btd,de->bte", (None, 5), bias_axes="e")(x)
    return keras.Model(tokens, layers.Dense(3)(x[:, 0]))


def embedding():
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(11, 6),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def own_layer():
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3)(Bilinear(4)(inputs)))


def constrained():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(
                8, "tanh", kernel_constraint=keras.constraints.MaxNorm(0.7)
            ),
            layers.Dense(
                7, "relu", kernel_constraint=keras.constraints.NonNeg()
            ),
            layers.Dense(3),
        ]
    )


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of model: how to build it and what to train it on."""

    build: object
    x: object = (6,)
    y: object = 3
    rates: object = None
    built: bool = True


_TOKENS = "tokens"
KINDS = {
    "sequential": Kind(sequential),
    "functional": Kind(functional),
    "unbuilt_sequential": Kind(unbuilt_sequential, built=False),
    "own_call": Kind(OwnCall, built=False),
    "own_train_step": Kind(own_train_step),
    "adversaries": Kind(Adversaries),
    "nested": Kind(nested),
    "shared": Kind(shared),
    "lists": Kind(lists, [(6,), (4,)], [3, 2]),
    "dicts": Kind(dicts, {"a": (6,), "b": (4,)}, {"p": 3, "q": 2}),
    "convolutions": Kind(convolutions, (6, 6, 2)),
    "convolutions_1d_and_3d": Kind(convolutions_1d_and_3d, (6, 6, 2)),
    "normalised": Kind(normalised, (6, 6, 2)),
    "recurrent": Kind(recurrent, (4, 6)),
    "attention": Kind(attention, _TOKENS),
    "embedding": Kind(embedding, _TOKENS, rates={layers.Embedding: 0.5}),
    "own_layer": Kind(own_layer),
    "constrained": Kind(constrained),
}


def data(kind="sequential", samples=SAMPLES, seed=7):
    """(x, y) for a kind of model."""
    draw, kind = np.random.default_rng(seed), KINDS[kind]

    def array(shape):
        if shape == _TOKENS:
            return draw.integers(0, 11, (samples, 5)).astype("int32")
        shape = shape if isinstance(shape, tuple) else (shape,)
        return draw.normal(size=(samples, *shape)).astype("float32")

    def of(spec):
        if isinstance(spec, dict):
            return {name: array(shape) for name, shape in spec.items()}
        if isinstance(spec, list):
            return [array(shape) for shape in spec]
        return array(spec)

    return of(kind.x), of(kind.y)


def build(kind="sequential", seed=3):
    """A model, the same at every call."""
    policy = keras.config.dtype_policy()
    keras.backend.clear_session(free_memory=False)
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(seed)
    return KINDS[kind].build()


def compiled(kind="sequential", optimizer=None, wrap=None, seed=3, **options):
    """`build`, wrapped if `wrap` holds its arguments, compiled with mse."""
    model = build(kind, seed)
    if wrap is not None:
        model = keras_lottery.wrap(model, rates=KINDS[kind].rates, **wrap)
    if optimizer is None:
        optimizer = keras.optimizers.Adam(0.05)
    loss = keras.tree.map_structure(lambda _: "mse", KINDS[kind].y)
    model.compile(optimizer=optimizer, loss=loss, **options)
    return model


def fit(model, kind="sequential", **arguments):
    """Trains as all tests here do: two epochs of three batches."""
    x, y = data(kind)
    arguments = {"epochs": EPOCHS, "batch_size": BATCH, **arguments}
    return model.fit(x, y, verbose=0, **arguments)


# Optimizers.


def _multi(matrices=None, **options):
    scale = options.pop("loss_scale_factor", None)
    matrices = matrices or keras.optimizers.Adam
    kinds = [
        matrices(0.02, name="for_matrices", **options),
        keras.optimizers.SGD(0.02, momentum=0.9, name="for_others", **options),
    ]
    return keras.optimizers.MultiOptimizer(
        lambda variable: kinds[len(variable.shape) < 2],
        loss_scale_factor=scale,
    )


def _loss_scaled(inner=None, **options):
    inner = inner or keras.optimizers.Adam
    return keras.optimizers.LossScaleOptimizer(
        inner(0.02, **options), initial_scale=64.0
    )


def _of(name, *args, **own):
    kind = getattr(keras.optimizers, name, None)
    return lambda **options: kind(*args, **{**own, **options})


OPTIMIZERS = {
    "SGD": _of("SGD", 0.1),
    "SGD momentum": _of("SGD", 0.05, momentum=0.9),
    "SGD nesterov": _of("SGD", 0.05, momentum=0.9, nesterov=True),
    "RMSprop": _of("RMSprop", 0.02),
    "RMSprop centered": _of("RMSprop", 0.02, centered=True, momentum=0.9),
    "Adam": _of("Adam", 0.02),
    "Adam amsgrad": _of("Adam", 0.02, amsgrad=True),
    "AdamW": _of("AdamW", 0.02, weight_decay=0.1),
    "Adadelta": _of("Adadelta", 1.0),
    "Adafactor": _of("Adafactor", 0.05),
    "Adagrad": _of("Adagrad", 0.1),
    "Adamax": _of("Adamax", 0.02),
    "Ftrl": _of(
        "Ftrl",
        0.1,
        l1_regularization_strength=0.01,
        l2_regularization_strength=0.01,
        l2_shrinkage_regularization_strength=0.01,
    ),
    "Lamb": _of("Lamb", 0.02),
    "Lion": _of("Lion", 0.01),
    "LossScaleOptimizer": _loss_scaled,
    "LossScaleOptimizer of Adafactor": functools.partial(
        _loss_scaled, keras.optimizers.Adafactor
    ),
    "MultiOptimizer": _multi,
    "MultiOptimizer with Muon": functools.partial(
        _multi, keras.optimizers.Muon
    ),
    "Muon": _of("Muon", 0.02),
    "Nadam": _of("Nadam", 0.02),
    "ScheduleFreeAdamW": _of("ScheduleFreeAdamW", 0.02),
}
if not hasattr(keras.optimizers, "ScheduleFreeAdamW"):  # Keras before 3.15
    del OPTIMIZERS["ScheduleFreeAdamW"]

# Two options at a time where they do not meet.
OPTIONS = {
    "plain": {},
    "clipnorm": {"clipnorm": 0.05, "weight_decay": 0.2},
    "clipvalue": {"clipvalue": 0.01, "loss_scale_factor": 8.0},
    "global_clipnorm": {
        "global_clipnorm": 0.05,
        "gradient_accumulation_steps": 2,
    },
    "use_ema": {"use_ema": True, "ema_momentum": 0.5},
    "ema_overwrite_frequency": {
        "use_ema": True,
        "ema_momentum": 0.5,
        "ema_overwrite_frequency": 2,
        "weight_decay": 0.2,
    },
}


def kinds_of_optimizers():
    """Names of all optimizer classes that Keras offers."""
    return {
        name
        for name, value in vars(keras.optimizers).items()
        if isinstance(value, type)
        and issubclass(value, keras.optimizers.Optimizer)
        and value is not keras.optimizers.Optimizer
    }


def meet(model):
    """Shows a wrapped model the optimizer it was compiled with, as `fit`."""
    if hasattr(model, "lottery"):
        model.make_train_function()


def train_eagerly(model, optimizer, x, y, steps=3, after_step=None):
    """A custom loop, nothing traced. Returns the losses."""
    variables, losses = model.trainable_variables, []
    meet(model)
    for _ in range(steps):
        with tf.GradientTape() as tape:
            error = keras.ops.square(model(x, training=True) - y)
            loss = keras.ops.mean(error)
            if not optimizer.built:
                # A loss is scaled by what only exists once it is built.
                optimizer.build(variables)
            scaled = optimizer.scale_loss(loss)
        optimizer.apply(tape.gradient(scaled, variables), variables)
        losses.append(float(loss))
        if after_step:
            after_step()
    return losses


# States, read without the package's help.


def weights(model):
    """List of copies of every variable of the model."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]


def optimizer_variables(optimizer):
    """Dict of every variable that hangs on an optimizer, by attribute.

    Not by `optimizer.variables`: Keras does not list all.
    """
    found = {}

    def visit(value, name):
        if isinstance(value, keras.Variable):
            found[name] = value
        elif isinstance(value, keras.optimizers.Optimizer):
            visit_attributes(value, name)
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                visit(item, f"{name}[{i}]")

    def visit_attributes(owner, name):
        for attribute, value in vars(owner).items():
            # Lists of what has an attribute of its own, or is no slot.
            if attribute not in ("_trainable_variables", "_variables"):
                visit(value, f"{name}.{attribute}")

    visit_attributes(optimizer, "")
    return found


def optimizer_state(optimizer):
    """Dict of copies of `optimizer_variables`."""
    return {
        name: np.array(keras.ops.convert_to_numpy(variable))
        for name, variable in optimizer_variables(optimizer).items()
    }


def optimizer_states(model):
    """`optimizer_state` of every optimizer of a model, by attribute."""
    return {
        name: optimizer_state(value)
        for name, value in vars(model).items()
        if isinstance(value, keras.optimizers.Optimizer)
    }


def same(a, b):
    """Whether two nests of arrays are equal bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(u, v) for u, v in zip(a, b))
    a, b = np.asarray(a), np.asarray(b)
    return (
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    )


def masked(model, arrays, masks):
    """What `weights` must be: `arrays`, zero where a mask is False."""
    result = []
    for variable, array in zip(model.variables, arrays):
        if variable.path in masks:
            array = array * masks[variable.path].astype(array.dtype) + 0.0
        result.append(array)
    return result


def kernels(model):
    """Dict, path -> variable, of what is masked."""
    return {v.path: v for v in weighted(model, model.lottery)}


def weighted(model, pruner):
    """The variables that a pruner masks."""
    return [v for v in model.trainable_variables if v.path in pruner.masks]


def assert_zero(model):
    """Every pruned weight is exactly 0, and there are such."""
    pruned = 0
    for path, variable in kernels(model).items():
        dead = ~model.lottery.masks[path]
        values = keras.ops.convert_to_numpy(variable)[dead]
        assert not np.any(values != 0), f"{path}: {values[values != 0][:5]}"
        pruned += dead.sum()
    assert pruned


class Recorder(keras.callbacks.Callback):
    """Writes down how each level starts, goes and ends."""

    def __init__(self):
        super().__init__()
        self.starts, self.ends, self.masks, self.violations = [], [], [], []

    def state(self):
        return weights(self.model), optimizer_states(self.model)

    def on_train_begin(self, logs=None):
        self.starts.append(self.state())

    def on_train_batch_end(self, batch, logs=None):
        self.check(f"batch {batch}")

    def on_epoch_end(self, epoch, logs=None):
        self.check(f"epoch {epoch}")

    def on_train_end(self, logs=None):
        self.check("the end")
        self.ends.append(self.state())
        if isinstance(self.model, keras_lottery.wrapping.LotteryModel):
            self.masks.append(self.model.lottery.masks)

    def check(self, where):
        if not isinstance(self.model, keras_lottery.wrapping.LotteryModel):
            return
        for path, variable in kernels(self.model).items():
            dead = ~self.model.lottery.masks[path]
            if np.any(keras.ops.convert_to_numpy(variable)[dead] != 0):
                self.violations.append((self.model.lottery.level, where, path))


@dataclasses.dataclass
class Search:
    """A plain training and three levels of a wrapped one, side by side."""

    model: object
    initial: list
    initial_optimizers: dict
    plain: Recorder
    wrapped: Recorder
    plain_history: dict
    wrapped_histories: list


@functools.cache
def search(kind):
    """Trains one kind of model, once for all laws."""
    first = compiled(kind)
    x, _ = data(kind)
    if not first.built:
        first(keras.tree.map_structure(lambda a: a[:1], x))
    initial = weights(first)
    parts = {"optimizer": first}
    if kind == "adversaries":
        parts = {"optimizer": first.generator, "critic_optimizer": first.critic}
    for name, part in parts.items():
        getattr(first, name).build(part.trainable_variables)
    initial_optimizers = optimizer_states(first)

    plain, wrapped = Recorder(), Recorder()
    model = compiled(kind)
    plain_history = fit(model, kind, callbacks=[plain]).history
    model = compiled(kind, wrap={"rate": 0.3})
    histories = [
        fit(model, kind, callbacks=[wrapped]).history for _ in range(3)
    ]
    return Search(
        model,
        initial,
        initial_optimizers,
        plain,
        wrapped,
        plain_history,
        histories,
    )
