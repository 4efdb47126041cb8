"""tools/measure_gains.py: which flags go together."""

import pytest
from scripts import finish


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "One of --run_dir, --width, --network and --run_dirs must be"),
        (("--width=8", "--network=conv_2"), "Received: --width --network"),
        (
            ("--network=conv_2", "--epochs=2"),
            "--epochs must be left out with --network, which does not take it",
        ),
        (
            ("--width=8", "--level=2"),
            "--level must be left out with --width, which does not take it",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, message):
    code, _, error = finish("measure_gains", *flags)
    assert code == 2 and message in error


def test_a_directory_is_no_file_to_write(tmp_path):
    code, _, error = finish(
        "measure_gains", "--width=8", f"--output={tmp_path}"
    )
    assert code == 2 and "--output must be a file" in error
