"""One's own images, in a folder and in an array: pixels, labels, splits, changes, refusals."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebm_jax.data import load_dataset
from ebm_jax.data.sources.own_images import fingerprint, is_test, load_own
from ebm_jax.data.storage import array_cache

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)


@pytest.fixture
def load(tmp_path):
    """(**options) -> the images of `mine` by both splits, each by its name or number in order."""

    def load(source="folder", path="mine", **options):
        options |= {"data_dir": tmp_path / "data", "path": tmp_path / path}
        return [load_dataset(source, split, **options) for split in ("train", "test")]

    return load


def in_order(names):
    """(those of train, those of test), as a folder's images are sorted: by a hash of the name."""
    chosen = {
        name: int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) < 0.1 * 2**64
        for name in sorted(names)
    }
    return [n for n in chosen if not chosen[n]], [n for n in chosen if chosen[n]]


def check(found, images, labels=None):
    """Both splits are those images, `{name: array}`, and labels."""
    assert len(images) == sum(part.num_examples for part in found)
    for part, names in zip(found, in_order(images), strict=True):
        np.testing.assert_array_equal(part.images, np.stack([images[n] for n in names]))
        expected = [labels[n] if labels else 0 for n in names]
        np.testing.assert_array_equal(part.labels, expected)


def test_folder_labeled_by_its_folders(tmp_path, load):
    images, labels = {}, {}
    for i in range(40):
        name = f"{'cat' if i % 2 else 'dog'}/{'deep/' if i % 3 else ''}{i}.png"
        images[name], labels[name] = pixels(6, 5, 3), 0 if i % 2 else 1
        save(tmp_path / "mine" / name, images[name])
    (tmp_path / "mine" / "notes.txt").write_text("no image")
    save(tmp_path / "mine" / ".hidden" / "x.png", pixels(3, 3, 3))
    found = load()
    check(found, images, labels)
    assert found[0].num_classes == 2
    assert 0 < found[1].num_examples < 15  # binomial of 40 and .1
    assert isinstance(found[0].images.base, np.memmap)
    plain = load(label="none")
    check(plain, images)
    assert plain[0].num_classes == 1


def test_split_is_a_tenth_and_stays_when_images_come(tmp_path, load):
    assert np.mean([is_test(str(i)) for i in range(4_000)]) == pytest.approx(0.1, abs=0.019)
    images = {f"{i}.png": pixels(2, 2) for i in range(60)}
    for name, image in images.items():
        save(tmp_path / "mine" / name, image)
    before = {part.split: {x.tobytes() for x in part.images} for part in load()}
    more = {f"more{i}.png": pixels(2, 2) for i in range(20)}
    for name, image in more.items():
        save(tmp_path / "mine" / name, image)
    after = load()
    check(after, {n: x[..., None] for n, x in (images | more).items()})
    for part in after:
        assert before[part.split] <= {x.tobytes() for x in part.images}


def test_changed_folder_is_decoded_anew_and_an_unchanged_one_is_not(tmp_path, load, monkeypatch):
    images = {f"{i}.png": pixels(3, 3, 1) for i in range(40)}
    for name, image in images.items():
        save(tmp_path / "mine" / name, image[..., 0])
    check(load(), images)
    with monkeypatch.context() as patch:
        patch.setattr("PIL.Image.open", lambda *_: pytest.fail("opened"))
        check(load(), images)  # from what is kept
    (tmp_path / "mine" / "7.png").unlink()
    del images["7.png"]
    check(load(), images)
    images["8.png"] = pixels(3, 3, 1)
    save(tmp_path / "mine" / "8.png", images["8.png"][..., 0])
    os.utime(tmp_path / "mine" / "8.png", ns=(0, 12345))
    (place,) = (tmp_path / "data/ebm_jax/folder").iterdir()
    (place / "a file").write_text("which is left as it is")
    check(load(), images)
    assert len(list(place.glob("*/images.npy"))) == 1
    assert (place / "a file").exists()


