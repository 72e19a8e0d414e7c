"""Maximum likelihood of one energy, against chains that persist from step to step (Tieleman 2008).

The gradient of -log p(x) in the parameters is that of E(x) less its mean over samples of the model.
Chains that go on through all of training come to be such samples, wherever the mass is: also where
no data and no noised data lie, which an objective on these alone cannot see.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax import samplers
from ebm_jax.energy import EnergyFn
from ebm_jax.samplers import random

_STEP = 0.6  # of HMC, of the least standard deviation; stable below 2, jitter included
_LEAPFROG_STEPS = 5
_JITTER = 0.5  # five steps are half a period of the narrowest directions: without it they swing


class MovedChains(NamedTuple):
    """x [chains, ...]; acceptance: mean over the moves, [chains], or of the one move."""

    x: jax.Array
    acceptance: jax.Array


def moved(
    rng_key: jax.Array,
    energy_fn: EnergyFn,
    x: jax.Array,
    *,
    num_moves: int,
    least_std: float,
    first_chain: jax.Array,
) -> MovedChains:
    """Chains x [chains, ...] after moves of HMC, five leapfrog steps each.

    Args:
      energy_fn: in nats. least_std: standard deviation of the narrowest direction, the noise's.
      first_chain: number of the first of these chains among all.
    """
    kernel = samplers.hmc(energy_fn, _STEP * least_std, _LEAPFROG_STEPS, jitter=_JITTER)
    end, info = samplers.run_chain(rng_key, kernel, x, num_moves, first_chain=first_chain)
    return MovedChains(end.x, jnp.broadcast_to(info.acceptance, x.shape[:1]))


def jumped(
    rng_key: jax.Array,
    energy_fn: EnergyFn,
    base_energy_fn: EnergyFn,
    x: jax.Array,
    draws: jax.Array,
    index: jax.Array,
) -> MovedChains:
    """Chains x [chains, ...] after a Metropolis test of one independent draw each.

    From mode to mode HMC hardly goes; draws of a law that has the modes do, and where the energies
    differ little most are taken: min(1, exp(g(x) - g(draw))), g = energy_fn - base_energy_fn.

    Args:
      base_energy_fn: minus the log density that `draws` are of. index: numbers of the chains.
    """

    def learned(x: jax.Array) -> jax.Array:
        return energy_fn(x) - base_energy_fn(x)

    log_ratio = learned(x) - learned(draws)
    log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
    is_taken = jnp.log(random.uniform(rng_key, index, ())) < log_ratio
    is_taken_by_value = is_taken.reshape(-1, *[1] * (x.ndim - 1))
    return MovedChains(jnp.where(is_taken_by_value, draws, x), jnp.exp(jnp.minimum(log_ratio, 0)))
