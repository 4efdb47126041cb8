"""Real architectures under a search: keras.applications and KerasHub."""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Callable

import keras
import numpy as np
import pytest
import small

import keras_lottery
from keras_lottery.export import compact, to_litert, to_serving
from keras_lottery.schedules import Scaled

CLASSES, EXAMPLES, BATCH, TOKENS, VOCABULARY = 3, 4, 2, 6, 40


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A model to wrap.

    Args:
        build: function without arguments that makes the model.
        output: regular expression of the path of every weight that is pruned
            at the rate of output layers, or `None` if no weight is.
        alone: regular expression of the paths of weights of rank 2 or more
            that are not pruned.
    """

    build: Callable[[], keras.Model]
    output: str | None
    alone: str | None = None


def application(name, output="^predictions/kernel$", **options):
    def build():
        return getattr(keras.applications, name)(
            input_shape=(32, 32, 3),
            weights=None,
            classes=CLASSES,
            classifier_activation=None,
            **options,
        )

    return Architecture(build, output)


APPLICATIONS = {
    "MobileNetV2": application("MobileNetV2", alpha=0.35),
    "EfficientNetB0": application("EfficientNetB0"),
    "ResNet50V2": application("ResNet50V2"),
    "DenseNet121": application("DenseNet121"),
    "ConvNeXtTiny": application(
        "ConvNeXtTiny", "^convnext_tiny_head_dense/kernel$"
    ),
}

# Of a block of a transformer.
BLOCK = {"num_layers": 2, "hidden_dim": 8, "intermediate_dim": 16}
TEXT = {"vocabulary_size": VOCABULARY, **BLOCK}
IMAGE = {"image_shape": (32, 32, 3), "patch_size": (8, 8)}


def hub():
    """KerasHub's models, which take seconds to import."""
    return importlib.import_module("keras_hub").models


def bert_backbone():
    return hub().BertBackbone(num_heads=2, max_sequence_length=12, **TEXT)


def bert_with_own_head():
    backbone = bert_backbone()
    pooled = backbone(backbone.input)["pooled_output"]
    outputs = keras.layers.Dense(CLASSES, name="own_head")(pooled)
    return keras.Model(backbone.input, outputs)


def bert_classifier():
    return hub().BertTextClassifier(bert_backbone(), CLASSES)


def bert_masked_lm():
    return hub().BertMaskedLM(bert_backbone())


def gpt2():
    backbone = hub().GPT2Backbone(num_heads=2, max_sequence_length=12, **TEXT)
    return hub().GPT2CausalLM(backbone)


def llama():
    backbone = hub().LlamaBackbone(
        num_query_heads=2, num_key_value_heads=1, **TEXT
    )
    return hub().LlamaCausalLM(backbone)


def mixtral():
    backbone = hub().MixtralBackbone(
        num_query_heads=2,
        num_key_value_heads=1,
        num_experts=2,
        top_k=1,
        **TEXT,
    )
    return hub().MixtralCausalLM(backbone)


def vit():
    backbone = hub().ViTBackbone(
        num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, **IMAGE
    )
    return hub().ViTImageClassifier(backbone, CLASSES)


def deit():
    backbone = hub().DeiTBackbone(num_heads=2, **BLOCK, **IMAGE)
    return hub().DeiTImageClassifier(backbone, CLASSES)


TABLE, BIAS, TOKEN = "embeddings$", "bias$", "_token$"
HUB = {
    "BertBackbone with a head": Architecture(
        bert_with_own_head, "own_head/kernel$", f"{TABLE}|{BIAS}"
    ),
    "BertTextClassifier": Architecture(
        bert_classifier, "logits/kernel$", f"{TABLE}|{BIAS}"
    ),
    # The output layer is the table of words, which is not pruned.
    "BertMaskedLM": Architecture(bert_masked_lm, None, f"{TABLE}|{BIAS}"),
    "GPT2CausalLM": Architecture(gpt2, None, f"{TABLE}|{BIAS}"),
    # The output layer is a table of its own.
    "LlamaCausalLM": Architecture(
        llama, "/reverse_embeddings$", "/embeddings$"
    ),
    "MixtralCausalLM": Architecture(
        mixtral, "/reverse_embeddings$", "/embeddings$"
    ),
    "ViTImageClassifier": Architecture(
        vit, "predictions/kernel$", f"{TABLE}|{BIAS}|{TOKEN}"
    ),
    "DeiTImageClassifier": Architecture(
        deit, "predictions/kernel$", f"position_embedding$|{BIAS}|{TOKEN}"
    ),
}
ARCHITECTURES = {**APPLICATIONS, **HUB}
# The others are trained eagerly, since tracing them takes the longest.
TRACED = "MobileNetV2", "ConvNeXtTiny", "BertTextClassifier", "LlamaCausalLM"
NEEDS_HUB = pytest.mark.skipif(
    importlib.util.find_spec("keras_hub") is None,
    reason="KerasHub is not installed",
)


