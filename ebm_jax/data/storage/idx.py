"""IDX files, the format of MNIST and its relatives: magic `0 0 type dimensions`, sizes, values."""

import gzip
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ebm_jax.data.storage.archives import Archive, Arrays
from ebm_jax.data.storage.paths import reading

_UINT8 = 8  # the type's code


def read_idx(path: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    """Values of one gzipped IDX file of bytes.

    Args:
        path: the file.
        shape: sizes that are expected, None for any.

    Raises:
        ValueError: for a file of another type or shape, or a damaged one; one line that names it.
    """
    wanted = " x ".join("n" if size is None else str(size) for size in shape)
    with reading(path, f"a gzipped IDX file of {wanted} bytes"):
        with gzip.open(path) as file:
            content = file.read()
        if content[:4] != bytes([0, 0, _UINT8, len(shape)]):
            raise ValueError(f"it begins with {content[:4].hex()}")
        start = 4 + 4 * len(shape)
        sizes = tuple(np.frombuffer(content[4:start], ">u4").tolist())
        if any(want not in (None, size) for want, size in zip(shape, sizes, strict=True)):
            raise ValueError(f"its shape is {' x '.join(map(str, sizes))}")
        if len(content) - start != math.prod(sizes):
            raise ValueError(f"{len(content) - start} values of {math.prod(sizes)} announced")
        return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def read_splits(
    archives: Mapping[str, tuple[Archive, Archive]],
    fetch: Callable[[Archive], Path],
    *,
    image_size: tuple[int, int],
    num_classes: int,
) -> dict[str, Arrays]:
    """Images uint8 `[n, height, width, 1]` and labels `[n]` of every split.

    Args:
        archives: `{split: (images, labels)}`.
        fetch: from an archive to its path.
        image_size: `(height, width)` that is expected.
        num_classes: labels are below it.

    Raises:
        ValueError: as `read_idx`, and for labels out of range or of another number.
    """
    # All are fetched before any is read: what is missing is said first.
    paths = {split: (fetch(images), fetch(labels)) for split, (images, labels) in archives.items()}
    return {split: _read_pair(*pair, image_size, num_classes) for split, pair in paths.items()}


def _read_pair(
    images_path: Path, labels_path: Path, image_size: tuple[int, int], num_classes: int
) -> Arrays:
    images, labels = read_idx(images_path, (None, *image_size)), read_idx(labels_path, (None,))
    with reading(labels_path, f"labels below {num_classes}"):
        if len(labels) and labels.max() >= num_classes:
            raise ValueError(f"one is {labels.max()}")
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path} holds {len(images)} images, {labels_path} {len(labels)} labels; "
            "fetch both again"
        )
    return images[..., None], labels
