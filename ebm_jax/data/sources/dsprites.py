"""dSprites: white shapes on black, made from five independent factors, 64 x 64.

The archive holds every combination of the factors in the order of the factors: its first images are
one square in all its places. Here an image's place follows from a hash of its index in the archive,
and so does its split: images at the front of a split are a random choice of it, always the same.
"""

from pathlib import Path

import numpy as np

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.sources.base import Source
from ebm_jax.data.storage.array_cache import BLOCK, Plan, cached_arrays
from ebm_jax.data.storage.paths import OWN_FOLDER, manual_dir, missing, reading

ARCHIVE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
FACTORS = {"shape": 3, "scale": 6, "orientation": 40, "x_position": 32, "y_position": 32}
SPLITS = ("train", "test")
_HELD_OUT = 10  # one image in so many


def load_dsprites(split: str, data_dir: Path, *, label: str = "shape") -> Dataset:
    """dSprites, combinations of its factors in a fixed random order, one factor as the label.

    `<data_dir>/downloads/manual/dsprites` holds the published
    `dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz`.

    Args:
        split: `'test'`, the tenth of the 737,280 images whose hash says so, or `'train'`, the
            others; see `split_indices`.
        data_dir: directory of all data; the images are kept there.
        label: `'shape'` (square, ellipse, heart), `'scale'` (6 sizes), `'orientation'` (40 angles),
            `'x_position'` or `'y_position'` (32 places each).

    Returns:
        images uint8 `[n, 64, 64, 1]` of 0 and 255, labels int32 `[n]`: the class of the factor.

    Raises:
        FileNotFoundError: if the archive is missing.
        ValueError: another split, another factor, or a damaged file.
    """
    if split not in SPLITS:
        raise ValueError(f"dsprites has no split {split!r}; it has {', '.join(SPLITS)}")
    if label not in FACTORS:
        raise ValueError(f"dsprites has no factor {label!r}; it has {', '.join(FACTORS)}")
    images, factors = cached_arrays(
        data_dir / OWN_FOLDER / "dsprites" / "hashed" / split,
        lambda: _plan(manual_dir(data_dir, "dsprites"), split),
    )
    column = list(FACTORS).index(label)
    return Dataset("dsprites", split, images, factors[:, column], FACTORS[label], (0.0, 255.0))


def split_indices(num_examples: int, split: str) -> np.ndarray:
    """Indices in the archive of a split's images, int64, in the order of their hashes.

    `'test'` has those whose hash is a multiple of 10. Which split an image is in does not depend on
    the number of images.
    """
    hashes = _hash(np.arange(num_examples, dtype=np.uint64))
    is_test = hashes % np.uint64(_HELD_OUT) == 0
    chosen = np.flatnonzero(is_test if split == "test" else ~is_test)
    return chosen[np.argsort(hashes[chosen], kind="stable")]


def _hash(index: np.ndarray) -> np.ndarray:
    """SplitMix64 of uint64 indices (Steele, Lea & Flood 2014): a bijection, modulo 2^64."""
    x = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _plan(directory: Path, split: str) -> Plan:
    path = directory / ARCHIVE
    if not path.is_file():
        raise missing("dsprites", directory, ARCHIVE)
    with reading(path, "the dSprites archive"), np.load(path) as content:
        images = content["imgs"]
        factors = content["latents_classes"][:, 1:]  # the first, color, is always white
        if images.shape != (len(factors), 64, 64) or factors.shape[1] != len(FACTORS):
            raise ValueError(f"imgs of shape {images.shape}, {factors.shape[1]} factors")
    order = split_indices(len(images), split)
    blocks = (
        (images[part][..., None] * np.uint8(255), factors[part])
        for part in (order[start : start + BLOCK] for start in range(0, len(order), BLOCK))
    )
    return Plan(path, len(order), (64, 64, 1), blocks)


SOURCE = Source("dsprites", load_dsprites, options=("label",))
