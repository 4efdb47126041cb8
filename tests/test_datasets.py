"""Data sets: the embedded one, prepared ones, and what is refused."""

import json
import os
import pathlib
import re
import shutil
import socket
import sys
import urllib.request

import numpy as np
import pytest
import tensorflow as tf

from keras_lottery import datasets, decoded, files


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory, monkeypatch):
    """So that no test writes into the cache of who runs it."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(decoded, "_user_cache", lambda: cache)


def parts(dataset):
    return dataset.train, dataset.validation, dataset.test


def sizes(dataset):
    return [len(y) for _, y in parts(dataset)]


def rows(x):
    return {image.tobytes() for image in x}


def test_digits_are_images_and_labels():
    digits = datasets.load("digits")
    assert digits.name == "digits"
    assert digits.classes == 10
    assert digits.input_shape == (8, 8, 1)
    assert sizes(digits) == [1297, 200, 300]
    for x, y in parts(digits):
        assert x.shape == (len(y), 8, 8, 1) and x.dtype == np.float32
        assert x.min() == 0 and x.max() == 1
        assert y.dtype == np.int32 and set(y) == set(range(10))
        assert np.array_equal(x * 16, np.round(x * 16))
    assert np.all(np.bincount(digits.test[1]) == 30)


def test_smaller_images_are_means_of_the_whole_set_s():
    whole, small = (
        datasets.load("digits"),
        datasets.load("digits", image_size=4),
    )
    assert small.input_shape == (4, 4, 1)
    for (x, y), (smaller, labels) in zip(parts(whole), parts(small)):
        means = x.reshape(len(x), 4, 2, 4, 2, 1).mean((2, 4))
        # Sixteenths of quarters are exact.
        assert smaller.dtype == np.float32 and np.array_equal(smaller, means)
        assert np.array_equal(labels, y)


def test_some_classes_are_numbered_from_0():
    some = datasets.load("digits", classes="5-9")
    assert some.classes == 5 and some.test[1].size == 5 * 30
    whole = datasets.load("digits")
    x, y = whole.test
    assert np.array_equal(some.test[0], x[y >= 5])
    assert np.array_equal(some.test[1], y[y >= 5] - 5)
    assert sizes(some)[1] == (sizes(some)[0] + sizes(some)[1]) // 10


def test_both_together_and_what_is_refused():
    some = datasets.load("digits", classes=(1, 7), image_size=3)
    assert some.input_shape == (3, 3, 1) and some.classes == 2
    with pytest.raises(ValueError, match="`classes` must be labels of"):
        datasets.load("digits", classes="8-10")
    with pytest.raises(ValueError, match="`image_size` must be at most"):
        datasets.check("digits", image_size=9)


def test_digits_are_all_there_and_only_once():
    digits = datasets.load("digits")
    x = np.concatenate([x for x, _ in parts(digits)])
    assert len(x) == 1797
    assert len(rows(x)) == 1797
    # The sum over all pixels of the published file.
    assert (x * 16).sum(dtype=np.float64) == 561_718


def test_digits_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.datasets").load_digits()
    known = {
        (image / 16).astype(np.float32).tobytes(): label
        for image, label in zip(sklearn.images, sklearn.target)
    }
    for x, y in parts(datasets.load("digits")):
        assert [known[image.tobytes()] for image in x] == list(y)


def test_the_seed_draws_the_validation_set_and_nothing_else():
    first, same, other = (datasets.load("digits", seed=s) for s in (0, 0, 1))
    for (x, y), (x_same, y_same) in zip(parts(first), parts(same)):
        np.testing.assert_array_equal(x, x_same)
        np.testing.assert_array_equal(y, y_same)
    assert rows(first.validation[0]) != rows(other.validation[0])
    np.testing.assert_array_equal(first.test[0], other.test[0])
    together = [
        rows(d.train[0]) | rows(d.validation[0]) for d in (first, other)
    ]
    assert together[0] == together[1]


def test_validation_of_a_size():
    assert sizes(datasets.load("digits", validation=1)) == [1496, 1, 300]
    assert sizes(datasets.load("digits", validation=1496)) == [1, 1496, 300]


def test_digits_need_no_other_package(monkeypatch):
    for module in ("sklearn", "tensorflow_datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    assert sizes(datasets.load("digits")) == [1297, 200, 300]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": ""}, "The data set must be a name, a string"),
        ({"name": None}, "The data set must be a name, a string"),
        ({"name": "digits", "seed": -1}, "`seed`.*seed=-1"),
        ({"name": "digits", "seed": None}, "`seed`.*seed=None"),
        ({"name": "digits", "validation": 0}, "`validation`.*=0"),
        ({"name": "digits", "validation": 0.1}, "`validation`.*=0.1"),
        ({"name": "digits", "validation": 1497}, r"\[1, 1497\).*=1497"),
    ],
)
def test_refuses_wrong_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        datasets.load(**arguments)


@pytest.mark.parametrize("validation", [1, 200, 1496])
def test_statistics_do_not_depend_on_the_split(validation):
    found = {
        datasets.load(
            "digits", seed=s, validation=validation
        ).channel_statistics()
        for s in range(3)
    }
    assert found == {datasets.load("digits").channel_statistics()}
    (((mean,), (deviation,)),) = found
    digits = datasets.load("digits")
    x = np.concatenate([digits.train[0], digits.validation[0]]).astype(float)
    assert mean == float(np.float32(mean)) == pytest.approx(x.mean(), 1e-7)
    assert deviation == float(np.float32(deviation))
    assert deviation == pytest.approx(x.std(), 1e-7)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (4, 6, 3), (64, 80, 3)])
def test_statistics_are_of_the_last_axis(shape):
    x = np.random.default_rng(0).normal([5, 0, -1e3], [1, 9, 1], (40, *shape))
    y = np.zeros(40, int)
    for dtype in ("float64", "float32", "int16"):
        cast = x.astype(dtype)
        data = datasets.Arrays((cast, y), (cast, y)).split(seed=1)
        mean, deviation = data.channel_statistics()
        exact = cast.astype(float).reshape(-1, 3)
        np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-6)
        np.testing.assert_allclose(deviation, exact.std(0), rtol=1e-6)


def test_a_constant_channel_can_be_divided_by():
    x = np.full((30, 7, 2), 0.1)
    x[:, :, 1] = np.arange(7)
    data = datasets.Arrays((x, np.zeros(30)), (x, np.zeros(30))).split(seed=0)
    (mean, _), deviation = data.channel_statistics()
    assert mean == float(np.float32(0.1)) and deviation == (1, 2)


@pytest.mark.parametrize(
    "x", [np.arange(20), {"a": np.ones((20, 2))}, np.full((20, 2), "a")]
)
def test_statistics_of_what_has_no_channels(x):
    data = datasets.Arrays((x, np.zeros(20)), (x, np.zeros(20))).split(seed=0)
    with pytest.raises(ValueError, match="channel_statistics"):
        data.channel_statistics()


def with_one(value, dtype="float32"):
    array = np.zeros((20, 2), dtype)
    array[3, 1] = value
    return array


@pytest.mark.parametrize(
    "x, y, message",
    [
        (with_one(np.nan), np.zeros(20), "finite numbers in x.*1 of 20.*dex 3"),
        (np.zeros(20), with_one(np.inf), "finite numbers in y.*1 of 20.*dex 3"),
        (with_one(1j, "complex64"), np.zeros(20), "real numbers in x.*complex"),
        (np.zeros(20), np.full(20, "cat"), "real numbers in y.*return_inverse"),
        (np.zeros(20), np.full(20, None), "real numbers in y.*object"),
        ([0.0] * 20, np.zeros(20), "`np.asarray` makes an array of a list"),
        (tf.data.Dataset.range(20), np.zeros(20), "a _RangeDataset in it"),
    ],
)
def test_arrays_that_cannot_be_trained_on_are_refused(x, y, message):
    good = np.zeros(20), np.zeros(20)
    for parts in ({"train": (x, y), "test": good}, {"train": good}):
        with pytest.raises(ValueError, match=message):
            datasets.Arrays(**{"test": (x, y), **parts})


@pytest.mark.parametrize("dtype", ("bfloat16", "float32"))
def test_numbers_of_every_kind_must_be_finite(dtype):
    x = with_one(np.nan).astype(np.dtype(dtype))
    with pytest.raises(ValueError, match="finite numbers in x.*1 of 20.*dex 3"):
        datasets.Arrays((x, np.zeros(20)), (x, np.zeros(20)))


@pytest.mark.parametrize("dtype", (object, "U5", "bfloat16"))
def test_a_fingerprint_is_of_values_and_not_of_addresses(dtype):
    numbers = np.arange(20).astype("float32")
    text = dtype in (object, "U5")
    found = set()
    for shift in (0, 0, 1):
        x = (numbers + shift).astype(str if text else dtype).astype(dtype)
        found.add(datasets.Arrays((x, numbers), (x, numbers)).fingerprint)
    assert len(found) == 2


def test_the_advice_on_a_dataset_makes_arrays_of_it():
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(6)
    with pytest.raises(ValueError) as told:
        datasets.Arrays(dataset, dataset)
    line = re.search("`(x, y = .*)`", str(told.value))[1]
    found = {"np": np, "dataset": dataset}
    exec(line, found)
    np.testing.assert_array_equal(found["x"], x)
    np.testing.assert_array_equal(found["y"], y)


def test_a_test_set_is_like_the_training_set():
    x, y = np.zeros((20, 2), "uint8"), np.arange(20, dtype="int32")
    with pytest.raises(ValueError, match="`test` must hold examples of the sa"):
        datasets.Arrays((x, y), (x[:, :1], y))
    data = datasets.Arrays((x, y), (np.ones((9, 2)) / 2, np.arange(9))).split(0)
    assert data.train[0].dtype == data.test[0].dtype == "float64"
    assert data.train[1].dtype == data.test[1].dtype == "int64"


def prepare(root, name, image, label, splits=("train", "test"), n=30):
    """A set as TFDS leaves it on disk, written by hand."""
    tf = pytest.importorskip("tensorflow")
    tfds = pytest.importorskip("tensorflow_datasets")
    features = tfds.features.FeaturesDict({"image": image, "label": label})
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    features.save_config(str(folder))
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {
        "name": name,
        "version": "1.0.0",
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": split,
                "filepathTemplate": template,
                "shardLengths": [str(n)],
                "numBytes": "1",
            }
            for split in splits
        ],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    rng = np.random.default_rng(0)
    shape = [side or 4 for side in image.shape]
    written = {}
    for split in splits:
        x = rng.integers(0, 256, (n, *shape)).astype(image.np_dtype)
        path = folder / f"{name}-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for index in range(n):
                example = {"image": x[index], "label": str(index % 3)}
                writer.write(features.serialize_example(example))
        written[split] = x
    return written


@pytest.fixture
def feature():
    return pytest.importorskip("tensorflow_datasets").features


def test_a_prepared_set_is_read_in_order(tmp_path, feature, capsys):
    written = prepare(
        tmp_path,
        "tiny",
        feature.Image(shape=(6, 5, 1)),
        feature.ClassLabel(num_classes=3),
    )
    tiny = datasets.load("tiny", data_dir=str(tmp_path), seed=7)
    assert (tiny.classes, tiny.input_shape) == (3, (6, 5, 1))
    assert sizes(tiny) == [27, 3, 30]
    np.testing.assert_array_equal(
        tiny.test[0], written["test"].astype(np.float32) / np.float32(255)
    )
    np.testing.assert_array_equal(tiny.test[1], np.arange(30) % 3)
    drawn = np.sort(np.random.default_rng(7).permutation(30)[:3])
    np.testing.assert_array_equal(tiny.validation[1], drawn % 3)
    assert np.array_equal(
        np.round(tiny.validation[0] * 255), written["train"][drawn]
    )
    assert capsys.readouterr().out == ""


@pytest.fixture
def tiny(tmp_path, feature):
    """A directory with a prepared set that nobody has loaded yet."""
    prepare(
        tmp_path,
        "tiny",
        feature.Image(shape=(6, 5, 1)),
        feature.ClassLabel(num_classes=3),
    )
    return str(tmp_path)


def restart():
    """Forgets what is held in memory, as a new process would have."""
    datasets._tfds.cache_clear()


def same(first, second):
    """Whether two data sets agree bit for bit."""
    assert first.classes == second.classes
    for pairs in zip(parts(first), parts(second)):
        for one, other in zip(*pairs):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    return True


def test_a_second_start_does_without_tfds(tiny, monkeypatch):
    first = datasets.load("tiny", data_dir=tiny)
    restart()
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    again = datasets.load("tiny", data_dir=tiny)
    assert same(first, again)
    for x, y in parts(again):
        assert x.flags.writeable and y.flags.writeable


def test_what_was_damaged_is_decoded_anew(tiny):
    first = datasets.load("tiny", data_dir=tiny)
    (array,) = pathlib.Path(tiny, "keras_lottery").rglob("x_train.npy")
    whole = array.read_bytes()
    array.unlink()
    array.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    restart()
    assert same(first, datasets.load("tiny", data_dir=tiny))
    assert array.read_bytes() == whole


def test_where_nothing_can_be_written_it_is_decoded(tiny, monkeypatch):
    def refuse(path):
        raise PermissionError(f"{path} is read-only")

    monkeypatch.setattr(files, "atomic_file", refuse)
    lines = []
    warning = decoded.logging.warning
    monkeypatch.setattr(decoded.logging, "warning", lambda *a: lines.append(a))
    first = datasets.load("tiny", data_dir=tiny)
    assert len(lines) == 1
    monkeypatch.setattr(decoded.logging, "warning", warning)
    assert not os.path.exists(os.path.join(tiny, "keras_lottery"))
    restart()
    monkeypatch.undo()
    assert same(first, datasets.load("tiny", data_dir=tiny))


def test_a_check_decodes_what_load_then_takes(tiny, monkeypatch):
    decode, names = datasets._decode, []
    monkeypatch.setattr(
        datasets, "_decode", lambda *a: names.append(a) or decode(*a)
    )
    for _ in range(2):
        assert datasets.check("tiny", data_dir=tiny) is None
        datasets.load("tiny", data_dir=tiny, seed=1)
    restart()
    datasets.check("tiny", data_dir=tiny)
    assert names == [("tiny", tiny)]
    datasets.check("digits")


def test_a_check_refuses_what_load_refuses(no_network, tmp_path):
    for name, error in (("", ValueError), ("mnits", ValueError)):
        with pytest.raises(error, match="The data set must be"):
            datasets.check(name, data_dir=str(tmp_path))
    with pytest.raises(RuntimeError, match="could not be downloaded"):
        datasets.check("fashion_mnist", data_dir=str(tmp_path))


def test_the_environment_names_the_directory(tmp_path, feature, monkeypatch):
    prepare(
        tmp_path,
        "tiny",
        feature.Image(shape=(6, 5, 1)),
        feature.ClassLabel(num_classes=3),
    )
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert sizes(datasets.load("tiny", validation=10)) == [20, 10, 30]


@pytest.mark.parametrize("change", ["cut", "delete"])
def test_a_broken_file_is_one_line(tmp_path, feature, change):
    prepare(
        tmp_path,
        "tiny",
        feature.Image(shape=(6, 5, 1)),
        feature.ClassLabel(num_classes=3),
    )
    (file,) = tmp_path.glob("tiny/1.0.0/*train*")
    if change == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        file.unlink()
    with pytest.raises(RuntimeError, match="'tiny'.* cannot be read") as error:
        datasets.load("tiny", data_dir=str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "image, label, splits, message",
    [
        ({"shape": (None, None, 3)}, "class", "train test", "of one size"),
        ({"shape": (4, 4, 1)}, "text", "train test", "label Text"),
        (
            {"shape": (4, 4, 1), "dtype": np.float32},
            "class",
            "train test",
            "integer type",
        ),
        ({"shape": (4, 4, 1)}, "class", "train", "splits are .'train'"),
    ],
)
def test_refuses_sets_of_another_kind(
    tmp_path, feature, image, label, splits, message
):
    image = feature.Image(**image)
    if label == "class":
        label = feature.ClassLabel(num_classes=3)
    else:
        label = feature.Text()
    prepare(tmp_path, "odd", image, label, splits.split(), n=2)
    with pytest.raises(ValueError, match=message) as error:
        datasets.load("odd", data_dir=str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no address")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    pytest.importorskip("tensorflow_datasets")


def test_without_a_network_says_what_to_do(no_network, tmp_path, capsys):
    with pytest.raises(RuntimeError, match="could not be downl") as error:
        datasets.load("fashion_mnist", data_dir=str(tmp_path))
    message = str(error.value)
    assert "\n" not in message
    for word in ("fashion_mnist", str(tmp_path), "TFDS_DATA_DIR", "digits"):
        assert word in message
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "name, hint",
    [
        ("mnits", "Did you mean .*mnist"),
        ("digit", "Received: 'digit'. Did you mean 'digits'"),
        ("xyzzy_plugh", "TensorFlow Datasets"),
        ("mnist:9.9.9", "only: "),
    ],
)
def test_unknown_names(no_network, tmp_path, name, hint):
    with pytest.raises(ValueError, match=hint) as error:
        datasets.load(name, data_dir=str(tmp_path))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_without_tfds_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(RuntimeError, match="pip install tensorflow-datasets"):
        datasets.load("mnist")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, train, shape",
    [("mnist", 60_000, (28, 28, 1)), ("cifar10", 50_000, (32, 32, 3))],
)
def test_the_papers_sets(name, train, shape, tmp_path, monkeypatch):
    folder = pathlib.Path(os.environ.get("TFDS_DATA_DIR", "/nowhere")) / name
    if not folder.is_dir():
        pytest.skip(f"TFDS_DATA_DIR is not set or does not hold {name}")
    # A copy, so that a test writes nothing where others have their data.
    shutil.copytree(folder, tmp_path / name)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    first = datasets.load(name)
    restart()
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    loaded = datasets.load(name)
    assert same(first, loaded)
    assert loaded.input_shape == shape
    assert loaded.classes == 10
    assert sizes(loaded) == [train - 5_000, 5_000, 10_000]
    for x, y in parts(loaded):
        assert x.dtype == np.float32 and y.dtype == np.int32
        assert (x.min(), x.max()) == (0, 1)
        assert set(y) == set(range(10))
    # A random tenth of each class, and not the first of the file.
    assert np.bincount(loaded.validation[1]).min() > 400
    # Copies of CIFAR-10 that were compressed with loss differ by 0.005.
    known = {
        "mnist": ([0.1307], [0.3081]),
        "cifar10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    }
    statistics = loaded.channel_statistics()
    np.testing.assert_allclose(statistics, known[name], atol=0.01)
    assert datasets.load(name, seed=1).channel_statistics() == statistics
