"""The version directory and the files beside a served model."""

import os
import sys

import numpy as np
import pytest

from keras_lottery.export.serving_files import (
    VersionDirectory,
    write_warmup_requests,
)


def test_versions_go_on(tmp_path):
    for taken in ("1", "7", "not_a_version"):
        (tmp_path / taken).mkdir()
    with VersionDirectory(tmp_path) as new:
        pass
    assert new.version == 8 and (tmp_path / "8").is_dir()
    with VersionDirectory(tmp_path, 3) as new:
        pass
    assert new.version == 3
    for version, message in [
        (7, "`version` must be new in"),
        (0, "at least 1"),
        (True, "`version` must be an integer"),
        ("2", "`version` must be an integer"),
    ]:
        with pytest.raises(ValueError, match=message):
            VersionDirectory(tmp_path, version)
    assert sorted(os.listdir(tmp_path)) == ["1", "3", "7", "8", "not_a_version"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="`base_dir` must be a directory, and"):
        VersionDirectory(tmp_path / "file")


def test_what_is_being_written_is_no_version(tmp_path):
    with VersionDirectory(tmp_path) as new:
        (tmp_path / os.path.basename(new.part) / "half").touch()
        (entry,) = os.listdir(tmp_path)
        assert not entry.isdecimal()
    assert os.listdir(tmp_path) == ["1"]
    assert os.listdir(tmp_path / "1") == ["half"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_leaves_no_version(tmp_path, error):
    for base in (tmp_path / "new" / "model", tmp_path / "old"):
        before = [tmp_path / "old", tmp_path / "old" / "4"]
        before[1].mkdir(parents=True, exist_ok=True)
        with pytest.raises(error), VersionDirectory(base):
            raise error
        assert sorted(tmp_path.rglob("*")) == before


def test_without_the_package_there_are_no_warm_up_requests(
    monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    assert write_warmup_requests(tmp_path, "m", {"a": np.ones((2, 1))}) == 0
    assert not list(tmp_path.iterdir())
