"""Prepare TFDS builders once, and read what is prepared, without TensorFlow.

Our own builders are prepared under `<data_dir>/ebm_jax/<name>/<version>`, not beside the data sets
that TFDS prepares itself: they carry the same names, but keep images as raw bytes where TFDS keeps
PNG files, and `tfds.load` would take one for the other.
"""

import contextlib
import io
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ebm_jax.data.storage.array_cache import BLOCK, Plan
from ebm_jax.data.storage.paths import OWN_FOLDER, published, reading
from ebm_jax.data.storage.tfrecord import read_records


def prepare_once(builder_class, data_dir: Path) -> Path:
    """Prepare `builder_class` as array_record unless that was done before; return its directory.

    Args:
        builder_class: one of `ebm_jax.data.builders`.
        data_dir: directory of all data; downloads are kept in `<data_dir>/downloads`.
    """
    name, version = builder_class.name, str(builder_class.VERSION)
    target = data_dir / OWN_FOLDER / name / version
    if target.is_dir():
        return target
    with published(target) as scratch, contextlib.ExitStack() as stack:
        builder = builder_class(data_dir=str(scratch), file_format="array_record")
        # TFDS announces every preparation on stdout, as a download of "Unknown size".
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if not builder_class.SHOW_PROGRESS:
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        builder.download_and_prepare(download_dir=str(data_dir / "downloads"))
        for file in (scratch / name / version).iterdir():
            file.rename(scratch / file.name)
        shutil.rmtree(scratch / name)
    return target


def find_prepared(data_dir: Path, tfds_name: str) -> Path | None:
    """The newest version of a data set that TFDS itself has prepared in `data_dir`, if any."""
    found = [
        path.parent
        for path in (data_dir / tfds_name).glob("*/dataset_info.json")
        if all(part.isdecimal() for part in path.parent.name.split("."))
    ]
    return max(found, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def prepared_plan(directory: Path, name: str, split: str) -> Plan:
    """How to decode one split of a prepared TFDS directory, in stored order.

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
        builder = tfds.builder_from_directory(directory)
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


def _blocks(builder, directory: Path, split: str) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Images and labels of the examples, a few hundred at a time."""
    with _reading(directory):
        remaining = _examples(builder, split)
        while block := list(itertools.islice(remaining, BLOCK)):
            yield np.stack([e["image"] for e in block]), [int(e["label"]) for e in block]


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