def test_interrupted_decoding_begins_again(tmp_path, load, monkeypatch):
    images = {f"{i}.png": pixels(3, 3, 1) for i in range(40)}
    for name, image in images.items():
        save(tmp_path / "mine" / name, image[..., 0])

    def interrupt(file, mode, convert=Image.Image.convert):
        if file.getpixel((0, 0)) == images["30.png"][0, 0, 0]:
            raise KeyboardInterrupt
        return convert(file, mode)

    with monkeypatch.context() as patch:
        patch.setattr("PIL.Image.Image.convert", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load()
    assert not list((tmp_path / "data").rglob("*.npy"))
    check(load(), images)


def fill(folder, make, suffix="png", **options):
    """Forty times the same image, so that both splits have some."""
    for i in range(40):
        save(folder / f"{i}.{suffix}", make, **options)


def gradient(mode):
    return Image.fromarray(np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))).convert(mode)


def test_sixteen_bits_are_rounded_to_eight(tmp_path, load):
    values = RNG.integers(0, 65_536, (5, 4)).astype(np.uint16)
    values[0, :2] = 0, 65_535
    fill(tmp_path / "mine", values)
    train = load()[0]
    expected = np.round(values / 65_535 * 255)
    np.testing.assert_array_equal(train.images[0, ..., 0], expected)


def test_transparency_is_laid_on_white(tmp_path, load):
    image = pixels(4, 4, 4)
    fill(tmp_path / "mine", Image.fromarray(image, "RGBA"))
    share = image[..., 3:] / 255
    expected = share * image[..., :3] + (1 - share) * 255
    assert np.abs(load()[0].images[0] - expected).max() <= 1


def test_palette_with_a_transparent_color(tmp_path, load):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    fill(tmp_path / "mine", image, transparency=1)
    expected = [[[10, 20, 30], [255] * 3], [[70, 80, 90], [255] * 3]]
    np.testing.assert_array_equal(load()[0].images[0], expected)


def test_cmyk_and_orientation(tmp_path, load):
    """A white left half; turned by EXIF's 6, a quarter to the right, it is the upper half."""
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(image).convert("CMYK")
    fill(tmp_path / "mine", picture, "jpg", exif=exif, quality=100)
    found = load()[0].images[0].astype(int)
    assert found.shape == (16, 8, 3)
    assert found[:7].min() > 240
    assert found[9:].max() < 15


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("LA", 1), ("P", 3)])
def test_gray_only_where_all_are(tmp_path, load, mode, channels):
    fill(tmp_path / "mine", gradient(mode))
    assert load()[0].images.shape[1:] == (16, 16, channels)
    save(tmp_path / "mine" / "color.webp", pixels(16, 16, 3))
    assert load()[0].images.shape[1:] == (16, 16, 3)


def test_center_squares_are_resized_with_antialiasing(tmp_path, load):
    """Means of 2 x 2 by a triangle of half width 2: weights 1, 3, 3, 1 of eight, inside."""
    image = pixels(8, 12)
    fill(tmp_path / "mine", image)
    found = load(image_size=4)[0].images[0, ..., 0]
    square = image[:, 2:10].astype(float)
    weights = np.array([1, 3, 3, 1]) / 8
    expected = weights @ square[1:5, 1:5] @ weights
    assert found[1, 1] == pytest.approx(expected, abs=1.5)
    assert load(image_size=16)[0].images.shape[1:] == (16, 16, 1)


