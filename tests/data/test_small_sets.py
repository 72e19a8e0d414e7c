"""TFDS builders without TensorFlow: pixels, order, and what is said of archives that are amiss."""

import concurrent.futures
import gzip
import hashlib
import http.server
import multiprocessing
import os
import socketserver
import threading
import time

import numpy as np
import pytest
from sklearn.datasets import load_digits
from tensorflow_datasets.core.download import resource

from ebm_jax.data import load_dataset
from ebm_jax.data.sources import mnist
from ebm_jax.data.storage import idx

ONE_LINE = r"^[^\n]*$"


def tfds_order(split, n):
    """TFDS sorts examples by the MD5 hash of the split's name followed by the key's digits."""
    return sorted(range(n), key=lambda key: hashlib.md5(f"{split}{key}".encode()).hexdigest())


def check_pixels_and_order(dataset, arrays):
    images, labels = arrays[dataset.split]
    order = tfds_order(dataset.split, len(images))
    np.testing.assert_array_equal(dataset.images, images[order])
    np.testing.assert_array_equal(dataset.labels, labels[order])
    assert dataset.images.dtype == np.uint8
    assert dataset.labels.dtype == np.int32
    assert dataset.num_classes == 10
    assert dataset.value_range == (0.0, 255.0)


def test_digits_are_scikit_learns_in_two_halves(tmp_path):
    train, test = (load_dataset("digits", split, data_dir=tmp_path) for split in ("train", "test"))
    assert train.images.shape == (901, 8, 8, 1)
    assert test.images.shape == (896, 8, 8, 1)
    original = load_digits()
    assert len(np.unique(train.images)) == 17
    rows = {
        (image.astype(np.uint8).tobytes(), label): index
        for index, (image, label) in enumerate(zip(original.images, original.target, strict=True))
    }
    seen = []
    for half in (train, test):
        gray = np.round(half.images[..., 0] * (16 / 255)).astype(np.uint8)  # back to 0..16
        indices = [
            rows[image.tobytes(), label] for image, label in zip(gray, half.labels, strict=True)
        ]
        assert indices == sorted(indices)
        seen += indices
        # Each half has half of each class.
        difference = 2 * np.bincount(half.labels) - np.bincount(original.target)
        assert np.abs(difference).max() <= 1
    assert sorted(seen) == list(range(1797))
    both = load_dataset("digits", "train+test", data_dir=tmp_path)
    assert both.split == "train+test"
    np.testing.assert_array_equal(both.images, np.concatenate([train.images, test.images]))


def test_tfds_order_is_the_published_one():
    """The first training example of TFDS's CIFAR-10 has the id train_16399."""
    assert tfds_order("train", 50_000)[:2] == [16399, 1680]


def test_cifar10(archives):
    arrays = archives.cifar10()
    for split in ("train", "test"):
        check_pixels_and_order(load_dataset("cifar10", split, data_dir=archives.data_dir), arrays)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist(archives, name):
    arrays = archives.mnist(name)
    for split in ("train", "test"):
        check_pixels_and_order(load_dataset(name, split, data_dir=archives.data_dir), arrays)
    padded = load_dataset(name, "test", data_dir=archives.data_dir, pad_to=32)
    expected = np.pad(arrays["test"][0], ((0, 0), (2, 2), (2, 2), (0, 0)))
    np.testing.assert_array_equal(padded.images, expected[tfds_order("test", 7)])


def test_svhn(archives):
    arrays = archives.svhn()
    for split in ("train", "test"):
        check_pixels_and_order(load_dataset("svhn", split, data_dir=archives.data_dir), arrays)


def test_prepared_once(archives):
    arrays = archives.mnist()
    load_dataset("mnist", "train", data_dir=archives.data_dir)
    for path in archives.folder("mnist").iterdir():
        path.unlink()
    for split in ("train", "test"):  # the archives are not needed any more
        check_pixels_and_order(load_dataset("mnist", split, data_dir=archives.data_dir), arrays)


