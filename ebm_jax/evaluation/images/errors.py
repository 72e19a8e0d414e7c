"""How far images are from the true ones, method beside method."""

from typing import NamedTuple

import numpy as np


class ImageError(NamedTuple):
    """rmse: root of the mean over images of the mean squared error, in units of the range.

    standard_error: of that root over images (delta method). psnr: of the same mean, in dB.
    """

    rmse: float
    standard_error: float
    psnr: float


def image_error(
    images: np.ndarray,
    true: np.ndarray,
    *,
    value_range: float,
    counted: np.ndarray | None = None,
) -> ImageError:
    """The error of images [n, ...] against true ones of the same shape.

    Args:
      value_range: white less black; errors are in units of it.
      counted: bool, broadcasting against an image: the pixels that count; None for all.
    """
    squared = ((np.asarray(images, np.float64) - np.asarray(true, np.float64)) / value_range) ** 2
    where = np.broadcast_to(True if counted is None else counted, squared.shape)
    per_image = squared.reshape(len(squared), -1).mean(1, where=where.reshape(len(squared), -1))
    mean = per_image.mean()
    rmse = np.sqrt(mean)
    spread = per_image.std(ddof=1) / np.sqrt(len(per_image)) if len(per_image) > 1 else np.nan
    return ImageError(
        rmse=float(rmse),
        standard_error=float(spread / (2 * rmse)) if rmse > 0 else 0.0,
        psnr=float(-10 * np.log10(mean)) if mean > 0 else np.inf,
    )


def error_lines(errors: dict[str, ImageError], title: str) -> list[str]:
    """Errors as a table, one method per line."""
    return [
        f"{title:<34}{'RMSE':>16}{'PSNR':>10}",
        *(
            f"  {name:<32}{error.rmse:8.4f} ± {error.standard_error:.4f}{error.psnr:7.2f} dB"
            for name, error in errors.items()
        ),
    ]


def nearest_by(
    known: np.ndarray, training: np.ndarray, which: np.ndarray | None = None
) -> np.ndarray:
    """For each image the index of the nearest training image by Euclidean distance, int [n].

    Args:
      known: [n, ...]. training: [m, ...]. which: bool, broadcasting against an image: the pixels
        that the distance is of; None for all.
    """

    def rows(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.float64)
        where = True if which is None else np.broadcast_to(which, x.shape[1:])
        return np.where(where, x, 0).reshape(len(x), -1)

    return nearest(rows(known), rows(training), 1)[0][:, 0]


def nearest(
    x: np.ndarray, others: np.ndarray, number: int, *, block: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """(index, distance) of the nearest rows of others [m, d] for each row of x [n, d], both
    [n, number], nearest first; exact, in blocks of rows."""
    x, others = np.asarray(x, np.float64), np.asarray(others, np.float64)
    squares = (others**2).sum(1)
    found = []
    for first in range(0, len(x), block):
        rows = x[first : first + block]
        squared = (rows**2).sum(1)[:, None] - 2 * rows @ others.T + squares
        index = np.argsort(squared, axis=1, kind="stable")[:, :number]
        # Again from the differences: the expression above loses small distances to rounding.
        distance = np.linalg.norm(rows[:, None] - others[index], axis=2)
        order = np.argsort(distance, axis=1, kind="stable")
        found.append((np.take_along_axis(index, order, 1), np.take_along_axis(distance, order, 1)))
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))
