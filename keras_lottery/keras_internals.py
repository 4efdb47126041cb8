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
    """A model and all layers in it, at every depth.

    Public `layers` lists the outermost alone.
    """
    return list(model._flatten_layers())


def trainable_when_created(layer):
    """The variables of a layer itself that were created to be trained.

    Public `trainable_variables` leaves out those that are frozen now.
    """
    return list(layer._trainable_variables)


def sublayers(layer):
    """The layers that are attributes of a layer, also in lists and dicts.

    Only models have a public `layers`.
    """
    return list(layer._layers)


def overridden_by(model, method):
    """Which class of the user's is in front of Keras with a method.

    Nothing public says of a method whether it is Keras' own.

    Args:
        model: `keras.Model`, wrapped or not.
        method: str, the name of a method that Keras defines.

    Returns:
        A str, the name of the class; `None` if the method is Keras' own.
    """
    for cls in type(model).__mro__:
        package = cls.__module__.split(".")[0]
        if method in vars(cls) and package != "keras_lottery":
            return None if package == "keras" else cls.__name__
    return None


def build_for_training(model, batch):
    """Builds a model, its metrics and its optimizer, as `fit` does first.

    No weight changes. There is no public way to build the metrics without
    training a step.

    Args:
        model: `keras.Model`, compiled.
        batch: a batch as `train_step` takes it.
    """
    model._symbolic_build(data_batch=batch)


def compute_output_spec(function, *args, **kwargs):
    """Runs a function on `KerasTensor`s, which builds the layers in it.

    Calling a model on them, which is public, does not take every structure of
    inputs.
    """
    from keras.src import backend

    return backend.compute_output_spec(function, *args, **kwargs)


@contextlib.contextmanager
def steps_through(model, wrap_step):
    """Context manager: Keras' JAX trainer makes functions of wrapped steps.

    A `train_function` executes one compiled step or, one after the other,
    several, and tells nothing in between.

    Args:
        model: `keras.Model`.
        wrap_step: function of a compiled step, (state, data) -> (logs,
            state), that returns another.
    """
    make = model._make_function

    def make_function(step, *args, **kwargs):
        return make(wrap_step(step), *args, **kwargs)

    vars(model)["_make_function"] = make_function
    try:
        yield
    finally:
        del vars(model)["_make_function"]


def forget_initial_epoch(model):
    """Undoes what `BackupAndRestore` did to the `fit` before.

    It makes a training begin at a later epoch by an attribute of the model,
    which every `fit` after that one obeys as well.
    """
    model._initial_epoch = None


def training_argument(model, training):
    """`{"training": training}` if the model's `call` takes it, else `{}`.

    Keras decides it with respect to arguments of every kind, and keeps it.
    """
    return {"training": training} if model._call_has_training_arg else {}


def shapes_built_with(model):
    """The shapes that a subclassed model was built with.

    Returns:
        A dict, argument of `call` -> shape; `None` or `{}` if it was not
        built by being called.
    """
    return getattr(model, "_build_shapes_dict", None)


def input_structure(model):
    """The inputs of a functional model in the structure that `call` takes.

    `model.inputs` is always flat.
    """
    return getattr(model, "_inputs_struct", model.inputs)


def compiled_loss_and_metrics(model):
    """The objects that hold the losses and the metrics of a compiled model.

    `compile` makes new ones, which is how a second `compile` is noticed.
    """
    return model._compile_loss, model._compile_metrics


def loss_weights(model):
    """The argument `loss_weights` of `compile`, `None` without.

    Public `get_compile_config` has it only if the loss can be serialised.
    """
    return model._compile_loss._user_loss_weights


def unpickle_model(file):
    """Loads a model from the `.keras` file in memory that pickle holds.

    It is the function that a model's `__reduce__` names.
    """
    return keras.Model._unpickle_model(file)


@contextlib.contextmanager
def names_from_the_first():
    """Context manager: automatic names are counted as in a new process.

    The first dense layer is `dense` again, not `dense_3`, so that a model that
    is built twice has the same weight paths. Public `clear_session` would also
    free what is in use.
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

    It is the model itself, or the one inside a Sequential model. A class with
    a `call` of its own has none.
    """
    from keras.src.models.functional import Functional

    if isinstance(model, keras.Sequential):
        own = type(model).call is not keras.Sequential.call
        return None if own else model._functional
    is_one = isinstance(model, Functional)
    return model if is_one and type(model).call is Functional.call else None


