"""One's own images as an array on file: .npy, or .npz with `images` and perhaps `labels`."""

import contextlib
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.sources.base import Source
from ebm_jax.data.sources.own_images import SPLITS, fingerprint, is_test, load_own
from ebm_jax.data.storage.array_cache import BLOCK, Plan
from ebm_jax.data.storage.paths import reading

_WHAT, _REMEDY = "a .npy or .npz of images [n, height, width(, 1 or 3)]", "write it again"


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype


def load_arrays(
    split: str, data_dir: Path, *, path: str | os.PathLike = "", values: tuple[float, ...] = ()
) -> Dataset:
    """The images of a file, which is read in blocks and never held whole.

    `.npy` holds images `[n, height, width]` or `[n, height, width, 1 or 3]`; `.npz` holds them as
    `images`, or alone, and integers `labels` `[n]` from 0, if there are classes.

    Args:
        split: `'train'`, or `'test'`: a tenth, by a hash of the image's number in the file.
        data_dir: directory of all data; the images are kept there as uint8.
        path: of the file.
        values: of floating-point images, which are rounded to 256 intensities: the lowest and the
            highest, such as `(0, 1)`; `()` for uint8.

    Returns:
        images uint8 `[n, height, width, 1 or 3]`, in the order of the file; labels int32 `[n]`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: for another type or shape, values out of their range, or a damaged file.
    """
    if not path:
        raise ValueError("data.path: expected a .npy or .npz of your images, got ''")
    if values and (len(values) != 2 or not values[0] < values[1]):
        raise ValueError(f"data.values: expected (lowest, highest), got {tuple(values)}")
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"data.path: there is no file {file}")
    file = file.resolve()
    with reading(file, _WHAT, _REMEDY):
        with _opened(file) as stream:
            header = _read_header(stream)
        _check(header)
        labels = _labels(file, header.shape[0])
    if (header.dtype.kind == "f") != bool(values):
        raise ValueError(
            f"data.values: expected (), as {file} is of uint8, got {tuple(values)}"
            if values
            else f"data.values: expected the lowest and highest of {file}, whose numbers are "
            f"{header.dtype}, such as (0.0,1.0), got ()"
        )
    chosen = np.array([is_test(str(i)) for i in range(header.shape[0])], bool)
    status, num_test = file.stat(), int(np.count_nonzero(chosen))
    return load_own(
        "arrays",
        split,
        data_dir,
        place=fingerprint(file, *map(float, values)),
        content=fingerprint(status.st_size, status.st_mtime_ns),
        num_in_split=(len(chosen) - num_test, num_test),
        num_classes=1 if labels is None else int(labels.max()) + 1,
        make_plan=lambda: Plan(
            file,
            len(chosen),
            (header.shape[1], header.shape[2], header.shape[3] if len(header.shape) == 4 else 1),
            _blocks(file, header, labels, chosen, values),
        ),
    )


def _blocks(
    file: Path,
    header: _Header,
    labels: np.ndarray | None,
    is_in_test: np.ndarray,
    values: tuple[float, ...],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Those to train on, then those to test: the file is gone through once for each."""
    shape, dtype = header
    size = math.prod(shape[1:]) * dtype.itemsize
    for part in range(len(SPLITS)):
        with reading(file, _WHAT, _REMEDY), _opened(file) as stream:
            _read_header(stream)
            for first in range(0, shape[0], BLOCK):
                number = min(BLOCK, shape[0] - first)
                content = stream.read(number * size)
                if len(content) < number * size:
                    raise ValueError("it is cut off")
                wanted = np.flatnonzero(is_in_test[first : first + number] == part)
                block = np.frombuffer(content, dtype).reshape(number, *shape[1:])[wanted]
                block = block[..., None] if block.ndim == 3 else block
                here = np.zeros(len(block), np.int32) if labels is None else labels[first + wanted]
                yield _intensities(block, values, first + wanted), here


def _intensities(block: np.ndarray, values: tuple[float, ...], number: np.ndarray) -> np.ndarray:
    """uint8 of uint8 or of floats from values[0] to values[1]."""
    if block.dtype == np.uint8:
        return block
    low, high = values
    is_inside = ((block >= low) & (block <= high)).all((1, 2, 3))
    if not is_inside.all():
        bad = np.argmin(is_inside)
        lowest, highest = block[bad].min(), block[bad].max()
        raise ValueError(
            f"image {number[bad]} has values from {lowest:g} to {highest:g}, and data.values is "
            f"({low:g}, {high:g})"
        )
    return np.round((block.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """The .npy of the images: the file itself, or its member."""
    if not zipfile.is_zipfile(file):
        with file.open("rb") as stream:
            yield stream
        return
    with zipfile.ZipFile(file) as archive:
        others = [name for name in archive.namelist() if name != "labels.npy"]
        if "images.npy" not in others and len(others) != 1:
            raise ValueError(f"it has no array 'images' but {', '.join(archive.namelist())}")
        with archive.open("images.npy" if "images.npy" in others else others[0]) as stream:
            yield stream  # pyright: ignore[reportReturnType]


def _read_header(stream: BinaryIO) -> _Header:
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"its format is version {version}")
    shape, is_fortran, dtype = read[version](stream)
    if is_fortran:
        raise ValueError("its axes are in Fortran's order; write np.ascontiguousarray of it")
    return _Header(shape, dtype)


def _check(header: _Header) -> None:
    shape, dtype = header
    if len(shape) not in (3, 4) or 0 in shape or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise ValueError(f"its shape is {' x '.join(map(str, shape))}")
    if dtype != np.uint8 and dtype.kind != "f":
        raise ValueError(f"its numbers are {dtype}, neither uint8 nor floating-point")


def _labels(file: Path, num_images: int) -> np.ndarray | None:
    """Labels int32 [n], or None where there are none."""
    if not zipfile.is_zipfile(file):
        return None
    with np.load(file, allow_pickle=False) as archive:
        if "labels" not in archive:
            return None
        labels = archive["labels"]
    if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"its labels are {labels.dtype} of shape {labels.shape}, not {num_images} integers"
        )
    if labels.min() < 0 or labels.max() >= 2**31:
        raise ValueError(f"its labels reach from {labels.min()} to {labels.max()}")
    return labels.astype(np.int32)


SOURCE = Source("arrays", load_arrays, options=("path", "values"))
