"""The subjects, by name: where they are and on which networks they run."""

from benchmarks.measurement import Subject

LOOP = "keras_lottery Loop"
EXPERIMENT = "keras_lottery Experiment"
GLOBAL = "keras_lottery prune_global"
# The parts of an experiment's step: metrics `steps_ms` and so on.
PARTS = ("steps", "evaluation", "rest")

_LENET = ("lenet_300_100",)
_SMALL = (*_LENET, "conv_2")
_ALL = (*_SMALL, "resnet_18")
_PRUNING = ("vgg_19",)

SUBJECTS = {
    LOOP: Subject("benchmarks.keras_subjects:CompiledLoop", _ALL),
    # It takes minutes.
    EXPERIMENT: Subject(
        "benchmarks.keras_subjects:WholeExperiment", _LENET, repetitions=1
    ),
    "keras_lottery Loop in bfloat16": Subject(
        "benchmarks.keras_subjects:Bfloat16Loop", ("conv_2", "resnet_18")
    ),
    "keras_lottery wrapped fit": Subject(
        "benchmarks.keras_subjects:WrappedFit", _ALL
    ),
    "Keras fit": Subject("benchmarks.keras_subjects:PlainFit", _ALL),
    "Keras fit, tuned": Subject("benchmarks.keras_subjects:TunedFit", _ALL),
    "tfmot fit": Subject(
        "benchmarks.other_subjects:TfmotFit",
        _SMALL,
        env={"TF_USE_LEGACY_KERAS": "1"},
    ),
    "PyTorch loop": Subject("benchmarks.other_subjects:TorchLoop", _SMALL),
    "matrix products alone": Subject(
        "benchmarks.other_subjects:Products", _LENET
    ),
    GLOBAL: Subject("benchmarks.pruning_subjects:Global", _PRUNING),
    "keras_lottery prune_layerwise": Subject(
        "benchmarks.pruning_subjects:Layerwise", _PRUNING
    ),
    "sort all scores": Subject("benchmarks.pruning_subjects:Sort", _PRUNING),
    "argsort all scores": Subject(
        "benchmarks.pruning_subjects:Argsort", _PRUNING
    ),
    "keras_lottery prune + rewind": Subject(
        "benchmarks.pruning_subjects:Round", _PRUNING
    ),
}


def subjects_of(network, wanted=None):
    """The subjects that run on a network.

    Args:
        network: str.
        wanted: optional list of names. Defaults to all.

    Returns:
        A dict, name -> `Subject`.
    """
    return {
        name: subject
        for name, subject in SUBJECTS.items()
        if network in subject.networks and (not wanted or name in wanted)
    }


def reference(network):
    """The subject of this package that the others are compared with."""
    return GLOBAL if network in _PRUNING else LOOP


def main_metric(network):
    """The metric that is compared."""
    return "prune_ms" if network in _PRUNING else "step_ms"
