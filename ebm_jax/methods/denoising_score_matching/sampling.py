"""Annealed Langevin on one energy: from noise, and around known values."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import energy, samplers
from ebm_jax.energy import EnergyFn
from ebm_jax.methods.base import Index, index_chains
from ebm_jax.samplers import random


def annealed_sample(
    rng_key: jax.Array,
    energy_at: Callable[[jax.Array], EnergyFn],
    x: jax.Array,
    temperatures: Sequence[float] | np.ndarray,
    index: Index,
    *,
    step_size: float = 0.02,
    target_sigma: float = 0.1,
) -> jax.Array:
    """Langevin with a temperature per step, then one jump to the mean of clean given noisy data.

    Step i: x <- x - eps^2 / 2 grad E(x) + eps sqrt(T_i) xi; the jump: x - sigma_0^2 grad E(x).
    Nothing is clipped.

    Args:
      rng_key: the noise of chain i depends on it, the step and index[i].
      energy_at: (temperature []) -> energy_fn. x: starts [batch, ...].
      temperatures: T_i [steps], such as `samplers.mdsm_temperatures()`.
      index: of the chains, or blends of two each. step_size: eps. target_sigma: sigma_0.
    """

    def make_kernel(temperature: jax.Array) -> samplers.Kernel:
        kernel = samplers.mdsm_langevin(energy_at(temperature), temperature, step_size)
        return index_chains(kernel, index)

    state, _ = samplers.run_schedule(
        rng_key, make_kernel, jnp.asarray(temperatures, jnp.float32), x, 1
    )
    return state.x - target_sigma**2 * state.grad


def inpaint_annealed(
    rng_key: jax.Array,
    energy_fn: EnergyFn,
    start: jax.Array,
    x: jax.Array,
    is_known: random.AnyArray,
    temperatures: Sequence[float] | np.ndarray,
    index: jax.Array,
    *,
    step_size: float,
    target_sigma: float,
) -> jax.Array:
    """Draws the unknown values of x by annealed Langevin on one energy.

    At temperature T the energy of data with noise sigma_0 is that of noise sigma_0 sqrt(T), so the
    known values are clamped to x + sigma_0 sqrt(T) xi, one xi for the whole run. The last jump is
    that of `annealed_sample`.

    Args:
      start: where the unknown values begin, like x [batch, ...]. is_known: bool, broadcasting
        against x. temperatures, index, step_size, target_sigma: as in `annealed_sample`.
    """
    noise_key, chain_key = jax.random.split(rng_key)
    noise = random.normal(noise_key, index, x)

    def clamped(temperature: jax.Array) -> EnergyFn:
        noisy = x + target_sigma * jnp.sqrt(temperature) * noise
        return energy.clamp(energy_fn, is_known, noisy)

    end = annealed_sample(
        chain_key, clamped, start, temperatures, index,
        step_size=step_size, target_sigma=target_sigma,
    )  # fmt: skip
    return jnp.where(is_known, x, end)
