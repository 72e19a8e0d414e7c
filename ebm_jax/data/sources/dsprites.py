"""dSprites: white shapes on black, made from five independent factors."""

from pathlib import Path

import numpy as np

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.storage.array_cache import BLOCK, Plan, cached_arrays
from ebm_jax.data.storage.paths import OWN_FOLDER, manual_dir, missing, reading

ARCHIVE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
FACTORS = {"shape": 3, "scale": 6, "orientation": 40, "x_position": 32, "y_position": 32}


def load_dsprites(split: str, data_dir: Path, *, label: str = "shape") -> Dataset:
    """dSprites, all 737,280 combinations of its factors, with one factor as the label.

    `<data_dir>/downloads/manual/dsprites` holds the published
    `dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz`.

    Args:
        split: `'train'`, which is everything.
        data_dir: directory of all data; the images are kept there.
        label: `'shape'` (square, ellipse, heart), `'scale'` (6 sizes), `'orientation'` (40 angles),
            `'x_position'` or `'y_position'` (32 places each).

    Returns:
        images uint8 `[n, 64, 64, 1]` of 0 and 255, labels int32 `[n]`: the class of the factor.

    Raises:
        FileNotFoundError: if the archive is missing.
        ValueError: another split, another factor, or a damaged file.
    """
    if split != "train":
        raise ValueError(f"dsprites has no split {split!r}; it has train, which is everything")
    if label not in FACTORS:
        raise ValueError(f"dsprites has no factor {label!r}; it has {', '.join(FACTORS)}")
    images, factors = cached_arrays(
        data_dir / OWN_FOLDER / "dsprites" / split, lambda: _plan(manual_dir(data_dir, "dsprites"))
    )
    column = list(FACTORS).index(label)
    return Dataset("dsprites", split, images, factors[:, column], FACTORS[label], (0.0, 255.0))


def _plan(directory: Path) -> Plan:
    path = directory / ARCHIVE
    if not path.is_file():
        raise missing("dsprites", directory, ARCHIVE)
    with reading(path, "the dSprites archive"), np.load(path) as content:
        images = content["imgs"]
        factors = content["latents_classes"][:, 1:]  # the first, colour, is always white
        if images.shape != (len(factors), 64, 64) or factors.shape[1] != len(FACTORS):
            raise ValueError(f"imgs of shape {images.shape}, {factors.shape[1]} factors")
    blocks = (
        (images[start : start + BLOCK, ..., None] * np.uint8(255), factors[start : start + BLOCK])
        for start in range(0, len(images), BLOCK)
    )
    return Plan(path, len(images), (64, 64, 1), blocks)
