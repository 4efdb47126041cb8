"""What differs between Keras' backends: the same functions for each.

The module of the backend that Keras runs on is chosen when this package is
imported. The rest of the package asks for no backend's name.
"""

import importlib

import keras

NAMES = ("tensorflow", "jax", "torch")
NAME = keras.backend.backend()
# Which the tuner and what writes exported models need.
ON_TENSORFLOW = NAME == "tensorflow"

if NAME not in NAMES:
    raise ImportError(
        "keras_lottery needs Keras' TensorFlow, JAX or PyTorch backend: set "
        "the environment variable KERAS_BACKEND to tensorflow, jax or torch. "
        f"Found: {NAME}"
    )

_module = importlib.import_module(f"keras_lottery.backend.{NAME}")

# Variables, and the places where they may be made and assigned.
check_distribution = _module.check_distribution
in_replica = _module.in_replica
is_distributed = _module.is_distributed
once = _module.once
outside_graphs = _module.outside_graphs

# Optimizers.
hold_masks = _module.hold_masks
release_masks = _module.release_masks
select = _module.select

# Training, step by step.
DelayedCopy = _module.DelayedCopy
StepCounter = _module.StepCounter
make_train_function = _module.make_train_function
sync = _module.sync
symbolic_build = _module.symbolic_build
train_step = _module.train_step

# What a model computes.
build = _module.build
gradients = _module.gradients
graph = _module.graph
input_spec = _module.input_spec
normalize_batch = _module.normalize_batch
operations = _module.operations
spec = _module.spec
test_loss = _module.test_loss

# The machine.
gpus = _module.gpus
start = _module.start
threads = _module.threads
version = _module.version


def require_tensorflow(what):
    """Refuses a part of the package that only TensorFlow can run.

    Args:
        what: str, the part.

    Raises:
        ImportError: Under another backend.
    """
    if NAME != "tensorflow":
        raise ImportError(
            f"{what} needs Keras' TensorFlow backend: set the environment "
            "variable KERAS_BACKEND to tensorflow, or leave it unset. A "
            "ticket that was saved under another backend can be loaded there. "
            f"Found: {NAME}"
        )
