"""The pages: the reference is complete, and what they say is in the code."""

import ast
import importlib.util
import inspect
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGES = ("", ".experiments", ".export", ".report", ".training", ".tuner")
# In a message, what stands there for values.
VALUES = r"`[^`]*`|'[^']*'|\.\.\.|\[|\]|\w+=\S+|\d+|Received:"
NAV = re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)


def documented():
    """Dict, name in the reference -> object."""
    found = {}
    for page in sorted((DOCS / "reference").glob("*.md")):
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M):
            found[name] = resolve(name)
    return found


def resolve(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(resolve(module), attribute)


def script(name):
    """The module of a script of the documentation."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("package", PACKAGES)
def test_the_reference_has_everything_public(package):
    module = importlib.import_module(f"keras_lottery{package}")
    there = list(documented().values())
    modules = [each.__name__ for each in there if inspect.ismodule(each)]
    for name in module.__all__:
        thing = getattr(module, name)
        if callable(thing):
            assert any(each is thing for each in there) or (
                thing.__module__ in modules
            ), f"{module.__name__}.{name} is not in the reference"
        elif inspect.ismodule(thing):
            assert any(each is thing for each in there), name


def test_the_reference_has_nothing_private_and_nothing_without_words():
    for name, thing in documented().items():
        assert not any(part.startswith("_") for part in name.split("."))
        assert inspect.getdoc(thing), name


def test_every_page_is_in_the_navigation_once():
    pages = {
        path.relative_to(DOCS).as_posix()
        for path in DOCS.rglob("*.md")
        if path.with_suffix(".py") not in DOCS.glob("guides/*.py")
    }
    guides = {f"guides/{path.stem}.md" for path in DOCS.glob("guides/*.py")}
    assert len(guides) >= 9
    assert sorted(NAV) == sorted(pages | guides)


def test_every_experiment_with_results_has_a_page():
    text = "".join(p.read_text() for p in (DOCS / "results").glob("*.md"))
    for path in (ROOT / "configs/results").iterdir():
        assert f"configs/results/{path.name}" in text, path.name


def test_the_claims_are_those_of_the_committed_results():
    claims = script("claims")
    verdicts = claims.judged()
    assert claims.PAGE.read_text(encoding="utf-8") == claims.page(verdicts), (
        "python docs/claims.py"
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    measured = [
        f"{v.mean:.2f} [{v.low:.2f}, {v.high:.2f}]"
        for v in verdicts
        if v.low is not None and v.claim.id.startswith("C")
    ]
    assert len(measured) > 20
    for numbers in measured:
        assert numbers in readme, numbers


def messages():
    """The texts of the code, `\\0` where a value stands."""
    for path in [*ROOT.glob("keras_lottery/**/*.py"), *ROOT.glob("tools/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = node.values
                yield "".join(
                    getattr(part, "value", "")
                    if isinstance(part, ast.Constant)
                    else "\0"
                    for part in parts
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_messages_that_are_explained_are_given():
    text = (DOCS / "errors.md").read_text()
    quoted = re.findall(r"^### (.+)$", text, re.M)
    assert len(quoted) > 20
    given = "\n".join(messages())
    for message in quoted:
        message = " ".join(message.split())
        parts = re.split(VALUES, message)
        parts = [part.strip(" .,:") for part in parts]
        parts = [part for part in parts if len(part) > 12]
        assert parts, message
        for part in parts:
            assert part in given, f"{part!r} of {message!r}"


def test_dead_links_are_found(tmp_path):
    check_links = script("check_links")
    own = "https://github.com/keras-lottery/keras-lottery/blob/main"
    dead = ["none.html", "other/#nowhere", "x.png", f"{own}/none.py"]
    alive = ["other/", "other/#here", "#top", f"{own}/README.md", "mailto:a@b"]
    links = "".join(f'<a href="{link}">' for link in dead[:2] + alive)
    links += f'<img src="{dead[2]}"><a href="{dead[3]}">'
    (tmp_path / "index.html").write_text(f'<h1 id="top">{links}')
    (tmp_path / "other").mkdir()
    (tmp_path / "other/index.html").write_text('<p id="here"><a href="../">')
    found = check_links.dead_links(tmp_path)
    assert found == [("index.html", link) for link in dead]
    assert check_links.dead_in_readme() == []
