"""Squares, ellipses and hearts in all sizes, turns and places: dSprites' factors, drawn here.

For those who have no dSprites at hand, and small enough for a CPU: at 32 x 32 a shape has 20 turns
and 16 x 16 places, at 64 x 64 it has dSprites' own 40 and 32 x 32. Pixels are black or white.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.sources import combinations as slices
from ebm_jax.data.sources import factors
from ebm_jax.data.sources.base import Source
from ebm_jax.data.storage.array_cache import BLOCK, Plan, cached_arrays
from ebm_jax.data.storage.paths import OWN_FOLDER


class Grid(NamedTuple):
    """How many values each factor has, and the height and width of the images in pixels.

    Neighboring places are a pixel apart; the shapes are as large as leaves them inside.
    """

    image_size: int
    shapes: int = 3
    scales: int = 6
    orientations: int = 40
    places: int = 32

    @property
    def num_values(self) -> tuple[int, int, int, int, int]:
        """Of each of `factors.FACTORS`."""
        return self.shapes, self.scales, self.orientations, self.places, self.places


GRIDS = {32: Grid(32, orientations=20, places=16), 64: Grid(64)}


def draw(grid: Grid, classes: np.ndarray) -> np.ndarray:
    """Images of shapes from the classes of their factors.

    A pixel is white where its center is inside the shape: |u|, |v| <= 1 for the square, the ellipse
    of half that width, u^2 / .25 + v^2 <= 1, and the heart (u^2 + w^2 - 1)^3 <= u^2 w^3; (u, v) in
    units of the scale, turned by the orientation, counterclockwise. x grows to the right, y down.

    Args:
        grid: of the factors.
        classes: int `[n, 5]`, in the order of `factors.FACTORS`.

    Returns:
        uint8 `[n, image_size, image_size]` of 0 and 1.
    """
    values = factors.factor_values(classes, grid.num_values)
    margin = (grid.image_size - (grid.places - 1)) / 2  # of the outermost centers
    largest = (margin - 0.5) / np.sqrt(2)  # half the side of a square of scale 1
    pixel = np.arange(grid.image_size) + 0.5
    images = np.empty((len(classes), grid.image_size, grid.image_size), np.uint8)
    for start in range(0, len(classes), BLOCK):
        part = values[start : start + BLOCK]
        shape, scale, angle, x, y = (column[:, None, None] for column in part.T)
        right = pixel[None, None, :] - margin - x * (grid.places - 1)
        down = pixel[None, :, None] - margin - y * (grid.places - 1)
        u = (np.cos(angle) * right - np.sin(angle) * down) / (scale * largest)
        v = (np.sin(angle) * right + np.cos(angle) * down) / (scale * largest)
        # The heart's own units; it stands upright at orientation 0. Cubes as products, as NumPy
        # takes ten times as long for a third power.
        w, square = 0.2 - 1.15 * v, 1.3225 * u**2
        disk = square + w**2 - 1
        inside = np.select(
            [shape == 1, shape == 2],
            [np.maximum(np.abs(u), np.abs(v)) <= 1, 4 * u**2 + v**2 <= 1],
            disk * disk * disk <= square * w * w * w,
        )
        images[start : start + BLOCK] = inside
    return images


def all_classes(grid: Grid) -> np.ndarray:
    """Every combination of the factors, int32 `[n, 5]`, the last factor changing fastest."""
    indices = np.indices(grid.num_values, np.int32)
    return indices.reshape(len(grid.num_values), -1).T


def write_archive(path: Path, grid: Grid, classes: np.ndarray | None = None) -> None:
    """Writes shapes as dSprites is published: `imgs`, `latents_classes`, `latents_values`.

    Args:
        path: of the .npz file.
        grid: of the factors.
        classes: int `[n, 5]`; None: every combination.
    """
    classes = all_classes(grid) if classes is None else classes
    white = np.zeros((len(classes), 1))
    np.savez_compressed(
        path,
        imgs=draw(grid, classes),
        latents_classes=np.hstack([white, classes]).astype(np.int64),
        latents_values=np.hstack([white + 1, factors.factor_values(classes, grid.num_values)]),
    )


def load_shapes(
    split: str,
    data_dir: Path,
    *,
    image_size: int | None = None,
    label: str = "shape",
    combinations: slices.Combinations | None = None,
) -> Dataset:
    """Every combination of the factors in a fixed random order, one factor as the label.

    Args:
        split: `'test'`, a tenth of the images by a hash of their number, or `'train'`; of
            `combinations` one of `combinations.SPLITS`.
        data_dir: directory of all data; the images are kept there.
        image_size: 32 (None) or 64 pixels.
        label: one of `factors.LABELS`.
        combinations: squares in one orientation alone, at those of their sizes and places.

    Returns:
        images uint8 `[n, image_size, image_size, 1]` of 0 and 255, labels as `factors.labels_of`
        gives them.

    Raises:
        ValueError: another split, factor or size.
    """
    factors.check("shapes", split, label, slices.SPLITS if combinations else factors.SPLITS)
    size = 32 if image_size is None else image_size
    if size not in GRIDS:
        raise ValueError(f"shapes: expected data.image_size 32 or 64, got {image_size}")
    grid = GRIDS[size]
    if combinations:
        classes = slices.classes_of(combinations, split, grid.num_values)
        images = draw(grid, classes)[..., None] * 255
        return factors.dataset("shapes", split, images, classes, label, grid.num_values)
    images, classes = cached_arrays(
        data_dir / OWN_FOLDER / "shapes" / f"{size}_1" / split, lambda: _plan(grid, split)
    )
    return factors.dataset("shapes", split, images, classes, label, grid.num_values)


def _plan(grid: Grid, split: str) -> Plan:
    classes = all_classes(grid)
    order = factors.split_indices(len(classes), split)

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(order), BLOCK):
            part = classes[order[start : start + BLOCK]]
            yield draw(grid, part)[..., None] * 255, part

    shape = (grid.image_size, grid.image_size, 1)
    return Plan(Path("ebm_jax.data.sources.shapes"), len(order), shape, blocks())


SOURCE = Source("shapes", load_shapes, options=("image_size", "label", "combinations"))
