"""to_serving: what is written and verified, what is left after errors."""

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request

import exports
import keras
import numpy as np
import pytest
import small
import tensorflow as tf

import keras_lottery
from keras_lottery.export import serving, to_serving
from keras_lottery.export.serving_files import (
    PROVENANCE_FILE,
    REQUEST_FILE,
    WARMUP_FILE,
    WARMUP_MISSING,
    ticket_hash,
)


@pytest.fixture(scope="module")
def wrapped():
    """Three trained levels; the model is rewound to the fourth."""
    model = small.compiled(keras_lottery.wrap(small.mlp(), rate=0.5))
    for _ in range(3):
        small.fit(model)
    return model


@pytest.fixture(scope="module")
def served(wrapped, tmp_path_factory):
    return to_serving(
        wrapped,
        tmp_path_factory.mktemp("served") / "digits",
        level=2,
        examples=small.data()[0],
        metadata={"accuracy": 0.5},
    )


def test_it_is_where_and_as_tensorflow_serving_expects_it(served):
    assert served.version == 1 and served.path.endswith("digits/1")
    assert os.listdir(served.base_dir) == ["1"]
    assert {"saved_model.pb", "variables", "assets.extra"} <= set(
        os.listdir(served.path)
    )
    # A server is another user.
    assert os.stat(served.path).st_mode & 0o005 == 0o005


def test_the_level_that_was_asked_for_answers(served, wrapped):
    model = tf.saved_model.load(served.path)
    x, _ = small.data()
    for batch in (x, x[:1], x[:7]):
        (found,) = model.signatures["serving_default"](
            inputs=tf.constant(batch)
        ).values()
        with wrapped.lottery.trained(2):
            expected = wrapped(batch)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert list(served.inputs) == ["inputs"]
    assert list(served.outputs) == ["head"]
    assert served.outputs["head"].shape.as_list() == [None, 3]


def test_nothing_of_keras_or_this_library_is_in_it(served):
    with open(os.path.join(served.path, "saved_model.pb"), "rb") as file:
        content = file.read().lower()
    assert b"keras" not in content and b"lottery" not in content


def test_zeros_are_counted_in_the_file(served, wrapped):
    with wrapped.lottery.trained(2):
        weights = [w for w in wrapped.get_weights() if w.ndim > 1]
    assert served.weights == sum(w.size for w in weights)
    assert served.zeros == sum((w == 0).sum() for w in weights)
    assert served.zeros >= (24 + 18) / 2
    assert served.examples == 16 and 0 <= served.max_difference < 1e-5
    total = sum(
        os.path.getsize(os.path.join(parent, name))
        for parent, _, names in os.walk(served.path)
        for name in names
    )
    assert served.bytes == total > served.compressed_bytes > 0
    assert served.summary().startswith("verified: max difference")
    assert f"{served.zeros} of {served.weights} weights" in str(served)


def test_provenance(served, wrapped):
    with open(os.path.join(served.path, PROVENANCE_FILE)) as file:
        story = json.load(file)
    with wrapped.lottery.trained(2):
        assert story["density"] == wrapped.lottery.density < 0.5
        assert story["densities"] == wrapped.lottery.densities()
    ticket = wrapped.lottery.ticket(2)
    assert story["ticket"] == ticket_hash(ticket)
    assert story["ticket"] != ticket_hash(wrapped.lottery.ticket(1))
    assert story["level"] == 2 and story["zeros"] == served.zeros
    assert story["metadata"] == {"accuracy": 0.5}
    assert story["versions"]["keras"] == keras.__version__


def test_warm_up_requests_are_in_tensorflow_servings_format(served):
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    path = os.path.join(served.path, WARMUP_FILE)
    records = [r.numpy() for r in tf.data.TFRecordDataset(path)]
    assert len(records) == served.warmup == 2
    x, _ = small.data()
    for record, size in zip(records, (1, 16)):
        request = logs.PredictionLog.FromString(record).predict_log.request
        assert request.model_spec.name == "digits"
        assert request.model_spec.signature_name == "serving_default"
        found = tf.make_ndarray(request.inputs["inputs"])
        assert np.array_equal(found, x[:size])


def test_the_instructions_can_be_copied(served):
    without = dataclasses.replace(served, warmup=0).instructions()
    assert without.endswith(f"# {WARMUP_MISSING}")
    told = served.instructions()
    assert f'-v "{served.base_dir}:/models/digits:ro"' in told
    assert "http://localhost:8501/v1/models/digits:predict" in told
    assert 'base_path: "/models/digits"' in told
    (path,) = re.findall(r'-d @"(.*?)"', told)
    with open(path) as file:
        request = json.load(file)
    x, _ = small.data()
    assert np.float32(request["instances"][0]).tolist() == x[0].tolist()
    script = told[told.index("import grpc") :]
    compile(script, "request", "exec")
    assert 'request.inputs["inputs"]' in script
    assert 'answer.outputs["head"]' in script


