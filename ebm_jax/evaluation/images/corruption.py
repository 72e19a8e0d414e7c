"""Synthetic image corruptions, and classical filters that undo them.

Everything is in units of the range: black 0, white 1, and pixels.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

NAMES = ("salt_and_pepper", "noise", "blur")


def corrupt(
    name: str,
    x: np.ndarray,
    strength: float,
    *,
    seed: int,
    salt_levels: tuple[float, float] = (0.0, 1.0),
) -> np.ndarray:
    """Corrupted copies of images; image i's noise is a function of (seed, i).

    Args:
      name: 'salt_and_pepper': a pixel, all its channels together, becomes one of the salt_levels,
        black and white, with probability strength / 2 each. 'noise': Gaussian noise of that
        standard deviation, not clipped. 'blur': convolution with a Gaussian of that many pixels,
        mirrored at the edges.
      x: [n, height, width, channels] in 0..1.
    Returns:
      float64 like x.
    Raises:
      ValueError: for another name, or a strength that is out of range.
    """
    if name not in NAMES:
        raise ValueError(f"unknown corruption {name!r}: expected some of {', '.join(NAMES)}")
    is_share = name == "salt_and_pepper"
    if not (0 <= strength <= 1 if is_share else 0 <= strength < np.inf):
        bound = "0 <= strength <= 1" if is_share else "a finite strength >= 0"
        raise ValueError(f"expected {bound} of {name}, got {strength}")
    x = np.asarray(x, np.float64)
    if name == "blur":
        return ndimage.gaussian_filter(x, strength, axes=(1, 2))
    corrupted = np.empty_like(x)
    for i, image in enumerate(x):
        rng = np.random.default_rng((seed, NAMES.index(name), i))
        if name == "noise":
            corrupted[i] = image + strength * rng.normal(size=image.shape)
        else:
            u = rng.uniform(size=(*image.shape[:2], 1))
            low, high = salt_levels
            corrupted[i] = np.where(u < strength / 2, low, np.where(u < strength, high, image))
    return corrupted


def _median(x: np.ndarray) -> np.ndarray:
    return ndimage.median_filter(x, size=(1, 3, 3, 1))


def _gaussian(x: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(x, 0.6, axes=(1, 2))


def _unsharp(x: np.ndarray) -> np.ndarray:
    return 2 * x - _gaussian(x)


# What any image program offers: [n, height, width, channels] -> the same.
BASELINES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "median of 3 x 3 pixels": _median,
    "Gaussian filter of 0.6 pixels": _gaussian,
    "unsharp mask": _unsharp,
}


def strengths(*, salt_fraction: float, noise_std: float, blur_std: float) -> dict[str, float]:
    """The strength of every corruption by name, as `corrupt` takes it."""
    return dict(zip(NAMES, (salt_fraction, noise_std, blur_std), strict=True))
