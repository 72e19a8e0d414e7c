"""Chains of a trained model that are held to something: known pixels, or shared noise.

Inpainting clamps the known pixels. Of a model of noise levels, x_0 .. x_T is a Markov chain, so the
known pixels u get a path u_0 .. u_T of it themselves, and the unknown ones m are drawn downwards,

    m_t ~ p(m_t | u_t, x_{t+1}),      then, to go round again,  x_{t+1} ~ q(x_{t+1} | x_t).

The second move and the first are a Gibbs sampler of p(m_t, x_{t+1} | u_t): after one round the
levels above have not seen what u_t says beyond u_{t+1}, after many m_t is a draw of p(m_t | u_t).
Going round again is what Lugmayr et al. (arXiv 2201.09865) do with diffusion models.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from ebm_jax import energy, samplers
from ebm_jax.diffusion import NoiseSchedule, q_sample
from ebm_jax.objectives import recovery_likelihood as recovery
from ebm_jax.samplers import random

Chain = jax.Array | random.Blend


def with_noise_of(kernel: samplers.Kernel, chain: Chain) -> samplers.Kernel:
    """The kernel with its chains numbered as given: int32 [chains], or blends of two each."""
    return samplers.Kernel(lambda x: kernel.init(x)._replace(chain=chain), kernel.step)


def inpaint_levels(
    rng_key: jax.Array,
    level_energy: recovery.LevelEnergy,
    schedule: NoiseSchedule,
    x: jax.Array,
    is_known: jax.Array,
    *,
    make_kernel: recovery.LevelKernel,
    num_steps: int,
    num_rounds: int,
    index: jax.Array,
) -> jax.Array:
    """Fills in x with a model of noise levels; see the module.

    Args:
      level_energy, schedule, make_kernel, num_steps: as in `progressive_sample`.
      x: images [batch, ...], finite everywhere. is_known: bool, broadcasting against x.
      num_rounds: at every level. index: place of each image in the whole set, int [batch].
    Returns:
      [batch, ...]: the known pixels as they are, the others drawn.
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
        x_top,
        schedule.num_pairs,
        make_kernel=make_kernel,
        num_steps=num_steps,
        num_rounds=num_rounds,
        index=index,
        is_known=is_known,
        known=known,
    )
    return jnp.where(is_known, x, end)


def restore_levels(
    rng_key: jax.Array,
    level_energy: recovery.LevelEnergy,
    schedule: NoiseSchedule,
    x: jax.Array,
    level: int,
    *,
    make_kernel: recovery.LevelKernel,
    num_steps: int,
    index: jax.Array,
) -> jax.Array:
    """Brings x to a noise level, where its corruption drowns, and samples back down to the data.

    Args: as in `inpaint_levels`; level: 1 .. T.
    Returns:
      [batch, ...], draws of the model near x; the nearer, the lower the level.
    """
    start_key, chain_key = jax.random.split(rng_key)
    noisy = q_sample(schedule, x, level, random.normal(start_key, index, x))
    return _descend(
        chain_key,
        level_energy,
        schedule,
        noisy,
        level,
        make_kernel=make_kernel,
        num_steps=num_steps,
        num_rounds=1,
        index=index,
        is_known=False,
        known=jnp.zeros((level + 1, *x.shape)),
    )


def _descend(
    rng_key, level_energy, schedule, x, num_levels, *,
    make_kernel, num_steps, num_rounds, index, is_known, known,
):  # fmt: skip
    """From x_L to x_0 through the pairs L-1 .. 0; known: u_0 .. at least u_{L-1}."""

    def one_round(x: jax.Array, level_and_round: tuple[jax.Array, jax.Array]):
        level, number = level_and_round
        key = jax.random.fold_in(jax.random.fold_in(rng_key, level), number)
        noise_key, chain_key = jax.random.split(key)
        noise = random.normal(noise_key, index, x)
        up = schedule.a[level + 1] * x + schedule.sigma[level + 1] * noise
        x = jnp.where(number > 0, up, x)
        u = schedule.multiplier[level] * known[level]
        conditional = recovery.conditional_energy(level_energy(level), schedule, x, level)
        kernel = make_kernel(energy.clamp(conditional, is_known, u), level)
        state, _ = samplers.run_chain(chain_key, with_noise_of(kernel, index), x, num_steps)
        return jnp.where(is_known, u, state.x) / schedule.multiplier[level], None

    levels = np.repeat(np.arange(num_levels)[::-1], num_rounds)
    rounds = np.tile(np.arange(num_rounds), num_levels)
    return jax.lax.scan(one_round, x, (jnp.asarray(levels), jnp.asarray(rounds)))[0]


