"""The compiled loop trains each of the paper's networks as `fit` does."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import some

from keras_lottery import models
from keras_lottery.backend.common import penalty
from keras_lottery.training import Loop, batch_indices

BATCH = 4
STEPS = 4
SGD = dict(learning_rate=0.01, momentum=0.9)

CASES = {
    "lenet_graph": (models.lenet_300_100, {}, "graph"),
    "lenet_xla": (models.lenet_300_100, {}, "xla"),
    "conv_2": (models.conv_2, {}, "graph"),
    "conv_2_dropout": (models.conv_2, {"dropout": 0.5}, "graph"),
    "conv_4": (models.conv_4, {}, "graph"),
    "conv_6_dropout": (models.conv_6, {"dropout": 0.5}, "graph"),
    "resnet_18": (models.resnet_18, {"augment": True}, "graph"),
    "vgg_19": (models.vgg_19, {}, "graph"),
}
FAST = ("lenet_xla", "conv_2_dropout", "conv_4")


def images(shape, examples, seed):
    rng = np.random.default_rng(seed)
    x = rng.random((examples, *shape), dtype="float32")
    return x, rng.integers(0, 10, examples).astype("int32")


@pytest.mark.parametrize("case", some(CASES, *FAST))
def test_as_fit(case):
    build, arguments, backend = CASES[case]
    model = build(seed=0, **arguments)
    model.compile(
        keras.optimizers.SGD(**SGD),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=backend == "xla",
    )
    x, y = images(model.input_shape[1:], 20, 0)
    held_out = images(model.input_shape[1:], 8, 1)
    loop = Loop(model, (x, y), held_out, None, BATCH, STEPS, backend=backend)
    loop.evaluate(held_out)
    variables = (*model.variables, *model.optimizer.variables)
    start = [v.numpy() for v in variables]
    run = loop.train(STEPS, seed=3)
    ours = [v.numpy() for v in variables]
    for variable, value in zip(variables, start):
        variable.assign(value)
    order = batch_indices(len(x), BATCH, 3, 0, STEPS)
    dataset = tf.data.Dataset.from_tensor_slices((x[order], y[order]))
    history = model.fit(
        dataset, validation_data=held_out, shuffle=False, verbose=0
    ).history
    np.testing.assert_allclose(run.train_loss, history["loss"], rtol=1e-4)
    # Which has the penalty of weight decay in it.
    val_loss = history["val_loss"][0] - penalty(model)
    np.testing.assert_allclose(run.val_loss, [val_loss], rtol=1e-4)
    for variable, before, after in zip(variables, start, ours):
        np.testing.assert_allclose(
            after, variable.numpy(), rtol=1e-3, atol=1e-5, err_msg=variable.path
        )
        kernel = variable.path.endswith("/kernel")
        assert not kernel or (before != after).any()
