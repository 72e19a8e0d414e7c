"""The terms of IGEBM's loss, as functions of energies."""

import jax
import jax.numpy as jnp

FORMS = ("cd", "logsumexp", "softplus", "cd_with_kl")


def likelihood_loss(
    energy_pos: jax.Array, energy_neg: jax.Array, *, form: str = "cd", temperature: float = 1.0
) -> jax.Array:
    """The likelihood term of IGEBM, from energies of data and of samples, both [batch]; T below.

    'cd', 'cd_with_kl': T mean(E+) - T mean(E-).
    'logsumexp': T mean(E+) - sum_b w_b T E-_b / (sum w + 1e-4), w = exp(-T (E- - min E-)) constant:
        samples weighted by how likely the model holds them, among the examples of one device.
    'softplus': mean_b softplus(T (E+_b - E-_b)), data and samples in pairs.
    """
    pos, neg = temperature * energy_pos, temperature * energy_neg
    if form == "softplus":
        return jnp.mean(jax.nn.softplus(pos - neg))
    if form == "logsumexp":
        weights = jax.lax.stop_gradient(jnp.exp(jnp.min(neg) - neg))
        return jnp.mean(pos) - jnp.sum(weights * neg) / (jnp.sum(weights) + 1e-4)
    return jnp.mean(pos) - jnp.mean(neg)


def energy_penalty(energy_pos: jax.Array, energy_neg: jax.Array) -> jax.Array:
    """mean(E+^2) + mean(E-^2), which keeps the energies from drifting off."""
    return jnp.mean(energy_pos**2) + jnp.mean(energy_neg**2)