@pytest.mark.parametrize(
    ("spoil", "options", "said"),
    [
        (lambda f: (f / "3.png").write_bytes(b"no image"), {}, r"3\.png is not an image that can"),
        (
            lambda f: (f / "3.png").write_bytes((f / "3.png").read_bytes()[:-30]),
            {},
            r"3\.png is not an image that can be read, or is damaged \(.*\); mend it or take",
        ),
        (
            lambda f: save(f / "wide.png", pixels(6, 9)),
            {},
            r"/wide\.png is 9 x 6 pixels and /.*/\d+\.png 6 x 6: give data\.image_size",
        ),
        (
            lambda f: save(
                f / "0.png", np.arange(-1, 35, dtype=np.int32).reshape(6, 6), format="TIFF"
            ),
            {},
            r"/0\.png .*its values reach from -1 to 34, not 16 bits",
        ),
        (
            lambda f: save(f / "0.png", np.full((6, 6), 65_536, np.int32), format="TIFF"),
            {},
            r"/0\.png .*its values reach from 65536 to 65536, not 16 bits",
        ),
        (lambda f: (f / "dogs").mkdir(), {}, r"/dogs holds no images, and every folder is a class"),
        (
            lambda f: save(f / "dogs" / "a.png", pixels(6, 6)),
            {},
            r"/0\.png lies beside folders, and every folder is a class",
        ),
        (
            lambda f: save(f / "0.png", np.zeros((6, 6), np.float32), format="TIFF"),
            {},
            r"/0\.png .*its values are floating-point numbers of no stated range",
        ),
        (lambda f: None, {"label": "shape"}, r"^data\.label: expected one of folder, none, got"),
        (lambda f: None, {"path": "absent"}, r"^data\.path: there is no folder /.*/absent$"),
        (lambda f: [p.unlink() for p in f.iterdir()], {}, r"mine holds no images \(files that"),
        (lambda f: [p.unlink() for p in f.glob("[1-9]*")], {}, r"none of 1 images is in 't"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_is_one_line(tmp_path, load, spoil, options, said):
    fill(tmp_path / "mine", pixels(6, 6))
    spoil(tmp_path / "mine")
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        load(**options)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "data").rglob(".unfinished-*"))


TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.T,
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].T,
    8: lambda x: np.rot90(x),
}


@pytest.fixture
def load_one(tmp_path):
    """(file's content as an image, **options) -> the image of a folder of it alone."""
    name = next(f"{i}.png" for i in range(99) if not is_test(f"{i}.png"))

    def load_one(image, *, image_size=None, **written):
        save(tmp_path / "one" / name, image, **written)
        options = {"path": tmp_path / "one", "image_size": image_size}
        (found,) = load_dataset("folder", data_dir=tmp_path / "data", **options).images
        return found

    return load_one


@pytest.mark.parametrize("orientation", TURNS)
def test_images_are_turned_as_they_are_to_be_seen(load_one, orientation):
    image, exif = pixels(3, 5), Image.Exif()
    exif[0x0112] = orientation
    found = load_one(image, exif=exif)
    np.testing.assert_array_equal(found[..., 0], TURNS[orientation](image))


@pytest.mark.parametrize(("shape", "part"), [((9, 4), np.s_[2:6]), ((4, 9), np.s_[:, 2:6])])
def test_squares_are_cut_from_the_center(load_one, shape, part):
    image = pixels(*shape)
    np.testing.assert_array_equal(load_one(image, image_size=4)[..., 0], image[part])
    colors = pixels(*shape, 3)
    np.testing.assert_array_equal(load_one(colors, image_size=4), colors[part])
    assert load_one(image, image_size=1).shape == (1, 1, 1)


def test_which_files_are_images(tmp_path, load):
    """By their endings, in any case, and not those that are hidden; GIF is none."""
    images = {}
    for i in range(40):
        name = f"{i}{('.png', '.PNG')[i % 2]}"
        images[name] = pixels(2, 2, 1)
        save(tmp_path / "mine" / name, images[name][..., 0])
    for other in ("a.gif", ".hidden.png"):
        save(tmp_path / "mine" / other, pixels(3, 3))
    check(load(), images)
    for suffix in ("jpg", "jpeg", "webp"):
        save(tmp_path / suffix / f"1.{suffix}", pixels(5, 6))
        (count,) = [load_dataset("folder", "train", data_dir=tmp_path, path=tmp_path / suffix)]
        assert count.example_shape[:2] == (5, 6)


def test_one_folder_is_kept_once_however_it_is_named(tmp_path, load, monkeypatch):
    for i in range(40):
        save(tmp_path / "mine" / "abc"[i % 3] / f"{i}.png", pixels(2, 2))
    first = load()
    assert (first[0].name, first[0].split, first[1].split) == ("folder", "train", "test")
    assert (first[0].num_classes, first[0].value_range) == (3, (0.0, 255.0))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("mine", "~/mine", "mine/a/.."):
        again = load_dataset("folder", data_dir=tmp_path / "data", path=path, label="folder")
        np.testing.assert_array_equal(again.labels, first[0].labels)
    kept = tmp_path / "data" / "ebm_jax" / "folder"
    assert len(list(kept.glob("*/*/images.npy"))) == 1
    load(label="none")
    load(image_size=2)
    assert len(list(kept.glob("*/*/images.npy"))) == 3
    np.save(tmp_path / "x.npy", RNG.uniform(size=(60, 2, 2)))
    for path, values in (("x.npy", (0, 1)), ("~/x.npy", (0.0, 1.0))):
        load_dataset("arrays", data_dir=tmp_path / "data", path=path, values=values)
    assert len(list((tmp_path / "data" / "ebm_jax" / "arrays").iterdir())) == 1


