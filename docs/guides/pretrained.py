# %% [markdown]
# # From a pretrained body
#
# A pretrained model is pruned like any other: its *initial* weights are the
# pretrained ones, so that each round rewinds to them. This guide shows an
# image model of `keras.applications` and a text model of KerasHub, each with a
# new head.
#
# So that the guide runs anywhere and in a minute, the bodies are small and not
# pretrained. For real work, change one argument, as the comments say.
#
# ## An image model

# %%
import keras
import numpy as np

import keras_lottery
from keras_lottery import datasets

digits = datasets.load("digits")


def enlarged(x):
    """8x8 grey images as 32x32 in colour."""
    return np.repeat(x.repeat(4, axis=1).repeat(4, axis=2), 3, axis=3)


x, y = enlarged(digits.train[0][:256]), digits.train[1][:256]

keras.utils.set_random_seed(0)
body = keras.applications.MobileNetV2(
    (32, 32, 3),
    alpha=0.35,
    include_top=False,
    pooling="avg",
    weights=None,  # "imagenet"
)
outputs = keras.layers.Dense(10, name="digit")(body.output)
model = keras.Model(body.input, outputs)

# %% [markdown]
# Three settings to think of:
#
# - The head is new, and small: `rates={"digit": 0}` leaves it alone.
# - `rewind_to="learning_rate"` keeps the trained weights and sets back the
#   optimizer and its schedule alone (Renda et al., 2003.02389). The default,
#   `rewind_to=0`, goes back to the pretrained weights.
# - `scope="global"`, not used here, compares the weights of all layers with each
#   other, as the paper does for its deep networks. It takes no other rate by
#   layer than 0.

# %%
model = keras_lottery.wrap(
    model,
    rate=0.3,
    rates={"digit": 0},
    rewind_to="learning_rate",
)
model.compile(
    keras.optimizers.Adam(1e-3),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
    jit_compile=False,  # XLA takes long to compile deep networks on a CPU
)
levels = model.lottery.find(x, y, rounds=2, epochs=1, verbose=0)
levels

# %% [markdown]
# A frozen layer is not pruned. If you freeze the body to train the head first,
# do that before `wrap`, or unfreeze it later: its kernels count as prunable
# from the next round on. Compile again after each change, as Keras asks.
#
# ## A text model
#
# A BERT body of KerasHub, built small. Its vocabulary has 200 words and there
# are two layers.

# %%
import keras_hub

body = keras_hub.models.BertBackbone(  # .from_preset("bert_tiny_en_uncased")
    vocabulary_size=200,
    num_layers=2,
    num_heads=2,
    hidden_dim=32,
    intermediate_dim=64,
    max_sequence_length=16,
)
pooled = body(body.input)["pooled_output"]
outputs = keras.layers.Dense(2, name="sentiment")(pooled)
model = keras.Model(body.input, outputs)

generator = np.random.default_rng(0)
tokens = generator.integers(1, 200, (256, 16))
x = {
    "token_ids": tokens,
    "segment_ids": np.zeros_like(tokens),
    "padding_mask": np.ones_like(tokens),
}
y = (tokens == 7).any(1).astype("int32")

# %% [markdown]
# The kernels of attention and of the dense layers are pruned. The tables of
# word and position embeddings are not, and neither is layer normalisation.

# %%
model = keras_lottery.wrap(model, rate=0.4, rates={"sentiment": 0})
model.compile(
    "adam",
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
    jit_compile=False,
)
model.lottery.find(x, y, rounds=2, epochs=1, verbose=0)
model.lottery

# %% [markdown]
# ## Whole heads and channels
#
# Single weights make a file smaller and, above about 5 % density, hardly any
# runtime faster. With
# `block_size="channel"` a search prunes whole units, filters and heads of
# attention, and `export.compact` then builds the smaller network; see [Choose
# a pattern and put it to work](deploy.md).
