"""Images of one white shape on black, made from five independent factors, and their labels.

A label is a factor's class, an int, or, as the papers' networks of single concepts take it, values:

| label | what it is |
|---|---|
| shape, scale, orientation, x_position, y_position | class of the factor |
| size | scale, .5 to 1: one value |
| position | (x, y), each 0 to 1 |
| rotation | (cos, sin) of the orientation |
| size_and_position | (scale, x, y) |
"""

from collections.abc import Sequence

import numpy as np

from ebm_jax.data.dataset import Dataset

FACTORS = ("shape", "scale", "orientation", "x_position", "y_position")
VALUES = {"size": 1, "position": 2, "rotation": 2, "size_and_position": 3}  # values in a label
LABELS = (*FACTORS, *VALUES)
SPLITS = ("train", "test")
_HELD_OUT = 10  # one image in so many


def labels_of(label: str, classes: np.ndarray, num_values: tuple[int, ...]) -> np.ndarray:
    """Labels of images from the classes of all their factors.

    Args:
        label: one of `LABELS`.
        classes: int `[n, 5]`, in the order of `FACTORS`.
        num_values: that each factor has.

    Returns:
        int32 `[n]`; float32 `[n, k]` for one of `VALUES`.
    """
    if label in FACTORS:
        return classes[:, FACTORS.index(label)].astype(np.int32)
    values = factor_values(classes, num_values)
    columns = {"size": [1], "position": [3, 4], "size_and_position": [1, 3, 4]}
    if label in columns:
        return values[:, columns[label]].astype(np.float32)
    angle = values[:, 2]
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def dataset(
    name: str,
    split: str,
    images: np.ndarray,
    classes: np.ndarray,
    label: str,
    num_values: tuple[int, ...],
) -> Dataset:
    """Images and the classes of all their factors as a Dataset with one label."""
    labels = labels_of(label, classes, num_values)
    num_classes = num_values[FACTORS.index(label)] if label in FACTORS else 1
    return Dataset(name, split, images, labels, num_classes, (0.0, 255.0))


def factor_values(classes: np.ndarray, num_values: tuple[int, ...]) -> np.ndarray:
    """Shape 1 to 3, scale .5 to 1, orientation 0 to 2 pi, x and y 0 to 1: float64 `[n, 5]`."""
    low = np.array([1.0, 0.5, 0.0, 0.0, 0.0])
    high = np.array([3.0, 1.0, 2 * np.pi, 1.0, 1.0])
    share = classes / np.maximum(np.array(num_values) - 1, 1)
    return low + (high - low) * share


def concepts_of(label: str) -> dict[str, slice]:
    """The concepts that a label of values is made of, and where they stand in it."""
    if label == "size_and_position":
        return {"size": slice(0, 1), "position": slice(1, 3)}
    return {label: slice(None)}


def check(name: str, split: str, label: str, splits: Sequence[str] = SPLITS) -> None:
    """Raises ValueError, one line, for a split or a label that there is not."""
    if split not in splits:
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(splits)}")
    if label not in LABELS:
        raise ValueError(f"{name} has no factor {label!r}; it has {', '.join(LABELS)}")


def split_indices(num_examples: int, split: str) -> np.ndarray:
    """Indices of a split's images among all, int64, in the order of their hashes.

    `'test'` has those whose hash is a multiple of 10. Which split an image is in does not depend on
    the number of images.
    """
    hashes = _hash(np.arange(num_examples, dtype=np.uint64))
    is_test = hashes % _HELD_OUT == 0
    chosen = np.flatnonzero(is_test if split == "test" else ~is_test)
    return chosen[np.argsort(hashes[chosen])]  # no two are alike


def _hash(index: np.ndarray) -> np.ndarray:
    """SplitMix64 of uint64 indices (Steele, Lea & Flood 2014): a bijection, modulo 2^64."""
    x = (index + 1) * 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)
