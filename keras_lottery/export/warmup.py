"""Warm-up requests, which TensorFlow Serving replays before it serves.

Without them the first requests after a start pay for what TensorFlow does
once: several times the latency of those that follow.

https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

import os

import tensorflow as tf

FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
MISSING = (
    "There are no warm-up requests: `pip install tensorflow-serving-api`, and "
    "the next export writes them."
)
_BATCHES = (1, 32)


def write(directory, name, inputs):
    """Writes the requests, if tensorflow-serving-api is installed.

    Args:
        directory: str, that of the SavedModel.
        name: str, the name the model is served by.
        inputs: dict, name -> array; the first and the first 32 are asked.

    Returns:
        The number of requests, 0 without the package.
    """
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError:
        return 0
    count = len(next(iter(inputs.values())))
    sizes = sorted({min(batch, count) for batch in _BATCHES})
    path = os.path.join(directory, FILE)
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
