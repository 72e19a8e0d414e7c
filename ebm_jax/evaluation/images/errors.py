"""Reconstruction errors of images: RMSE and PSNR."""

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
