"""Paths between two samples of a model.

A sample is a function of its noise: that of the start and that of every step. On a path all of it
is turned from the noise of one sample, n_0, to that of another, n_1,

    n(f) = cos(pi f / 2) n_0 + sin(pi f / 2) n_1,      0 <= f <= 1.

Independent normal vectors are orthogonal but for their finite length, so this is the spherical path
of the paper (Gao et al. 2020, section 4), and n(f) is standard normal at every f: each image on the
path is distributed as a sample.
"""

import math

import numpy as np

from ebm_jax.samplers.random import Blend


def sample_paths(num_pairs: int, num_points: int) -> Blend[np.ndarray]:
    """Chains on the paths from sample 2 i to sample 2 i + 1, path by path.

    Args:
      num_pairs: paths. num_points: images on each, both ends included.
    Returns:
      Blend of NumPy arrays [num_pairs * num_points].
    Raises:
      ValueError: for no pair, or fewer than two points.
    """
    if num_pairs < 1 or num_points < 2:
        raise ValueError(
            f"{num_pairs} pairs of {num_points} points make no path: "
            "write num_pairs of at least 1 and num_points of at least 2"
        )
    pair = np.repeat(np.arange(num_pairs, dtype=np.int32), num_points)
    angle = np.tile(np.linspace(0, 1, num_points), num_pairs) * np.pi / 2
    # Both as sines, which are exactly 0 and 1 at the ends.
    weights = np.sin(np.pi / 2 - angle), np.sin(angle)
    return Blend(2 * pair, 2 * pair + 1, *(weight.astype(np.float32) for weight in weights))


def largest_steps(images: np.ndarray, num_points: int) -> np.ndarray:
    """How far a path jumps: the largest distance of neighbours over that of the ends, [num_pairs].

    A straight line of equal steps has 1 / (num_points - 1); 1 and more is a jump.

    Args:
      images: [num_pairs * num_points, ...], path by path.
    """
    paths = np.asarray(images, np.float64).reshape(-1, num_points, math.prod(images.shape[1:]))
    steps = np.linalg.norm(np.diff(paths, axis=1), axis=2)
    return steps.max(1) / np.linalg.norm(paths[:, -1] - paths[:, 0], axis=1)
