"""Each private name means what the package takes it for, on real objects."""

import json

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from small import BATCH, arrays, compiled, data, mlp, same

from keras_lottery import keras_internals, processes

layers = keras.layers


def functional():
    """Two inputs, one layer that is called twice, an operation."""
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    twice = layers.Dense(4, name="twice")
    hidden = keras.ops.add(twice(a), twice(b))
    outputs = layers.Dense(3, name="head")(hidden)
    return keras.Model({"a": a, "b": b}, outputs)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = [layers.Dense(4), layers.Dense(4)]
        self.head = layers.Dense(3)

    def call(self, x):
        for layer in self.hidden:
            x = layer(x)
        return self.head(x)


# Models.


def test_loss_weights_are_what_was_compiled():
    model = compiled(mlp(), loss_weights=[0.5])
    assert keras_internals.loss_weights(model) == [0.5]
    assert keras_internals.loss_weights(compiled(mlp())) is None


def test_a_learning_rate_is_told_as_it_was_given():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    of = keras_internals.learning_rate
    assert of(keras.optimizers.SGD(schedule)) is schedule
    assert float(of(keras.optimizers.SGD(0.5)).numpy()) == 0.5


def test_adam_slots_are_those_that_a_step_moves():
    model = compiled(mlp())
    optimizer, variables = model.optimizer, model.trainable_variables
    optimizer.build(variables)
    first, second = keras_internals.adam_slots(optimizer)
    gradients = [np.full(v.shape, 2.0, "float32") for v in variables]
    optimizer.apply([keras.ops.array(g) for g in gradients], variables)
    for slots, value in ((first, 0.2), (second, 0.004)):
        for slot, gradient in zip(slots, gradients, strict=True):
            np.testing.assert_allclose(
                slot.numpy(), np.full_like(gradient, value), rtol=1e-5
            )


def test_weights_left_out_of_the_decay_are_told():
    model = mlp()
    optimizer = keras.optimizers.AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(model.trainable_variables)
    for variable in model.trainable_variables:
        decays = keras_internals.decays_weight(optimizer, variable)
        assert decays == ("bias" not in variable.path)


def test_flatten_layers_reaches_all_depths():
    model = keras.Sequential([keras.Input((4,)), mlp(), layers.Dense(2)])
    found = keras_internals.flatten_layers(model)
    assert found[0] is model
    inner = model.layers[0].layers
    assert all(any(layer is one for one in found) for layer in inner)
    assert not any(layer is one for layer in inner for one in model.layers)


def test_sublayers_are_found_in_whatever_attribute():
    model = Subclassed()
    found = keras_internals.sublayers(model)
    for layer in (*model.hidden, model.head):
        assert any(layer is one for one in found)
    bidirectional = layers.Bidirectional(layers.LSTM(2))
    assert bidirectional.forward_layer in keras_internals.sublayers(
        bidirectional
    )


def test_build_for_training_trains_nothing():
    model = compiled(mlp(), metrics=["accuracy"])
    before = arrays(model)
    x, y = data()
    keras_internals.build_for_training(model, (x[:BATCH], y[:BATCH]))
    assert model.optimizer.built and not int(model.optimizer.iterations)
    names = list(model.get_metrics_result())
    assert names == ["loss", "accuracy"]
    assert same(arrays(model), before)


def test_training_argument_goes_to_models_that_take_it():
    assert keras_internals.training_argument(mlp(), False) == {
        "training": False
    }
    assert keras_internals.training_argument(Subclassed(), False) == {}


def test_a_subclassed_model_knows_the_shapes_it_was_built_with():
    model = Subclassed()
    assert not keras_internals.shapes_built_with(model)
    model(data()[0])
    (shape,) = keras_internals.shapes_built_with(model).values()
    assert tuple(shape)[1:] == (4,)


def test_input_structure_is_that_of_call():
    model = functional()
    assert isinstance(model.inputs, list)
    assert list(keras_internals.input_structure(model)) == ["a", "b"]
    sequential = mlp()
    structure = keras_internals.input_structure(sequential)
    assert len(keras.tree.flatten(structure)) == 1