@pytest.mark.parametrize(
    "error, shown",
    [
        (KeyboardInterrupt, KeyboardInterrupt),
        (OSError("No space left on device"), OSError),
        (
            tf.errors.ResourceExhaustedError(None, None, "disk full\nmore"),
            OSError,
        ),
        (ValueError("differs"), ValueError),
    ],
)
def test_an_error_leaves_nothing_behind(monkeypatch, tmp_path, error, shown):
    def fail(directory, *_):
        assert os.path.exists(os.path.join(directory, "saved_model.pb"))
        raise error

    monkeypatch.setattr(serving, "verify_saved_model", fail)
    with pytest.raises(shown) as caught:
        to_serving(small.mlp(), tmp_path / "new" / "model")
    if isinstance(error, tf.errors.OpError):
        assert str(caught.value).endswith("could not be written: disk full")
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written_is_an_os_error():
    with pytest.raises(OSError):
        to_serving(small.mlp(), "/proc/nowhere/model")


def test_a_directory_inside_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="`base_dir` must be .*is a file"):
        to_serving(small.mlp(), tmp_path / "file" / "model")
    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture
def verified_here(monkeypatch):
    monkeypatch.setattr(serving, "verify_saved_model", exports.verify_here)


def test_a_model_that_answers_otherwise_is_refused(verified_here, tmp_path):
    def noisy(x):
        return x + tf.random.normal(tf.shape(x))

    x, _ = small.data()
    with pytest.raises(ValueError, match="Output 'head' differs by"):
        to_serving(small.mlp(), tmp_path, examples=x, preprocess=noisy)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"level": 0}, "`level` must be None for a model that is not wrapped"),
        ({"name": "a b"}, "`name` must be letters"),
        ({"examples": np.ones((3, 5))}, "`examples` must have shape"),
        ({"version": -1}, "`version` must be an integer"),
    ],
)
def test_wrong_arguments(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        to_serving(small.mlp(), tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_wrong_models(wrapped, tmp_path):
    unbuilt = keras.Sequential([keras.layers.Dense(2)])
    for model, message in [
        (unbuilt, "`model` must be built"),
        (keras.layers.Dense(2), "must be a Keras 3 model"),
        (wrapped, "must be trained to be exported"),
    ]:
        with pytest.raises(ValueError, match=message):
            to_serving(model, tmp_path)
    with pytest.raises(ValueError, match="`level` must be a trained level"):
        to_serving(wrapped, tmp_path, level=9)
    assert not list(tmp_path.iterdir())


SERVER = shutil.which("tensorflow_model_server")


@pytest.mark.skipif(not SERVER, reason="no tensorflow_model_server on the PATH")
def test_tensorflow_serving_serves_it(served):
    grpc = pytest.importorskip("grpc")
    pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    grpc_port, rest_port = _free_port(), _free_port()
    process = subprocess.Popen(
        [
            SERVER,
            f"--port={grpc_port}",
            f"--rest_api_port={rest_port}",
            "--model_name=digits",
            f"--model_base_path={served.base_dir}",
        ]
    )
    try:
        channel = grpc.insecure_channel(f"localhost:{grpc_port}")
        grpc.channel_ready_future(channel).result(timeout=60)
        expected = _first_answer(served)
        np.testing.assert_allclose(
            _by_rest(served, rest_port), expected, atol=1e-5
        )
        np.testing.assert_allclose(
            _by_grpc(served, channel), expected, atol=1e-5
        )
    finally:
        process.terminate()
        process.wait()


def _first_answer(served):
    model = tf.saved_model.load(served.path)
    x = tf.constant(small.data()[0][:1])
    return model.signatures["serving_default"](inputs=x)["head"]


def _by_rest(served, port):
    path = os.path.join(served.path, REQUEST_FILE)
    with open(path, "rb") as file:
        request = urllib.request.Request(
            f"http://localhost:{port}/v1/models/digits:predict", file.read()
        )
    for _ in range(60):
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)["predictions"]
        except OSError:
            time.sleep(0.5)
    raise TimeoutError("tensorflow_model_server does not answer")


def _by_grpc(served, channel):
    from tensorflow_serving.apis import (
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "digits"
    x = small.data()[0][:1]
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto(x))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    answer = stub.Predict(request, timeout=30)
    return tf.make_ndarray(answer.outputs["head"])


def _free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_compacted_models_keep_names_and_answers(verified_here, tmp_path):
    model = small.mlp()
    kernel, bias = model.layers[0].get_weights()
    kernel[:, :2] = 0
    model.layers[0].set_weights([kernel, bias])
    x, _ = small.data()
    weights = {}
    for name, how in [
        ("dense", {}),
        ("compact", {"compact": True}),
    ]:
        done = to_serving(model, tmp_path / name, examples=x, **how)
        assert list(done.inputs) == ["inputs"]
        assert list(done.outputs) == ["head"]
        weights[name] = done.weights
    assert weights["dense"] - weights["compact"] == 2 * (4 + 3)
    with open(tmp_path / "compact/1" / PROVENANCE_FILE) as file:
        assert json.load(file)["removed"] == {"hidden": 2}
