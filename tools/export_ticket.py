"""Exports a trained level of a run: for TensorFlow Serving, or as LiteRT.

    python tools/export_ticket.py --run_dir=runs/lenet_mnist \\
        --output_dir=served/lenet
    python tools/export_ticket.py --run_dir=runs/lenet_mnist \\
        --output_dir=lite --format=litert --quantize=int8

The outputs of what is written were compared with the Keras model's: in a
process that cannot import Keras, or in the LiteRT interpreter. The last lines
show how to serve it and how to send requests.
"""

import common

common.start()

with common.importing():
    from keras_lottery.export import export_run

common.define_flags(export_run, run_dir=None, output_dir=None)


def main():
    arguments = common.values(export_run)
    for name in ("run_dir", "output_dir"):
        if not arguments[name]:
            raise ValueError(f"--{name} must be given.")
    print(export_run(**arguments).summary())


if __name__ == "__main__":
    common.run(main)
