"""Data sets by name."""

import difflib
import os

import numpy as np

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.prepare import prepare_once, resolve_data_dir
from ebm_jax.data.preprocess import pad_images


def _read_prepared(directory, name: str, split: str) -> Dataset:
    """Decode one split of a prepared TFDS directory into arrays."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(directory)
    if split not in builder.info.splits:
        raise ValueError(
            f"{name} has no split {split!r}; it has {', '.join(sorted(builder.info.splits))}"
        )
    source = builder.as_data_source(split)
    shape = builder.info.features["image"].shape
    images = np.empty((len(source), *shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    for index, example in enumerate(source):
        images[index], labels[index] = example["image"], example["label"]
    num_classes = builder.info.features["label"].num_classes
    return Dataset(name, split, images, labels, num_classes, (0.0, 255.0))


def _load_digits(split: str, data_dir) -> Dataset:
    from ebm_jax.data import builders

    return _read_prepared(prepare_once(builders.Digits, data_dir, quiet=True), "digits", split)


_LOADERS = {"digits": _load_digits}


def dataset_names() -> tuple[str, ...]:
    """The names that `load_dataset` knows."""
    return tuple(sorted(_LOADERS))


def load_dataset(
    name: str,
    split: str = "train",
    *,
    data_dir: str | os.PathLike | None = None,
    pad_to: int | None = None,
) -> Dataset:
    """Load one split of a data set, preparing it first if need be.

    Args:
        name: one of `dataset_names()`.
        split: `'train'` or `'test'`, or several joined by `+`, as in `'train+test'`.
        data_dir: directory of all data; by default `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
        pad_to: pad the images with black to this height and width, in pixels.

    Raises:
        ValueError: unknown name or split.
    """
    if name not in _LOADERS:
        close = difflib.get_close_matches(name, _LOADERS, n=1, cutoff=0)
        raise ValueError(
            f"unknown data set {name!r}; nearest is {close[0]!r}, known are "
            + ", ".join(dataset_names())
        )
    parts = [_LOADERS[name](part, resolve_data_dir(data_dir)) for part in split.split("+")]
    images, labels = parts[0].images, parts[0].labels
    if len(parts) > 1:
        images = np.concatenate([part.images for part in parts])
        labels = np.concatenate([part.labels for part in parts])
    if pad_to is not None:
        images = pad_images(images, pad_to)
    return parts[0]._replace(split=split, images=images, labels=labels)
