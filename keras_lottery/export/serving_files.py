"""The files and directories that TensorFlow Serving finds beside a model.

The version directory, which appears in one step; and in it, beside the
SavedModel: warm-up requests, an example request, a `models.config`, and the
provenance of the weights.
"""

import base64
import dataclasses
import hashlib
import json
import os
import shutil
import uuid

import numpy as np
import tensorflow as tf

from keras_lottery import files
from keras_lottery import masks as masks_lib
from keras_lottery.checks import check_integer, missing
from keras_lottery.scopes import find_kernels
from keras_lottery.version import __version__
from keras_lottery.wrapping import LotteryModel

PROVENANCE_FILE = os.path.join("assets.extra", "provenance.json")
CONFIG_FILE = os.path.join("assets.extra", "models.config")
REQUEST_FILE = os.path.join("assets.extra", "rest_request.json")
WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
WARMUP_MISSING = (
    "The exported model is complete, but has no warm-up requests, which "
    "TensorFlow Serving runs at its start so that the first answers are not "
    "slow. "
    + missing("Writing them", "tensorflow-serving-api", "serving")
    + ", then export again."
)
_WARMUP_BATCHES = (1, 32)

# The version directory.


class VersionDirectory:
    """Context manager: a version directory that appears when it is complete.

    TensorFlow Serving polls a base directory for entries whose names are
    numbers, and loads one as soon as it is there. So the files are written to
    a directory with another name, which is renamed at the end. After an error
    or Ctrl-C the base directory is as it was.

    Args:
        base_dir: str or path-like, created if it is missing.
        version: optional int. Defaults to the next after those that exist.

    Attributes:
        part: str, the directory to write to.
        path: str, its path after the context has ended.
        version: int, its number.

    Raises:
        ValueError: If the version is no number or exists, or the base
            directory is a file.
        OSError: If the directory cannot be written.
    """

    def __init__(self, base_dir, version=None):
        files.check_directory("base_dir", base_dir)
        self.base_dir = os.path.abspath(os.fspath(base_dir))
        self.version, self.path = version, None
        self._check_version()

    def __enter__(self):
        self._made = files.missing_directories(self.base_dir)
        # On the same file system, and no number.
        name = f".part.{uuid.uuid4().hex}"
        self.part = os.path.join(self.base_dir, name)
        try:
            os.makedirs(self.part)
        except OSError:
            self._undo()
            raise
        return self

    def __exit__(self, kind, error, traceback):
        try:
            if kind is None:
                self._publish()
        finally:
            if self.path is None:
                self._undo()

    def _publish(self):
        _sync(self.part)
        if self.version is None:
            self.version = max(versions(self.base_dir), default=0) + 1
        self._check_version()
        path = os.path.join(self.base_dir, str(self.version))
        os.rename(self.part, path)
        self.path = path

    def _check_version(self):
        if self.version is None:
            return
        check_integer("version", self.version, minimum=1)
        existing = versions(self.base_dir)
        if self.version in existing:
            raise ValueError(
                f"`version` must be new in {self.base_dir}, which has "
                f"{sorted(existing)}. Received: version={self.version}"
            )

    def _undo(self):
        shutil.rmtree(self.part, ignore_errors=True)
        files.remove_empty(self._made)


def versions(base_dir):
    """The set of version numbers that a base directory has."""
    if not os.path.isdir(base_dir):
        return set()
    return {int(name) for name in os.listdir(base_dir) if name.isdecimal()}


def _sync(directory):
    """Writes through to the disk: a power failure may keep the rename and
    lose the contents of the files."""
    for parent, _, names in os.walk(directory):
        for path in (*(os.path.join(parent, name) for name in names), parent):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


# The files in it.


def write_extra_files(directory, name, inputs, provenance):
    """Writes the files that go with a SavedModel.

    Args:
        directory: str, of the SavedModel.
        name: str, the name the model is served by.
        inputs: dict, name -> array, examples for the requests.
        provenance: dict.

    Returns:
        The number of warm-up requests.
    """
    texts = {
        PROVENANCE_FILE: json.dumps(provenance, indent=2, default=_jsonable),
        CONFIG_FILE: models_config(name),
        REQUEST_FILE: rest_request(inputs),
    }
    os.makedirs(os.path.join(directory, "assets.extra"), exist_ok=True)
    for path, text in texts.items():
        with open(os.path.join(directory, path), "w") as file:
            file.write(text)
    return write_warmup_requests(directory, name, inputs)


def _jsonable(value):
    """NumPy's numbers and dataclasses, which JSON does not know."""
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    return value.item() if hasattr(value, "item") else str(value)


