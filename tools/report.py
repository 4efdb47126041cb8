"""Writes the report of one or more runs anew.

python tools/report.py runs/lenet_mnist [RUN_DIR ...]
python tools/report.py --connectivity --data_dir=tfds runs/lenet_mnist
"""

import common
from absl import flags

common.start()

from keras_lottery import report  # noqa: E402

_OPTIONS = ("connectivity", "data_dir")

common.define_flags(report.write, _OPTIONS)
flags.adopt_module_key_flags(common)


def main(run_dirs):
    if not run_dirs:
        raise ValueError("One or more run directories must be given.")
    for run_dir in run_dirs:
        print(report.write(run_dir, **common.values(report.write, _OPTIONS)))


if __name__ == "__main__":
    common.run(main, takes_arguments=True)
