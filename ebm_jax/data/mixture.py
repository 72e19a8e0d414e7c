"""Mixtures of Gaussians fitted to data, by scikit-learn's EM."""

from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from ebm_jax.data.batches import batch_indices
from ebm_jax.data.dataset import Dataset
from ebm_jax.data.preprocess import scale_stored

_MAX_EXAMPLES = 10_000  # that EM reads: a round over them takes a second at d = 784


class Mixture(NamedTuple):
    """sum_k weights_k N(means_k, covariances_k): [k], [k, d], [k, d, d], float64."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @property
    def num_components(self) -> int:
        """k; 1 is a Gaussian."""
        return len(self.weights)

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """log p(x) [n] of x [n, ...], in nats."""
        flat = np.asarray(x, np.float64).reshape(len(x), -1)
        each = [
            np.log(weight) + _log_normal(flat - mean, np.linalg.cholesky(covariance))
            for weight, mean, covariance in zip(*self, strict=True)
        ]
        return np.asarray(logsumexp(each, axis=0))


def fit_mixture(x: np.ndarray, num_components: int, added_variance: float, seed: int) -> Mixture:
    """Full covariances, each with added_variance I, fitted to x [n, ...]; seed: of EM's start."""
    from sklearn.mixture import GaussianMixture  # takes a second to import

    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    found: Any = GaussianMixture(num_components, reg_covar=added_variance, random_state=seed)
    found.fit(flat)
    return Mixture(found.weights_, found.means_, found.covariances_)


def data_mixture(
    dataset: Dataset,
    low: float,
    high: float,
    *,
    num_components: int,
    noise_std: float,
    seed: int,
    dequantized: bool = False,
) -> Mixture:
    """Of a data set's examples in model units, 10,000 of them at most.

    EM is that of x + noise_std eps, which keeps components from narrowing to points; the noise's
    variance is then taken off, so that covariances may be singular.

    Args:
        low, high, dequantized: as in `moments`. seed: of which examples, and of EM's start.
    Raises:
        ValueError: for more components than examples.
    """
    number = min(dataset.num_examples, _MAX_EXAMPLES)
    if num_components > number:
        raise ValueError(
            f"expected at most {number}, the examples that a mixture is fitted to, got "
            f"{num_components}"
        )
    index = batch_indices(dataset.num_examples, number, 0, seed)
    x = scale_stored(dataset.images[index], dataset.value_range, low, high, dequantized=dequantized)
    noised = fit_mixture(x, num_components, noise_std**2, seed)
    added = noise_std**2 * np.eye(noised.means.shape[1])
    return noised._replace(covariances=noised.covariances - added)


def _log_normal(x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """log N(x; 0, L L') [n] of x [n, d], L the lower triangle [d, d]."""
    whitened = solve_triangular(factor, x.T, lower=True)
    log_determinant = 2 * np.sum(np.log(np.diag(factor)))
    return -0.5 * (np.sum(whitened**2, axis=0) + log_determinant + len(factor) * np.log(2 * np.pi))