def test_fingerprints_and_splits_that_there_are_not(tmp_path):
    expected = hashlib.sha256(b"a\0001\0None").hexdigest()[:12]
    assert fingerprint("a", 1, None) == expected
    given = {"place": "a", "content": "b", "num_classes": 1, "make_plan": None}
    for split, number, message in (
        ("val", (3, 2), "x has no split 'val'; it has train, test"),
        ("train", (0, 2), "x: none of 2 images is in 'train', which has about nine tenths of them"),
        ("test", (3, 0), "x: none of 3 images is in 'test', which has about a tenth of them by a"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            load_own("x", split, tmp_path, num_in_split=number, **given)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "deflated.npz"])
@pytest.mark.parametrize("shape", [(700, 3, 4), (700, 3, 4, 1), (700, 3, 4, 3)])
def test_arrays_of_uint8(tmp_path, load, name, shape):
    images, labels = pixels(*shape), RNG.integers(0, 5, 700)
    if name == "x.npy":
        np.save(tmp_path / name, images)
        labels = None
    else:
        write = np.savez if name == "x.npz" else np.savez_compressed
        write(tmp_path / name, images=images, labels=labels)
    found = load("arrays", name)
    chosen = np.array([is_test(str(i)) for i in range(700)])
    for part, wanted in zip(found, (~chosen, chosen), strict=True):
        np.testing.assert_array_equal(
            part.images, images[wanted].reshape(-1, 3, 4, *shape[3:] or (1,))
        )
        np.testing.assert_array_equal(part.labels, 0 if labels is None else labels[wanted])
        assert part.num_classes == (1 if labels is None else 5)
    np.savez(tmp_path / "x.npz", images=images[:600])
    if name == "x.npz":  # it has changed
        assert sum(part.num_examples for part in load("arrays", name)) == 600


def test_arrays_of_floats_in_a_stated_range(tmp_path, load):
    images = RNG.uniform(-2, 3, (60, 4, 4, 1)).astype(np.float32)
    images[0, 0, :2, 0] = -2, 3
    np.save(tmp_path / "x.npy", images)
    found = load("arrays", "x.npy", values=(-2.0, 3.0))
    expected = np.round((images + 2.0) * 51)
    chosen = np.array([is_test(str(i)) for i in range(60)])
    np.testing.assert_array_equal(found[0].images, expected[~chosen])
    with pytest.raises(
        ValueError, match=r"image 0 has values from -2 to 3, and data\.values is \(0"
    ):
        load("arrays", "x.npy", values=(0.0, 3.0))


@pytest.mark.parametrize("kind", ["<f2", ">f4", "f8"])
def test_one_value_out_of_range_is_told_with_its_image(tmp_path, load, kind):
    """Of the second block, a gray image without an axis of channels."""
    images = RNG.integers(0, 256, (600, 1, 2))
    np.save(tmp_path / "x.npy", (images / 8).astype(kind))
    found = load("arrays", "x.npy", values=(0.0, 31.875))
    chosen = np.array([is_test(str(i)) for i in range(600)])
    np.testing.assert_array_equal(found[0].images[..., 0], images[~chosen])
    for number in (next(i for i in range(520, 600) if chosen[i] == part) for part in (0, 1)):
        spoiled = (images / 8).astype(kind)
        spoiled[number] = 1, 33
        np.save(tmp_path / "x.npy", spoiled)
        said = rf"image {number} has values from 1 to 33, and data\.values is \(0, 31\.875\)"
        with pytest.raises(ValueError, match=said):
            load("arrays", "x.npy", values=(0.0, 31.875))


