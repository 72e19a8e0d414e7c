"""CelebA: 202,599 aligned photographs of faces, 178 x 218 pixels, without labels."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.sources.base import Source
from ebm_jax.data.storage.array_cache import Plan, cached_arrays, crop_and_resize, decoded_blocks
from ebm_jax.data.storage.paths import OWN_FOLDER, manual_dir, missing, reading

SPLITS = ("train", "validation", "test")  # 0, 1, 2 in the partition file
PARTITION = "list_eval_partition.txt"
IMAGES = "img_align_celeba"
_BOX = (0, 20, 178, 198)  # 20 px off top and bottom: a square of 178


def load_celeba(split: str, data_dir: Path, *, image_size: int = 64) -> Dataset:
    """CelebA, cropped to 178 x 178 and resized with antialiasing.

    `<data_dir>/downloads/manual/celeba` holds `img_align_celeba.zip`, or the folder
    `img_align_celeba` that it unpacks to, and `list_eval_partition.txt`.

    Args:
        split: `'train'` (162,770 images), `'validation'` (19,867) or `'test'` (19,962), in the
            order of the partition file.
        data_dir: directory of all data; the decoded images are kept there.
        image_size: height and width, in pixels.

    Returns:
        images uint8 `[n, image_size, image_size, 3]`; labels are zeros.

    Raises:
        FileNotFoundError: if a file named above is missing.
        ValueError: another split, or a damaged file.
    """
    if split not in SPLITS:
        raise ValueError(f"celeba has no split {split!r}; it has {', '.join(SPLITS)}")
    images, labels = cached_arrays(
        data_dir / OWN_FOLDER / "celeba" / str(image_size) / split,
        lambda: _plan(manual_dir(data_dir, "celeba"), split, image_size),
    )
    return Dataset("celeba", split, images, labels, 1, (0.0, 255.0))


def _plan(directory: Path, split: str, image_size: int) -> Plan:
    partition = directory / PARTITION
    if not partition.is_file():
        raise missing("celeba", directory, PARTITION)
    with reading(partition, "CelebA's partition, lines of file name and 0, 1 or 2"):
        rows = [line.split() for line in partition.read_text().splitlines() if line.strip()]
        names = [name for name, part in rows if int(part) == SPLITS.index(split)]
        if not names:
            raise ValueError(f"no image is in {split!r}")
    read = _image_reader(directory)

    def decode(name: str) -> np.ndarray:
        with reading(directory / IMAGES / name, "an aligned CelebA photograph"):
            image = Image.open(io.BytesIO(read(name)))
            if image.size != (178, 218):
                raise ValueError(f"its size is {image.size[0]} x {image.size[1]}")
            return crop_and_resize(image, _BOX, image_size)

    return Plan(directory, len(names), (image_size, image_size, 3), decoded_blocks(names, decode))


def _image_reader(directory: Path) -> Callable[[str], bytes]:
    """A function from an image's file name to its bytes, out of the folder or the zip file."""
    folder, archive = directory / IMAGES, directory / f"{IMAGES}.zip"
    if folder.is_dir():
        return lambda name: (folder / name).read_bytes()
    if not archive.is_file():
        raise missing("celeba", directory, f"{archive.name} nor folder {IMAGES}")
    with reading(archive, "a zip file of CelebA's photographs"):
        content = zipfile.ZipFile(archive)
    return lambda name: content.read(f"{IMAGES}/{name}")


SOURCE = Source("celeba", load_celeba, options=("image_size",))
