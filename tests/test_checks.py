"""Checks of arguments: what is refused, in which words."""

import ast
import configparser
import pathlib

import numpy as np
import pytest

from keras_lottery import checks

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("value", [1.0, -1, True, None, "3", np.float32(2)])
def test_check_integer_refuses(value):
    with pytest.raises(
        ValueError, match="`n` must be an integer.*Received: n="
    ):
        checks.check_integer("n", value, minimum=0)


def test_check_integer_gives_an_int():
    value = checks.check_integer("n", np.int64(3), minimum=0)
    assert type(value) is int and value == 3


@pytest.mark.parametrize("value", [-0.1, 1.0, True, None, "0.2", float("nan")])
def test_check_rate_refuses(value):
    with pytest.raises(ValueError, match=r"`rate` must be in \[0, 1\)"):
        checks.check_rate("rate", value)


@pytest.mark.parametrize("value", [0, -1.0, True, None, float("inf")])
def test_check_positive_refuses(value):
    with pytest.raises(ValueError, match="greater than 0. Received: x="):
        checks.check_positive("x", value)


def test_check_arguments_names_the_nearest_or_all():
    taken = ["rounds", "x"]
    checks.check_arguments("find", {"x": 1}, taken)
    with pytest.raises(TypeError, match="`find` takes no.*mean `rounds`"):
        checks.check_arguments("find", {"round": 1}, taken)
    with pytest.raises(TypeError, match=r"`q`. It takes \['rounds', 'x'\]"):
        checks.check_arguments("find", {"q": 1}, taken)


def test_check_choice_names_the_choices():
    with pytest.raises(ValueError, match=r"one of \['a', 'b'\].*'c'"):
        checks.check_choice("x", "c", ("a", "b"))


def test_missing_says_how_to_install():
    told = checks.missing("A", "b", "sparse")
    assert told == (
        "A needs b, which cannot be imported: "
        '`pip install "keras-lottery[sparse]"`'
    )
    assert checks.missing("A", "b").endswith("`pip install b`")


def test_the_extras_that_messages_name_install_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    required = setup["options"]["install_requires"]
    named = []
    for path in [*ROOT.glob("keras_lottery/**/*.py"), *ROOT.glob("tools/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call) and ast.unparse(node.func)
            if called == "missing" and isinstance(node.args[1], ast.Constant):
                packages, *extra = (arg.value for arg in node.args[1:])
                wanted = extras[extra[0]] if extra else required
                for package in packages.split(" and "):
                    assert f"{package} >=" in wanted, path
                named += extra
    assert {"bayesian", "dask", "serving", "sparse"} <= {*named}
