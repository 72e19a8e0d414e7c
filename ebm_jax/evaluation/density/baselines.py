"""What any density model has to beat: a Gaussian and a mixture of Gaussians, known exactly.

Both are densities of a x + sigma eps, as a model's level is: fitted to data x, each covariance gets
sigma^2 I, so that no figure depends on one draw of the noise and none is infinite where pixels do
not vary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ebm_jax.data import mixture
from ebm_jax.data.mixture import Mixture

_VALIDATION_SHARE = 0.2  # of the images, for the number of components
_LEAST_VARIANCE = 1e-6  # added to each covariance where there is no noise, of the mean variance


class Likelihood(NamedTuple):
    """Mean log-likelihood of a split's images in nats, and its standard error over them."""

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Likelihood":
        """Of log densities [n]."""
        error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        return cls(float(np.mean(values)), float(error))


class Baseline(NamedTuple):
    """A fitted density: how many Gaussians, and log p [n] of each split's images by its name."""

    num_components: int
    log_densities: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        """In words."""
        if self.num_components == 1:
            return "one Gaussian"
        return f"a mixture of {self.num_components} Gaussians"

    @property
    def likelihood(self) -> dict[str, Likelihood]:
        """Of each split."""
        return {name: Likelihood.of(values) for name, values in self.log_densities.items()}

    def margin(self, split: str, energies: np.ndarray) -> Likelihood:
        """What a model has more, -E - log p, from its energies [n] of the very same images.

        Images that are hard for one are hard for the other, so that the error of the difference is
        smaller than those of both. The model's log Z is to be subtracted.
        """
        return Likelihood.of(-np.asarray(energies, np.float64) - self.log_densities[split])


def fit_gaussian(x: np.ndarray, noise_std: float) -> Mixture:
    """The Gaussian with the mean and the covariance of x [n, ...], plus noise."""
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    covariance = np.atleast_2d(np.cov(flat.T, bias=True))
    noise = _added_variance(flat, noise_std) * np.eye(flat.shape[1])
    return Mixture(np.ones(1), flat.mean(0)[None], (covariance + noise)[None])


def fit_mixture(
    x: np.ndarray, noise_std: float, num_components: Sequence[int], seed: int
) -> Mixture:
    """The mixture of full covariances (scikit-learn's EM) that is best on images left out.

    Every number of components is fitted to the first four fifths of x and judged by the last fifth
    with noise; the best is then fitted to all of x.

    Args:
      x: data [n, ...] in random order. noise_std: sigma. num_components: to choose from.
      seed: of EM's starts and of the noise of the images left out.
    Raises:
      ValueError: for more components than images that they are fitted to.
    """
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    num_fitted = len(flat) - max(1, round(_VALIDATION_SHARE * len(flat)))
    if max(num_components) > num_fitted:
        raise ValueError(
            f"num_components: expected at most {num_fitted}, the images that a mixture is "
            f"fitted to, got {max(num_components)}"
        )
    added = _added_variance(flat, noise_std)

    def fit(data: np.ndarray, number: int) -> Mixture:
        return mixture.fit_mixture(data, number, added, seed)

    left_out = flat[num_fitted:]
    left_out = left_out + noise_std * np.random.default_rng(seed).normal(size=left_out.shape)
    scores = [
        fit(flat[:num_fitted], number).log_density(left_out).mean() for number in num_components
    ]
    return fit(flat, num_components[int(np.argmax(scores))])


def baseline(fitted: Mixture, splits: dict[str, np.ndarray]) -> Baseline:
    """The log densities of splits' noisy images [n, ...] under a fitted density."""
    found = {name: fitted.log_density(x) for name, x in splits.items()}
    return Baseline(fitted.num_components, found)


def _added_variance(flat: np.ndarray, noise_std: float) -> float:
    return float(max(noise_std**2, _LEAST_VARIANCE * np.mean(flat.var(0))))
