"""Densities on the plane that can be sampled and evaluated exactly.

With `|x|` the distance from the origin, `phi` the polar angle, N(x; m, v) the isotropic normal
density and I0 the modified Bessel function:

* `checkerboard`: uniform on the 8 dark squares, of side 4, of a 4 x 4 board on [-8, 8]^2. The
  density there is 1/128 and the entropy log 128 = 4.852 nats.
* `eight_gaussians`: `1/8 sum_k N(x; m_k, 0.25)`, m_k on a circle of radius 4.
* `rings`: a uniform point on one of four circles of radius r = 1, 2, 3, 4, each as likely as
  another, plus N(0, v) with v = 0.04. The angle can be integrated in closed form:
  `p(x) = 1/4 sum_r exp(-(|x|^2 + r^2) / 2v) I0(r |x| / v) / (2 pi v)`.
* `two_moons`: a uniform point on one of two half circles of radius 2, the upper half about
  (-1, -0.5) and the lower half about (1, 0.5), plus N(0, v) with v = 0.04:
  `p(x) = 1/2 sum_c 1/pi int_0^pi N(x; c(t), v) dt`. Within the bound the integrand is a bump no
  narrower than 0.05 in t, so that 128 Gauss-Legendre nodes give the integral to 1e-10.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import i0e, logsumexp

from ebm_jax.data.dataset import Dataset
from ebm_jax.data.sources.base import Source

NUM_EXAMPLES = 100_000  # of each split
_SEEDS = {"train": 0, "test": 1}


class ToyDensity(NamedTuple):
    """A density on the plane.

    Attributes:
        name: one of `TOY_DENSITIES`.
        sample: `(rng, n) -> float32 [n, 2]`, rng a `numpy.random.Generator`.
        log_density: `x [..., 2] -> [...]`, normalized, in nats, float64; -inf outside the support.
        bound: the mass outside the square `[-bound, bound]^2` is below 1e-8.
    """

    name: str
    sample: Callable[[np.random.Generator, int], np.ndarray]
    log_density: Callable[[np.ndarray], np.ndarray]
    bound: float


def _checkerboard_sample(rng, n):
    square = rng.integers(0, 8, n)
    row = square // 2
    column = 2 * (square % 2) + row % 2
    corner = 4.0 * np.stack([column, row], axis=-1) - 8.0
    # A hair inside the edges, so that rounding to float32 does not leave the square.
    return corner + 4.0 * rng.uniform(1e-6, 1.0 - 1e-6, (n, 2))


def _checkerboard_log_density(x):
    column, row = np.moveaxis(np.floor(x / 4.0), -1, 0)
    dark = (column + row) % 2 == 0
    inside = np.all((x >= -8.0) & (x < 8.0), axis=-1)
    return np.where(dark & inside, -np.log(128.0), -np.inf)


def _log_normal(x, mean, variance):
    squared = np.sum((x - mean) ** 2, axis=-1)
    return -squared / (2 * variance) - np.log(2 * np.pi * variance)


_ANGLES = np.arange(8) * (np.pi / 4)
_GAUSSIAN_MEANS = 4.0 * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=-1)
_GAUSSIAN_VARIANCE = 0.25


def _gaussians_sample(rng, n):
    noise = np.sqrt(_GAUSSIAN_VARIANCE) * rng.standard_normal((n, 2))
    return _GAUSSIAN_MEANS[rng.integers(0, 8, n)] + noise


def _gaussians_log_density(x):
    each = _log_normal(x[..., None, :], _GAUSSIAN_MEANS, _GAUSSIAN_VARIANCE)
    return logsumexp(each, axis=-1) - np.log(8.0)


_NOISE_VARIANCE = 0.04  # of rings and moons
_RADII = (1.0, 2.0, 3.0, 4.0)


def _rings_sample(rng, n):
    angle = rng.uniform(0.0, 2 * np.pi, n)
    on_circle = rng.choice(_RADII, n)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return on_circle + np.sqrt(_NOISE_VARIANCE) * rng.standard_normal((n, 2))


def _rings_log_density(x):
    distance = np.linalg.norm(x, axis=-1)[..., None]
    # i0e(z) = exp(-z) I0(z): with it, |x|^2 + r^2 becomes (|x| - r)^2 and nothing overflows.
    each = np.log(i0e(distance * _RADII / _NOISE_VARIANCE))
    each -= (distance - _RADII) ** 2 / (2 * _NOISE_VARIANCE)
    return logsumexp(each, axis=-1) - np.log(2 * np.pi * _NOISE_VARIANCE * len(_RADII))


def _moon(angle, moon):
    """Point at `angle` in (0, pi) of the upper (`moon` 0) or the lower (1) half circle."""
    sign = 1.0 - 2.0 * moon
    return np.stack(
        [sign * (2.0 * np.cos(angle) - 1.0), sign * (2.0 * np.sin(angle) - 0.5)], axis=-1
    )


def _moons_sample(rng, n):
    curve = _moon(rng.uniform(0.0, np.pi, n), rng.integers(0, 2, n))
    return curve + np.sqrt(_NOISE_VARIANCE) * rng.standard_normal((n, 2))


@functools.cache
def _moon_quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Points on both half circles `[256, 2]`, and their weights, which add up to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(128)  # on [-1, 1]; the weights add up to 2
    angles = np.pi * (nodes + 1.0) / 2.0
    points = np.concatenate([_moon(angles, 0), _moon(angles, 1)])
    return points, np.concatenate([weights, weights]) / 4.0


def _moons_log_density(x):
    points, weights = _moon_quadrature()
    # N(x; c, v) is exp(x.c / v - |c|^2 / 2v) times a factor without c: one product for all c.
    offset = np.log(weights) - np.sum(points**2, axis=-1) / (2 * _NOISE_VARIANCE)
    flat = x.reshape(-1, 2)
    each = [  # a few thousand at a time: each is compared with 256 points
        np.asarray(logsumexp(part @ points.T / _NOISE_VARIANCE + offset, axis=-1))
        for part in np.split(flat, range(4096, len(flat), 4096))
    ]
    factor = _log_normal(x, 0.0, _NOISE_VARIANCE)
    return np.concatenate(each).reshape(x.shape[:-1]) + factor


_UNSCALED = {
    "checkerboard": ToyDensity(
        "checkerboard", _checkerboard_sample, _checkerboard_log_density, 8.0
    ),
    "eight_gaussians": ToyDensity(
        "eight_gaussians", _gaussians_sample, _gaussians_log_density, 7.5
    ),
    "rings": ToyDensity("rings", _rings_sample, _rings_log_density, 5.5),
    "two_moons": ToyDensity("two_moons", _moons_sample, _moons_log_density, 4.5),
}
TOY_DENSITIES = tuple(_UNSCALED)


def toy_density(name: str, *, scale: float = 1.0) -> ToyDensity:
    """One of the densities above, of `scale * x` where x follows the density as defined there.

    Args:
        name: one of `TOY_DENSITIES`.
        scale: factor on all lengths, above 0: 0.25 puts the checkerboard onto [-2, 2]^2. The
            divergence of one density from another does not change with it.

    Raises:
        ValueError: unknown name, or a scale that is not positive.
    """
    if name not in _UNSCALED:
        raise ValueError(f"unknown toy density {name!r}; known are {', '.join(TOY_DENSITIES)}")
    if not scale > 0:
        raise ValueError(f"scale is {scale}; it must be above 0")
    base = _UNSCALED[name]

    def sample(rng, n):
        return (scale * base.sample(rng, n)).astype(np.float32)

    def log_density(x):
        return base.log_density(np.asarray(x, np.float64) / scale) - 2.0 * np.log(scale)

    return ToyDensity(name, sample, log_density, scale * base.bound)


def load_toy(name: str, split: str, data_dir: Path, *, scale: float = 1.0) -> Dataset:
    """100,000 points of one of the densities above, float32 `[n, 2]`, drawn once and for all.

    Args:
        name: one of `TOY_DENSITIES`.
        split: `'train'` or `'test'`, which are independent.
        data_dir: not used; the points are drawn.
        scale: factor on all lengths.

    Raises:
        ValueError: another split, or as `toy_density`.
    """
    del data_dir
    if split not in _SEEDS:
        raise ValueError(f"{name} has no split {split!r}; it has train and test")
    density = toy_density(name, scale=scale)
    points = density.sample(np.random.default_rng(_SEEDS[split]), NUM_EXAMPLES)
    labels = np.zeros(NUM_EXAMPLES, np.int32)
    return Dataset(name, split, points, labels, 1, (-density.bound, density.bound))


SOURCES = tuple(
    Source(name, functools.partial(load_toy, name), options=("scale",)) for name in TOY_DENSITIES
)
