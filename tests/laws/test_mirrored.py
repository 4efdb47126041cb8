"""The laws hold for a model that is mirrored on two devices."""

import json
import os
import subprocess
import sys

import pytest
import zoo_steps

if zoo_steps.BACKEND != "tensorflow":
    pytest.skip(
        "`tf.distribute` is TensorFlow's alone.", allow_module_level=True
    )

import mirrored_script  # noqa: E402


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, mirrored_script.__file__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("check", mirrored_script.CHECKS)
def test_on_two_devices(found, check):
    assert found[check] is None, found[check]
