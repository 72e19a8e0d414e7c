"""Telling images of the data from others: sets of others, and the area under the ROC curve."""

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
    """P(outside > inside) + P(equal) / 2: how well a score that is larger outside tells them apart.

    The interval is of the percentiles over resamples of both sets.

    Args:
      inside: [n], outside: [m] scores. num_bootstrap: resamples; at least 1.
    Raises:
      ValueError: for non-finite scores.
    """
    from sklearn.metrics import roc_auc_score

    sets = inside, outside = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    if not all(np.all(np.isfinite(scores)) for scores in sets):
        raise ValueError("some scores are not finite: the model has diverged on these images")
    is_outside = np.repeat([0, 1], [len(inside), len(outside)])
    value = roc_auc_score(is_outside, np.concatenate(sets))
    larger = (outside > inside[:, None]) + 0.5 * (outside == inside[:, None])
    rng = np.random.default_rng(seed)
    shares = [
        rng.multinomial(len(scores), np.full(len(scores), 1 / len(scores)), num_bootstrap)
        / len(scores)
        for scores in sets
    ]
    areas = np.einsum("bi,bi->b", shares[0] @ larger, shares[1])
    return Auroc(float(value), *(float(v) for v in np.percentile(areas, [2.5, 97.5])))


def made_set(name: str, images: np.ndarray, *, seed: int) -> np.ndarray:
    """As many images as are given, of another kind made from them or from nothing.

    Args:
      name: 'uniform_noise': each value uniform. 'constants': one uniform colour per image.
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
            f"unknown set {name!r}: write some of {', '.join(NAMES)}; data sets go in ood.others"
        )
    images = np.asarray(images, np.float64)
    number, height, width, channels = images.shape
    rng = np.random.default_rng((seed, NAMES.index(name)))
    match name:
        case "uniform_noise":
            return rng.uniform(size=images.shape)
        case "constants":
            colours = rng.uniform(size=(number, 1, 1, channels))
            return np.broadcast_to(colours, images.shape).copy()
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


def fitted(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 images of another data set in the shape of the model's, in 0..1.

    Resized by means over areas; grey repeated, or colours to grey by their luminance.
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
    return np.stack(found).reshape(-1, height, width, channels) / 255.0