def test_compile_makes_new_containers_of_loss_and_metrics():
    model = compiled(mlp(), metrics=["accuracy"])
    before = keras_internals.compiled_loss_and_metrics(model)
    assert all(before)
    compiled(model, metrics=["accuracy"])
    after = keras_internals.compiled_loss_and_metrics(model)
    assert not any(one is other for one, other in zip(before, after))


def test_unpickle_model_takes_what_reduce_gave():
    model = mlp()
    _, (file, *_) = model.__reduce__()
    assert same(arrays(keras_internals.unpickle_model(file)), arrays(model))


def test_names_from_the_first_are_those_of_a_new_process():
    def name():
        return layers.Dense(1).name

    before = name()
    for _ in range(2):
        with keras_internals.names_from_the_first():
            assert name() == "dense"
    assert name() not in (before, "dense")
    with (
        pytest.raises(KeyError),
        keras_internals.names_from_the_first(),
    ):
        raise KeyError
    assert name() != "dense"


# Functional models.


def test_functional_of_is_what_computes_call():
    model = functional()
    assert keras_internals.functional_of(model) is model
    sequential = mlp()
    inner = keras_internals.functional_of(sequential)
    x, _ = data()
    assert same([inner(x)], [sequential(x)])
    assert keras_internals.functional_of(Subclassed()) is None


@pytest.mark.parametrize("base", [keras.Sequential, keras.Model])
def test_a_call_of_its_own_is_not_functional(base):
    class Own(base):
        def call(self, inputs):
            return inputs

    inputs = keras.Input((4,))
    outputs = layers.Dense(3)(inputs)
    if base is keras.Sequential:
        model = Own([inputs, layers.Dense(3)])
    else:
        model = Own(inputs, outputs)
    assert keras_internals.functional_of(model) is None


def test_nodes_come_after_those_they_need():
    model = functional()
    known, operations = set(), []
    for node in keras_internals.nodes_in_order(model):
        assert {id(t) for t in node.input_tensors} <= known
        known |= {id(t) for t in node.output_tensors}
        operations.append(node.operation.name)
    assert operations.count("twice") == 2 and operations[-1] == "head"
    assert id(model.outputs[0]) in known


def test_operation_of_a_tensor():
    model = functional()
    operation = keras_internals.operation_of(model.outputs[0])
    assert operation is model.get_layer("head")


def test_node_of_tells_the_calls_of_a_layer_apart():
    model = functional()
    twice = model.get_layer("twice")
    calls = [
        tensor
        for node in keras_internals.nodes_in_order(model)
        if node.operation is twice
        for tensor in node.output_tensors
    ]
    found = [keras_internals.node_of(tensor) for tensor in calls]
    assert all(layer is twice for layer, _, _ in found)
    assert sorted(index for _, index, _ in found) == [0, 1]
    for tensor, (_, _, node) in zip(calls, found):
        assert any(tensor is output for output in node.output_tensors)


# Optimizers.


def built(optimizer):
    variables = mlp().trainable_variables
    optimizer.build(variables)
    return optimizer, variables


def test_trained_variables_in_the_order_of_build():
    optimizer, variables = built(keras.optimizers.Adam())
    found = keras_internals.trained_variables(optimizer)
    assert all(a is b for a, b in zip(found, variables, strict=True))


def test_variable_index_is_the_place_among_them():
    optimizer, variables = built(keras.optimizers.Adam())
    for place, variable in enumerate(variables):
        assert keras_internals.variable_index(optimizer, variable) == place


def test_iterations_variable_counts_the_steps():
    optimizer, variables = built(keras.optimizers.SGD(0.1))
    gradients = [tf.ones(v.shape) for v in variables]
    for _ in range(3):
        optimizer.apply(gradients)
    counter = keras_internals.iterations_variable(optimizer)
    assert isinstance(counter, keras.Variable) and int(counter) == 3


