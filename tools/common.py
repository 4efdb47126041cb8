"""What all scripts share: a quiet start, and errors of one line."""

import contextlib
import multiprocessing
import os
import sys
import tempfile

from absl import app, flags, logging


def run(job, takes_arguments=False):
    """Runs a script's job as an absl app.

    A wrong value ends it with one line and exit code 2, Ctrl-C with 130;
    only what nobody foresaw shows a stack trace.

    Args:
        job: function without arguments, or of the list of arguments.
        takes_arguments: bool, whether the script takes any beside flags.
    """

    def main(argv):
        arguments = argv[1:]
        if arguments and not takes_arguments:
            stop(f"{_script()}: stray arguments: {' '.join(arguments)}", 2)
        logging.set_verbosity(logging.WARNING)
        try:
            _set_threads()
            with quiet_tensorflow():
                import keras_lottery  # noqa: F401
            job(arguments) if takes_arguments else job()
        except KeyboardInterrupt:
            stop("Stopped. The same command goes on from here.", 130)
        except (ValueError, OSError, RuntimeError) as error:
            if logging.get_verbosity() >= logging.DEBUG:
                raise
            stop(f"{_script()}: {error}", 2)

    app.run(main)


def _set_threads():
    # TensorFlow reads it once, when it starts; workers inherit it.
    threads = getattr(flags.FLAGS, "threads", None)
    if threads is not None:
        if threads < 1:
            raise ValueError(
                f"--threads must be at least 1. Received: --threads={threads}"
            )
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads)


def _script():
    return os.path.basename(sys.argv[0])


def define_training_flags():
    """The flags that say on what, and how, trainings are made."""
    flags.DEFINE_string(
        "dataset",
        "digits",
        "The embedded digits, or any TFDS image set by name.",
    )
    flags.DEFINE_string(
        "data_dir", None, "Where TFDS keeps data sets. Default: TFDS' own."
    )
    flags.DEFINE_string(
        "model",
        "lenet_300_100",
        "lenet_300_100, conv_2, conv_4, conv_6, resnet_18 or vgg_19.",
    )
    flags.DEFINE_integer("batch_size", None, "Default: the paper's.")
    flags.DEFINE_string(
        "optimizer", None, "A Keras optimizer by name. Default: the paper's."
    )
    flags.DEFINE_string(
        "backend",
        "auto",
        "graph, xla or xla_update; fit, Keras' own; or auto: measure a few "
        "steps.",
    )
    flags.DEFINE_integer(
        "threads", None, "Threads of one operation. Default: one a core."
    )


def stop(line, code):
    """Ends the process with one line on stderr."""
    print(line, file=sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def quiet_tensorflow():
    """Keeps TensorFlow's start-up messages, written before any setting of
    its own applies, off the terminal; shows them if the start fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    own = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            _start_tensorflow()
            yield
        except BaseException:
            captured.seek(0)
            os.write(own, captured.read())
            raise
        finally:
            os.dup2(own, 2)
            os.close(own)


def _start_tensorflow():
    import tensorflow as tf

    # Devices and the XLA compiler announce themselves at their first use.
    tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(1))


if multiprocessing.current_process().name != "MainProcess":
    # A worker process of the script imports this module before all others.
    logging.set_verbosity(logging.ERROR)
    with quiet_tensorflow():
        import keras_lottery  # noqa: F401