def build(name):
    keras.utils.set_random_seed(1)
    return ARCHITECTURES[name].build()


def data(model):
    """(x, y): integers below 2 where the model takes integers."""
    draw = np.random.default_rng(0)

    def array(tensor):
        shape = [EXAMPLES, *(size or TOKENS for size in tensor.shape[1:])]
        if "mask" in tensor.name and "positions" not in tensor.name:
            return np.ones(shape, tensor.dtype)
        if "int" in tensor.dtype:
            return draw.integers(0, 2, shape).astype(tensor.dtype)
        return draw.normal(size=shape).astype(tensor.dtype)

    x = keras.tree.map_structure(array, model.input)
    shape = [EXAMPLES, *(size or TOKENS for size in model.output.shape[1:-1])]
    return x, draw.integers(0, CLASSES, shape)


def fit(model):
    return model.fit(*data(model), batch_size=BATCH, verbose=0)


def values(model):
    return [np.array(variable) for variable in model.variables]


@dataclasses.dataclass
class Search:
    """Two rounds of an architecture, as raw arrays.

    Args:
        name: str, key of `ARCHITECTURES`.
        model: the wrapped model, at the start of level 2.
        initial: list of arrays, all variables of the model before.
        starts: list of lists of arrays, those after each round.
    """

    name: str
    model: keras.Model
    initial: list
    starts: list

    def masks(self, masks):
        """List of arrays or `None`, in the order of the variables."""
        paths = [variable.path for variable in self.model.variables]
        assert len(set(paths)) == len(paths)
        return [masks.get(path) for path in paths]


def slow(name):
    """The mark of all but one that is quick and has the most parts."""
    return [] if name == "BertBackbone with a head" else [pytest.mark.slow]


@pytest.fixture(
    scope="module",
    params=[
        *(pytest.param(n, marks=pytest.mark.slow) for n in APPLICATIONS),
        *(pytest.param(n, marks=[NEEDS_HUB, *slow(n)]) for n in HUB),
    ],
)
def search(request):
    model = keras_lottery.wrap(build(request.param), rate=0.5)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
        run_eagerly=request.param not in TRACED,
    )
    initial, starts = values(model), []
    for _ in range(2):
        fit(model)
        starts.append((model.lottery.masks, values(model)))
    yield Search(request.param, model, initial, starts)
    keras.backend.clear_session()


def test_levels_start_at_the_masked_initialisation(search):
    for masks, start in search.starts:
        expected = [
            value if mask is None else np.where(mask, value, np.float32(0))
            for value, mask in zip(search.initial, search.masks(masks))
        ]
        assert small.same(start, expected)


def test_pruned_weights_are_zero_after_training(search):
    for level in search.model.lottery.levels:
        moved = 0
        for path, mask in level.masks.items():
            trained = level.trained_weights[path]
            assert not trained[~mask].any()
            start = search.model.lottery.rewind_point.weights[path]
            moved += (trained[mask] != start[mask]).any()
        # `BertMaskedLM` does not use what its backbone pools.
        assert moved >= len(level.masks) - 1


def test_every_weight_loses_its_share(search):
    lottery = search.model.lottery
    schedules = lottery.attachment.schedules
    for path, mask in lottery.masks.items():
        kept = mask.size
        for level in range(2):
            kept -= np.round(schedules[path](level) * kept)
        assert mask.sum() == kept, path


def test_which_weights_are_those_of_output_layers(search):
    expected = ARCHITECTURES[search.name].output
    schedules = search.model.lottery.attachment.schedules
    halved = [p for p, s in schedules.items() if isinstance(s, Scaled)]
    if expected is None:
        assert not halved
    else:
        assert len(halved) == 1 and re.search(expected, halved[0])


