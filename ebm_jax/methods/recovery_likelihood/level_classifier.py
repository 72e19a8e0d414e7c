"""A classifier of the noise level, which fixes the constants that recovery leaves free.

Conditionals, like scores, say nothing of what connects far regions and levels: the relative mass
of the regions, and each level's normalizing constant. Telling at which level x was drawn does
(arXiv 2601.21025). With log densities l_i = -E_i of levels i, and equally many samples of each, the
cross-entropy of softmax(l) is least where

    l_i - l_j = log p_i - log p_j     wherever one of the two has samples.

The last class is the base distribution, whose density is known, so that every l_i becomes the log
density itself, of normalizing constant 1.

Two terms, in nats. *Neighbors*: level i against i + 1 in the coordinates of x_t, the last level
against the base. *All levels*: in the coordinates y = x_t / abar_t, in which level i has the
density abar_i^d exp(-E_i(abar_i y)): points of wide levels lie where the low ones have no data, and
mass that wandered off there is seen.

Neighbors have to overlap: where they are told apart with certainty, the term only guards.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.methods.base import per_example
from ebm_jax.methods.densities import Densities
from ebm_jax.samplers import random

_MOST_LEVELS = 8  # of the second term, which costs an evaluation of each


def two_class_losses(gap_at_first: jax.Array, gap_at_second: jax.Array) -> jax.Array:
    """Cross-entropy of telling two levels apart, at a sample of each; [batch], in nats.

    Args:
      gap_at_first, gap_at_second: l_first - l_second, at samples of the first and of the second.
    """
    return jax.nn.softplus(-gap_at_first) + jax.nn.softplus(gap_at_second)


def class_losses(log_densities: jax.Array, chosen: jax.Array) -> jax.Array:
    """Cross-entropy of the class: -log softmax(l)[chosen], [batch], in nats.

    Args:
      log_densities: l [batch, classes]. chosen: int [batch].
    """
    of_chosen = jnp.take_along_axis(log_densities, chosen[:, None])[:, 0]
    return jax.nn.logsumexp(log_densities, axis=1) - of_chosen


def neighbor_losses(
    rng_key: jax.Array, densities: Densities, x: jax.Array, index: jax.Array
) -> jax.Array:
    """`two_class_losses` of a random level and the next, or of the last and the base; [batch].

    Args:
      rng_key: levels and noise are functions of it and index, int [batch].
      densities: energies without a free constant. x: data [batch, ...].
    """
    level_key, lower_key, upper_key = jax.random.split(rng_key, 3)
    level = _random_level(level_key, index, densities.num_levels)
    is_last = level == densities.num_levels - 1
    upper = jnp.where(is_last, level, level + 1)
    x_lower = _noised(lower_key, densities, level, x, index)
    x_upper = _noised(upper_key, densities, upper, x, index)
    from_base = densities.base.center + densities.base.std * random.normal(upper_key, index, x)
    x_upper = jnp.where(per_example(is_last, x), from_base, x_upper)

    points = jnp.concatenate([x_lower, x_upper])
    energy_fn = densities.energy(jnp.concatenate([level, level, upper, upper]))
    lower, above = jnp.split(-energy_fn(jnp.concatenate([points, points])), 2)
    base = -densities.base.energy(points) - densities.base.log_z(math.prod(x.shape[1:]))
    above = jnp.where(jnp.concatenate([is_last, is_last]), base, above)
    return two_class_losses(*jnp.split(lower - above, 2))


def level_losses(
    rng_key: jax.Array, densities: Densities, x: jax.Array, index: jax.Array
) -> jax.Array:
    """`class_losses` of all levels in the coordinates of the data, at a random one's points.

    Of more than 8 levels, 8 of them; arguments and result as in `neighbor_losses`.
    """
    level_key, noise_key = jax.random.split(rng_key)
    num_levels = densities.num_levels
    levels = np.round(np.linspace(0, num_levels - 1, min(num_levels, _MOST_LEVELS))).astype(int)
    chosen = _random_level(level_key, index, len(levels))
    level = jnp.asarray(levels)[chosen]
    y = _noised(noise_key, densities, level, x, index)
    y = y / per_example(densities.a_bar[level], x)

    every = jnp.repeat(jnp.asarray(levels), len(x))
    a_bar = densities.a_bar[every]
    points = jnp.tile(y, (len(levels),) + (1,) * (y.ndim - 1))
    energies = densities.energy(every)(per_example(a_bar, points) * points)
    num_values = math.prod(x.shape[1:])
    log_densities = num_values * jnp.log(a_bar) - energies
    return class_losses(log_densities.reshape(len(levels), len(x)).T, chosen)


def _random_level(rng_key: jax.Array, index: jax.Array, num_levels: int) -> jax.Array:
    return jnp.floor(num_levels * random.uniform(rng_key, index, ())).astype(jnp.int32)


def _noised(
    rng_key: jax.Array, densities: Densities, level: jax.Array, x: jax.Array, index: jax.Array
) -> jax.Array:
    """Data at a noise level for each, [batch, ...]."""
    a_bar, sigma_bar = (per_example(v[level], x) for v in (densities.a_bar, densities.sigma_bar))
    return a_bar * x + sigma_bar * random.normal(rng_key, index, x)
