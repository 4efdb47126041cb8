"""What all scripts share: a quiet start, and errors of one line."""

import contextlib
import inspect
import math
import os
import re
import sys
import tempfile
import typing

from absl import app, flags, logging

_FORESEEN = ImportError, OSError, RuntimeError, ValueError


def run(job, takes_arguments=False, resumes=False):
    """Runs a script's job as an absl app.

    A wrong value ends it with one line and exit code 2, Ctrl-C with 130;
    only what nobody foresaw shows a stack trace, as all errors do with
    `--verbosity=1`.

    Args:
        job: function without arguments, or of the list of arguments.
        takes_arguments: bool, whether the script takes any beside flags.
        resumes: bool, whether the same command goes on where it was stopped.
    """

    def main(argv):
        arguments = argv[1:]
        if arguments and not takes_arguments:
            stop(
                f"{_script()}: stray arguments: {' '.join(arguments)}. "
                "Options are flags: --name=value.",
                2,
            )
        try:
            _set_threads()
            start()
            with quiet_backend():
                _start_backend()
            job(arguments) if takes_arguments else job()
        except KeyboardInterrupt:
            goes_on = " The same command goes on from here." * resumes
            stop(f"Stopped.{goes_on}", 130)
        except (*_FORESEEN, *_file_errors()) as error:
            if logging.get_verbosity() >= logging.DEBUG:
                raise
            stop(f"{_script()}: {error}", 2)

    app.run(main, flags_parser=_parse)


def _parse(argv):
    """The arguments that are left when the flags are read, as absl's parser
    returns them."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        stop(f"{_script()}: {_told(error)} --help lists the flags.", 2)


def _told(error):
    """An error of absl's parser in the words of all others."""
    wrong = re.match(r"flag --(\w+)=(.*?): ", str(error), re.DOTALL)
    if wrong is None:
        return f"{str(error).removeprefix('ERROR:: ')}."
    name, value = wrong.groups()
    # Numbers say what they take; the only others that can be wrong are bools.
    expected = flags.FLAGS[name].parser.syntactic_help or "true or false"
    return f"--{name} must be {expected}. Received: --{name}={value}."


def start():
    """Imports the package, and TensorFlow with it, without their messages."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    with importing(), quiet_backend():
        # GPUs announce themselves, or that there is none, when they are first
        # listed, and a module of TensorFlow lists them when absl starts.
        from keras_lottery import backend

        backend.gpus()


@contextlib.contextmanager
def importing():
    """Imports that end the script with one line if they fail, such as those
    of a module that needs another backend of Keras."""
    try:
        yield
    except (ImportError, ValueError) as error:
        # Keras imports the package of its backend, and refuses an unknown one.
        asked = os.environ.get("KERAS_BACKEND")
        package = getattr(error, "name", None)
        if package and package == asked:
            error = (
                f"KERAS_BACKEND={asked} needs {package}, which cannot be "
                f"imported: `pip install {package}`"
            )
        stop(f"{_script()}: {error}", 2)


def _start_backend():
    from keras_lottery import backend

    backend.start()


def _file_errors():
    """What TensorFlow raises of a path where it cannot read or write."""
    errors = getattr(sys.modules.get("tensorflow"), "errors", None)
    if errors is None:
        return ()
    return (
        errors.FailedPreconditionError,
        errors.NotFoundError,
        errors.PermissionDeniedError,
    )


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


def numbers(name, kind, limit=math.inf):
    """The numbers of a list flag.

    Args:
        name: str, of the flag.
        kind: `int` or `float`.
        limit: float, the largest that is allowed.

    Raises:
        ValueError: If there is none, or one is no number in (0, limit].
    """
    given = getattr(flags.FLAGS, name)
    with contextlib.suppress(ValueError):
        found = [kind(text) for text in given]
        if found and all(0 < number <= limit for number in found):
            return found
    kinds = "integers" if kind is int else "numbers"
    most = f", at most {limit}" if limit < math.inf else ""
    raise ValueError(
        f"--{name} must be one or more {kinds}, greater than 0{most}. "
        f"Received: --{name}={','.join(given)}"
    )


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
