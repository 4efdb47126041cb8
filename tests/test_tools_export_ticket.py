"""export_ticket as a user runs it, in a process of its own."""

import functools
import json
import re

import pytest
import scripts

from keras_lottery.experiments import Experiment

export = functools.partial(scripts.finish, "export_ticket")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    Experiment(rounds=1, iterations=40, arms=("ticket",), backend="graph").run(
        directory
    )
    return directory


def test_it_ends_with_the_verification_and_instructions(run_dir, tmp_path):
    code, out, err = export(
        f"--run_dir={run_dir}",
        "--level=last",
        "--softmax",
        f"--output_dir={tmp_path / 'digits'}",
    )
    assert code == 0, err
    assert not err
    assert "level 1 of arm ticket, trial 0: 80.20 %" in out
    assert re.search(r"verified: max difference \S+ on 256 examples", out)
    before, after = re.search(
        r"test accuracy: (\S+) % before, (\S+) % after, of 300", out
    ).groups()
    assert before == after
    assert "docker run" in out and "curl" in out and "import grpc" in out
    provenance = tmp_path / "digits/1/assets.extra/provenance.json"
    story = json.loads(provenance.read_text())
    assert story["level"] == 1 and story["metadata"]["arm"] == "ticket"
    accuracy = 100 * story["metadata"]["final_test_accuracy"]
    assert f"{accuracy:.2f}" == before
