"""A mixture of Gaussians with noise of any size added: what an energy is learned about."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from ebm_jax.data.mixture import Mixture
from ebm_jax.data.moments import Moments
from ebm_jax.methods.base import Index
from ebm_jax.samplers import random

_LOG_2PI = float(np.log(2 * np.pi))


class MixtureBase(NamedTuple):
    """sum_k w_k N(mean_k, V_k diag(variances_k) V_k' + t I) at every t.

    log_weights [k], means and variances [k, d], bases V [k, d, d]; float32.
    """

    log_weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    bases: np.ndarray

    @classmethod
    def of_moments(cls, moments: Moments) -> "MixtureBase":
        """One Gaussian, with the moments of data."""
        mean, covariance = moments
        return cls.of_mixture(Mixture(np.ones(1), mean[None], covariance[None]))

    @classmethod
    def of_mixture(cls, mixture: Mixture) -> "MixtureBase":
        """A mixture of data without noise; variances that rounding made negative are 0."""
        variances, bases = np.linalg.eigh(mixture.covariances)
        arrays = (np.log(mixture.weights), mixture.means, np.maximum(variances, 0), bases)
        return cls(*(np.asarray(array, np.float32) for array in arrays))

    def energy(self, y: jax.Array, t: float | jax.Array) -> jax.Array:
        """-log p(y) [batch] of y [batch, ...], t [] or [batch]."""
        flat = y.reshape(y.shape[0], 1, -1)
        along = jnp.einsum("bkd,kde->bke", flat - self.means, self.bases)
        variances = self.variances + jnp.asarray(t)[..., None, None]
        energies = 0.5 * jnp.sum(along**2 / variances + jnp.log(variances) + _LOG_2PI, axis=-1)
        return -jax.nn.logsumexp(self.log_weights - energies, axis=-1)

    def sample(
        self, rng_key: jax.Array, index: Index, like: jax.Array, t: float | jax.Array
    ) -> jax.Array:
        """A draw for each example of a batch like `like` [batch, ...], by its index [batch].

        A component is chosen by a normal number, which a blend of two indices has too.
        """
        noise = random.normal(rng_key, index, like).reshape(like.shape[0], -1)
        each = jnp.einsum("kbd,ked->kbe", noise * jnp.sqrt(self.variances + t)[:, None], self.bases)
        choice = random.normal(jax.random.fold_in(rng_key, 1), index, jnp.zeros(like.shape[0]))
        place = norm.cdf(choice)
        chosen = jnp.searchsorted(jnp.cumsum(jnp.exp(self.log_weights[:-1])), place, side="right")
        drawn = jnp.asarray(self.means)[chosen] + each[chosen, jnp.arange(noise.shape[0])]
        return jnp.reshape(drawn, like.shape)
