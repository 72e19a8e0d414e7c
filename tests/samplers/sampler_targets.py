"""Targets with exact draws and known marginals, and comparisons at four standard errors."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import stats


class Target(NamedTuple):
    """An energy with exact draws and coordinates of known law.

    `coordinates` maps positions [n, d] to [n, k]; the k-th has the distribution function
    `cdfs[k]`, and mean and variance `means[k]`, `variances[k]`.
    """

    energy_fn: Callable
    draw: Callable  # (numpy generator, n) -> [n, d] float32
    coordinates: Callable
    cdfs: list
    means: np.ndarray
    variances: np.ndarray


def correlated_gaussian(dimensions: int, condition_number: float = 100.0) -> Target:
    """N(m, C): eigenvalues of C from 1 down to 1 / condition_number, along random axes."""
    rng = np.random.default_rng(7)
    axes, _ = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))
    scales = np.geomspace(1.0, 1 / condition_number, dimensions)
    mean = np.linspace(-1.0, 2.0, dimensions)
    precision = jnp.asarray((axes / scales) @ axes.T, jnp.float32)
    centre = jnp.asarray(mean, jnp.float32)
    cov = (axes * scales) @ axes.T
    # Both the coordinates and the principal axes: the latter span the condition number.
    directions = np.concatenate([np.eye(dimensions), axes.T])
    means, variances = directions @ mean, np.einsum("ki,ij,kj->k", directions, cov, directions)
    return Target(
        lambda x: 0.5 * jnp.sum((x - centre) * ((x - centre) @ precision), axis=1),
        lambda g, n: (mean + g.normal(size=(n, dimensions)) * np.sqrt(scales) @ axes.T).astype("f"),
        lambda x: x @ directions.T,
        [stats.norm(m, np.sqrt(v)).cdf for m, v in zip(means, variances, strict=True)],
        means,
        variances,
    )


def funnel(dimensions: int = 10) -> Target:
    """Neal's funnel: v ~ N(0, 9), the others N(0, exp(v)) given v; coordinate: v."""

    def energy_fn(x):
        v, others = x[:, 0], x[:, 1:]
        square = jnp.sum(others**2, axis=1)
        return v**2 / 18 + 0.5 * (dimensions - 1) * v + 0.5 * jnp.exp(-v) * square

    def draw(g, n):
        v = 3 * g.normal(size=(n, 1))
        others = g.normal(size=(n, dimensions - 1)) * np.exp(v / 2)
        return np.concatenate([v, others], axis=1).astype("f")

    # The scaled coordinates are standard normal, too.
    def coordinates(x):
        return np.concatenate([x[:, :1], x[:, 1:3] * np.exp(-x[:, :1] / 2)], axis=1)

    return Target(
        energy_fn,
        draw,
        coordinates,
        [stats.norm(0, 3).cdf, stats.norm.cdf, stats.norm.cdf],
        np.zeros(3),
        np.array([9.0, 1.0, 1.0]),
    )


def banana(bend: float = 0.5) -> Target:
    """(u, w + bend (u^2 - 4)) with u ~ N(0, 4), w ~ N(0, 1); coordinates: u, w and the bent one."""

    def energy_fn(x):
        w = x[:, 1] - bend * (x[:, 0] ** 2 - 4)
        return x[:, 0] ** 2 / 8 + w**2 / 2

    def draw(g, n):
        u, w = 2 * g.normal(size=n), g.normal(size=n)
        return np.stack([u, w + bend * (u**2 - 4)], axis=1).astype("f")

    def coordinates(x):
        return np.stack([x[:, 0], x[:, 1] - bend * (x[:, 0] ** 2 - 4)], axis=1)

    return Target(
        energy_fn,
        draw,
        coordinates,
        [stats.norm(0, 2).cdf, stats.norm.cdf],
        np.zeros(2),
        np.array([4.0, 1.0]),
    )


def mixture(weights, centres, scale: float = 1.0) -> Target:
    """Gaussians of one scale with unequal weights at `centres` [k, d]; coordinates: all d."""
    weights, centres = np.asarray(weights), np.asarray(centres, float)
    log_weights, places = jnp.log(jnp.asarray(weights)), jnp.asarray(centres, jnp.float32)

    def energy_fn(x):
        square = jnp.sum((x[:, None, :] - places) ** 2, axis=2)
        terms = log_weights - square / (2 * scale**2)
        top = jnp.max(terms, axis=1, keepdims=True)
        return -(top[:, 0] + jnp.log(jnp.sum(jnp.exp(terms - top), axis=1)))

    def draw(g, n):
        which = g.choice(len(weights), size=n, p=weights)
        return (centres[which] + scale * g.normal(size=(n, centres.shape[1]))).astype("f")

    def cdf(k):
        return lambda q: sum(
            w * stats.norm(c, scale).cdf(q) for w, c in zip(weights, centres[:, k], strict=True)
        )

    means = weights @ centres
    variances = scale**2 + weights @ centres**2 - means**2
    cdfs = [cdf(k) for k in range(centres.shape[1])]
    return Target(energy_fn, draw, lambda x: x, cdfs, means, variances)


def assert_law(target: Target, x, num_errors: float = 4.0) -> None:
    """Means, variances and nine quantiles of independent draws `x` [n, d] agree with the target.

    Standard errors are those of n independent draws: sample moments for mean and variance,
    binomial for the share below a true quantile (by the probability transform).
    """
    values = np.asarray(target.coordinates(np.asarray(x, np.float64)))
    n = len(values)
    assert np.isfinite(values).all()
    for k, cdf in enumerate(target.cdfs):
        v, mean, variance = values[:, k], target.means[k], target.variances[k]
        assert abs(v.mean() - mean) < num_errors * np.sqrt(variance / n), f"mean of {k}"
        fourth = np.mean((v - mean) ** 4)
        error = np.sqrt((fourth - variance**2) / n)
        assert abs(np.mean((v - mean) ** 2) - variance) < num_errors * error, f"variance of {k}"
        probabilities = cdf(v)
        for q in np.linspace(0.1, 0.9, 9):
            share = np.mean(probabilities < q)
            error = np.sqrt(q * (1 - q) / n)
            assert abs(share - q) < num_errors * error, f"quantile {q:.1f} of {k}: {share:.4f}"
