"""The subjects, by name: where they live and on which networks they run."""

LOOP = "keras_lottery Loop"
GLOBAL = "keras_lottery prune_global"

_ALL = ("lenet_300_100", "conv_2", "resnet_18")
_SMALL = ("lenet_300_100", "conv_2")
_PRUNING = ("vgg_19",)

SUBJECTS = {
    LOOP: ("benchmarks.loop:CompiledLoop", _ALL),
    "keras_lottery Loop in bfloat16": (
        "benchmarks.loop:Bfloat16Loop",
        ("conv_2", "resnet_18"),
    ),
    "keras_lottery wrapped fit": ("benchmarks.fits:WrappedFit", _ALL),
    "Keras fit": ("benchmarks.fits:PlainFit", _ALL),
    "Keras fit, tuned": ("benchmarks.fits:TunedFit", _ALL),
    "tfmot fit": ("benchmarks.tfmot_fit:TfmotFit", _SMALL),
    "PyTorch loop": ("benchmarks.torch_loop:TorchLoop", _SMALL),
    "matrix products alone": (
        "benchmarks.products:Products",
        ("lenet_300_100",),
    ),
    GLOBAL: ("benchmarks.pruning:Global", _PRUNING),
    "keras_lottery prune_layerwise": (
        "benchmarks.pruning:Layerwise",
        _PRUNING,
    ),
    "sort all scores": ("benchmarks.pruning:Sort", _PRUNING),
    "argsort all scores": ("benchmarks.pruning:Argsort", _PRUNING),
    "keras_lottery prune + rewind": ("benchmarks.rounds:Round", _PRUNING),
}


def subjects_of(network, wanted=None):
    """The subjects that run on a network.

    Args:
        network: str.
        wanted: optional list of names. Defaults to all.

    Returns:
        A dict, name -> `"module:class"`.
    """
    return {
        name: where
        for name, (where, networks) in SUBJECTS.items()
        if network in networks and (not wanted or name in wanted)
    }


def reference(network):
    """The subject of this package that the others are compared with."""
    return GLOBAL if network in _PRUNING else LOOP


def main_metric(network):
    """The metric that is compared."""
    return "prune_ms" if network in _PRUNING else "step_ms"
