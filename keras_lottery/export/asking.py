"""How a written model is served and asked: texts to copy."""

import base64
import json
import os

import numpy as np

REQUEST_FILE = os.path.join("assets.extra", "rest_request.json")


def models_config(name):
    """The text of TensorFlow Serving's `models.config`, inside Docker."""
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
    """The JSON that asks for the first example.

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
    """The command that asks for the prediction of the first example."""
    return (
        f'curl -d @"{os.path.join(path, REQUEST_FILE)}" '
        f"http://localhost:8501/v1/models/{name}:predict"
    )


def grpc_request(name, inputs, outputs):
    """A Python script that asks by gRPC.

    Args:
        name: str, of the model.
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
    # Also of bfloat16, which is no number to JSON.
    return value.item() if value.dtype.kind in "biu" else float(value)
