"""CelebA, LSUN, ImageNet32 and dSprites from tiny archives in their published formats."""

import io
import pickle
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

from ebm_jax.data import load_dataset
from ebm_jax.data.sources import factors, shapes

ONE_LINE = r"^[^\n]*$"


def smooth_image(rng, width, height):
    """A photograph-like image: coarse noise made large, so that lossy formats keep it."""
    coarse = rng.integers(0, 256, (9, 7, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, kind, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def antialiased(image, size):
    """The reference for the resize: jax's antialiased triangle filter, in float."""
    shape = (size, size, image.shape[-1])
    return jax.image.resize(image.astype(np.float32), shape, "linear", antialias=True)


# ---------------------------------------------------------------------------------------- CelebA

PARTITION = ["000003.jpg 0", "000001.jpg 0", "000002.jpg 1", "000004.jpg 2", "000005.jpg 0"]


@pytest.fixture(params=["zip", "folder"])
def celeba(archives, request):
    """Five photographs, as the zip file or unpacked; returns what the JPEG files decode to."""
    folder = archives.folder("celeba")
    (folder / "list_eval_partition.txt").write_text("\n".join(PARTITION) + "\n")
    files = {}
    for line in PARTITION:
        image = smooth_image(archives.rng, 178, 218)
        files[line.split()[0]] = encoded(image, "JPEG", quality=95)
    if request.param == "zip":
        with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as content:
            for name, data in files.items():
                content.writestr(f"img_align_celeba/{name}", data)
    else:
        (folder / "img_align_celeba").mkdir()
        for name, data in files.items():
            (folder / "img_align_celeba" / name).write_bytes(data)
    return {name: np.asarray(Image.open(io.BytesIO(data))) for name, data in files.items()}


def test_celeba(archives, celeba):
    splits = {
        "train": ["000003.jpg", "000001.jpg", "000005.jpg"],
        "validation": ["000002.jpg"],
        "test": ["000004.jpg"],
    }
    for split, names in splits.items():
        dataset = load_dataset("celeba", split, data_dir=archives.data_dir)
        assert dataset.images.shape == (len(names), 64, 64, 3)
        assert isinstance(dataset.images, np.memmap)
        assert dataset.labels.tolist() == [0] * len(names)
        assert (dataset.name, dataset.split, dataset.num_classes) == ("celeba", split, 1)
        assert dataset.value_range == (0.0, 255.0)
        for image, name in zip(dataset.images, names, strict=True):
            expected = antialiased(celeba[name][20:198], 64)  # 20 px off top and bottom
            # Pillow rounds to bytes after each of the two directions: at most 1 intensity level.
            np.testing.assert_allclose(image, expected, atol=1.01)


def test_celeba_at_another_size_and_without_archives(archives, celeba):
    small = load_dataset("celeba", data_dir=archives.data_dir, image_size=32)
    assert small.images.shape == (3, 32, 32, 3)
    np.testing.assert_allclose(
        small.images[0], antialiased(celeba["000003.jpg"][20:198], 32), atol=1.01
    )
    (archives.folder("celeba") / "list_eval_partition.txt").unlink()
    again = load_dataset("celeba", data_dir=archives.data_dir, image_size=32)
    np.testing.assert_array_equal(again.images, small.images)


def test_celeba_damaged(archives, celeba):
    folder = archives.folder("celeba")
    partition = folder / "list_eval_partition.txt"
    partition.write_text("\n".join([*PARTITION, "000006.jpg 0"]))
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        load_dataset("celeba", data_dir=archives.data_dir)
    assert "000006.jpg is not an aligned CelebA photograph, or is damaged" in str(caught.value)
    partition.write_text("000001.jpg\n")
    with pytest.raises(ValueError, match=r"partition.*is damaged"):
        load_dataset("celeba", data_dir=archives.data_dir)
    partition.write_text("000003.jpg 0\n\n")
    with pytest.raises(ValueError, match=r"lines of .*\(no image is in 'test'\)"):
        load_dataset("celeba", "test", data_dir=archives.data_dir)
    message = "^celeba has no split 'val'; it has train, validation, test$"
    with pytest.raises(ValueError, match=message):
        load_dataset("celeba", "val", data_dir=archives.data_dir)
    partition.unlink()
    with pytest.raises(FileNotFoundError, match=ONE_LINE) as caught:
        load_dataset("celeba", data_dir=archives.data_dir)
    assert str(caught.value) == f"celeba: found no {partition.name} in {folder}; put it there"
    assert not list(archives.data_dir.rglob("images.npy"))


def test_celeba_of_another_size(archives):
    folder = archives.folder("celeba")
    (folder / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    with pytest.raises(FileNotFoundError, match=r"no img_align_celeba\.zip nor folder"):
        load_dataset("celeba", data_dir=archives.data_dir)
    (folder / "img_align_celeba").mkdir()
    Image.new("RGB", (64, 64)).save(folder / "img_align_celeba" / "000001.jpg")
    with pytest.raises(ValueError, match="its size is 64 x 64"):
        load_dataset("celeba", data_dir=archives.data_dir)


# ------------------------------------------------------------------------------------------ LSUN


@pytest.fixture
def lsun(archives):
    """An LMDB of landscape and portrait WebP images; returns them in the order of the keys."""
    lmdb = pytest.importorskip("lmdb")
    path = archives.folder("lsun") / "church_outdoor_train_lmdb"
    images = {}
    with lmdb.open(str(path), map_size=2**24) as environment, environment.begin(write=True) as t:
        for key, size in ((b"fe", (341, 256)), (b"0a", (256, 301)), (b"7c", (256, 256))):
            data = encoded(smooth_image(archives.rng, *size), "WEBP", quality=90)
            t.put(key, data)
            images[key] = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return [images[key] for key in sorted(images)]


def test_lsun_is_read_and_nothing_else(archives, lsun, monkeypatch):
    """Nor locked, as its folder may be another's; a pass over it reads no further than asked."""
    lmdb = pytest.importorskip("lmdb")
    asked, plain = [], lmdb.open
    monkeypatch.setattr(lmdb, "open", lambda *path, **how: asked.append(how) or plain(*path, **how))
    load_dataset("lsun_church", data_dir=archives.data_dir)
    assert asked == [{"readonly": True, "lock": False, "readahead": False}] * 2


@pytest.mark.parametrize("size", [64, 128])
def test_lsun(archives, lsun, size):
    dataset = load_dataset("lsun_church", data_dir=archives.data_dir, image_size=size)
    assert dataset.images.shape == (3, size, size, 3)
    assert (dataset.name, dataset.split, dataset.num_classes) == ("lsun_church", "train", 1)
    assert dataset.value_range == (0.0, 255.0)
    assert dataset.labels.tolist() == [0, 0, 0]
    assert load_dataset("lsun_church", data_dir=archives.data_dir).example_shape == (64, 64, 3)
    portrait, square, landscape = lsun
    crops = [portrait[22:278], square, landscape[:, 42:298]]
    for image, crop in zip(dataset.images, crops, strict=True):
        np.testing.assert_allclose(image, antialiased(crop, size), atol=1.01)


def test_lsun_missing_and_damaged(archives, lsun):
    folder = archives.folder("lsun")
    with pytest.raises(FileNotFoundError, match=ONE_LINE) as caught:
        load_dataset("lsun_bedroom", "validation", data_dir=archives.data_dir)
    assert str(caught.value).startswith("lsun_bedroom: found no bedroom_val_lmdb/data.mdb")
    assert str(folder) in str(caught.value)
    with pytest.raises(ValueError, match=r"^lsun_church has no split 'test'; it has train, valid"):
        load_dataset("lsun_church", "test", data_dir=archives.data_dir)
    path = folder / "church_outdoor_train_lmdb" / "data.mdb"
    path.write_bytes(b"\0" * 10_000)
    with pytest.raises(ValueError, match=r"^[^\n]*church_outdoor_train_lmdb is not an LMDB"):
        load_dataset("lsun_church", data_dir=archives.data_dir)


def test_lsun_without_lmdb(archives, lsun, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ebm_jax\[lsun\]'"):
        load_dataset("lsun_church", data_dir=archives.data_dir)


# ------------------------------------------------------------------------------------ ImageNet32


def imagenet_files(archives, kind):
    """Ten training batches of 3 and 4 validation images; returns images and labels in order."""
    folder = archives.folder("imagenet32")
    arrays = {}
    for name, n in [(f"train_data_batch_{i}", 3) for i in range(1, 11)] + [("val_data", 4)]:
        images = archives.pixels(n, 32, 32, 3)
        labels = archives.rng.integers(1, 1001, n)
        labels[:2] = 1, 1000
        rows = images.transpose(0, 3, 1, 2).reshape(n, 3072)
        if kind == "npz":
            np.savez(folder / f"{name}.npz", data=rows, labels=labels)
        else:
            mean = rows.mean(axis=0)
            content = {"data": rows, "labels": labels.tolist(), "mean": mean}
            (folder / name).write_bytes(pickle.dumps(content, protocol=2 if n == 3 else 4))
        pair = arrays.setdefault("validation" if name == "val_data" else "train", ([], []))
        pair[0].append(images)
        pair[1].append(labels - 1)
    return {k: (np.concatenate(x), np.concatenate(y)) for k, (x, y) in arrays.items()}


@pytest.mark.parametrize("kind", ["pickle", "npz"])
def test_imagenet32(archives, kind):
    arrays = imagenet_files(archives, kind)
    for split, (images, labels) in arrays.items():
        dataset = load_dataset("imagenet32", split, data_dir=archives.data_dir)
        np.testing.assert_array_equal(dataset.images, images)
        np.testing.assert_array_equal(dataset.labels, labels)
        assert (dataset.name, dataset.split) == ("imagenet32", split)
        assert (dataset.num_classes, dataset.value_range) == (1000, (0.0, 255.0))


class Harmful:
    """A pickle of this runs a command when it is loaded."""

    def __reduce__(self):
        return exit, (3,)


def test_imagenet32_damaged(archives):
    imagenet_files(archives, "pickle")
    folder = archives.folder("imagenet32")

    def check(content, message):
        (folder / "val_data").write_bytes(content)
        with pytest.raises(ValueError, match=ONE_LINE) as caught:
            load_dataset("imagenet32", "validation", data_dir=archives.data_dir)
        assert str(caught.value).startswith(f"{folder / 'val_data'} is not a file of ImageNet32")
        assert message in str(caught.value)

    rows = np.zeros((2, 3072), np.uint8)
    check(pickle.dumps(Harmful()), "it asks for")
    check(pickle.dumps({"data": rows, "labels": [0, 5]}), "labels from 0 to 5, not 1 to 1000")
    check(pickle.dumps({"data": rows, "labels": [1, 1001]}), "labels from 1 to 1001, not 1 to 100")
    check(pickle.dumps({"data": rows, "labels": [1]}), "(2, 3072), uint8; 1 labels")
    short = {"data": rows[:, 1:], "labels": [1, 2]}
    check(pickle.dumps(short), "data of shape (2, 3071), uint8; 2 labels")
    wide = {"data": rows.astype(np.int16), "labels": [1, 2]}
    check(pickle.dumps(wide), "data of shape (2, 3072), int16; 2 labels")
    check(pickle.dumps({"data": rows}), "'labels'")
    check((folder / "train_data_batch_1").read_bytes()[:500], "damaged")
    with pytest.raises(ValueError, match=r"^imagenet32 has no split 'test'; it has train, valid"):
        load_dataset("imagenet32", "test", data_dir=archives.data_dir)
    (folder / "train_data_batch_7").unlink()
    with pytest.raises(FileNotFoundError, match=r"no train_data_batch_7 or train_data_batch_7.npz"):
        load_dataset("imagenet32", data_dir=archives.data_dir)


# -------------------------------------------------------------------------------------- dSprites


DSPRITES = {"shape": 3, "scale": 6, "orientation": 40, "x_position": 32, "y_position": 32}


def write_dsprites(archives, n):
    """Returns images and factors in the order of the archive."""
    images = archives.rng.integers(0, 2, (n, 64, 64)).astype(np.uint8)
    classes = {name: archives.rng.integers(0, size, n) for name, size in DSPRITES.items()}
    path = archives.folder("dsprites") / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    np.savez_compressed(
        path,
        imgs=images,
        latents_classes=np.stack([np.zeros(n, int), *classes.values()], axis=1),
        latents_values=np.zeros((n, 6)),
        metadata=np.array({"title": "dSprites"}, dtype=object),  # pickled, as in the original
    )
    return images[..., None] * 255, classes


def test_dsprites(archives):
    images, classes = write_dsprites(archives, 60)
    chosen = {split: factors.split_indices(60, split) for split in ("train", "test")}
    for split, indices in chosen.items():
        for name, size in DSPRITES.items():
            dataset = load_dataset("dsprites", split, data_dir=archives.data_dir, label=name)
            np.testing.assert_array_equal(dataset.images, images[indices])
            np.testing.assert_array_equal(dataset.labels, classes[name][indices])
            assert (dataset.name, dataset.split, dataset.num_classes) == ("dsprites", split, size)
    default = load_dataset("dsprites", data_dir=archives.data_dir)
    np.testing.assert_array_equal(default.labels, classes["shape"][chosen["train"]])
    values = {
        name: load_dataset("dsprites", data_dir=archives.data_dir, label=name)
        for name in ("size", "position", "rotation")
    }
    assert {d.num_classes for d in values.values()} == {1}
    indices = chosen["train"]
    expected = {
        "size": [0.5 + 0.1 * classes["scale"]],
        "position": [classes["x_position"] / 31, classes["y_position"] / 31],
        "rotation": [f(classes["orientation"] * 2 * np.pi / 39) for f in (np.cos, np.sin)],
    }
    for name, columns in expected.items():
        assert values[name].labels.dtype == np.float32
        assert values[name].label_size == len(columns)
        found = values[name].labels
        np.testing.assert_allclose(found, np.stack(columns, axis=1)[indices], atol=1e-6)
    with pytest.raises(ValueError, match="no factor 'color'; it has shape, scale, orientation"):
        load_dataset("dsprites", data_dir=archives.data_dir, label="color")
    with pytest.raises(ValueError, match="dsprites has no split 'val'; it has train, test"):
        load_dataset("dsprites", "val", data_dir=archives.data_dir)


def test_dsprites_splits_are_disjoint_and_their_first_images_a_random_choice():
    """The archive's own first thousand are one square of one size; the places vary fastest."""
    # The first number of SplitMix64 from the seed 0, as published with it.
    assert factors._hash(np.zeros(1, np.uint64)).tolist() == [0xE220A8397B1DCDAF]
    n = 737_280
    train, test = (factors.split_indices(n, split) for split in ("train", "test"))
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(n))
    assert len(test) == pytest.approx(n / 10, abs=4 * np.sqrt(n * 0.09))
    assert test[:3].tolist() == [30320, 374285, 272051]  # a change of them changes what is held out
    of_fewer = factors.split_indices(1_000, "test")
    np.testing.assert_array_equal(np.sort(of_fewer), np.sort(test[test < 1_000]))
    for indices in (train[:600], test[:600]):
        for size, period in ((3, n // 3), (6, n // 18), (40, 1024), (32, 32), (32, 1)):
            counts = np.bincount(indices // period % size, minlength=size)
            expected = 600 / size
            chi2 = ((counts - expected) ** 2 / expected).sum()
            assert chi2 < size - 1 + 5 * np.sqrt(2 * (size - 1))


def test_dsprites_damaged(archives):
    path = archives.folder("dsprites") / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    with pytest.raises(FileNotFoundError, match=f"found no {path.name} in"):
        load_dataset("dsprites", data_dir=archives.data_dir)
    np.savez(path, imgs=np.zeros((2, 64, 64), np.uint8), latents_classes=np.zeros((3, 6), int))
    with pytest.raises(ValueError, match=ONE_LINE) as caught:
        load_dataset("dsprites", data_dir=archives.data_dir)
    assert str(caught.value).startswith(f"{path} is not the dSprites archive, or is damaged")
    assert "(imgs of shape (2, 64, 64), 5 factors)" in str(caught.value)
    for shape, factor, reason in (
        ((2, 64, 32), 5, r"imgs of shape \(2, 64, 32\), 5"), ((2, 64, 64), 4, "64, 64\\), 4 fact"),
    ):  # fmt: skip
        classes = np.zeros((2, factor + 1), int)
        np.savez(path, imgs=np.zeros(shape, np.uint8), latents_classes=classes)
        with pytest.raises(ValueError, match=reason):
            load_dataset("dsprites", data_dir=archives.data_dir)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is not the dSprites archive, or is damaged"):
        load_dataset("dsprites", data_dir=archives.data_dir)


def test_shapes_are_those_of_their_factors(archives):
    """Area, center, turn and kind of each image, from its pixels."""
    grid = shapes.GRIDS[64]
    classes = shapes.all_classes(grid)
    assert classes.shape == (737_280, 5)
    assert classes[:33, 4].tolist() == [*range(32), 0]
    chosen = classes[np.random.default_rng(0).integers(0, len(classes), 300)]
    images = shapes.draw(grid, chosen)
    assert images[:, [0, -1]].sum() + images[:, :, [0, -1]].sum() == 0
    pixel = np.arange(64) + 0.5
    area = images.sum((1, 2))
    x = (images * pixel).sum((1, 2)) / area
    y = (images * pixel[:, None]).sum((1, 2)) / area
    shape, scale = chosen[:, 0], 0.5 + 0.1 * chosen[:, 1]
    half = (16.5 - 0.5) / np.sqrt(2)  # the margin of the outermost centers less half a pixel
    for kind, of_unit in ((0, 4.0), (1, np.pi / 2)):
        expected = of_unit * (half * scale[shape == kind]) ** 2
        np.testing.assert_allclose(area[shape == kind], expected, rtol=0.09)
    for found, place in ((x, chosen[:, 3]), (y, chosen[:, 4])):
        off = np.abs(found - (16.5 + place))
        assert off[shape < 2].max() < 0.45  # a heart's center of mass is not its middle
        assert off.max() < 3
    # The long axis of an ellipse: upright at 0, then counterclockwise, y being down.
    (ellipse,) = shapes.draw(grid, np.array([[1, 5, 5, 16, 16]]))
    down, right = np.nonzero(ellipse)
    covariance = np.cov(right, -down)
    _, axes = np.linalg.eigh(covariance)
    angle = np.arctan2(axes[1, 1], axes[0, 1]) % np.pi
    assert angle == pytest.approx((np.pi / 2 + 5 * 2 * np.pi / 39) % np.pi, abs=0.05)


def test_shapes_are_a_data_set_and_can_be_written_as_dsprites_is(archives):
    train, test = (
        load_dataset("shapes", split, data_dir=archives.data_dir, label="position")
        for split in ("train", "test")
    )
    assert train.example_shape == (32, 32, 1)
    assert train.num_examples + test.num_examples == 3 * 6 * 20 * 16 * 16
    assert set(np.unique(train.images[:50])) == {0, 255}
    grid = shapes.GRIDS[32]
    order = factors.split_indices(92_160, "test")
    classes = shapes.all_classes(grid)[order[:5]]
    np.testing.assert_array_equal(test.images[:5, ..., 0], 255 * shapes.draw(grid, classes))
    np.testing.assert_allclose(test.labels[:5], classes[:, 3:] / 15, atol=1e-6)
    with pytest.raises(ValueError, match=r"shapes: expected data\.image_size 32 or 64, got 48"):
        load_dataset("shapes", data_dir=archives.data_dir, image_size=48)
    with pytest.raises(ValueError, match="shapes has no factor 'color'"):
        load_dataset("shapes", data_dir=archives.data_dir, label="color")

    path = archives.folder("dsprites") / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    some = shapes.all_classes(shapes.GRIDS[64])[::9_000]
    shapes.write_archive(path, shapes.GRIDS[64], some)
    read = load_dataset("dsprites", data_dir=archives.data_dir, label="size")
    chosen = factors.split_indices(len(some), "train")
    drawn = 255 * shapes.draw(shapes.GRIDS[64], some[chosen])
    np.testing.assert_array_equal(read.images[..., 0], drawn)
    np.testing.assert_allclose(read.labels[:, 0], 0.5 + 0.1 * some[chosen, 1], atol=1e-6)