def nodes_in_order(functional):
    """The calls of layers in a functional model, inputs first.

    Each call comes after those whose outputs it takes.
    """
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        yield from functional._nodes_by_depth[depth]


def operation_of(tensor):
    """The layer or operation that a symbolic tensor comes from."""
    return tensor._keras_history.operation


def node_of(tensor):
    """The call of a layer that a symbolic tensor comes from.

    Args:
        tensor: a symbolic tensor of Keras 3 or of tf_keras.

    Returns:
        A tuple: the layer, the index of the call among the layer's calls, and
        the node that stands for the call.
    """
    layer, index, _ = tensor._keras_history
    return layer, index, layer._inbound_nodes[index]


# Optimizers.


def trained_variables(optimizer):
    """The variables that a built optimizer updates, in its own order."""
    return optimizer._trainable_variables


def variable_index(optimizer, variable):
    """The index of a variable in `trained_variables`."""
    return optimizer._get_variable_index(variable)


def iterations_variable(optimizer):
    """The variable that counts the calls of `apply`.

    Public `iterations` counts the updates of weights, which are fewer under
    gradient accumulation.
    """
    return optimizer._iterations


def learning_rate(optimizer):
    """The learning rate as a variable, a schedule or a function.

    Public `learning_rate` is the number that it is now.
    """
    return optimizer._learning_rate


def adam_slots(optimizer):
    """The slots of an `Adam`, two lists in the order of its variables."""
    return optimizer._momentums, optimizer._velocities


def decays_weight(optimizer, variable):
    """Whether an optimizer with weight decay applies it to a variable.

    `exclude_from_weight_decay` leaves out some.
    """
    return optimizer._use_weight_decay(variable)


def optimizer_state(optimizer):
    """The list of an optimizer's own variables.

    Keras' JAX trainer passes them through a compiled step. Public `variables`
    is a copy of it.
    """
    return optimizer._variables


# The methods of optimizers, some of them private, that masks replace: averages
# are taken before constraints are applied, and two optimizers scale their step
# by the size of the matrix.
APPLY, BUILD, UPDATE_STEP = "apply", "build", "update_step"
STATELESS_APPLY = "stateless_apply"
SAVE, LOAD = "save_own_variables", "load_own_variables"
UPDATE_AVERAGES = "_update_model_variables_moving_average"
ADAFACTOR_SCALE, MUON_SCALE = "_rms", "lr_adjust"
REPLACED_METHODS = (
    APPLY,
    BUILD,
    LOAD,
    SAVE,
    STATELESS_APPLY,
    UPDATE_STEP,
    UPDATE_AVERAGES,
    ADAFACTOR_SCALE,
    MUON_SCALE,
)


# TensorFlow.


def litert_schema():
    """The module that reads LiteRT files (classes made by FlatBuffers).

    The public interpreter does not say which tensors are constant, and shows
    wrong values of sparse tensors.
    """
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated


def cluster_weights(model, **arguments):
    """tfmot's `cluster_weights`, with pruned weights kept at zero.

    The public function has no argument for that. Only for a process in which
    tfmot was imported.
    """
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import (  # noqa: E501
        cluster,
    )

    return cluster.cluster_weights(model, preserve_sparsity=True, **arguments)


# KerasTuner.


def oracle_path(oracle):
    """The path of the file in which an oracle saves its state."""
    return oracle._get_oracle_fname()


def replace_saving(oracle, save, save_trial):
    """Makes an oracle save itself and its trials by other functions.

    Args:
        oracle: `keras_tuner.Oracle`.
        save: function without arguments.
        save_trial: function of a trial.
    """
    oracle.save, oracle._save_trial = save, save_trial


def retry_trial(oracle, trial):
    """Puts a trial that did not end first among those an oracle hands out.

    A trial that is waiting already is not added twice.
    """
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
    """The oracle behind a worker's client, whose methods call the chief's.

    An oracle that is no client is returned as it is.
    """
    return getattr(oracle, "_oracle", oracle)
