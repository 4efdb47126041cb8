"""Exports a trained level of a run: for TensorFlow Serving, or as LiteRT.

    python tools/export_ticket.py --run_dir=runs/lenet_mnist \\
        --output_dir=served/lenet
    python tools/export_ticket.py --run_dir=runs/lenet_mnist \\
        --output_dir=lite --format=litert --quantize=int8

The outputs of what is written were compared with the Keras model's: in a
process that cannot import Keras, or in the LiteRT interpreter. The last lines
show how to serve it and how to send requests.
"""

import common
from absl import flags

FLAGS = flags.FLAGS

flags.DEFINE_string("run_dir", None, "A directory of tools/find_ticket.py.")
flags.DEFINE_string(
    "data_dir", None, "Where TFDS keeps data sets. Default: TFDS' own."
)
flags.DEFINE_string(
    "level",
    "best",
    "A level; last; or best, the smallest density at which training ends with "
    "a validation accuracy not below that of level 0.",
)
flags.DEFINE_integer("trial", 0, "Which trial.")
flags.DEFINE_string("arm", "ticket", "Which arm; one that keeps its tickets.")
flags.DEFINE_string(
    "output_dir",
    None,
    "The directory of the model's versions, or of the LiteRT file.",
)
flags.DEFINE_integer("version", None, "Default: the next one.")
flags.DEFINE_enum(
    "format", "serving", ["serving", "litert"], "The format to write."
)
flags.DEFINE_enum(
    "quantize", None, ["dynamic", "int8"], "With --format=litert: to 8 bits."
)
flags.DEFINE_bool("compact", False, "Remove units that are never used.")
flags.DEFINE_bool(
    "sparse",
    False,
    "For serving: sparse kernels where that is measured to be faster; for "
    "litert: store no zeros.",
)
flags.DEFINE_bool(
    "softmax", False, "For serving: probabilities instead of logits."
)
flags.DEFINE_string(
    "name", None, "The name to serve it by. Default: that of output_dir."
)


def main():
    for flag in ("run_dir", "output_dir"):
        if not getattr(FLAGS, flag):
            raise ValueError(f"--{flag} must be given.")
    # Late, so that --help and a wrong flag answer at once.
    from keras_lottery import export

    own = FLAGS.get_key_flags_for_module(__name__)
    exported = export.export_run(**{flag.name: flag.value for flag in own})
    print(exported.summary())


if __name__ == "__main__":
    common.run(main)
