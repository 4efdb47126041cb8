"""The compiled training loop: the same names on each backend that has one."""

import importlib

from keras_lottery import backend

_HAVE_ONE = ("tensorflow", "jax")

if backend.NAME not in _HAVE_ONE:
    raise ImportError(
        "Training by `keras_lottery.training` and experiments need Keras' "
        "TensorFlow or JAX backend: set the environment variable "
        "KERAS_BACKEND to tensorflow or jax. A ticket that was saved under "
        f"another backend can be loaded there. Found: {backend.NAME}"
    )

_module = importlib.import_module(f"keras_lottery.backend.loop_{backend.NAME}")

# The steps.
COMPILED = _module.COMPILED
CompiledSteps = _module.CompiledSteps
KeptWeights = _module.KeptWeights
FINDS_LOGITS = _module.FINDS_LOGITS
by_rule = _module.by_rule
cannot_compile = _module.cannot_compile

# The module of several trainings in one program, which JAX alone has.
stacks = _module if hasattr(_module, "StackedSteps") else None

# The data.
TENSOR = _module.TENSOR
batches_of_blocks = _module.batches_of_blocks
batches_of_rows = _module.batches_of_rows
on_device = _module.on_device
