"""What one's own images share, in a folder or an array: their split, and where they are kept.

An image is in `test` where a hash of its name falls into the lowest tenth: which split it is in
does not depend on the others, so that none changes sides when images are added.
"""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.storage.array_cache import Plan, cached_arrays
from ebm_jax.data.storage.paths import OWN_FOLDER

SPLITS = ("train", "test")
_TEST_SHARE = 0.1


def is_test(name: str) -> bool:
    """Whether the image of a name is in `test`."""
    word = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return word < _TEST_SHARE * 2**64


def fingerprint(*parts: object) -> str:
    """Twelve hexadecimal digits of a hash of what a cache depends on."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:12]


def load_own(
    source: str,
    split: str,
    data_dir: Path,
    *,
    place: str,
    content: str,
    num_in_split: Sequence[int],
    num_classes: int,
    make_plan: Callable[[], Plan],
) -> Dataset:
    """One split of images that are kept decoded in one file, those to train on first.

    Args:
        source: name of the source, which is that of the data set.
        split: one of `SPLITS`.
        data_dir: directory of all data; the images are kept there.
        place: fingerprint of where the images are and how they are wanted.
        content: fingerprint of what is there; where it changes they are decoded anew, and what was
            kept of before is removed.
        num_in_split: numbers of images of `SPLITS`.
        num_classes: 1 without labels.
        make_plan: of all images, in that order.

    Raises:
        ValueError: for another split, or one without images.
    """
    if split not in SPLITS:
        raise ValueError(f"{source} has no split {split!r}; it has {', '.join(SPLITS)}")
    if not num_in_split[SPLITS.index(split)]:
        raise ValueError(
            f"{source}: none of {sum(num_in_split)} images is in {split!r}, which has about "
            f"{'nine tenths' if split == 'train' else 'a tenth'} of them by a hash of their names; "
            "add images"
        )
    directory = data_dir / OWN_FOLDER / source / place
    images, labels = cached_arrays(directory / content, make_plan)
    for former in directory.glob("[0-9a-f]*"):
        if former.name != content:
            shutil.rmtree(former, ignore_errors=True)
    here = slice(0, num_in_split[0]) if split == "train" else slice(num_in_split[0], None)
    return Dataset(source, split, images[here], labels[here], num_classes, (0.0, 255.0))
