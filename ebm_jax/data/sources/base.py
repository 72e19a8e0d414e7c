"""Contract of a data set's file: a `Source`, listed in `ebm_jax.data.registry`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.storage.archives import Archive, Arrays
from ebm_jax.data.storage.array_cache import cached_arrays
from ebm_jax.data.storage.paths import OWN_FOLDER
from ebm_jax.data.storage.prepare import LabeledImages, find_prepared, prepare_once, prepared_plan


class Source(NamedTuple):
    """A data set by name.

    Attributes:
        name: as `load_dataset` takes it.
        load: `(split, data_dir, **options) -> Dataset`.
        held_out_split: the split that no model is trained on.
        options: names of the options that `load` takes.
    """

    name: str
    load: Callable[..., Dataset]
    held_out_split: str = "test"
    options: tuple[str, ...] = ()


def prepared_source(
    name: str,
    read: Callable[[Callable[[Archive], Path]], Mapping[str, Arrays]],
    *,
    version: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    description: str,
    homepage: str,
    tfds_name: str | None = None,
    is_ordered: bool = False,
) -> Source:
    """A labeled set of small images that is read whole and prepared as a TFDS directory.

    Args:
        name: of the data set and of its folder of archives fetched by hand.
        read: `(fetch) -> {split: (images, labels)}`, `fetch(archive)` being an archive's path.
        version: of the prepared directory; another one makes it anew.
        image_shape: `(height, width, channels)`.
        num_classes: number of classes.
        description: one line.
        homepage: address of the data set's page.
        tfds_name: where TFDS itself has prepared the set under this name, that is read instead.
        is_ordered: keep the order of `read`; else TFDS's order, by a hash of split and index.
    """
    images = LabeledImages(
        name, read, version, image_shape, num_classes, description, homepage, is_ordered
    )

    def load(split: str, data_dir: Path) -> Dataset:
        directory = find_prepared(data_dir, tfds_name) if tfds_name else None
        if directory is None:
            directory = prepare_once(images, data_dir)
        arrays = cached_arrays(
            data_dir / OWN_FOLDER / name / "arrays" / directory.name / split,
            lambda: prepared_plan(directory, name, split),
        )
        return Dataset(name, split, *arrays, num_classes, (0.0, 255.0))

    return Source(name, load)
