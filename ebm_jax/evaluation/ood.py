"""Out-of-distribution detection: sets of other images, and the area under the ROC curve."""

from typing import NamedTuple

import numpy as np

from ebm_jax.evaluation.images.corruption import corrupt

NAMES = (
    "uniform_noise", "constants", "interpolations", "salt_and_pepper", "flipped", "shuffled",
)  # fmt: skip
_SALT = 0.1  # of the pixels


class Auroc(NamedTuple):
    """value: the area; low, high: its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def auroc(inside: np.ndarray, outside: np.ndarray, *, num_bootstrap: int, seed: int) -> Auroc:
    """Area under the ROC curve of a score that is larger outside: P(outside > inside) + P(=) / 2.

    The interval is of the percentiles over resamples of both sets. Time grows as
    (n + m)(num_bootstrap + log(n + m)).

    Args:
      inside: [n], outside: [m] scores. num_bootstrap: resamples; at least 1.
    Raises:
      ValueError: for non-finite scores, an empty set, or no resample.
    """
    inside, outside = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    if not all(np.all(np.isfinite(scores)) for scores in (inside, outside)):
        raise ValueError("some scores are not finite: the model has diverged on these images")
    if num_bootstrap < 1 or not min(len(inside), len(outside)):
        raise ValueError(
            f"expected scores of both sets and num_bootstrap >= 1, got {len(inside)} and "
            f"{len(outside)} scores and {num_bootstrap}"
        )
    values, rank = np.unique(np.concatenate([inside, outside]), return_inverse=True)
    ranks = rank[: len(inside)], rank[len(inside) :]
    rng = np.random.default_rng(seed)
    areas = np.empty(num_bootstrap)
    for i in range(num_bootstrap):
        resampled = [r[rng.integers(0, len(r), len(r))] for r in ranks]
        areas[i] = _area(*resampled, num_ranks=len(values))
    low, high = np.percentile(areas, [2.5, 97.5])
    return Auroc(_area(*ranks, num_ranks=len(values)), float(low), float(high))


def _area(inside: np.ndarray, outside: np.ndarray, num_ranks: int) -> float:
    """P(outside > inside) + P(equal) / 2, of ranks int [n] and [m] below num_ranks.

    The Mann-Whitney statistic by counts of each rank: n + m operations where pairs are n m.
    """
    counts = np.bincount(inside, minlength=num_ranks)
    twice_below = 2 * np.cumsum(counts) - counts  # those that are equal count half
    return float(twice_below[outside].sum() / (2 * len(inside) * len(outside)))


def synthetic_set(name: str, images: np.ndarray, *, seed: int) -> np.ndarray:
    """Images of another kind, as many as are given, made from them or from nothing.

    Args:
      name: 'uniform_noise': each value uniform. 'constants': one uniform color per image.
        'interpolations': means of two of the images. 'salt_and_pepper': a tenth of the pixels
        black or white. 'flipped': upside down. 'shuffled': each image's pixels in an order of its
        own.
      images: [n, height, width, channels] in 0..1.
    Returns:
      float64 like images.
    Raises:
      ValueError: for another name.
    """
    if name not in NAMES:
        raise ValueError(
            f"unknown set {name!r}: expected some of {', '.join(NAMES)}; data sets go in ood.others"
        )
    images = np.asarray(images, np.float64)
    number, height, width, channels = images.shape
    rng = np.random.default_rng((seed, NAMES.index(name)))
    match name:
        case "uniform_noise":
            return rng.uniform(size=images.shape)
        case "constants":
            colors = rng.uniform(size=(number, 1, 1, channels))
            return np.broadcast_to(colors, images.shape).copy()
        case "interpolations":
            other = (np.arange(number) + rng.integers(1, max(number, 2), number)) % number
            return (images + images[other]) / 2
        case "salt_and_pepper":
            return corrupt("salt_and_pepper", images, _SALT, seed=seed)
        case "flipped":
            return images[:, ::-1].copy()
        case "shuffled":
            order = rng.permuted(np.tile(np.arange(height * width), (number, 1)), axis=1)
            flat = images.reshape(number, -1, channels)
            return np.take_along_axis(flat, order[..., None], 1).reshape(images.shape)


def resize_to(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resizes uint8 images of another data set to the shape of the model's; uint8.

    By means over areas; gray is repeated, colors become gray by their luminance.

    Args:
      images: [n, height, width, channels]. shape: (height, width, channels) wanted.
    """
    from PIL import Image

    height, width, channels = shape
    kind = "L" if channels == 1 else "RGB"
    found = [
        np.asarray(
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
            .convert(kind)
            .resize((width, height), Image.Resampling.BOX)
        )
        for image in images
    ]
    return np.stack(found).reshape(-1, height, width, channels)
