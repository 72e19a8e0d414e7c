"""Data sets by name. A new one is a file in `sources` and its line in `_SOURCES`."""

import difflib
import os

import numpy as np

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.preprocess import pad_images
from ebm_jax.data.sources import (
    arrays,
    celeba,
    cifar10,
    digits,
    dsprites,
    fashion_mnist,
    folder,
    imagenet32,
    lsun,
    mnist,
    mnist5k,
    shapes,
    svhn,
    toy2d,
    trajectories,
)
from ebm_jax.data.sources.base import Source
from ebm_jax.data.sources.combinations import Combinations
from ebm_jax.data.storage.paths import resolve_data_dir

_SOURCES = (
    digits.SOURCE,
    mnist.SOURCE,
    mnist5k.SOURCE,
    fashion_mnist.SOURCE,
    cifar10.SOURCE,
    svhn.SOURCE,
    celeba.SOURCE,
    lsun.CHURCH,
    lsun.BEDROOM,
    imagenet32.SOURCE,
    dsprites.SOURCE,
    shapes.SOURCE,
    folder.SOURCE,
    arrays.SOURCE,
    *toy2d.SOURCES,
    *trajectories.SOURCES,
)
_BY_NAME = {source.name: source for source in _SOURCES}


def dataset_names() -> tuple[str, ...]:
    """The names that `load_dataset` knows."""
    return tuple(_BY_NAME)


def held_out_split(name: str) -> str:
    """The split of a data set that is not trained on: `'test'`, or `'validation'` without one.

    Raises:
        ValueError: unknown name; one line with the nearest.
    """
    return _source(name).held_out_split


def load_dataset(
    name: str,
    split: str = "train",
    *,
    data_dir: str | os.PathLike | None = None,
    image_size: int | None = None,
    pad_to: int | None = None,
    label: str | None = None,
    scale: float | None = None,
    path: str | os.PathLike | None = None,
    values: tuple[float, ...] | None = None,
    combinations: Combinations | None = None,
    context: int | None = None,
    actions: bool | None = None,
) -> Dataset:
    """Load one split of a data set, preparing it first if need be.

    Args:
        name: one of `dataset_names()`.
        split: `'train'`, `'test'` or `'validation'`, as the data set has them, or several joined by
            `+`, as in `'train+test'`.
        data_dir: directory of all data; by default `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
            Archives fetched by hand belong in `<data_dir>/downloads/manual/<name>`.
        image_size: height and width to resize to; for celeba and lsun_* by default 64, for folder
            by default that of the images; shapes are drawn at 32 (the default) or 64.
        pad_to: pad images with black to this height and width, as 28 to 32 for MNIST.
        label: for dsprites and shapes: the factor that is the label, by default `'shape'`, see
            `sources.factors`; for folder: `'none'` leaves out that the folders in it are the
            classes.
        scale: for densities on the plane: factor on all lengths, by default 1.
        path: of one's own images: for folder a directory, for arrays a .npy or .npz; for
            trajectories a .npy or .npz of them.
        values: for arrays of floating-point numbers: the lowest and the highest.
        combinations: for dsprites and shapes: squares in one orientation alone, at some of their
            sizes and places, see `sources.combinations`.
        context: for trajectories: frames before a state that are its label, by default 1.
        actions: for trajectories of a file: whether the action that led to a state is in its label
            too, by default not.

    Returns:
        The data set; densities on the plane are drawn once and for all, 100,000 points per split.

    Raises:
        ValueError: unknown name or split, an option that the data set does not have, or damaged
            files; one line.
        FileNotFoundError: data that are not there and cannot be downloaded; the line says which
            directory was looked in and what to put there.
    """
    source = _source(name)
    given = {"image_size": image_size, "label": label, "scale": scale, "values": values}
    given |= {"combinations": combinations}
    given |= {"context": context, "actions": actions, "path": path}
    given = {option: value for option, value in given.items() if value is not None}
    for option in given:
        if option not in source.options:
            has = ", ".join(source.options) or "none"
            raise ValueError(f"{name} has no option {option!r}; of these options it has {has}")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size is {image_size}; it must be at least 1")
    parts = [source.load(part, resolve_data_dir(data_dir), **given) for part in split.split("+")]
    dataset = parts[0]._replace(split=split)
    if len(parts) > 1:
        dataset = dataset._replace(
            images=np.concatenate([part.images for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
        )
        if dataset.trajectories is not None:
            cut = [part.trajectories for part in parts if part.trajectories is not None]
            whole = dataset.trajectories._replace(
                states=np.concatenate([part.states for part in cut]),
                actions=np.concatenate([part.actions for part in cut]),
            )
            dataset = dataset._replace(trajectories=whole)
    if pad_to is not None:
        if dataset.images.ndim != 4:
            raise ValueError(f"{name} has no images, so that pad_to does not apply")
        dataset = dataset._replace(images=pad_images(dataset.images, pad_to))
    return dataset


def _source(name: str) -> Source:
    if name not in _BY_NAME:
        nearest = difflib.get_close_matches(name, _BY_NAME, cutoff=0.0)
        raise ValueError(
            f"unknown data set {name!r}; nearest is {nearest[0]!r}, known are "
            + ", ".join(dataset_names())
        )
    return _BY_NAME[name]