def write_warmup_requests(directory, name, inputs):
    """Writes warm-up requests, if tensorflow-serving-api is installed.

    TensorFlow Serving replays them before it serves. Without them, the first
    requests after a start take several times as long as those that follow.

    Args:
        directory: str, of the SavedModel.
        name: str, the name the model is served by.
        inputs: dict, name -> array. One request has the first example, one
            the first 32.

    Returns:
        The number of requests, 0 without the package.

    Source: https://www.tensorflow.org/tfx/serving/saved_model_warmup
    """
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError:
        return 0
    count = len(next(iter(inputs.values())))
    sizes = sorted({min(batch, count) for batch in _WARMUP_BATCHES})
    path = os.path.join(directory, WARMUP_FILE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tf.io.TFRecordWriter(path) as file:
        for size in sizes:
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = name
            request.model_spec.signature_name = "serving_default"
            for key, array in inputs.items():
                tensor = tf.make_tensor_proto(array[:size])
                request.inputs[key].CopyFrom(tensor)
            file.write(log.SerializeToString())
    return len(sizes)


# Provenance.


def describe_provenance(model, level=None):
    """What is known of the origin of a model's weights.

    Args:
        model: `keras.Model`, wrapped or not, with the weights to describe.
        level: optional int, the level they were trained at.

    Returns:
        A dict that JSON can hold: `created`, `created_by`, `command`,
        `versions`, `density`, `densities` (by weight) and, of a wrapped
        model, `level` and `ticket`, its `ticket_hash`.
    """
    # The laboratory, without which this module can be imported.
    from keras_lottery.experiments import environment

    now = environment.describe()
    found = {
        "created": now["started"],
        "created_by": f"keras_lottery {__version__}",
        "command": now["command"],
        "versions": now["versions"],
    }
    if isinstance(model, LotteryModel):
        ticket = model.lottery.ticket()
        masks = model.lottery.state.held_masks()
        found["level"] = ticket.level if level is None else level
        found["ticket"] = ticket_hash(ticket)
    else:
        # The zeros of a plain model are taken for its mask.
        masks = {
            kernel.path: np.asarray(kernel.variable) != 0
            for kernel in find_kernels(model)
        }
    if masks:
        found["density"] = masks_lib.density(masks)
        found["densities"] = masks_lib.densities(masks)
    return found


def ticket_hash(ticket):
    """SHA-256 of a ticket's masks and rewound weights.

    Names are left out, since automatic ones differ between two builds of a
    model; order, shapes and types count.

    Args:
        ticket: `Ticket`.

    Returns:
        A str of 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    weights = ticket.rewind_point.weights
    for part in (ticket.masks, weights):
        for array in part.values():
            array = np.ascontiguousarray(array)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


# Texts to copy.


def models_config(name):
    """The text of TensorFlow Serving's `models.config`, for its container."""
    return (
        "model_config_list {\n"
        "  config {\n"
        f'    name: "{name}"\n'
        f'    base_path: "/models/{name}"\n'
        '    model_platform: "tensorflow"\n'
        "  }\n"
        "}\n"
    )


def docker_run(base_dir, name):
    """The command that serves the newest version, REST at 8501, gRPC 8500."""
    return (
        "docker run --rm -p 8500:8500 -p 8501:8501 "
        f'-v "{base_dir}:/models/{name}:ro" -e MODEL_NAME={name} '
        "tensorflow/serving"
    )


def rest_request(inputs):
    """The JSON of a request for the prediction of the first example.

    Args:
        inputs: dict, name -> array.
    """
    first = {name: _as_json(array[0]) for name, array in inputs.items()}
    if len(first) == 1:
        (first,) = first.values()
    return json.dumps(
        {"signature_name": "serving_default", "instances": [first]}
    )


def curl(path, name):
    """The command that sends the request of the first example."""
    return (
        f'curl -d @"{os.path.join(path, REQUEST_FILE)}" '
        f"http://localhost:8501/v1/models/{name}:predict"
    )


def grpc_request(name, inputs, outputs):
    """A Python script that sends a request by gRPC.

    Args:
        name: str, the model's.
        inputs: dict, name -> `tf.TensorSpec`.
        outputs: dict, name -> `tf.TensorSpec`.
    """
    lines = [
        "import grpc",
        "import tensorflow as tf",
        "from tensorflow_serving.apis import predict_pb2",
        "from tensorflow_serving.apis import prediction_service_pb2_grpc",
        "",
        "request = predict_pb2.PredictRequest()",
        f'request.model_spec.name = "{name}"',
        'request.model_spec.signature_name = "serving_default"',
    ]
    for key, spec in inputs.items():
        shape = tuple(size or 1 for size in spec.shape)
        value = f"tf.zeros({shape}, tf.{spec.dtype.name})"
        if spec.dtype.name == "string":
            value = f"tf.fill({shape}, b'')"
        lines.append(
            f'request.inputs["{key}"].CopyFrom(tf.make_tensor_proto({value}))'
        )
    lines += [
        'channel = grpc.insecure_channel("localhost:8500")',
        "stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)",
        "answer = stub.Predict(request, timeout=10)",
        *(f'print(tf.make_ndarray(answer.outputs["{k}"]))' for k in outputs),
    ]
    return "\n".join(lines)


def _as_json(value):
    if isinstance(value, np.ndarray) and value.ndim:
        return [_as_json(part) for part in value]
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    value = np.asarray(value)
    # `float` for bfloat16, which JSON does not know.
    return value.item() if value.dtype.kind in "biu" else float(value)
