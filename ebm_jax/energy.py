"""Energies from energies: products, mixtures, conditionals.  p(x) ∝ exp(-energy_fn(x)).

An energy_fn maps x [batch, ...] to energies [batch]. Everything here takes and returns such
functions and imports JAX alone, so that it serves any energy.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

EnergyFn = Callable[[jax.Array], jax.Array]


def recovery_energy(
    energy_fn: EnergyFn, x_noisy: jax.Array, sigma: jax.Array, weight: jax.Array
) -> EnergyFn:
    """Energy of the conditional p(y | x_noisy): E(y) + weight |y - x_noisy|^2 / (2 sigma^2).

    Gao et al. 2020, eq. 5. weight (the paper's r_t) is 1, or 0 for the marginal at the last level.

    Args:
      energy_fn: the marginal energy E of y. x_noisy: x_{t+1} [batch, ...].
      sigma: sigma_{t+1}, [] or [batch]. weight: [] or [batch].
    """
    precision = weight / sigma**2
    axes = range(1, x_noisy.ndim)

    def conditional(y: jax.Array) -> jax.Array:
        return energy_fn(y) + 0.5 * precision * jnp.sum((y - x_noisy) ** 2, axes)

    return conditional


def clamp(energy_fn: EnergyFn, is_fixed: jax.typing.ArrayLike, x_fixed: jax.Array) -> EnergyFn:
    """x -> E(x with its fixed entries replaced): the conditional of the others given these.

    Any kernel may run on it. Fixed entries have no gradient; what a chain leaves there is noise,
    so put x_fixed back at its end.

    Args:
      is_fixed: bool, and x_fixed: real, both broadcasting against x [batch, ...].
    """
    return lambda x: energy_fn(jnp.where(is_fixed, x_fixed, x))


def sum_energies(
    energy_fns: Sequence[EnergyFn], weights: Sequence[float] | None = None
) -> EnergyFn:
    """sum_i w_i E_i: the product of experts, or of powers of them (composition of concepts)."""
    weights = _checked_weights(energy_fns, weights, default=1.0)
    terms = tuple(zip(weights, energy_fns, strict=True))
    return lambda x: functools.reduce(operator.add, [w * e(x) for w, e in terms])


def mean_energy(energy_fns: Sequence[EnergyFn]) -> EnergyFn:
    """The mean of energies: the geometric mean of the densities (an ensemble of checkpoints)."""
    return temper(sum_energies(energy_fns), len(energy_fns))


def mixture_energy(
    energy_fns: Sequence[EnergyFn], weights: Sequence[float] | None = None
) -> EnergyFn:
    """-log sum_i w_i exp(-E_i): mixture of the unnormalized densities, equal weights by default."""
    weights = _checked_weights(energy_fns, weights, default=1 / max(len(energy_fns), 1))
    if min(weights) < 0:
        raise ValueError(f"weights: expected >= 0 in a mixture, got {list(weights)}")
    log_weights = jnp.log(jnp.asarray(weights))

    def energy_fn(x: jax.Array) -> jax.Array:
        energies = jnp.stack([e(x) for e in energy_fns])
        return -jax.nn.logsumexp(log_weights[:, None] - energies, axis=0)

    return energy_fn


def temper(energy_fn: EnergyFn, temperature: Any) -> EnergyFn:
    """E / temperature: flatter above 1, sharper below."""
    return lambda x: energy_fn(x) / temperature


def _checked_weights(
    energy_fns: Sequence[EnergyFn], weights: Sequence[float] | None, default: float
) -> Sequence[float]:
    if not energy_fns:
        raise ValueError("energy_fns: expected at least one, got none")
    if weights is None:
        return [default] * len(energy_fns)
    if len(weights) != len(energy_fns):
        raise ValueError(
            f"weights: expected one for each of {len(energy_fns)} energies, got {len(weights)}"
        )
    return weights
