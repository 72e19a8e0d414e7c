"""Prepare TFDS builders once, and read what is prepared, without TensorFlow.

Our own builders are prepared under `<data_dir>/ebm_jax/<name>/<version>`, not beside the data sets
that TFDS prepares itself: they carry the same names, but keep images as raw bytes where TFDS keeps
PNG files, and `tfds.load` would take one for the other.
"""

import contextlib
import io
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.data.storage.archives import Archive, Arrays, fetch
from ebm_jax.data.storage.array_cache import BLOCK, Plan
from ebm_jax.data.storage.paths import OWN_FOLDER, publish, reading
from ebm_jax.data.storage.tfrecord import read_records


class LabeledImages(NamedTuple):
    """A set of labeled images that is read whole, before it is prepared.

    Attributes:
        name: of the data set.
        read: `(fetch) -> {split: (images, labels)}`, `fetch(archive)` being an archive's path.
        version: of what is prepared, three numbers.
        image_shape: `(height, width, channels)`.
        num_classes: number of classes.
        description: one line.
        homepage: address of the data set's page.
        is_ordered: keep the order of `read`, and prepare without a word, as what takes a second.
    """

    name: str
    read: Callable[[Callable[[Archive], Path]], Mapping[str, Arrays]]
    version: str
    image_shape: tuple[int, int, int]
    num_classes: int
    description: str
    homepage: str
    is_ordered: bool = False


def prepare_once(images: LabeledImages, data_dir: Path) -> Path:
    """Prepare a set as array_record unless that was done before; return its directory.

    Args:
        images: the set.
        data_dir: directory of all data; downloads are kept in `<data_dir>/downloads`.
    """
    target = data_dir / OWN_FOLDER / images.name / images.version
    if not target.is_dir():
        publish(target, lambda scratch: _prepare(images, data_dir, scratch))
    return target


def _prepare(images: LabeledImages, data_dir: Path, directory: Path) -> None:
    with contextlib.ExitStack() as stack:
        builder = _builder_class(images)(data_dir=str(directory), file_format="array_record")
        # TFDS announces every preparation on stdout, as a download of "Unknown size".
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if images.is_ordered:
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        builder.download_and_prepare(download_dir=str(data_dir / "downloads"))
    for file in (directory / images.name / images.version).iterdir():
        file.rename(directory / file.name)
    shutil.rmtree(directory / images.name)


def _builder_class(images: LabeledImages) -> type:
    """A TFDS builder that needs no TensorFlow.

    Images are raw bytes (`Tensor` with `encoding='bytes'`), since encoding a PNG needs TensorFlow.
    Keys count from 0 in each split, as in TFDS's own builders: TFDS orders examples by a hash of
    split and key, so that the order here is the one of TFDS.
    """
    import tensorflow_datasets as tfds

    # TFDS finds builders by the name of their class; this would hide its own of the same name.
    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = images.name
        VERSION = tfds.core.Version(images.version)

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description=images.description,
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Tensor(
                            shape=images.image_shape, dtype=np.uint8, encoding="bytes"
                        ),
                        "label": tfds.features.ClassLabel(num_classes=images.num_classes),
                    }
                ),
                supervised_keys=("image", "label"),
                homepage=images.homepage,
                disable_shuffling=images.is_ordered,
            )

        def _split_generators(self, dl_manager):
            arrays = images.read(lambda archive: fetch(dl_manager, images.name, archive))
            return {split: self._generate_examples(*pair) for split, pair in arrays.items()}

        def _generate_examples(self, pixels, labels):
            for index, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
                yield index, {"image": image, "label": label}

    return Builder


def find_prepared(data_dir: Path, tfds_name: str) -> Path | None:
    """The newest version of a data set that TFDS itself has prepared in `data_dir`, if any."""
    found = [
        path.parent
        for path in (data_dir / tfds_name).glob("*/dataset_info.json")
        if all(part.isdecimal() for part in path.parent.name.split("."))
    ]
    return max(found, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def prepared_plan(directory: Path, name: str, split: str) -> Plan:
    """Plan to decode one split of a prepared TFDS directory, in stored order.

    Args:
        directory: holds `dataset_info.json`, `features.json` and array_record or tfrecord files of
            examples with an `image` (`Image` or uint8 `Tensor`) and a `label` (`ClassLabel`).
        name: name of the data set in messages.
        split: name of a split.

    Raises:
        ValueError: no such split, another file format, or damaged files.
    """
    import tensorflow_datasets as tfds

    with _reading(directory):
        builder: Any = tfds.builder_from_directory(directory)  # its types know no feature's shape
        splits, file_format = builder.info.splits, builder.info.file_format.value
    if split not in splits:
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(sorted(splits))}")
    if file_format not in ("array_record", "tfrecord"):
        raise ValueError(
            f"{directory} is in format {file_format}; array_record or tfrecord is read"
        )
    with _reading(directory):
        shape = builder.info.features["image"].shape
    return Plan(directory, splits[split].num_examples, shape, _blocks(builder, directory, split))


def _reading(directory: Path):
    return reading(directory, "a prepared data set", "remove it, so that it is prepared again")


def _blocks(builder, directory: Path, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels of the examples, a few hundred at a time."""
    with _reading(directory):
        remaining = _examples(builder, split)
        while block := list(itertools.islice(remaining, BLOCK)):
            labels = np.array([e["label"] for e in block])
            yield np.stack([e["image"] for e in block]), labels


def _examples(builder, split: str) -> Iterator[dict]:
    """Decoded examples of a prepared split, in stored order."""
    if builder.info.file_format.value == "array_record":
        source = builder.as_data_source(split)
        for start in range(0, len(source), BLOCK):
            yield from source.__getitems__(range(start, min(start + BLOCK, len(source))))
    else:
        for path in builder.info.splits[split].filepaths:
            for record in read_records(path):
                yield builder.info.features.deserialize_example_np(record)
