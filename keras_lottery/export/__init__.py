"""Export: TensorFlow Serving, LiteRT, compaction, tfmot.

On Keras' JAX and PyTorch backends there are `compact`, `to_serving` and
`to_litert`, of which the latter two go through a TensorFlow twin of the model.
"""

from keras_lottery import backend
from keras_lottery.export.compaction import Compacted, compact

if backend.ON_TENSORFLOW:
    from keras_lottery.experiments import RunModel
    from keras_lottery.export.gains import (
        Gain,
        Gains,
        accuracy,
        measure_gains,
        measure_network_gains,
        measure_width_gains,
    )
    from keras_lottery.export.litert import LitertFile, to_litert
    from keras_lottery.export.run_export import (
        ExportedRun,
        export_run,
        measure_run_gains,
        model_of_run,
    )
    from keras_lottery.export.serving import Served, to_serving
    from keras_lottery.export.tfmot import (
        TfmotFile,
        from_tfmot,
        to_tfmot_litert,
    )
    from keras_lottery.export.tradeoff import Point, Tradeoff, measure_tradeoff
else:
    from keras_lottery.export.twin import to_litert, to_serving

__all__ = [
    "Compacted",
    "ExportedRun",
    "Gain",
    "Gains",
    "Point",
    "Tradeoff",
    "measure_tradeoff",
    "LitertFile",
    "RunModel",
    "Served",
    "TfmotFile",
    "accuracy",
    "compact",
    "export_run",
    "from_tfmot",
    "measure_gains",
    "measure_network_gains",
    "measure_run_gains",
    "measure_width_gains",
    "model_of_run",
    "to_litert",
    "to_serving",
    "to_tfmot_litert",
]


def __getattr__(name):
    """Refuses what only TensorFlow can run."""
    if name in __all__:
        backend.require_tensorflow(f"keras_lottery.export.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