def test_iterations_variable_under_accumulation_counts_every_apply():
    optimizer, variables = built(
        keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    )
    gradients = [tf.ones(v.shape) for v in variables]
    for _ in range(4):
        optimizer.apply(gradients)
    counter = keras_internals.iterations_variable(optimizer)
    assert int(counter) == 4 and int(optimizer.iterations) == 2


def test_optimizer_state_is_the_list_itself():
    optimizer, _ = built(keras.optimizers.SGD(0.1))
    state = keras_internals.optimizer_state(optimizer)
    one = keras.Variable(1.0)
    state.append(one)
    assert optimizer.variables[-1] is one


def test_optimizers_save_what_their_methods_are_replaced_by(tmp_path):
    model = compiled(mlp())
    model.optimizer.build(model.trainable_variables)
    called = []
    for name in (keras_internals.SAVE, keras_internals.LOAD):
        assert name in keras_internals.REPLACED_METHODS
        assert hasattr(model.optimizer, name)
        vars(model.optimizer)[name] = lambda store, name=name: called.append(
            name
        )
    model.save(tmp_path / "a.keras")
    assert called == [keras_internals.SAVE]
    assert hasattr(model.optimizer, keras_internals.STATELESS_APPLY)


def test_steps_are_wrapped_where_a_function_is_made_of_them():
    class Trainer:
        """As Keras' on JAX; tests/laws train with the real one."""

        def _make_function(self, step, concatenate_outputs=False):
            return step

    trainer = Trainer()
    with keras_internals.steps_through(trainer, lambda step: step + 1):
        assert trainer._make_function(1) == 2
    assert trainer._make_function(1) == 1


def test_compute_output_spec_builds_and_computes_nothing():
    model = Subclassed()
    spec = keras_internals.compute_output_spec(model, keras.KerasTensor((2, 4)))
    assert spec.shape == (2, 3) and model.head.built


def calls_of(optimizer, name, monkeypatch):
    """Counts the calls of a method while one step is taken."""
    calls, method = [], getattr(optimizer, name)

    def counted(*args, **kwargs):
        calls.append(args)
        return method(*args, **kwargs)

    monkeypatch.setattr(optimizer, name, counted)
    variables = mlp().trainable_variables
    optimizer.apply([tf.ones(v.shape) for v in variables], variables)
    return len(calls)


@pytest.mark.parametrize(
    "name, make",
    [
        (keras_internals.APPLY, keras.optimizers.SGD),
        (keras_internals.BUILD, keras.optimizers.SGD),
        (keras_internals.UPDATE_STEP, keras.optimizers.SGD),
        (keras_internals.UPDATE_AVERAGES, keras.optimizers.SGD),
        (keras_internals.ADAFACTOR_SCALE, keras.optimizers.Adafactor),
        (keras_internals.MUON_SCALE, keras.optimizers.Muon),
    ],
)
def test_replaced_methods_are_looked_up_on_the_optimizer(
    name, make, monkeypatch
):
    assert name in keras_internals.REPLACED_METHODS
    averages = {"use_ema": name == keras_internals.UPDATE_AVERAGES}
    assert calls_of(make(0.1, **averages), name, monkeypatch)


# TensorFlow.


def test_litert_schema_tells_which_tensors_are_constant():
    kernel = tf.constant(np.arange(8, dtype="float32").reshape(4, 2))
    function = tf.function(
        lambda x: tf.matmul(x, kernel),
        input_signature=[tf.TensorSpec((1, 4))],
    )
    content = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()]
    ).convert()
    schema = keras_internals.litert_schema()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    constants = [
        model.buffers[tensor.buffer].data
        for tensor in model.subgraphs[0].tensors
        if model.buffers[tensor.buffer].data is not None
    ]
    values = np.concatenate(constants).view("float32")
    assert set(values) >= set(kernel.numpy().ravel())


