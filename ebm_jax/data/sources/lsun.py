"""LSUN scenes, from the LMDB that the authors publish for each category."""

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.sources.base import Source
from ebm_jax.data.storage.array_cache import Plan, cached_arrays, crop_and_resize, decoded_blocks
from ebm_jax.data.storage.paths import OWN_FOLDER, manual_dir, missing, reading

CATEGORIES = {"lsun_church": "church_outdoor", "lsun_bedroom": "bedroom"}
SPLITS = {"train": "train", "validation": "val"}


def load_lsun(name: str, split: str, data_dir: Path, *, image_size: int = 64) -> Dataset:
    """One LSUN category: center square crop, resized with antialiasing.

    `<data_dir>/downloads/manual/lsun` holds the unpacked LMDB folders, such as
    `church_outdoor_train_lmdb` with `data.mdb` inside. Needs the package `lmdb`.

    Args:
        name: `'lsun_church'` (126,227 training images) or `'lsun_bedroom'` (3,033,042).
        split: `'train'` or `'validation'` (300 images), in the order of the LMDB's keys.
        data_dir: directory of all data; the decoded images are kept there.
        image_size: height and width, in pixels; the shorter side of the originals is 256.

    Returns:
        images uint8 `[n, image_size, image_size, 3]`; labels are zeros.

    Raises:
        FileNotFoundError: if the LMDB is missing.
        ModuleNotFoundError: if lmdb is not installed.
        ValueError: another split, or a damaged file.
    """
    if split not in SPLITS:
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(SPLITS)}")
    folder = f"{CATEGORIES[name]}_{SPLITS[split]}_lmdb"
    images, labels = cached_arrays(
        data_dir / OWN_FOLDER / name / str(image_size) / split,
        lambda: _plan(name, manual_dir(data_dir, "lsun"), folder, image_size),
    )
    return Dataset(name, split, images, labels, 1, (0.0, 255.0))


def _plan(name: str, directory: Path, folder: str, image_size: int) -> Plan:
    path = directory / folder
    if not (path / "data.mdb").is_file():
        raise missing(name, directory, f"{folder}/data.mdb (unpack {folder}.zip)")
    with _environment(path) as environment:
        num_examples = environment.stat()["entries"]

    def decode(item: tuple[bytes, bytes]) -> np.ndarray:
        key, content = item
        with reading(path, f"an LMDB with an image under {key!r}"):
            image = Image.open(io.BytesIO(content))
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            return crop_and_resize(image, (left, top, left + side, top + side), image_size)

    blocks = decoded_blocks(_items(path), decode)
    return Plan(path, num_examples, (image_size, image_size, 3), blocks)


def _items(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Keys and encoded images, in the order of the keys."""
    with _environment(path) as environment, environment.begin() as transaction:
        with reading(path, "an LMDB of images"):
            yield from transaction.cursor()


@contextlib.contextmanager
def _environment(path: Path):
    try:
        import lmdb
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "LSUN is read with the package lmdb: pip install 'ebm_jax[lsun]'"
        ) from error
    with reading(path, "an LMDB of images"):
        environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False)
    with environment:
        yield environment


def _source(name: str) -> Source:
    load = functools.partial(load_lsun, name)
    return Source(name, load, held_out_split="validation", options=("image_size",))


CHURCH, BEDROOM = _source("lsun_church"), _source("lsun_bedroom")
