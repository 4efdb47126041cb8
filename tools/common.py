"""What all scripts share: a quiet start, and errors of one line."""

import contextlib
import inspect
import os
import re
import sys
import tempfile
import typing

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
        try:
            _set_threads()
            start()
            with quiet_backend():
                _start_backend()
            job(arguments) if takes_arguments else job()
        except KeyboardInterrupt:
            stop("Stopped. The same command goes on from here.", 130)
        except (ValueError, OSError, RuntimeError) as error:
            if logging.get_verbosity() >= logging.DEBUG:
                raise
            stop(f"{_script()}: {error}", 2)

    app.run(main)


def start():
    """Imports the package, and TensorFlow with it, without their messages."""
    logging.set_verbosity(logging.WARNING)
    with quiet_backend():
        # GPUs announce themselves, or that there is none, when they are first
        # listed, and a module of TensorFlow lists them when absl starts.
        from keras_lottery import backend

        backend.gpus()


def _start_backend():
    from keras_lottery import backend

    backend.start()


def _set_threads():
    # TensorFlow reads it once, at its first use; workers inherit it.
    threads = getattr(flags.FLAGS, "threads", None)
    if threads is not None:
        if threads < 1:
            raise ValueError(
                f"--threads must be at least 1. Received: --threads={threads}"
            )
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads)


def _script():
    return os.path.basename(sys.argv[0])


flags.DEFINE_integer(
    "threads", None, "Threads of one operation. Default: one a core."
)
# From here on, flags count as those of the script, whose --help shows them.
flags.disclaim_key_flags()


def define_flags(source, names=None, **defaults):
    """A flag for each parameter of a dataclass or a function.

    Names, types and defaults are those of its signature, and the help is that
    of its docstring.

    Args:
        source: dataclass or function with a section `Args` in its docstring.
        names: optional sequence of the parameters. Defaults to all.
        **defaults: defaults that are other than those of the signature.
    """
    parameters = inspect.signature(source).parameters
    told = _arguments_told(source)
    for name in names or parameters:
        default = defaults.get(name, parameters[name].default)
        if isinstance(default, tuple):
            default = list(default)
        _flag_of(parameters[name])(name, default, told[name])


def values(source, names=None):
    """Dict, name -> value, of the flags that `define_flags` defined."""
    names = names or inspect.signature(source).parameters
    return {name: getattr(flags.FLAGS, name) for name in names}


def _flag_of(parameter):
    """The function that defines a flag of a parameter's type."""
    kinds = typing.get_args(parameter.annotation) or (parameter.annotation,)
    for kind, define in (
        (bool, flags.DEFINE_bool),
        (int, flags.DEFINE_integer),
        (float, flags.DEFINE_float),
        (tuple, flags.DEFINE_list),
    ):
        if kind in kinds:
            return define
    return flags.DEFINE_string


def _arguments_told(source):
    """Dict, name -> what a docstring says of an argument."""
    text = inspect.getdoc(source).split("\nArgs:\n", 1)[1]
    # As far as the next section.
    text = re.split(r"\n\S", text, maxsplit=1)[0]
    entries = re.split(r"^    (?=\w[\w, ]*:)", text, flags=re.MULTILINE)
    told = {}
    for entry in entries[1:]:
        names, _, meaning = entry.partition(":")
        for name in names.split(", "):
            told[name] = " ".join(meaning.split()).replace("`", "")
    return told


def stop(line, code):
    """Ends the process with one line on stderr."""
    print(line, file=sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def quiet_backend():
    """Keeps TensorFlow's start-up messages, written before any setting of
    its own applies, off the terminal; shows them if the start fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    own = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except BaseException:
            captured.seek(0)
            os.write(own, captured.read())
            raise
        finally:
            os.dup2(own, 2)
            os.close(own)
