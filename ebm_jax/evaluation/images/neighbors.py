"""Nearest neighbors by Euclidean distance, in sets that are larger than memory."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_ROWS = 1_024  # examples whose neighbors are sought at once
_VALUES = 2**24  # of a block of the other set, on the device in float32: 64 MB
_EXTRA = 16  # candidates beyond those asked for


class Neighbors(NamedTuple):
    """indices: int64 [n, k], in the other set, nearest first. distances: float64 [n, k]."""

    indices: np.ndarray
    distances: np.ndarray


def nearest_neighbors(
    x: np.ndarray,
    others: np.ndarray,
    num_neighbors: int,
    *,
    scale: float = 1.0,
    offset: float = 0.0,
    mask: np.ndarray | None = None,
) -> Neighbors:
    """The num_neighbors examples of scale * others + offset that are nearest to each of x.

    Blocks of the other set go through the device once for every 1,024 examples of x; candidates
    are ranked there in float32, by |b|^2 - 2 a.b about the mean of x. Their distances are then
    taken in float64 from the differences, which keep small ones exact. Where rounding leaves in
    doubt that the candidates hold the nearest (equal images beyond their number, say), the example
    is ranked again in float64. Of equal distances the lower index comes first.

    Memory does not grow with the other set: a few hundred MB.

    Args:
      x: [n, ...]. others: [m, ...] of any real type, memory-mapped or not.
      num_neighbors: k, 1 .. m.
      scale, offset: from the values of others to those of x, as for uint8 images.
      mask: bool, broadcasting against an example: the values that the distance is of; None for all.
    Raises:
      ValueError: for different shapes, k out of range, non-finite x, or a mask of nothing.
    """
    if x.shape[1:] != others.shape[1:]:
        raise ValueError(
            f"expected examples of one shape, got {x.shape[1:]} and {others.shape[1:]}"
        )
    if not 1 <= num_neighbors <= len(others):
        raise ValueError(f"expected 1 <= num_neighbors <= {len(others)}, got {num_neighbors}")
    columns = None
    if mask is not None:
        columns = np.flatnonzero(np.broadcast_to(mask, x.shape[1:]))
        if not len(columns):
            raise ValueError("expected a mask that leaves some values, got one that leaves none")
    of_others = _Rows(others, columns, scale, offset)
    of_x = _Rows(x, columns, 1.0, 0.0)
    parts = [
        _of_rows(of_x.float64(slice(first, first + _ROWS)), of_others, num_neighbors)
        for first in range(0, len(x), _ROWS)
    ]
    if not parts:
        empty = np.zeros((0, num_neighbors))
        return Neighbors(empty.astype(np.int64), empty)
    return Neighbors(*(np.concatenate(part) for part in zip(*parts, strict=True)))


class _Rows(NamedTuple):
    """scale * values + offset, as rows of the chosen columns."""

    values: np.ndarray
    columns: np.ndarray | None
    scale: float
    offset: float

    def stored(self, which) -> np.ndarray:
        """Rows as they are stored."""
        rows = np.asarray(self.values[which])
        rows = rows.reshape(len(rows), math.prod(self.values.shape[1:]))
        return rows if self.columns is None else rows[:, self.columns]

    def float64(self, which) -> np.ndarray:
        """Rows in units."""
        return self.scale * self.stored(which).astype(np.float64) + self.offset


def _of_rows(x: np.ndarray, others: _Rows, number: int) -> Neighbors:
    """Neighbors of rows x [n, d], float64."""
    if not np.all(np.isfinite(x)):
        raise ValueError("expected finite examples, got NaN or infinity")
    m = len(others.values)
    num_kept = min(number + _EXTRA, m)
    index, worst, tolerance = _candidates_in_float32(x, others, num_kept)
    found = _ranked(x, others, index, number)
    if num_kept < m:
        doubtful = np.flatnonzero(~(found.distances[:, -1] ** 2 < worst - tolerance))
        if len(doubtful):
            index = _candidates_in_float64(x[doubtful], others, num_kept)
            again = _ranked(x[doubtful], others, index, number)
            found.indices[doubtful], found.distances[doubtful] = again
    return found


def _candidates_in_float32(
    x: np.ndarray, others: _Rows, num_kept: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices [n, num_kept], the largest of their squared distances [n], and its uncertainty [n].

    The errors of a sum of d rounded products grow as sqrt(d) eps (Higham & Mary 2019, theorem 2.4);
    the uncertainty is eight times that.
    """
    n, d = x.shape
    center = x.mean(0).astype(np.float32).astype(np.float64)
    near = (x - center).astype(np.float32)
    size = min(max(_VALUES // d, 256), 16_384, len(others.values))
    # uint8 and float32 go to the device as they are stored, four bytes or fewer per value.
    as_stored = others.values.dtype in (np.uint8, np.float32)
    scale, shift = (others.scale, others.offset - center) if as_stored else (1.0, 0 * center)
    best = jnp.full((n, num_kept), jnp.inf, jnp.float32), jnp.zeros((n, num_kept), jnp.int32)
    largest = jnp.zeros((), jnp.float32)
    for first in range(0, len(others.values), size):
        which = slice(first, first + size)
        block = others.stored(which)
        if not as_stored:
            block = (others.float64(which) - center).astype(np.float32)
        count = len(block)
        if count < size:  # one compilation for all blocks
            block = np.concatenate([block, np.zeros((size - count, d), block.dtype)])
        jax.block_until_ready(largest)  # one block under way: no queue of copies of others
        best, largest = _merge(
            best, largest, near, block, scale, shift.astype(np.float32), first, count
        )
    values, index = (np.asarray(part) for part in best)
    squares = (near.astype(np.float64) ** 2).sum(1)
    magnitude = np.sqrt(squares) + np.sqrt(float(largest)) + np.linalg.norm(shift)
    eps = np.finfo(np.float32).eps / 2
    return (
        index.astype(np.int64),
        values[:, -1].astype(np.float64) + squares,
        8 * np.sqrt(d) * eps * magnitude**2,
    )


@functools.partial(jax.jit, donate_argnums=0)
def _merge(best, largest, x, block, scale, shift, first, count):
    """The candidates with those of a block; the largest |b|^2 so far.

    best: values |b|^2 - 2 a.b and indices, both [n, k], in ascending order of the values. block:
    [b, d], of which `count` rows are examples; index `first` is the first's.
    """
    rows = block.astype(jnp.float32) * scale + shift
    squares = jnp.sum(rows * rows, 1)
    is_example = jnp.arange(len(rows)) < count
    products = jnp.matmul(x, rows.T, precision=jax.lax.Precision.HIGHEST)
    values = jnp.where(is_example, squares - 2 * products, jnp.inf)
    values = jnp.concatenate([best[0], values], 1)
    place = jnp.broadcast_to(first + jnp.arange(len(rows)), (len(x), len(rows)))
    indices = jnp.concatenate([best[1], place], 1)
    negative, chosen = jax.lax.top_k(-values, best[0].shape[1])
    largest = jnp.maximum(largest, jnp.max(jnp.where(is_example, squares, 0)))
    return (-negative, jnp.take_along_axis(indices, chosen, 1)), largest


def _candidates_in_float64(x: np.ndarray, others: _Rows, num_kept: int) -> np.ndarray:
    """Indices [n, num_kept], on the host."""
    n, d = x.shape
    center = x.mean(0)
    near = x - center
    size = max(_VALUES // (4 * max(n, d)), 64)
    values, index = np.zeros((n, 0)), np.zeros((n, 0), np.int64)
    for first in range(0, len(others.values), size):
        rows = others.float64(slice(first, first + size)) - center
        block = (rows**2).sum(1) - 2 * near @ rows.T
        place = np.broadcast_to(np.arange(first, first + len(rows)), block.shape)
        values, index = np.concatenate([values, block], 1), np.concatenate([index, place], 1)
        order = np.argsort(values, kind="stable")[:, :num_kept]
        values = np.take_along_axis(values, order, 1)
        index = np.take_along_axis(index, order, 1)
    return index


def _ranked(x: np.ndarray, others: _Rows, index: np.ndarray, number: int) -> Neighbors:
    """The nearest of candidates [n, k], by distances from the differences in float64."""
    distance = np.empty(index.shape)
    size = max(2**22 // (index.shape[1] * x.shape[1]), 1)
    for first in range(0, len(x), size):
        rows, chosen = x[first : first + size], index[first : first + size]
        candidates = others.float64(chosen.reshape(-1)).reshape(*chosen.shape, -1)
        distance[first : first + size] = np.linalg.norm(rows[:, None] - candidates, axis=2)
    order = np.lexsort((index, distance))[:, :number]
    return Neighbors(*(np.take_along_axis(part, order, 1) for part in (index, distance)))
