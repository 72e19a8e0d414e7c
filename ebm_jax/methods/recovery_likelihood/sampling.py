"""Sampling with a model of noise levels: from noise, around known values, from corrupted data.

x_0 .. x_T is a Markov chain, so known values u get a path u_0 .. u_T of it themselves, and the
unknown ones m are drawn downwards,

    m_t ~ p(m_t | u_t, x_{t+1}),      then, to go round again,  x_{t+1} ~ q(x_{t+1} | x_t).

The second move and the first are a Gibbs sampler of p(m_t, x_{t+1} | u_t): after one round the
levels above have not seen what u_t says beyond u_{t+1}, after many m_t is a sample of p(m_t | u_t).
Going round again is what Lugmayr et al. (arXiv 2201.09865) do with diffusion models.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import energy, samplers
from ebm_jax.diffusion import NoiseSchedule, q_sample
from ebm_jax.methods.base import Index, index_chains
from ebm_jax.methods.recovery_likelihood.transitions import (
    LevelEnergy,
    Transition,
    conditional_energy,
)
from ebm_jax.samplers import random


def progressive_sample(
    rng_key: jax.Array,
    level_energy: LevelEnergy,
    schedule: NoiseSchedule,
    transition: Transition,
    x: jax.Array,
    index: Index,
    *,
    keep_trajectory: bool = False,
):
    """From noise to data through the levels T-1 .. 0 (Gao et al., algorithm 2).

    The chain of pair t starts at y = x_{t+1} and ends at x_t = y / multiplier_t.

    Args:
      rng_key: the noise of chain i depends on it, the level, the step and index[i].
      level_energy: (t []) -> marginal energy of y_t, its scale 1 / s_t^2 included.
      schedule: T pairs. x: x_T [batch, ...], N(0, I). index: of the chains, or blends of two each.
      keep_trajectory: return the end of every level too.
    Returns:
      x_0-like samples [batch, ...] (of level 0), or with keep_trajectory the pair of it and the
      trajectory [T + 1, batch, ...]: x_T first, the samples last.
    """

    def one_level(x: jax.Array, level: jax.Array):
        energy_fn = conditional_energy(level_energy(level), schedule, x, level)
        state, _ = samplers.run_chain(
            jax.random.fold_in(rng_key, level),
            index_chains(transition.make_kernel(energy_fn, level), index),
            x,
            transition.num_steps,
        )
        x = state.x / schedule.multiplier[level]
        return x, x if keep_trajectory else None

    levels = jnp.arange(schedule.num_pairs - 1, -1, -1)
    last, ends = jax.lax.scan(one_level, x, levels)
    return last if ends is None else (last, jnp.concatenate([x[None], ends]))


def inpaint_levels(
    rng_key: jax.Array,
    level_energy: LevelEnergy,
    schedule: NoiseSchedule,
    transition: Transition,
    x: jax.Array,
    is_known: random.AnyArray,
    index: jax.Array,
    *,
    num_rounds: int,
) -> jax.Array:
    """Draws the unknown values of x with a model of noise levels; see the module.

    Args:
      level_energy, schedule, transition: as in `progressive_sample`.
      x: [batch, ...], finite everywhere. is_known: bool, broadcasting against x.
      index: of each example in the whole set, int [batch]. num_rounds: at every level.
    Returns:
      [batch, ...]: the known values as they are, the others drawn.
    """
    start_key, path_key, chain_key = jax.random.split(rng_key, 3)

    def one_level_up(u: jax.Array, level: jax.Array):
        noise = random.normal(jax.random.fold_in(path_key, level), index, u)
        u = schedule.a[level] * u + schedule.sigma[level] * noise
        return u, u

    _, known = jax.lax.scan(one_level_up, x, jnp.arange(schedule.num_pairs + 1))
    x_top = jnp.where(is_known, known[-1], random.normal(start_key, index, x))
    end = _descend(
        chain_key,
        level_energy,
        schedule,
        transition,
        x_top,
        index,
        num_levels=schedule.num_pairs,
        num_rounds=num_rounds,
        is_known=is_known,
        known=known,
    )
    return jnp.where(is_known, x, end)


def restore_levels(
    rng_key: jax.Array,
    level_energy: LevelEnergy,
    schedule: NoiseSchedule,
    transition: Transition,
    x: jax.Array,
    index: jax.Array,
    *,
    level: int,
) -> jax.Array:
    """Brings x to a noise level, where its corruption drowns, and samples back down to the data.

    Args: as in `inpaint_levels`; level: 1 .. T.
    Returns:
      [batch, ...], samples of the model near x; the nearer, the lower the level.
    """
    start_key, chain_key = jax.random.split(rng_key)
    noisy = q_sample(schedule, x, level, random.normal(start_key, index, x))
    return _descend(
        chain_key,
        level_energy,
        schedule,
        transition,
        noisy,
        index,
        num_levels=level,
        num_rounds=1,
        is_known=False,
        known=jnp.zeros((level, *x.shape)),
    )


def _descend(
    rng_key: jax.Array,
    level_energy: LevelEnergy,
    schedule: NoiseSchedule,
    transition: Transition,
    x: jax.Array,
    index: jax.Array,
    *,
    num_levels: int,
    num_rounds: int,
    is_known: jax.typing.ArrayLike,
    known: jax.Array,
) -> jax.Array:
    """From x_L to x_0 through the pairs L-1 .. 0; known: u_0 .. at least u_{L-1}."""

    def one_round(x: jax.Array, level_and_round: tuple[jax.Array, jax.Array]):
        level, number = level_and_round
        key = jax.random.fold_in(jax.random.fold_in(rng_key, level), number)
        noise_key, chain_key = jax.random.split(key)
        noise = random.normal(noise_key, index, x)
        up = schedule.a[level + 1] * x + schedule.sigma[level + 1] * noise
        x = jnp.where(number > 0, up, x)
        u = schedule.multiplier[level] * known[level]
        conditional = conditional_energy(level_energy(level), schedule, x, level)
        kernel = transition.make_kernel(energy.clamp(conditional, is_known, u), level)
        state, _ = samplers.run_chain(
            chain_key, index_chains(kernel, index), x, transition.num_steps
        )
        return jnp.where(is_known, u, state.x) / schedule.multiplier[level], None

    levels = np.repeat(np.arange(num_levels)[::-1], num_rounds)
    rounds = np.tile(np.arange(num_rounds), num_levels)
    return jax.lax.scan(one_round, x, (jnp.asarray(levels), jnp.asarray(rounds)))[0]
