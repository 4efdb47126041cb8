"""Every flagfile stands for an experiment."""

import pathlib
import sys

import pytest
from absl import flags

from keras_lottery.experiments import Experiment

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.cfg"))


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import find_ticket
    finally:
        sys.path.remove(str(ROOT / "tools"))
    return find_ticket


def title(path):
    """Such as `"half/conv_2"`."""
    return str(path.relative_to(ROOT / "configs").with_suffix(""))


@pytest.mark.parametrize("path", CONFIGS, ids=title)
def test_a_flagfile_stands_for_an_experiment(tool, path):
    values = flags.FLAGS
    values.unparse_flags()
    for name in values:
        values[name].unparse()
    values(["find_ticket.py", f"--flagfile={path}"])
    experiment = Experiment(**tool.common.values(Experiment))
    assert values.run_dir == f"runs/{title(path)}"
    smaller = experiment.image_size == 16 or "width" in dict(experiment.network)
    assert smaller is title(path).startswith("half/")
    assert path.stem == "smoke" or path.stem.startswith(
        experiment.model.split("_300")[0]
    )


def test_all_networks_of_the_paper_have_one():
    names = " ".join(path.stem for path in CONFIGS)
    for network in ("lenet", "conv_2", "conv_4", "conv_6", "resnet", "vgg"):
        assert network in names
