"""Holds the paper's claims against what runs have measured.

python tools/check_claims.py runs/lenet_mnist [RUN_DIR ...]
"""

import common


def main(run_dirs):
    from keras_lottery import report

    print(report.check_claims(run_dirs))


if __name__ == "__main__":
    common.run(main, takes_arguments=True)