def _load_in_process(data_dir):
    dataset = load_dataset("digits", "test", data_dir=data_dir)
    return hashlib.sha256(dataset.images.tobytes()).hexdigest()


def test_processes_that_prepare_at_once_agree(tmp_path):
    with concurrent.futures.ProcessPoolExecutor(
        2, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        digests = list(pool.map(_load_in_process, [tmp_path] * 2))
    assert len(set(digests)) == 1
    assert not list(tmp_path.rglob(".unfinished-*"))
    load_dataset("digits", "train", data_dir=tmp_path)


def test_unknown_split(tmp_path):
    with pytest.raises(ValueError, match=r"^digits has no split 'val'; it has test, train$"):
        load_dataset("digits", "val", data_dir=tmp_path)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("requests.head", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-binary.tar.gz"),
        ("mnist", "train-images-idx3-ubyte.gz"),
        ("fashion_mnist", "train-images-idx3-ubyte.gz"),
        ("svhn", "train_32x32.mat"),
    ],
)
def test_missing_archive_says_where_it_belongs(tmp_path, name, file):
    folder = tmp_path / "downloads" / "manual" / name
    with pytest.raises(FileNotFoundError, match=ONE_LINE) as caught:
        load_dataset(name, data_dir=tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{name}: found no {file} in {folder}, and http")
    assert message.endswith("failed (no network); put it there")
    assert not list(tmp_path.rglob(".unfinished-*"))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def break_gzip(path):
    path.write_bytes(b"not a gzip file")


def drop_last_byte(path):
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:-1]))


@pytest.mark.parametrize(
    ("name", "file", "damage"),
    [
        ("cifar10", "cifar-10-binary.tar.gz", truncate),
        ("cifar10", "cifar-10-binary.tar.gz", break_gzip),
        ("mnist", "t10k-images-idx3-ubyte.gz", truncate),
        ("mnist", "train-labels-idx1-ubyte.gz", break_gzip),
        ("mnist", "train-images-idx3-ubyte.gz", drop_last_byte),
        ("svhn", "test_32x32.mat", truncate),
        ("svhn", "train_32x32.mat", break_gzip),
    ],
)
def test_damaged_archive(archives, name, file, damage):
    getattr(archives, name)()
    path = archives.folder(name) / file
    damage(path)
    archives.accept(path)
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        load_dataset(name, data_dir=archives.data_dir)
    assert str(caught.value).startswith(f"{path} is not ")
    assert str(caught.value).endswith("remove it and fetch it again")
    assert not (archives.data_dir / "ebm_jax" / name / "3.0.1").exists()


def test_archive_by_hand_that_is_another(archives):
    """Compared with the published digest, unless its own lies beside it."""
    arrays = archives.mnist()
    path = archives.folder("mnist") / "train-images-idx3-ubyte.gz"
    beside = path.with_name(path.name + ".sha256")
    accepted = beside.read_text()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    beside.unlink()
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        load_dataset("mnist", data_dir=archives.data_dir)
    assert str(caught.value).startswith(
        f"{path} has SHA-256 {digest[:12]}..., not the published 440fcabf73cc...: "
    )
    assert str(caught.value).endswith(f"sha256sum {path.name} > {path.name}.sha256")
    beside.write_text("0" * 64)
    with pytest.raises(ValueError, match=r"nor the 000000000000\.\.\. of train-images"):
        load_dataset("mnist", data_dir=archives.data_dir)
    beside.write_text("")
    with pytest.raises(ValueError, match="not the published"):
        load_dataset("mnist", data_dir=archives.data_dir)
    beside.write_text(accepted)
    check_pixels_and_order(load_dataset("mnist", data_dir=archives.data_dir), arrays)


