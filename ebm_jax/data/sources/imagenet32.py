"""ImageNet at 32 x 32, as Chrabaszcz, Loshchilov and Hutter publish it (arXiv 1707.08819)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.sources.base import Source
from ebm_jax.data.storage import cifar
from ebm_jax.data.storage.array_cache import Plan, cached_arrays
from ebm_jax.data.storage.paths import OWN_FOLDER, manual_dir, missing, reading

NUM_CLASSES = 1000
FILES = {
    "train": [f"train_data_batch_{number}" for number in range(1, 11)],
    "validation": ["val_data"],
}


def load_imagenet32(split: str, data_dir: Path) -> Dataset:
    """ImageNet32 with its 1000 classes.

    `<data_dir>/downloads/manual/imagenet32` holds the unpacked files `train_data_batch_1` ...
    `train_data_batch_10` and `val_data`, either the pickles or the `.npz` files. Both store rows of
    3072 bytes in planes R, G, B, and labels from 1 to 1000, which become 0 to 999.

    Args:
        split: `'train'` (1,281,167 images) or `'validation'` (50,000), in the order of the files.
        data_dir: directory of all data; the decoded images are kept there.

    Returns:
        images uint8 `[n, 32, 32, 3]`, labels int32 `[n]`.

    Raises:
        FileNotFoundError: if a file named above is missing.
        ValueError: another split, or a damaged file.
    """
    if split not in FILES:
        raise ValueError(f"imagenet32 has no split {split!r}; it has {', '.join(FILES)}")
    images, labels = cached_arrays(
        data_dir / OWN_FOLDER / "imagenet32" / split,
        lambda: _plan(manual_dir(data_dir, "imagenet32"), split),
    )
    return Dataset("imagenet32", split, images, labels, NUM_CLASSES, (0.0, 255.0))


def _plan(directory: Path, split: str) -> Plan:
    paths = []
    for name in FILES[split]:
        found = [path for path in (directory / name, directory / f"{name}.npz") if path.is_file()]
        if not found:
            raise missing("imagenet32", directory, f"{name} or {name}.npz")
        paths.append(found[0])
    num_examples = sum(len(_read(path)[1]) for path in paths)
    return Plan(directory, num_examples, (32, 32, 3), _blocks(paths))


def _blocks(paths: list[Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for path in paths:
        images, labels = _read(path)
        yield cifar.images_from_rows(images), labels


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows uint8 `[n, 3072]` and labels `[n]` from 0 of one file."""
    with reading(path, "a file of ImageNet32"), path.open("rb") as file:
        content = np.load(file) if path.suffix == ".npz" else cifar.load_pickle(file)
        images, labels = content["data"], np.asarray(content["labels"]) - 1
        if images.dtype != np.uint8 or images.shape != (len(labels), cifar.ROW):
            raise ValueError(f"data of shape {images.shape}, {images.dtype}; {len(labels)} labels")
        if labels.min() < 0 or labels.max() >= NUM_CLASSES:
            raise ValueError(f"labels from {labels.min() + 1} to {labels.max() + 1}, not 1 to 1000")
    return images, labels


SOURCE = Source("imagenet32", load_imagenet32, held_out_split="validation")
