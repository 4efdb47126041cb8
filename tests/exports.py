"""SavedModels verified in the process of the test, which starts no other."""

import tensorflow as tf

from keras_lottery.export import saved_model


def verify_here(directory, inputs, expected, tolerance):
    """What `verify_saved_model` does, without another process."""
    loaded = tf.saved_model.load(directory)
    found = loaded.signatures["serving_default"](
        **{name: tf.constant(array) for name, array in inputs.items()}
    )
    for name, value in expected.items():
        saved_model.compare_outputs(name, found[name].numpy(), value, tolerance)
    counted = saved_model.count_weights(directory)
    return saved_model.Verified(16, 0.0, *counted)