@pytest.mark.parametrize(
    ("options", "file", "reason"),
    [
        ({"side": 32}, "train-images-idx3-ubyte.gz", "its shape is 20 x 32 x 32"),
        ({"num_classes": 200}, "train-labels-idx1-ubyte.gz", "labels below 10, or is damaged"),
    ],
)
def test_idx_files_of_another_set(archives, options, file, reason):
    """As EMNIST's letters: refused before TFDS, whose message would hold all pixels."""
    archives.mnist(**options)
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        load_dataset("mnist", data_dir=archives.data_dir)
    assert str(caught.value).startswith(f"{archives.folder('mnist') / file} is not ")
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400


def test_images_and_labels_of_different_number(archives):
    archives.mnist(train=5)
    path = archives.folder("mnist") / "train-labels-idx1-ubyte.gz"
    labels = path.read_bytes()
    archives.mnist(train=6)
    path.write_bytes(labels)
    archives.accept(path)
    with pytest.raises(ValueError, match=r"holds 6 images, .* 5 labels; fetch both again$"):
        load_dataset("mnist", data_dir=archives.data_dir)


def test_download(archives, tmp_path, monkeypatch):
    """Without archives by hand they are downloaded, here from a server of our own."""
    arrays = archives.mnist()
    folder = archives.folder("mnist")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, *args):
            pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"

        def served(archive):
            digest = hashlib.sha256((folder / archive.filename).read_bytes()).hexdigest()
            return archive._replace(url=address + archive.filename, sha256=digest)

        splits = {split: tuple(map(served, pair)) for split, pair in mnist.ARCHIVES.items()}
        monkeypatch.setattr(mnist, "ARCHIVES", splits)
        # A download that was killed long ago, and one that may be going on.
        name = resource.get_dl_fname(splits["train"][0].url)
        for kind, age in (("old", 7_200), ("new", 60)):
            left = tmp_path / "empty" / "downloads" / f"{name}.tmp.{kind}"
            left.mkdir(parents=True)
            (left / "half").write_text("")
            for path in (left / "half", left):
                os.utime(path, (time.time() - age,) * 2)
        check_pixels_and_order(load_dataset("mnist", data_dir=tmp_path / "empty"), arrays)
        assert [path.name for path in left.parent.glob("*.tmp.*")] == [left.name]
        images, labels = splits["test"]
        wrong = {**splits, "test": (images, labels._replace(sha256="0" * 64))}
        monkeypatch.setattr(mnist, "ARCHIVES", wrong)
        with pytest.raises(ValueError, match=r"t10k-labels.* not the published 000000000000"):
            load_dataset("mnist", data_dir=tmp_path / "other")
        server.shutdown()


def test_prepared_data_that_are_damaged(archives):
    archives.mnist()
    load_dataset("mnist", "train", data_dir=archives.data_dir)
    (prepared,) = (archives.data_dir / "ebm_jax" / "mnist").glob("3*")
    truncate(prepared / "mnist-test.array_record-00000-of-00001")
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        load_dataset("mnist", "test", data_dir=archives.data_dir)
    assert str(caught.value).startswith(f"{prepared} is not a prepared data set, or is damaged")
    truncate(archives.data_dir / "ebm_jax/mnist/arrays/3.0.1/train/images.npy")
    with pytest.raises(ValueError, match="is not a cache of decoded images, or is damaged"):
        load_dataset("mnist", "train", data_dir=archives.data_dir)


def test_idx_header_of_another_type_or_number(tmp_path):
    path = tmp_path / "values.gz"
    sizes = (1).to_bytes(4, "big")
    for content, reason in (
        (bytes([0, 0, 13, 1]) + sizes + bytes(4), "it begins with 00000d01"),
        (bytes([0, 0, 8, 1]) + sizes + bytes(2), "2 values of 1 announced"),
        (bytes([0, 0, 8, 1]) + sizes[:2], r"damaged \("),
        (b"", r"it begins with\)"),
    ):
        path.write_bytes(gzip.compress(content))
        with pytest.raises(ValueError, match=reason):
            idx.read_idx(path, (None,))
