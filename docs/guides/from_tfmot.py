# %% [markdown]
# # Coming from tensorflow-model-optimization
#
# tensorflow-model-optimization (tfmot) prunes models of Keras 2, by way of the
# package `tf_keras`. This guide puts its calls beside ours, and takes over a
# model that tfmot has pruned.
#
# | tfmot | keras_lottery |
# |---|---|
# | `prune_low_magnitude(model, pruning_schedule)` returns another model | `wrap(model, rate=0.2)` returns the same model |
# | `UpdatePruningStep()` in `callbacks` | nothing: `fit` is a round |
# | compile again | nothing: wrapping before or after `compile` is the same |
# | `ConstantSparsity(0.5, 0)` | `rate=schedules.one_shot(0.5)` |
# | `PolynomialDecay(0, 0.9, 0, steps)`, within one training | `rate=schedules.ToDensity(0.1, rounds=8)`, over rounds |
# | any other `PruningSchedule` | `rate=schedules.FromSparsity(schedule)` |
# | `prune_low_magnitude(layer)` for some layers | `rates={"name": 0.2, keras.layers.Dense: 0}` |
# | `block_size=(1, 4)`, `sparsity_m_by_n=(2, 4)` | `block_size="4x1"`, `"2:4"`, `"channel"` |
# | `strip_pruning(model)` | `unwrap(model)` |
# | `prune_scope()` to load a model | `import keras_lottery` |
# | models that subclass `keras.Model`: refused | pruned |
#
# (A block in tfmot is a part of the kernel as a matrix, `(rows, columns)`; here
# it is `inputs x outputs`.)
#
# The purpose differs too. tfmot prunes *during* one training and keeps the
# weights it has. This library prunes *between* trainings and rewinds, which is
# what a ticket is. With `rewind_to=None` nothing is rewound, so that the model
# is pruned and fine-tuned.
#
# ## Take over a pruned model
#
# tfmot sets Keras to Keras 2 for the whole process, so that its part of this
# guide runs in a process of its own: it prunes half of a small model and
# saves it.

# %%
import pathlib
import subprocess
import sys

script = """
import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras

x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
y = (x[:, 0] > 0).astype("int32")
model = tf_keras.Sequential([
    tf_keras.layers.Dense(32, "relu", input_shape=(8,), name="hidden"),
    tf_keras.layers.Dense(2, "softmax", name="head"),
])
sparsity = tfmot.sparsity.keras
model = sparsity.prune_low_magnitude(
    model, pruning_schedule=sparsity.ConstantSparsity(0.5, 0, frequency=1)
)
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(
    x, y, epochs=4, verbose=0, callbacks=[sparsity.UpdatePruningStep()]
)
sparsity.strip_pruning(model).save("pruned.h5")
"""
pathlib.Path("prune.py").write_text(script)
done = subprocess.run([sys.executable, "prune.py"], capture_output=True)
done.returncode

# %% [markdown]
# `from_tfmot` makes a Keras 3 model of it. Its exact zeros become the mask, and
# training goes on from there.

# %%
import numpy as np

from keras_lottery import export

model = export.from_tfmot("pruned.h5", rate=0.3)
model.lottery

# %%
x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
y = (x[:, 0] > 0).astype("int32")
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.lottery.find(x, y, rounds=2, epochs=4, verbose=0)

# %% [markdown]
# ## The other way
#
# tfmot can cluster weights and train for 8 bits while it keeps zeros. To hand a
# ticket on to it and to get a LiteRT file back:
#
# ```python
# file = export.to_tfmot_litert(
#     model, "ticket.tflite", x, y, test=(x_test, y_test), clusters=16
# )
# print(file.summary())
# ```
#
# tfmot then runs in a process of its own as well, and the file is refused
# unless every zero of the ticket is a zero in it.