def inpaint_annealed(
    rng_key: jax.Array,
    energy_fn: energy.EnergyFn,
    start: jax.Array,
    x: jax.Array,
    is_known: jax.Array,
    temperatures: Sequence[float] | np.ndarray,
    *,
    step_size: float,
    target_sigma: float,
    index: jax.Array,
) -> jax.Array:
    """Fills in x by annealed Langevin on one energy (multiscale denoising score matching).

    At temperature T the energy of data with noise sigma_0 is that of noise sigma_0 sqrt(T), so the
    known pixels are clamped to x + sigma_0 sqrt(T) xi, one xi for the whole run. The last jump,
    x - sigma_0^2 grad E, is that of `annealed_sample`.

    Args:
      start: where the unknown pixels begin, like x. x, is_known, index: as in `inpaint_levels`.
      temperatures, step_size, target_sigma: as in `annealed_sample`.
    """
    noise_key, chain_key = jax.random.split(rng_key)
    noise = random.normal(noise_key, index, x)

    def clamped(temperature: jax.Array) -> energy.EnergyFn:
        noisy = x + target_sigma * jnp.sqrt(temperature) * noise
        return energy.clamp(energy_fn, is_known, noisy)

    end = anneal(
        chain_key, clamped, start, temperatures,
        step_size=step_size, target_sigma=target_sigma, chain=index,
    )  # fmt: skip
    return jnp.where(is_known, x, end)


def anneal(
    rng_key: jax.Array,
    energy_at: Callable[[jax.Array], energy.EnergyFn],
    x: jax.Array,
    temperatures: Sequence[float] | np.ndarray,
    *,
    step_size: float,
    target_sigma: float,
    chain: Chain,
) -> jax.Array:
    """`annealed_sample` with an energy for each temperature, and chains or blends of chains."""

    def make_kernel(temperature: jax.Array) -> samplers.Kernel:
        kernel = samplers.mdsm_langevin(energy_at(temperature), temperature, step_size)
        return with_noise_of(kernel, chain)

    state, _ = samplers.run_schedule(
        rng_key, make_kernel, jnp.asarray(temperatures, jnp.float32), x, 1
    )
    return state.x - target_sigma**2 * state.grad


def blended_starts(
    draw: Callable[[jax.Array], jax.Array], kind: str, chain: Chain, low: float, high: float
) -> jax.Array:
    """Starts in the box low .. high of chains or of blends, a blend's between those of its two.

    'normal' starts are blended about the box's centre; 'uniform' ones by way of their normal
    quantiles. So with weights on the unit circle a blend's start has the law of a start, and with a
    weight of 1 it is exactly that one's.

    Args:
      draw: index [batch] -> starts [batch, ...]. kind: 'uniform' or 'normal'.
    """
    if not isinstance(chain, random.Blend):
        return draw(chain)
    ends = [draw(index) for index in (chain.first, chain.second)]
    first, second = (
        weight.reshape(-1, *(1,) * (ends[0].ndim - 1))
        for weight in (chain.first_weight, chain.second_weight)
    )
    centre, width = (low + high) / 2, high - low
    if kind == "normal":
        between = centre + first * (ends[0] - centre) + second * (ends[1] - centre)
    else:
        least = 2.0**-24  # the quantile of 0 is not finite
        z = [ndtri(jnp.clip((end - low) / width, least, 1 - least)) for end in ends]
        between = low + width * ndtr(first * z[0] + second * z[1])
    return jnp.where(second == 0, ends[0], jnp.where(first == 0, ends[1], between))