def test_which_weights_are_not_pruned(search):
    expected = ARCHITECTURES[search.name].alone
    masks = search.model.lottery.masks
    alone = [
        variable.path
        for variable in search.model.trainable_weights
        if len(variable.shape) > 1 and variable.path not in masks
    ]
    if expected is None:
        assert not alone
    else:
        assert alone and all(re.search(expected, path) for path in alone)
    never = f"{BIAS}|(?<!reverse_){TABLE}|_(token|embedding)$"
    assert not [path for path in masks if re.search(never, path)]


def test_a_file_holds_the_search(search, tmp_path):
    model = search.model
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded).unwrapped_class is type(model).unwrapped_class
    assert loaded.lottery.level == 2
    assert small.same(values(loaded), values(model))
    one, other = loaded.lottery, model.lottery
    assert small.same(one.masks.values(), other.masks.values())
    assert list(one.attachment.schedules.values()) == list(
        other.attachment.schedules.values()
    )
    assert small.same(
        one.rewind_point.weights.values(), other.rewind_point.weights.values()
    )


def test_a_ticket_fits_a_model_that_is_built_anew(search, tmp_path):
    search.model.lottery.ticket().save(tmp_path / "ticket")
    ticket = keras_lottery.Ticket.load(tmp_path / "ticket")
    keras.utils.set_random_seed(2)
    fresh = ticket.apply(ARCHITECTURES[search.name].build())
    assert fresh.lottery.level == 2
    seeds = ["seed" in v.path for v in fresh.variables]
    pairs = zip(values(fresh), values(search.model), seeds)
    assert all(small.same([a], [b]) for a, b, seed in pairs if not seed)
    masks = search.model.lottery.masks.values()
    assert small.same(fresh.lottery.masks.values(), masks)


def test_the_trained_level_can_be_made_compact(search):
    if search.name in ("ViTImageClassifier", "DeiTImageClassifier"):
        # A layer that refuses its own configuration is named.
        with search.model.lottery.trained():
            with pytest.raises(ValueError, match="must be made anew.*patch"):
                compact(search.model)
        return
    x, _ = data(search.model)
    with search.model.lottery.trained():
        smaller = compact(search.model).model
        expected = search.model(x)
    np.testing.assert_allclose(smaller(x), expected, rtol=1e-3, atol=1e-4)


def test_the_trained_level_is_exported(search, tmp_path):
    x, _ = data(search.model)
    if search.name in ("MobileNetV2", "ViTImageClassifier"):
        with search.model.lottery.trained():
            file = to_litert(search.model, tmp_path / "m.tflite", examples=x)
        assert file.examples == EXAMPLES
    elif search.name in ("BertTextClassifier", "LlamaCausalLM"):
        with search.model.lottery.trained():
            served = to_serving(search.model, tmp_path / "m", examples=x)
        assert served.examples == EXAMPLES and os.path.isdir(served.path)
    else:
        pytest.skip("exported by others")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:block_size='channel' leaves 1 of")
@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50V2"])
def test_half_of_the_channels_can_be_removed(name):
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(
        weights=None,
        input_shape=(64, 64, 3),
        classes=10,
        classifier_activation=None,
    )
    draw = np.random.default_rng(0)
    # As after training: without, the outputs hardly depend on the inputs.
    for variable in model.variables:
        if variable.path.endswith("moving_mean"):
            variable.assign(draw.normal(0, 0.1, variable.shape))
        if variable.path.endswith("moving_variance"):
            variable.assign(draw.uniform(0.01, 0.1, variable.shape))
    model = keras_lottery.wrap(model, rate=0.5, block_size="channel")
    model.lottery.prune()
    smaller = compact(model)
    assert not smaller.left
    assert smaller.model.count_params() < 0.28 * model.count_params()
    x = draw.normal(size=(4, 64, 64, 3)).astype("float32")
    expected = model.predict(x, verbose=0)
    deviation = expected.std(0).max()
    assert deviation > 1e-3
    np.testing.assert_allclose(
        smaller.model.predict(x, verbose=0), expected, atol=1e-3 * deviation
    )
