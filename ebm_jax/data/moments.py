"""Mean and covariance of a data set in model units."""

import math
from typing import NamedTuple

import numpy as np

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.preprocess import scale_stored

_BLOCK = 10_000  # examples in float64 at once


class Moments(NamedTuple):
    """mean [d] and covariance [d, d] of flattened examples, float64, in model units."""

    mean: np.ndarray
    covariance: np.ndarray


def moments(dataset: Dataset, low: float, high: float, *, dequantized: bool = False) -> Moments:
    """Moments of all examples as `scale_images` or `scale_points` give them, not mirrored.

    Args:
        low, high: of the model units. dequantized: as in `scale_images`.
    """
    num_values = math.prod(dataset.example_shape)
    total, squares = np.zeros(num_values), np.zeros((num_values, num_values))
    for first in range(0, dataset.num_examples, _BLOCK):
        x = dataset.images[first : first + _BLOCK]
        x = scale_stored(x, dataset.value_range, low, high, dequantized=dequantized)
        flat = x.reshape(len(x), num_values)
        total += flat.sum(0)
        squares += flat.T @ flat
    mean = total / dataset.num_examples
    return Moments(mean, squares / dataset.num_examples - np.outer(mean, mean))
