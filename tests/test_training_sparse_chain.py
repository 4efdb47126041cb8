"""Which models the sparse backend trains, and why it does not train others."""

import keras
import pytest
from keras import layers, losses, optimizers
from small import HalfLoss, data

from keras_lottery.keras_internals import build_for_training
from keras_lottery.training.sparse_chain import Unsupported, chain_of

LOGITS = losses.SparseCategoricalCrossentropy(from_logits=True)
SCCE = losses.SparseCategoricalCrossentropy


def dense(units=3, **kwargs):
    return layers.Dense(units, **kwargs)


def made_of(
    *parts, loss=LOGITS, optimizer="adam", metrics=("accuracy",), **kwargs
):
    model = keras.Sequential([keras.Input((4,)), *parts])
    return compiled(model, loss, optimizer, metrics, **kwargs)


def compiled(
    model, loss=LOGITS, optimizer="adam", metrics=("accuracy",), **kwargs
):
    model.compile(optimizer, loss, metrics=list(metrics), **kwargs)
    build_for_training(model, data())
    return model


def test_a_chain_is_read():
    model = made_of(
        layers.Rescaling(0.5),
        layers.Flatten(),
        dense(5, activation="relu"),
        layers.Dropout(0.0),
        dense(6),
        layers.LeakyReLU(0.1),
        dense(7),
        layers.ReLU(),
        dense(3, activation="softmax"),
        loss="sparse_categorical_crossentropy",
    )
    chain = chain_of(model)
    assert chain.units == [4, 5, 6, 7, 3]
    assert [link.activation for link in chain.links] == [
        "relu",
        "leaky_relu",
        "relu",
        "linear",
    ]
    assert chain.links[1].slope == pytest.approx(0.1)
    assert (chain.loss, chain.accuracy) == ("sparse_softmax", "sparse_class")
    assert chain.dtype == "float32" and len(chain.rescalings) == 1


def test_a_functional_model_is_a_chain_too():
    inputs = keras.Input((4,))
    outputs = dense()(layers.Flatten()(dense(5, activation="tanh")(inputs)))
    chain = chain_of(compiled(keras.Model(inputs, outputs)))
    assert [link.activation for link in chain.links] == ["tanh", "linear"]


def skipping():
    inputs = keras.Input((4,))
    hidden = dense(4)(inputs)
    return compiled(keras.Model(inputs, dense()(hidden + inputs)))


def twice():
    inputs, layer = keras.Input((4,)), dense(4)
    return compiled(keras.Model(inputs, dense()(layer(layer(inputs)))))


class OwnLoss(keras.Sequential):
    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs)


def frozen():
    model = made_of(dense(4), dense())
    model.layers[0].trainable = False
    return model


def clipped_weights():
    return dense(kernel_constraint=keras.constraints.MaxNorm(1.0))


REFUSED = {
    "random numbers": lambda: made_of(layers.Dropout(0.5), dense()),
    "the class BatchNormalization": lambda: made_of(
        layers.BatchNormalization(), dense()
    ),
    "the activation gelu": lambda: made_of(dense(activation="gelu")),
    "second activation": lambda: made_of(
        dense(4, activation="relu"), layers.Activation("tanh"), dense()
    ),
    "softmax that its loss": lambda: made_of(
        dense(4, activation="softmax"), dense()
    ),
    "follows the activation relu": lambda: made_of(dense(activation="relu")),
    "other outputs than logits": lambda: made_of(
        dense(), loss=SCCE(from_logits=False)
    ),
    "no chain": skipping,
    "a layer twice": twice,
    "neither functional nor sequential": lambda: compiled(HalfLoss()),
    "`compute_loss` of its own": lambda: compiled(
        OwnLoss([keras.Input((4,)), dense()])
    ),
    "takes int32": lambda: compiled(
        keras.Sequential([keras.Input((4,), dtype="int32"), dense()])
    ),
    "follows softmax": lambda: made_of(
        dense(activation="softmax"), layers.Flatten(), loss=SCCE()
    ),
    "is not trained": frozen,
    "the class MaxNorm": lambda: made_of(clipped_weights()),
    "the class OrthogonalRegularizer": lambda: made_of(
        dense(kernel_regularizer="orthogonal_regularizer")
    ),
    "activity regularizer": lambda: made_of(dense(activity_regularizer="l2")),
    "computes in float16": lambda: made_of(dense(dtype="mixed_float16")),
    "its loss is Poisson": lambda: made_of(dense(1), loss=losses.Poisson()),
    "its loss is weighted": lambda: made_of(dense(), loss_weights=[0.5]),
    "`ignore_class`": lambda: made_of(
        dense(), loss=SCCE(from_logits=True, ignore_class=0)
    ),
    "the reduction sum": lambda: made_of(
        dense(), loss=SCCE(from_logits=True, reduction="sum")
    ),
    "SparseTopKCategoricalAccuracy": lambda: made_of(
        dense(),
        metrics=[keras.metrics.SparseTopKCategoricalAccuracy(name="accuracy")],
    ),
    "its optimizer is RMSprop": lambda: made_of(dense(), optimizer="rmsprop"),
    "`use_ema`": lambda: made_of(
        dense(), optimizer=optimizers.Adam(use_ema=True)
    ),
    "`amsgrad`": lambda: made_of(
        dense(), optimizer=optimizers.Adam(amsgrad=True)
    ),
    "rate is a function": lambda: made_of(
        dense(), optimizer=optimizers.SGD(lambda: 0.1)
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_known_is_refused_by_name(reason):
    with pytest.raises(Unsupported, match=reason):
        chain_of(REFUSED[reason]())
