"""What all scripts share: how a wrong command line ends."""

import sys

import pytest
import scripts
from absl import flags, logging
from absl.testing import flagsaver

sys.path.insert(0, str(scripts.ROOT / "tools"))

import common  # noqa: E402

from keras_lottery.experiments import Experiment  # noqa: E402

VALUES = flags.FlagValues()
flags.DEFINE_integer("rounds", 3, "", flag_values=VALUES)
flags.DEFINE_float("rate", 0.2, "", flag_values=VALUES, lower_bound=0.0)
flags.DEFINE_bool("augment", False, "", flag_values=VALUES)
flags.DEFINE_list("heights", ["1", "5"], "", flag_values=VALUES)


@pytest.fixture(autouse=True)
def script(monkeypatch):
    monkeypatch.setattr(common.flags, "FLAGS", VALUES)
    monkeypatch.setattr(sys, "argv", ["tools/a_script.py"])
    yield
    VALUES.unparse_flags()


@pytest.mark.parametrize(
    "given, told",
    [
        ("--rounds=1.5", "--rounds must be an integer. Received: --rounds=1.5"),
        ("--rate=a", "--rate must be a non-negative number. Received: --rate"),
        ("--rate=-1", "--rate must be a non-negative number. Received: --rate"),
        ("--augment=2", "--augment must be true or false. Received: --augment"),
        ("--rate", "Missing value for flag --rate."),
        ("--ronds=3", "Unknown command line flag 'ronds'. Did you mean: ro"),
        ("--flagfile=/nowhere.cfg", "Unable to open flagfile: "),
    ],
)
def test_a_wrong_flag_is_one_line(given, told, capsys):
    if given.startswith("--flagfile"):
        flags.DEFINE_string("flagfile", "", "", flag_values=VALUES)
    with pytest.raises(SystemExit) as ended:
        common._parse(["a_script.py", given])
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and not out and err.count("\n") == 1
    assert err.startswith(f"a_script.py: {told}")
    assert err.endswith(". --help lists the flags.\n")


def test_what_is_no_flag_is_left():
    argv = ["a_script.py", "runs/a", "--rounds=4"]
    assert common._parse(argv) == ["a_script.py", "runs/a"]
    assert VALUES.rounds == 4


@pytest.mark.parametrize("resumes", (False, True))
def test_a_script_says_that_it_goes_on_where_it_does(
    resumes, monkeypatch, capsys
):
    def job():
        raise KeyboardInterrupt

    monkeypatch.setattr(
        common.app, "run", lambda main, flags_parser: main(["script.py"])
    )
    monkeypatch.setattr(common, "start", lambda: None)
    with pytest.raises(SystemExit) as ended:
        common.run(job, resumes=resumes)
    assert ended.value.code == 130
    told = capsys.readouterr().err
    assert told.startswith("Stopped.") and ("goes on" in told) == resumes


def test_numbers():
    VALUES(["a_script.py", "--heights=2,7"])
    assert common.numbers("heights", int) == [2, 7]
    with pytest.raises(ValueError, match="at most 5. Received: --heights=2,7"):
        common.numbers("heights", float, limit=5)
    for wrong in ("", "a", "0", "1,-2", "nan"):
        VALUES(["a_script.py", f"--heights={wrong}"])
        with pytest.raises(ValueError, match="--heights must be one or more"):
            common.numbers("heights", float)


def test_an_import_that_fails_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended, common.importing():
        raise ImportError("no such module")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "a_script.py: no such module\n"


def test_a_backend_that_is_not_installed_is_one_line(capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(SystemExit), common.importing():
        raise ModuleNotFoundError("No module named 'jax'", name="jax")
    err = capsys.readouterr().err
    assert err.startswith("a_script.py: KERAS_BACKEND=jax needs jax, which")


def test_help_speaks_of_what_a_flag_can_be():
    told = common._arguments_told(Experiment)
    assert "function" not in told["model"] and "Arrays" not in told["dataset"]


@pytest.mark.parametrize("given, held", [({}, -1), ({"verbosity": "1"}, 1)])
def test_start_keeps_the_verbosity_that_is_asked_for(monkeypatch, given, held):
    monkeypatch.undo()
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["a_script.py"])
    before = logging.get_verbosity()
    try:
        with flagsaver.as_parsed(**given):
            common.start()
            assert logging.get_verbosity() == held
    finally:
        logging.set_verbosity(before)
