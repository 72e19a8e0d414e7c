"""dSprites: white shapes on black, made from five independent factors, 64 x 64.

The archive holds every combination of the factors in the order of the factors: its first images are
one square in all its places. Here an image's place follows from a hash of its index in the archive,
and so does its split: images at the front of a split are a random choice of it, always the same.
"""

from pathlib import Path

import numpy as np

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.sources import combinations as slices
from ebm_jax.data.sources import factors
from ebm_jax.data.sources.base import Source
from ebm_jax.data.storage.array_cache import BLOCK, Plan, cached_arrays
from ebm_jax.data.storage.paths import OWN_FOLDER, manual_dir, missing, reading

ARCHIVE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
NUM_VALUES = (3, 6, 40, 32, 32)  # of `factors.FACTORS`


def load_dsprites(
    split: str,
    data_dir: Path,
    *,
    label: str = "shape",
    combinations: slices.Combinations | None = None,
) -> Dataset:
    """dSprites, combinations of its factors in a fixed random order, one factor as the label.

    `<data_dir>/downloads/manual/dsprites` holds the published
    `dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz`.

    Args:
        split: `'test'`, the tenth of the 737,280 images whose hash says so, or `'train'`, the
            others; see `factors.split_indices`. Of `combinations` one of `combinations.SPLITS`.
        data_dir: directory of all data; the images are kept there.
        label: one of `factors.LABELS`.
        combinations: squares in one orientation alone, at those of their sizes and places.

    Returns:
        images uint8 `[n, 64, 64, 1]` of 0 and 255, labels as `factors.labels_of` gives them.

    Raises:
        FileNotFoundError: if the archive is missing.
        ValueError: another split, another factor, or a damaged file.
    """
    factors.check("dsprites", split, label, slices.SPLITS if combinations else factors.SPLITS)
    if combinations:
        wanted = slices.classes_of(combinations, split, NUM_VALUES)
        images, classes = _images_of(wanted, data_dir), wanted
    else:
        images, classes = _cached(split, data_dir)
    return factors.dataset("dsprites", split, images, classes, label, NUM_VALUES)


def _cached(split: str, data_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    return cached_arrays(
        data_dir / OWN_FOLDER / "dsprites" / "hashed" / split,
        lambda: _plan(manual_dir(data_dir, "dsprites"), split),
    )


def _images_of(wanted: np.ndarray, data_dir: Path) -> np.ndarray:
    """Images [n, 64, 64, 1] of the combinations of factors with these classes, int [n, 5]."""
    number = np.ravel_multi_index(wanted.T, NUM_VALUES)
    images, is_there = np.zeros((len(wanted), 64, 64, 1), np.uint8), np.zeros(len(wanted), bool)
    for split in factors.SPLITS:
        kept, classes = _cached(split, data_dir)
        _, mine, theirs = np.intersect1d(
            number, np.ravel_multi_index(classes.T, NUM_VALUES), return_indices=True
        )
        images[mine], is_there[mine] = kept[theirs], True
    if not is_there.all():
        raise ValueError(
            f"dsprites: expected every combination of its factors in {ARCHIVE}, got none with the "
            f"classes {wanted[is_there.argmin()].tolist()}"
        )
    return images


def _plan(directory: Path, split: str) -> Plan:
    path = directory / ARCHIVE
    if not path.is_file():
        raise missing("dsprites", directory, ARCHIVE)
    with reading(path, "the dSprites archive"), np.load(path) as content:
        images = content["imgs"]
        classes = content["latents_classes"][:, 1:]  # the first, color, is always white
        if images.shape != (len(classes), 64, 64) or classes.shape[1] != len(NUM_VALUES):
            raise ValueError(f"imgs of shape {images.shape}, {classes.shape[1]} factors")
    order = factors.split_indices(len(images), split)
    blocks = (
        (images[part][..., None] * 255, classes[part])
        for part in (order[start : start + BLOCK] for start in range(0, len(order), BLOCK))
    )
    return Plan(path, len(order), (64, 64, 1), blocks)


SOURCE = Source("dsprites", load_dsprites, options=("label", "combinations"))
