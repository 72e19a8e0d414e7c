"""The densities of recovery likelihood, of x_t = y_t / multiplier_t in model units.

The Jacobian of the change from y_t to x_t is a constant and goes with the normalizing one.
"""

import jax
import jax.numpy as jnp

from ebm_jax import samplers
from ebm_jax.diffusion import NoiseSchedule
from ebm_jax.energy import EnergyFn, recovery_energy
from ebm_jax.methods.base import per_example
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.methods.recovery_likelihood.transitions import (
    LevelEnergy,
    MakeChain,
    Transition,
    conditional_energy,
)


def langevin_densities(
    level_energy: LevelEnergy,
    schedule: NoiseSchedule,
    langevin_scale: jax.Array,
    make_chain: MakeChain = samplers.langevin,
) -> Densities:
    """One density per pair of levels, from N(0, I): pair t's energy is that of x_t.

    Args:
      level_energy: (t) -> marginal energy of y_t. schedule: its levels.
      langevin_scale: s_t^2 [T] of the chains, in y_t. make_chain: as in `langevin_transition`.
    """
    multiplier = schedule.multiplier

    def energy_in_x(level: jax.Array) -> EnergyFn:
        energy_fn, factor = level_energy(level), multiplier[level]
        return lambda x: energy_fn(per_example(factor, x) * x)

    def conditional(level: jax.Array, x_noisy: jax.Array) -> EnergyFn:
        energy_fn = conditional_energy(level_energy(level), schedule, x_noisy, level)
        return lambda x: energy_fn(multiplier[level] * x)

    def native_kernel(energy_fn: EnergyFn, level: jax.Array) -> samplers.Kernel:
        step = langevin_scale[level] / (2 * multiplier[level] ** 2)  # the step in y, moved to x
        return make_chain(energy_fn, step)

    return Densities(
        energy_in_x,
        schedule.a_bar[:-1],
        schedule.sigma_bar[:-1],
        BaseDistribution(),
        native_kernel,
        conditional,
        lambda rng_key, level, x_noisy: x_noisy / multiplier[level],
        schedule.conditional_std,
        num_conditionals=schedule.num_pairs - 1,
    )


def gaussian_densities(
    level_energy: LevelEnergy, schedule: NoiseSchedule, transition: Transition
) -> Densities:
    """With Gaussian transitions (T1k) pair t's energy is that of x_{t+1}, called level t.

    By Tweedie's formula the transition, of mean x~ - sigma^2 grad E(x~), has the mean of y_t given
    x~ where E is minus the log density of x~ = x_{t+1}. Chains on a conditional start at it.

    Args:
      level_energy, schedule: as in `langevin_densities`. transition: `gaussian_transition`.
    """
    multiplier, sigma = (
        jnp.append(of_next, 1.0) for of_next in (schedule.multiplier[1:], schedule.sigma[2:])
    )
    weight = jnp.append(schedule.recovery_weight[1:], 0.0)

    def conditional(level: jax.Array, x_noisy: jax.Array) -> EnergyFn:
        energy_fn = recovery_energy(
            lambda y: level_energy(level)(y / multiplier[level]),
            x_noisy,
            sigma[level],
            weight[level],
        )
        return lambda x: energy_fn(multiplier[level] * x)

    def conditional_start(rng_key: jax.Array, level: jax.Array, x_noisy: jax.Array) -> jax.Array:
        pair = level + 1  # whose energy is that of x_noisy
        kernel = transition.make_kernel(
            conditional_energy(level_energy(pair), schedule, x_noisy, pair), pair
        )
        moved, _ = kernel.step(rng_key, kernel.init(x_noisy))
        return moved.x / schedule.multiplier[pair]

    return Densities(
        level_energy,
        schedule.a_bar[1:],
        schedule.sigma_bar[1:],
        BaseDistribution(),
        conditional=conditional,
        conditional_start=conditional_start,
        conditional_std=jnp.append(schedule.conditional_std[1:], 1.0),
        num_conditionals=max(schedule.num_pairs - 2, 0),  # x_T says nothing of x_{T-1}
    )
