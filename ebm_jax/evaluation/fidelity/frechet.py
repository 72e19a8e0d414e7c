"""Frechet distance of two Gaussians fitted to pixels or features.

    distance = frechet_distance(fit_gaussian(samples), fit_gaussian(real))

The measure behind FID (Heusel et al. 2017, arXiv 1706.08500, eq. 6): the squared 2-Wasserstein
distance of N(m_1, C_1) and N(m_2, C_2) (Dowson & Landau 1982),

    d = |m_1 - m_2|^2 + tr C_1 + tr C_2 - 2 tr (C_1^{1/2} C_2 C_1^{1/2})^{1/2}.

It sees means and covariances alone, in the squared unit of its input, and is biased upwards by a
finite number of examples: compare distances of equal numbers, and with a floor of real examples.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy.linalg

_BLOCK = 4096  # examples converted to float64 at once


class GaussianFit(NamedTuple):
    """mean [d]; covariance [d, d] (divisor n - 1); both float64. num_examples: n."""

    mean: np.ndarray
    covariance: np.ndarray
    num_examples: int


class RunningGaussian(NamedTuple):
    """Mean and scatter of the examples seen so far: a Gaussian fit to more than memory holds.

        moments = RunningGaussian.empty(d)
        for batch in batches:
            moments = moments.update(batch)
        fit = moments.fit()

    Batches are joined as Chan, Golub & LeVeque do it (1983, eq. 2.1), in float64:

        m = m_a + (n_b / n) (m_b - m_a),    S = S_a + S_b + (n_a n_b / n) (m_b - m_a)(m_b - m_a)'.

    num_examples: n. mean: [d]. scatter: S = sum (x - m)(x - m)' [d, d]. A plain value: it can be
    kept in a file and gone on with.
    """

    num_examples: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, num_features: int) -> "RunningGaussian":
        """The moments of no example."""
        return cls(0, np.zeros(num_features), np.zeros((num_features, num_features)))

    def update(self, batch: np.ndarray) -> "RunningGaussian":
        """The moments with the examples of a batch [m, ...] too; these are left as they are.

        Raises:
          ValueError: for another number of features.
        """
        d = math.prod(batch.shape[1:])
        if d != len(self.mean):
            raise ValueError(f"expected {len(self.mean)} features, got {d}")
        if not len(batch):
            return self
        batch = np.asarray(batch).reshape(-1, d).astype(np.float64)
        mean = batch.mean(0)
        with np.errstate(invalid="ignore"):  # an infinity becomes NaN, which `fit` refuses
            batch -= mean
        number = self.num_examples + len(batch)
        change = mean - self.mean
        scatter = self.scatter + batch.T @ batch
        scatter += np.outer((self.num_examples * len(batch) / number) * change, change)
        return RunningGaussian(number, self.mean + (len(batch) / number) * change, scatter)

    def fit(self, *, scale: float = 1.0, offset: float = 0.0) -> GaussianFit:
        """The fit of scale * x + offset.

        Raises:
          ValueError: for non-finite values, or n <= d: the covariance has then at most rank n - 1,
            and a distance from it says more of n than of x.
        """
        d = len(self.mean)
        if (reason := why_undefined(self.num_examples, d)) is not None:
            raise ValueError(reason)
        if not np.all(np.isfinite(self.mean)):
            bad = d - np.isfinite(self.mean).sum()
            raise ValueError(f"{bad} of {d} features have non-finite values")
        covariance = scale**2 * self.scatter / (self.num_examples - 1)
        return GaussianFit(scale * self.mean + offset, covariance, self.num_examples)


def fit_gaussian(x: np.ndarray, *, scale: float = 1.0, offset: float = 0.0) -> GaussianFit:
    """Mean and covariance of scale * x + offset, over blocks of float64.

    Args:
      x: [n, ...] of any real type, memory-mapped or not; the other axes are flattened to d.
    Raises:
      ValueError: as `RunningGaussian.fit`.
    """
    d = math.prod(x.shape[1:])
    if (reason := why_undefined(len(x), d)) is not None:
        raise ValueError(reason)  # before the work
    moments = RunningGaussian.empty(d)
    for first in range(0, len(x), _BLOCK):
        moments = moments.update(x[first : first + _BLOCK])
    return moments.fit(scale=scale, offset=offset)


def why_undefined(num_examples: int, num_features: int) -> str | None:
    """Reason why so many examples make no Frechet distance of so many features; None if they do."""
    if num_examples > num_features:
        return None
    return (
        f"{num_examples} examples leave the covariance of {num_features} features singular, and a "
        f"Frechet distance mostly bias: give more than {num_features}, better ten times as many"
    )


def frechet_distance(a: GaussianFit, b: GaussianFit) -> float:
    """Frechet distance d of two Gaussians: see the module's equation.

    With factors C_i = F_i F_i', the last trace is the sum of the singular values of F_1' F_2. So no
    square root of a rounded zero is taken, and singular covariances, a point mass included, are as
    exact as others: d(a, a) is 0 to rounding of tr C.

    Raises:
      ValueError: for different numbers of features, non-finite values, or a covariance that is not
        symmetric and positive semi-definite.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"expected features of one shape, got {a.mean.shape} and {b.mean.shape}")
    overlap = np.sum(scipy.linalg.svdvals(_factor(a).T @ _factor(b)))
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return float(np.sum((a.mean - b.mean) ** 2) + traces - 2 * overlap)


def _factor(fit: GaussianFit) -> np.ndarray:
    """F [d, d] with C = F F', by the eigenvectors; eigenvalues within rounding of 0 are 0."""
    covariance = np.asarray(fit.covariance, np.float64)
    if not (np.all(np.isfinite(covariance)) and np.all(np.isfinite(fit.mean))):
        raise ValueError("the mean or the covariance has non-finite values")
    if not np.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-9 * np.abs(covariance).max()):
        raise ValueError("the covariance is not symmetric")
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    largest = np.abs(values).max()
    if values[0] < -1e-6 * largest:
        raise ValueError(f"the covariance has the negative eigenvalue {values[0]:.3g}")
    rounding = largest * len(values) * np.finfo(np.float64).eps
    return vectors * np.sqrt(np.where(values > rounding, values, 0.0))
