"""Every private name of the libraries that this package is built on.

One function a name, one test a function: an upgrade that renames something
breaks this file and its test, and nothing else. Each function says why there
is no public way.
"""

import contextlib
import functools

import keras

# Models.


def flatten_layers(model):
    """Every layer of a model, itself first. Public `layers` is one deep."""
    return list(model._flatten_layers())


def sublayers(layer):
    """The layers that a layer tracks directly, in whatever attribute."""
    return list(layer._layers)


def build_for_training(model, batch):
    """Builds a model, its metrics and its optimizer, as `fit` does first.

    There is no public way to build the metrics without training a step.

    Args:
        model: `keras.Model`, compiled.
        batch: a batch as `train_step` takes it.
    """
    model._symbolic_build(data_batch=batch)


def training_argument(model, training):
    """`{"training": training}` if the model's `call` takes it, else `{}`."""
    return {"training": training} if model._call_has_training_arg else {}


def shapes_built_with(model):
    """Dict, argument of `call` -> shape: those a subclassed model was built
    with; `None` if it does not know."""
    return getattr(model, "_build_shapes_dict", None)


def input_structure(model):
    """The inputs of a functional model in the structure that `call` takes.

    `model.inputs` is always flat.
    """
    return getattr(model, "_inputs_struct", model.inputs)


def compiled_loss_and_metrics(model):
    """The containers that `compile` makes of losses and of metrics."""
    return model._compile_loss, model._compile_metrics


def unpickle_model(file):
    """A model from what its `__reduce__` gave: a `.keras` file in memory."""
    return keras.Model._unpickle_model(file)


@contextlib.contextmanager
def names_from_the_first():
    """Automatic names (`dense_3`) are counted as in a new process.

    So the same model built twice has the same weight paths.
    """
    from keras.src.backend.common import global_state

    name = "object_name_uids"
    before = global_state.get_global_attribute(name)
    global_state.set_global_attribute(name, None)
    try:
        yield
    finally:
        global_state.set_global_attribute(name, before)


# Functional models.


def functional_of(model):
    """The functional model that computes a model's `call`, or `None`.

    A Sequential model keeps one inside; a class with a `call` of its own has
    none.
    """
    from keras.src.models.functional import Functional

    if isinstance(model, keras.Sequential):
        own = type(model).call is not keras.Sequential.call
        return None if own else model._functional
    is_one = isinstance(model, Functional)
    return model if is_one and type(model).call is Functional.call else None


def nodes_in_order(functional):
    """The calls of a functional model, each after those it needs."""
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        yield from functional._nodes_by_depth[depth]


def operation_of(tensor):
    """The layer or operation that a symbolic tensor comes from."""
    return tensor._keras_history.operation


def node_of(tensor):
    """(layer, number of the call, call) that a symbolic tensor comes from.

    Of Keras 3 and of tf_keras.
    """
    layer, index, _ = tensor._keras_history
    return layer, index, layer._inbound_nodes[index]


# Optimizers.


def trained_variables(optimizer):
    """The variables that a built optimizer updates, in its own order."""
    return optimizer._trainable_variables


def variable_index(optimizer, variable):
    """The place of a variable among `trained_variables`."""
    return optimizer._get_variable_index(variable)


def iterations_variable(optimizer):
    """The count of steps. Public `iterations` adds steps of accumulation."""
    return optimizer._iterations


# The methods of optimizers, some of them private, that masks have to get into:
# averages are taken before constraints are applied, and two optimizers scale
# their step by the size of the matrix.
APPLY, BUILD, UPDATE_STEP = "apply", "build", "update_step"
UPDATE_AVERAGES = "_update_model_variables_moving_average"
ADAFACTOR_SCALE, MUON_SCALE = "_rms", "lr_adjust"
REPLACED_METHODS = (
    APPLY,
    BUILD,
    UPDATE_STEP,
    UPDATE_AVERAGES,
    ADAFACTOR_SCALE,
    MUON_SCALE,
)


# TensorFlow.


def litert_schema():
    """The classes of LiteRT's file format.

    An interpreter does not tell which tensors are constant, and of sparse
    ones it shows the wrong numbers.
    """
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


def cluster_weights(model, **arguments):
    """tfmot's `cluster_weights` that keeps zeros; the public one does not."""
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import (  # noqa: E501
        cluster,
    )

    return cluster.cluster_weights(model, preserve_sparsity=True, **arguments)


# KerasTuner.


def oracle_path(oracle):
    """The path of the file that an oracle keeps its state in."""
    return oracle._get_oracle_fname()


def trial_directory(oracle, trial_id):
    """The directory of a trial."""
    return oracle._get_trial_dir(trial_id)


def replace_saving(oracle, save, save_trial):
    """Makes an oracle save itself and its trials by other functions.

    Args:
        oracle: `keras_tuner.Oracle`.
        save: function without arguments.
        save_trial: function of a trial.
    """
    oracle.save, oracle._save_trial = save, save_trial


def retry_trial(oracle, trial):
    """Has an oracle hand out a trial again that did not end."""
    if trial.trial_id not in oracle._retry_queue:
        oracle._record_values(trial)
        oracle._retry_queue.append(trial.trial_id)


def restore_grid(oracle):
    """Gives a reloaded grid search the order of its trials back.

    It is not among what the oracle saves: without it a search that goes on
    ends at once, or fails.

    Args:
        oracle: `keras_tuner.oracles.GridSearchOracle`, just reloaded.
    """

    def compare(*both):
        values = [oracle.trials[one].hyperparameters.values for one in both]
        return oracle._compare(*values)

    oracle._ordered_ids = type(oracle._ordered_ids)()
    for trial_id in sorted(oracle.trials, key=functools.cmp_to_key(compare)):
        oracle._ordered_ids.insert(trial_id)
    oracle._populate_next = list(oracle.start_order)


def local_oracle(oracle):
    """The oracle itself of a worker's client, which asks the chief."""
    return getattr(oracle, "_oracle", oracle)


# loky.


def keep_workers_that_grow():
    """Has loky keep a worker that grows by 300 MB, as TensorFlow's may.

    Called in the worker. A new one would have to compile everything again.
    """
    from loky import process_executor

    process_executor._USE_PSUTIL = False
