"""A folder of one's own images: PNG, JPEG and WebP, labeled by sub-folder or not at all."""

import concurrent.futures
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.sources.base import Source
from ebm_jax.data.sources.own_images import fingerprint, is_test, load_own
from ebm_jax.data.storage.array_cache import Plan, crop_and_resize, decoded_blocks
from ebm_jax.data.storage.paths import reading

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
LABELS = ("folder", "none")
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_GRAY = ("1", "L", "LA", "La", *_SIXTEEN_BITS)
_REMEDY = "mend it or take it out of the folder"
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # of EXIF; those that swap width and height


class _File(NamedTuple):
    """An image's file: name, below the folder with '/'; what changes when it is written anew."""

    name: str
    size: int
    modified_ns: int


def load_folder(
    split: str,
    data_dir: Path,
    *,
    path: str | os.PathLike = "",
    image_size: int | None = None,
    label: str = "",
) -> Dataset:
    """The images of a folder and of all folders in it.

    Files of other endings, and those whose names begin with a dot, are left alone. Turned as EXIF
    says; transparent pixels are laid on white; 16 bits are rounded to 8. All are gray where every
    file is gray, else all are RGB. Decoded once, and again when a file comes, goes or changes.

    Args:
        split: `'train'`, or `'test'`: a tenth, by a hash of the file's name below the folder.
        data_dir: directory of all data; the decoded images are kept there.
        path: of the folder.
        image_size: height and width in pixels of center squares, resized with antialiasing; None
            takes images as they are, which have to be of one size.
        label: `'folder'` or `''`: the folders directly in `path` are the classes, sorted by name,
            if there are any; `'none'`: one class.

    Returns:
        images uint8 `[n, height, width, 1 or 3]`, sorted by name; labels int32 `[n]`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no images, a class without one, images of several sizes without `image_size`, or
            a file that cannot be read; one line that names it.
    """
    if label not in ("", *LABELS):
        raise ValueError(f"data.label: expected one of {', '.join(LABELS)}, got {label!r}")
    if not path:
        raise ValueError("data.path: expected the folder of your images, got ''")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"data.path: there is no folder {root}")
    root = root.resolve()
    files = sorted(_files(root), key=lambda file: (is_test(file.name), file.name))
    if not files:
        raise ValueError(f"{root} holds no images (files that end in {', '.join(SUFFIXES)})")
    classes = [] if label == "none" else _classes(root, files)
    num_test = sum(is_test(file.name) for file in files)
    return load_own(
        "folder",
        split,
        data_dir,
        place=fingerprint(root, image_size, label or LABELS[0]),
        content=fingerprint(*files),
        num_in_split=(len(files) - num_test, num_test),
        num_classes=max(1, len(classes)),
        make_plan=lambda: _plan(root, [file.name for file in files], classes, image_size),
    )


def _files(root: Path, below: str = "") -> Iterator[_File]:
    """The images' files of a folder, in any order."""
    with os.scandir(root / below) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{below}{entry.name}"
            if entry.is_dir():
                yield from _files(root, f"{name}/")
            elif entry.name.lower().endswith(SUFFIXES):
                status = entry.stat()
                yield _File(name, status.st_size, status.st_mtime_ns)


def _classes(root: Path, files: list[_File]) -> list[str]:
    """Names of the folders directly in the root, sorted; none where there are none."""
    found = sorted(
        entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != "."
    )
    if not found:
        return []
    filled = {file.name.split("/")[0] for file in files if "/" in file.name}
    if empty := [name for name in found if name not in filled]:
        raise ValueError(
            f"{root / empty[0]} holds no images, and every folder is a class: remove it, or give "
            "data.label=none"
        )
    if loose := [file.name for file in files if "/" not in file.name]:
        raise ValueError(
            f"{root / min(loose)} lies beside folders, and every folder is a class: move it into "
            "one, or give data.label=none"
        )
    return found


def _plan(root: Path, names: list[str], classes: list[str], image_size: int | None) -> Plan:
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        headers = list(pool.map(lambda name: _header(root / name), names))
    sizes = [size for _, size in headers]
    if image_size is None and (other := next((i for i, s in enumerate(sizes) if s != sizes[0]), 0)):
        (width, height), (other_width, other_height) = sizes[0], sizes[other]
        raise ValueError(
            f"{root / names[other]} is {other_width} x {other_height} pixels and {root / names[0]} "
            f"{width} x {height}: give data.image_size, to which all are then resized"
        )
    mode = "L" if all(is_gray for is_gray, _ in headers) else "RGB"
    width, height = (image_size, image_size) if image_size else sizes[0]
    labels = np.array(
        [classes.index(name.split("/")[0]) if classes else 0 for name in names], np.int32
    )

    def decode(name: str) -> np.ndarray:
        with reading(root / name, "an image that can be read", _REMEDY):
            with Image.open(root / name) as file:
                image = _eight_bits(file, mode)
            if image_size is None:
                pixels = np.asarray(image)
            else:
                side = min(image.size)
                left, top = (image.width - side) // 2, (image.height - side) // 2
                box = (left, top, left + side, top + side)
                pixels = crop_and_resize(image, box, image_size, mode)
        return pixels.reshape(height, width, -1)

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        first = 0
        for images, _ in decoded_blocks(names, decode):
            yield images, labels[first : first + len(images)]
            first += len(images)

    return Plan(root, len(names), (height, width, 1 if mode == "L" else 3), blocks())


def _header(path: Path) -> tuple[bool, tuple[int, int]]:
    """(whether it is gray, (width, height) as it is to be seen) of a file, of whose pixels no
    one is read."""
    with reading(path, "an image that can be read", _REMEDY), Image.open(path) as image:
        width, height = image.size
        if image.getexif().get(_ORIENTATION) in _TURNED:
            width, height = height, width
        return image.mode in _GRAY, (width, height)


def _eight_bits(file: Image.Image, mode: str) -> Image.Image:
    """An open image in a mode of 8 bits, 'L' or 'RGB', as it is to be seen.

    Raises:
        ValueError: for numbers of which it is not known what is white.
    """
    image = ImageOps.exif_transpose(file)
    if image.mode in _SIXTEEN_BITS:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65_535:
            raise ValueError(f"its values reach from {values.min()} to {values.max()}, not 16 bits")
        image = Image.fromarray(np.round(values / 257.0).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its values are floating-point numbers of no stated range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)


SOURCE = Source("folder", load_folder, options=("path", "image_size", "label"))
