"""Data sets by name."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.preprocess import pad_images
from ebm_jax.data.sources.celeba import load_celeba
from ebm_jax.data.sources.dsprites import load_dsprites
from ebm_jax.data.sources.imagenet32 import load_imagenet32
from ebm_jax.data.sources.lsun import load_lsun
from ebm_jax.data.sources.toy2d import TOY_DENSITIES, toy_density
from ebm_jax.data.storage.array_cache import cached_arrays
from ebm_jax.data.storage.paths import OWN_FOLDER, resolve_data_dir
from ebm_jax.data.storage.prepare import find_prepared, prepare_once, prepared_plan

TOY_EXAMPLES = 100_000


class _Entry(NamedTuple):
    """`load(split, data_dir, **options) -> Dataset`, and the names of the options it takes."""

    load: Callable[..., Dataset]
    options: tuple[str, ...] = ()


def _prepared(name: str, class_name: str, *, tfds_name: str | None = None) -> _Entry:
    """A set of ten classes with a TFDS builder of ours.

    Where TFDS itself has prepared the set, as `tfds_name`, that is read instead.
    """

    def load(split: str, data_dir: Path) -> Dataset:
        directory = find_prepared(data_dir, tfds_name) if tfds_name else None
        if directory is None:
            from ebm_jax.data.sources import builders

            directory = prepare_once(getattr(builders, class_name), data_dir)
        images, labels = cached_arrays(
            data_dir / OWN_FOLDER / name / "arrays" / directory.name / split,
            lambda: prepared_plan(directory, name, split),
        )
        return Dataset(name, split, images, labels, 10, (0.0, 255.0))

    return _Entry(load)


def _lsun(name: str) -> _Entry:
    def load(split: str, data_dir: Path, **options) -> Dataset:
        return load_lsun(name, split, data_dir, **options)

    return _Entry(load, ("image_size",))


def _toy(name: str) -> _Entry:
    def load(split: str, data_dir: Path, *, scale: float = 1.0) -> Dataset:
        del data_dir  # the points are drawn
        seeds = {"train": 0, "test": 1}
        if split not in seeds:
            raise ValueError(f"{name} has no split {split!r}; it has train and test")
        density = toy_density(name, scale=scale)
        points = density.sample(np.random.default_rng(seeds[split]), TOY_EXAMPLES)
        labels = np.zeros(TOY_EXAMPLES, np.int32)
        return Dataset(name, split, points, labels, 1, (-density.bound, density.bound))

    return _Entry(load, ("scale",))


_ENTRIES = {
    "digits": _prepared("digits", "Digits"),
    "mnist": _prepared("mnist", "Mnist", tfds_name="mnist"),
    "fashion_mnist": _prepared("fashion_mnist", "FashionMnist", tfds_name="fashion_mnist"),
    "cifar10": _prepared("cifar10", "Cifar10", tfds_name="cifar10"),
    "svhn": _prepared("svhn", "Svhn", tfds_name="svhn_cropped"),
    "celeba": _Entry(load_celeba, ("image_size",)),
    "lsun_church": _lsun("lsun_church"),
    "lsun_bedroom": _lsun("lsun_bedroom"),
    "imagenet32": _Entry(load_imagenet32),
    "dsprites": _Entry(load_dsprites, ("label",)),
} | {name: _toy(name) for name in TOY_DENSITIES}


def dataset_names() -> tuple[str, ...]:
    """The names that `load_dataset` knows."""
    return tuple(_ENTRIES)


def load_dataset(
    name: str,
    split: str = "train",
    *,
    data_dir: str | os.PathLike | None = None,
    image_size: int | None = None,
    pad_to: int | None = None,
    label: str | None = None,
    scale: float | None = None,
) -> Dataset:
    """Load one split of a data set, preparing it first if need be.

    Args:
        name: one of `dataset_names()`.
        split: `'train'`, `'test'` or `'validation'`, as the data set has them, or several joined by
            `+`, as in `'train+test'`.
        data_dir: directory of all data; by default `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
            Archives fetched by hand belong in `<data_dir>/downloads/manual/<name>`.
        image_size: for celeba and lsun_*: height and width to resize to, by default 64.
        pad_to: pad images with black to this height and width, as 28 to 32 for MNIST.
        label: for dsprites: the factor that is the label, by default `'shape'`.
        scale: for densities on the plane: factor on all lengths, by default 1.

    Returns:
        The data set; densities on the plane are drawn once and for all, 100,000 points per split.

    Raises:
        ValueError: unknown name or split, an option that the data set does not have, or damaged
            files; one line.
        FileNotFoundError: data that are not there and cannot be downloaded; the line says which
            directory was looked in and what to put there.
    """
    if name not in _ENTRIES:
        nearest = difflib.get_close_matches(name, _ENTRIES, n=1, cutoff=0.0)
        raise ValueError(
            f"unknown data set {name!r}; nearest is {nearest[0]!r}, known are "
            + ", ".join(dataset_names())
        )
    entry = _ENTRIES[name]
    given = {"image_size": image_size, "label": label, "scale": scale}
    given = {option: value for option, value in given.items() if value is not None}
    for option in given:
        if option not in entry.options:
            has = ", ".join(entry.options) or "none"
            raise ValueError(f"{name} has no option {option!r}; of these options it has {has}")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size is {image_size}; it must be at least 1")
    parts = [entry.load(part, resolve_data_dir(data_dir), **given) for part in split.split("+")]
    dataset = parts[0]._replace(split=split)
    if len(parts) > 1:
        dataset = dataset._replace(
            images=np.concatenate([part.images for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
        )
    if pad_to is not None:
        if dataset.images.ndim != 4:
            raise ValueError(f"{name} has no images, so that pad_to does not apply")
        dataset = dataset._replace(images=pad_images(dataset.images, pad_to))
    return dataset