def test_one_array_of_any_name_and_both_versions_of_the_format(tmp_path, load):
    images = pixels(60, 2, 3, 1)
    np.savez(tmp_path / "x.npz", photographs=images, labels=np.full(60, 2**31 - 1))
    found = load("arrays", "x.npz")
    assert found[0].num_classes == 2**31
    assert (found[0].name, found[1].split) == ("arrays", "test")
    for version in ((1, 0), (2, 0)):
        with (tmp_path / f"x{version[0]}.npy").open("wb") as file:
            np.lib.format.write_array(file, images, version)
        again = load("arrays", f"x{version[0]}.npy")
        np.testing.assert_array_equal(again[0].images, found[0].images)
    with (tmp_path / "x3.npy").open("wb") as file:
        np.lib.format.write_array(file, images, (3, 0))
    with pytest.raises(ValueError, match=r"\(its format is version \(3, 0\)\); write it again$"):
        load("arrays", "x3.npy")


@pytest.mark.parametrize(
    ("arrays", "options", "said"),
    [
        ({"images": np.zeros((9, 2, 2))}, {}, r"^data\.values: expected the lowest and highest of"),
        ({"images": pixels(9, 2, 2)}, {"values": (0.0, 1.0)}, r"^data\.values: expected \(\), as"),
        ({"images": pixels(9, 2, 2)}, {"values": (1.0, 0.0)}, r"^data\.values: expected \(lowest"),
        ({"images": np.zeros((9, 2, 2))}, {"values": (1.0, 1.0)}, r"values: expected .* \(1\.0, 1"),
        ({"images": np.zeros((9, 2, 2))}, {"values": (0.0, 1.0, 2.0)}, r"\(lowest, highest\), got"),
        ({"images": pixels(9, 2, 2, 2)}, {}, r"\(its shape is 9 x 2 x 2 x 2\)"),
        ({"images": pixels(9, 2, 2, 1, 1)}, {}, r"\(its shape is 9 x 2 x 2 x 1 x 1\)"),
        ({"images": pixels(0, 2, 2)}, {}, r"\(its shape is 0 x 2 x 2\)"),
        ({"images": pixels(9, 2, 2), "labels": np.zeros((9, 1), int)}, {}, r"of shape \(9, 1\), n"),
        ({"images": pixels(9, 2, 2), "labels": np.zeros(9)}, {}, r"float64 of shape \(9,\), not 9"),
        ({"images": pixels(9, 2, 2), "labels": np.arange(9) + 2**31 - 8}, {}, r"to 2147483648\)"),
        ({"images": pixels(9, 2)}, {}, r"\(its shape is 9 x 2\)"),
        ({"images": pixels(9, 2, 2, 4)}, {}, r"\(its shape is 9 x 2 x 2 x 4\)"),
        ({"images": np.zeros((9, 2, 2), int)}, {}, r"int64, neither uint8 nor floating-point"),
        ({"images": pixels(2, 2, 9).T}, {}, r"its axes are in Fortran's order"),
        ({"a": pixels(9, 2, 2), "b": pixels(9, 2, 2)}, {}, r"no array 'images' but a\.npy, b\.npy"),
        ({"images": pixels(9, 2, 2), "labels": np.zeros(8, int)}, {}, r"not 9 integers"),
        ({"images": pixels(9, 2, 2), "labels": np.full(9, -1)}, {}, r"reach from -1 to -1"),
        ({"images": pixels(9, 2, 2), "labels": np.array([None] * 9)}, {}, r"is not a \.npy or"),
        ({"images": np.full((60, 2, 2), np.nan)}, {"values": (0.0, 1.0)}, r"from nan to nan, and"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_array_is_one_line(tmp_path, load, arrays, options, said):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=said) as caught:
        load("arrays", "x.npz", **options)
    assert "\n" not in str(caught.value)


def test_damaged_arrays(tmp_path, load):
    np.save(tmp_path / "whole.npy", pixels(60, 3, 3))
    content = (tmp_path / "whole.npy").read_bytes()
    for size in (0, 7, 100, len(content) - 1):
        (tmp_path / "cut.npy").write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"^[^\n]*/cut\.npy is not a \.npy or [^\n]*$"):
            load("arrays", "cut.npy")
    with pytest.raises(FileNotFoundError, match=r"^data\.path: there is no file [^\n]*absent"):
        load("arrays", "absent.npy")


@pytest.mark.parametrize("cores", [1, 2])
def test_blocks_are_decoded_in_order_and_not_far_ahead(monkeypatch, cores):
    """At most two blocks a core are under way as one is handed over, the one itself among them."""
    monkeypatch.setattr(array_cache, "BLOCK", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    found, begun = [], []
    sources = (begun.append(i) or i for i in range(11))
    for images, labels in array_cache.decoded_blocks(sources, lambda i: np.full((1, 1, 1), i)):
        found.append(images.ravel().tolist())
        assert labels.tolist() == [0] * len(images)
        assert len(begun) == min(2 * (len(found) + 2 * cores - 1), 11)
    assert found == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]]


