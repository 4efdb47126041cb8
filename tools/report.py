"""Writes the report of one or more runs anew.

python tools/report.py runs/lenet_mnist [RUN_DIR ...]
"""

import common


def main(run_dirs):
    from keras_lottery import report

    if not run_dirs:
        raise ValueError("Give one or more run directories.")
    for run_dir in run_dirs:
        print(report.write(run_dir))


if __name__ == "__main__":
    common.run(main, takes_arguments=True)
