"""Exports a trained level of a run: for TensorFlow Serving, or as LiteRT.

    python tools/export_ticket.py --run_dir=runs/lenet_mnist \\
        --output_dir=served/lenet
    python tools/export_ticket.py --run_dir=runs/lenet_mnist \\
        --output_dir=lite --format=litert --quantize=int8

What is written was checked against the Keras model in a process that cannot
import Keras; the last lines say how to serve it and how to ask it.
"""

import os

import common
from absl import flags

FLAGS = flags.FLAGS

flags.DEFINE_string("run_dir", None, "A directory of tools/find_ticket.py.")
flags.DEFINE_string(
    "level",
    "best",
    "A level; last; or best, the smallest density at which training ends with "
    "a validation accuracy not below that of level 0.",
)
flags.DEFINE_integer("trial", 0, "Which trial.")
flags.DEFINE_string("arm", "ticket", "Which arm; one that keeps its tickets.")
flags.DEFINE_string(
    "output_dir", None, "Where to: the directory of the model's versions."
)
flags.DEFINE_integer("version", None, "Default: the next one.")
flags.DEFINE_enum("format", "serving", ["serving", "litert"], "For what.")
flags.DEFINE_enum(
    "quantize", None, ["dynamic", "int8"], "With --format=litert: to 8 bits."
)
flags.DEFINE_bool("compact", False, "Remove units that are never used.")
flags.DEFINE_bool(
    "sparse",
    False,
    "For serving: multiply layers sparsely where that is measured faster; for "
    "litert: store no zeros.",
)
flags.DEFINE_bool("softmax", False, "Give probabilities instead of logits.")
flags.DEFINE_string("name", None, "To be served by. Default: of output_dir.")

# How many test examples the written model is checked on.
_EXAMPLES = 256


def main():
    for flag in ("run_dir", "output_dir"):
        if not getattr(FLAGS, flag):
            raise ValueError(f"--{flag} must be given.")
    _check_format()
    # Late, so that --help and a wrong flag answer at once.
    from keras_lottery import export

    run = export.model_of_run(
        FLAGS.run_dir, common.level(FLAGS.level), FLAGS.trial, FLAGS.arm
    )
    row = run.result
    print(
        f"level {row.level} of arm {row.arm}, trial {row.trial}: "
        f"{100 * row.density:.2f} % of the prunable weights"
    )
    _to_litert(run) if FLAGS.format == "litert" else _to_serving(run)


def _check_format():
    others = {
        "serving": {"quantize": None},
        "litert": {"version": None, "softmax": False},
    }
    for flag, default in others[FLAGS.format].items():
        if getattr(FLAGS, flag) != default:
            raise ValueError(
                f"--{flag} must not be given with --format={FLAGS.format}."
            )


def _to_serving(run):
    import dataclasses

    from keras_lottery import export

    x, _ = run.data.test
    served = export.to_serving(
        run.model,
        FLAGS.output_dir,
        FLAGS.version,
        compact=FLAGS.compact,
        sparse="auto" if FLAGS.sparse else None,
        softmax=FLAGS.softmax,
        examples=x[:_EXAMPLES],
        name=FLAGS.name,
        metadata={
            "run_dir": os.path.abspath(FLAGS.run_dir),
            **dataclasses.asdict(run.result),
        },
    )
    print(f"written: {served.path}")
    print(served.summary())
    _print_accuracy(run, served.load())
    print(f"\n{served.instructions()}")


def _to_litert(run):
    from keras_lottery import export

    model = export.compact(run.model).model if FLAGS.compact else run.model
    name = FLAGS.name or os.path.basename(os.path.abspath(FLAGS.output_dir))
    path = os.path.join(FLAGS.output_dir, f"{name}.tflite")
    x, _ = run.data.train
    written = export.to_litert(
        model,
        path,
        FLAGS.quantize,
        representative=x[:_EXAMPLES],
        sparse=FLAGS.sparse,
    )
    print(f"written: {path}")
    print(written.summary())
    _print_accuracy(run, _interpreted(path))


def _print_accuracy(run, written):
    from keras_lottery import export

    x, y = run.data.test
    before, after = (
        100 * export.accuracy(answer, x, y)
        for answer in (lambda part: run.model(part).numpy(), written)
    )
    print(
        f"test accuracy: {before:.2f} % before, {after:.2f} % after, of "
        f"{len(x):,} examples"
    )


def _interpreted(path):
    from keras_lottery.export import interpreting

    with open(path, "rb") as file:
        content = file.read()
    (taken,) = interpreting.names(content)
    return lambda x: next(iter(interpreting.run(content, {taken: x}).values()))


if __name__ == "__main__":
    common.run(main)
