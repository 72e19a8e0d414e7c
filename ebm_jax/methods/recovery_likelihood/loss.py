"""The loss of recovery likelihood and its pairs, as functions of arrays (Gao et al. 2020)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax.diffusion import NoiseSchedule, q_sample_pairs
from ebm_jax.samplers import random


class Pairs(NamedTuple):
    """Neighboring noise levels of a batch.

    level: t, int [batch]. x: x_t, x_noisy: x_{t+1}, noise: eps, next_noise: eps', [batch, ...].
    """

    level: jax.Array
    x: jax.Array
    x_noisy: jax.Array
    noise: jax.Array
    next_noise: jax.Array


def sample_pairs(
    rng_key: jax.Array, schedule: NoiseSchedule, x: jax.Array, index: jax.Array
) -> Pairs:
    """Levels uniform on 0 .. T-1 and pairs (x_t, x_{t+1}), functions of (rng_key, index).

    Args:
      x: data x_0 [batch, ...]. index: of each example in the global batch, int [batch].
    """
    keys = jax.random.split(rng_key, 3)
    uniform = random.uniform(keys[0], index, ())
    level = jnp.floor(schedule.num_pairs * uniform).astype(jnp.int32)
    noise, next_noise = (random.normal(key, index, x) for key in keys[1:])
    x_t, x_noisy = q_sample_pairs(schedule, x, level, noise, next_noise)
    return Pairs(level, x_t, x_noisy, noise, next_noise)


def recovery_losses(
    energy_pos: jax.Array, energy_neg: jax.Array, level: jax.Array, schedule: NoiseSchedule
) -> jax.Array:
    """(sigma_1 / sigma_{t+1}) (E(y_pos, t) - E(y_neg, t)) per example; 1 / s_t^2 is not in it.

    Args:
      energy_pos, energy_neg: outputs of the network for data and samples, level: t; all [batch].
    """
    return schedule.sigma[1] / schedule.sigma[1:][level] * (energy_pos - energy_neg)