def clustered_zeros():
    """Zeros of a kernel before, and where they were after clustering."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    model = tf_keras.Sequential(
        [tf_keras.Input((8,)), tf_keras.layers.Dense(8)]
    )
    kernel, bias = model.get_weights()
    kernel[::2] = 0
    model.set_weights([kernel, bias])
    start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    clustered = keras_internals.cluster_weights(
        model, number_of_clusters=4, cluster_centroids_init=start
    )
    clustered.compile("sgd", "mse")
    clustered.fit(np.ones((8, 8)), np.ones((8, 8)), verbose=0)
    found = tfmot.clustering.keras.strip_clustering(clustered)
    after = found.get_weights()[0]
    return after[kernel == 0], len(np.unique(after))


@pytest.mark.slow
def test_cluster_weights_keeps_zeros():
    zeros, values = processes.call(
        clustered_zeros, env={"TF_USE_LEGACY_KERAS": "1"}
    )
    assert zeros.size and not zeros.any()
    assert values <= 4


# KerasTuner.


@pytest.fixture
def oracle(tmp_path):
    oracle = keras_tuner.oracles.RandomSearchOracle(
        objective=keras_tuner.Objective("score", "max"), max_trials=2, seed=1
    )
    space = keras_tuner.HyperParameters()
    space.Int("units", 1, 1000)
    oracle.update_space(space)
    oracle._set_project_dir(str(tmp_path), "search")
    return oracle


def test_oracle_path_is_the_file_it_saves(oracle):
    oracle.save()
    with open(keras_internals.oracle_path(oracle)) as file:
        assert json.load(file)["seed"] == 1


def test_replace_saving_is_what_the_oracle_calls(oracle):
    saved, trials = [], []
    keras_internals.replace_saving(
        oracle, lambda: saved.append(1), trials.append
    )
    trial = oracle.create_trial("worker")
    assert trials == [trial] and saved


def test_retry_trial_is_handed_out_once_more(oracle):
    trial = oracle.create_trial("worker")
    # As after a restart, which knows of no worker that has it.
    oracle.ongoing_trials.clear()
    for _ in range(2):
        keras_internals.retry_trial(oracle, trial)
    again = oracle.create_trial("worker")
    assert again.trial_id == trial.trial_id
    assert again.hyperparameters.values == trial.hyperparameters.values
    assert oracle.create_trial("other").trial_id != trial.trial_id


def test_restore_grid_goes_on_where_the_search_stopped(tmp_path):
    def made():
        oracle = keras_tuner.oracles.GridSearchOracle(
            objective=keras_tuner.Objective("score", "max")
        )
        space = keras_tuner.HyperParameters()
        space.Choice("units", [1, 2, 3])
        oracle.update_space(space)
        oracle._set_project_dir(str(tmp_path), "grid")
        return oracle

    def advance(oracle):
        trial = oracle.create_trial("worker")
        if trial.status != "RUNNING":
            return None
        oracle.update_trial(trial.trial_id, {"score": 1.0})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
        return trial.hyperparameters.get("units")

    first = made()
    assert advance(first) == 1
    first.save()
    reloaded = made()
    reloaded.reload()
    keras_internals.restore_grid(reloaded)
    assert [advance(reloaded) for _ in range(3)] == [2, 3, None]


def test_local_oracle_of_a_client_and_of_the_chief(oracle, monkeypatch):
    from keras_tuner.src.distribute import oracle_client

    assert keras_internals.local_oracle(oracle) is oracle
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "0")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker")
    client = oracle_client.OracleClient(oracle)
    assert keras_internals.local_oracle(client) is oracle


def test_trainable_when_created():
    layer = keras.layers.BatchNormalization()
    layer.build((None, 3))
    layer.trainable = False
    created = keras_internals.trainable_when_created(layer)
    assert created == [layer.gamma, layer.beta]


def test_forget_initial_epoch():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model._initial_epoch = 3
    keras_internals.forget_initial_epoch(model)
    x = np.ones((2, 2), "float32")
    history = model.fit(x, x[:, :1], epochs=2, verbose=0)
    assert history.epoch == [0, 1]
