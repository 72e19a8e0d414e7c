"""Image sets decoded once to uint8, kept on disk, and mapped into memory.

Batches then come from one mechanism for small and large sets, an index into an array, and there is
no iterator whose state would have to be saved. An image takes `height * width * channels` bytes of
disk; what is in memory is what the system chooses to keep of the file:

    dSprites       737,280 x 64x64x1      3.0 GB     CelebA 64        162,770 x 64x64x3      2.0 GB
    ImageNet32   1,281,167 x 32x32x3      3.9 GB     LSUN church 64   126,227 x 64x64x3      1.6 GB
    LSUN church 128        126,227        6.2 GB     LSUN church 256          126,227       24.8 GB
    LSUN bedroom 64      3,033,042       37.3 GB     LSUN bedroom 128       3,033,042      149.1 GB

Random access to a map wants an SSD, or memory that holds the whole.
"""

import collections
import concurrent.futures
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ebm_jax.data.storage.paths import make_dir, publish, reading

BLOCK = 512  # examples decoded and written together
_MEMORY_LIMIT = 2**30  # bytes


class Plan(NamedTuple):
    """A split that is to be decoded.

    Attributes:
        source: the file or directory that the examples come from, for messages.
        num_examples: number of examples n.
        image_shape: `(height, width, channels)`.
        blocks: the examples in order: images uint8 `[m, height, width, channels]` with integer
            labels `[m]` or `[m, factors]`, m as it likes.
    """

    source: Path
    num_examples: int
    image_shape: tuple[int, int, int]
    blocks: Iterable[tuple[np.ndarray, np.ndarray]]


def cached_arrays(directory: Path, make_plan: Callable[[], Plan]) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one split, decoded on the first call and mapped on later ones.

    Of processes that call at once, one decodes and the others wait for it: see `publish`. Where
    `directory` cannot be made, sets of up to 1 GB are decoded into memory instead.

    Args:
        directory: where `images.npy` and `labels.npy` are kept.
        make_plan: called on the first call only; later ones do not need the archives.

    Returns:
        Images uint8 `[n, height, width, channels]`, read-only if mapped, and labels int32
        `[n, ...]`.

    Raises:
        OSError: if `directory` cannot be made and the set is larger than 1 GB.
        ValueError: if the blocks do not add up to n, or the files kept are damaged.
    """
    if not directory.is_dir():
        try:
            make_dir(directory.parent)
        except OSError:
            plan = make_plan()
            shape = (plan.num_examples, *plan.image_shape)
            if math.prod(shape) > _MEMORY_LIMIT:
                raise
            images = np.empty(shape, np.uint8)
            return images, _fill(images, plan)
        publish(directory, lambda scratch: _write(scratch, make_plan()))
    with reading(directory, "a cache of decoded images", "remove it, so that it is made again"):
        images = np.load(directory / "images.npy", mmap_mode="r")
        labels = np.load(directory / "labels.npy")
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images, {len(labels)} labels")
    return images, labels


def _write(directory: Path, plan: Plan) -> None:
    shape = (plan.num_examples, *plan.image_shape)
    images = np.lib.format.open_memmap(directory / "images.npy", "w+", np.uint8, shape)
    np.save(directory / "labels.npy", _fill(images, plan))
    images.flush()


def _fill(images: np.ndarray, plan: Plan) -> np.ndarray:
    """Write the plan's images into `images`; return its labels."""
    labels, count = [], 0
    for block_images, block_labels in plan.blocks:
        start, count = count, count + len(block_images)
        if count > plan.num_examples:
            break
        images[start:count] = block_images
        labels.append(np.asarray(block_labels, np.int32))
        _report(count, plan.num_examples)
    if count != plan.num_examples:
        more = "or more " if count > plan.num_examples else ""
        raise ValueError(
            f"{plan.source} holds {count} {more}images where {plan.num_examples} were announced; "
            "remove it and fetch or prepare it again"
        )
    return np.concatenate(labels)


def _report(count: int, total: int) -> None:
    """Progress on a terminal: large sets take minutes to hours."""
    if sys.stderr.isatty() and total >= 10 * BLOCK:
        end = "\n" if count == total else ""
        print(f"\rdecoding {count:,} of {total:,} images", end=end, file=sys.stderr, flush=True)


def decoded_blocks(
    sources: Iterable[Any], decode: Callable[[Any], np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of unlabelled images, `decode(source)` for each source, in order, on all cores.

    Pillow lets go of the interpreter lock while it decodes and resizes, so threads are enough.
    At most two blocks per core are under way, so that memory does not grow with the data set.
    """
    workers = os.cpu_count() or 1
    remaining = iter(sources)
    pending = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        while block := list(itertools.islice(remaining, BLOCK)):
            pending.append(pool.submit(lambda block=block: np.stack([decode(s) for s in block])))
            if len(pending) == 2 * workers:
                yield _unlabelled(pending.popleft().result())
        while pending:
            yield _unlabelled(pending.popleft().result())


def _unlabelled(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return images, np.zeros(len(images), np.int32)


def crop_and_resize(
    image: Image.Image, box: tuple[int, int, int, int], size: int, mode: str = "RGB"
) -> np.ndarray:
    """Crop to `box` (left, top, right, bottom) and resize to `size` x `size` with antialiasing.

    The filter is a triangle as wide as the reduction asks for, as in
    `jax.image.resize(..., method='linear', antialias=True)`. Returns uint8 `[size, size, 3]`;
    `[size, size]` in the mode 'L'.
    """
    cropped = image.convert(mode).crop(box)
    return np.asarray(cropped.resize((size, size), Image.Resampling.BILINEAR))