@pytest.mark.parametrize(("cores", "workers"), [(3, 3), (None, 1)])
def test_images_are_decoded_on_all_cores(monkeypatch, cores, workers):
    asked, usual = [], array_cache.concurrent.futures.ThreadPoolExecutor

    def pool(number):
        asked.append(number)
        return usual(number)

    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor", pool)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    ((images, _),) = array_cache.decoded_blocks([5, 6], lambda source: np.full(1, source))
    assert images.tolist() == [[5], [6]]
    assert asked == [workers]


def plan_of(number, announced, block=2):
    """Of images of 2 x 3 pixels, each of its number, with two labels each."""
    images = np.arange(number, dtype=np.uint8)[:, None, None, None] * np.ones((2, 3, 1), np.uint8)
    labels = np.arange(2 * number).reshape(number, 2)
    starts = range(0, number, block)
    blocks = [(images[i : i + block], labels[i : i + block]) for i in starts]
    return array_cache.Plan(Path("/a/source"), announced, (2, 3, 1), blocks), images, labels


def test_arrays_are_kept_and_mapped(tmp_path, monkeypatch):
    plan, images, labels = plan_of(5, 5)
    told = []
    monkeypatch.setattr(array_cache, "_report", lambda *numbers: told.append(numbers))
    for make in (lambda: plan, lambda: pytest.fail("made again")):
        found, theirs = array_cache.cached_arrays(tmp_path / "a" / "b", make)
        np.testing.assert_array_equal(found, images)
        np.testing.assert_array_equal(theirs, labels)
        assert isinstance(found, np.memmap)
        assert not found.flags.writeable
        assert theirs.dtype == np.int32
    assert told == [(2, 5), (4, 5), (5, 5)]
    np.save(tmp_path / "a" / "b" / "labels.npy", labels[:3])
    with pytest.raises(ValueError, match=r"a cache of .* \(5 images, 3 labels\); remove it"):
        array_cache.cached_arrays(tmp_path / "a" / "b", lambda: plan)
    for number, said in ((3, "3 images"), (4, "4 images"), (7, "6 or more images")):
        plan, *_ = plan_of(number, 5)
        with pytest.raises(ValueError, match=f"^/a/source holds {said} where 5 were announced; "):
            array_cache.cached_arrays(tmp_path / "c", lambda plan=plan: plan)


def test_where_nothing_can_be_kept_a_gigabyte_is_held_in_memory(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert array_cache._MEMORY_LIMIT == 2**30
    plan, images, labels = plan_of(5, 5)
    monkeypatch.setattr(array_cache, "_MEMORY_LIMIT", 30)
    found, theirs = array_cache.cached_arrays(tmp_path / "file" / "x", lambda: plan)
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(theirs, labels)
    monkeypatch.setattr(array_cache, "_MEMORY_LIMIT", 29)
    with pytest.raises(OSError, match=r"^cannot make the data directory .*file"):
        array_cache.cached_arrays(tmp_path / "file" / "x", lambda: plan)


@pytest.mark.parametrize(("is_terminal", "total", "is_said"), [
    (True, 40, True), (True, 39, False), (False, 40, False)
])  # fmt: skip
def test_decoding_of_a_large_set_is_told_on_a_terminal(
    monkeypatch, capsys, is_terminal, total, is_said
):
    monkeypatch.setattr(array_cache, "BLOCK", 4)
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal, raising=False)
    for count in (total - 1, total):
        array_cache._report(count, total)
    expected = "\rdecoding 39 of 40 images\rdecoding 40 of 40 images\n" if is_said else ""
    assert capsys.readouterr().err == expected
