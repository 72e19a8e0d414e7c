"""The likelihood of the sampler of noise levels: a bound through its conditionals.

Sampling goes down a Markov chain of conditionals from the marginal of the top level n, and training
fits just these. With the noising process q of the data as the proposal,

    log p(x_0) >= E_q[ log p(x_n) + sum_t log p(x_t | x_{t+1}) - sum_t log q(x_{t+1} | x_t) ],

as for diffusion models. It is finite even where marginal energies have spurious modes far away. Of
each conditional, exp(-E_t(x)) N(x_{t+1}; a x, sigma^2 I) / Z(x_{t+1}), log Z is annealed from its
Gaussian factor: a short path, forward and reverse, one chain for each image and level. On average a
chain's forward estimate lies below log Z, and the reverse one above it if its start is a sample of
the conditional; so that the second keeps the bound a bound.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import samplers
from ebm_jax.energy import EnergyFn
from ebm_jax.methods.densities import Densities
from ebm_jax.samplers import random

_MOVES = (
    3  # of MALA at each temperature; a path of as many leapfrog steps would go round a Gaussian
)
_STEP = (
    1.65  # of MALA at a Gaussian of d values, d^(-1/6) standard deviations (Roberts & Rosenthal)
)


class Bounds(NamedTuple):
    """Of log p(x_0) per image, [batch], with log Z by reverse ('lower') and by forward annealing.

    Of some levels alone, their terms of it. widths: [batch, levels] of log Z's brackets, which add
    up to upper - lower.
    """

    lower: jax.Array
    upper: jax.Array
    widths: jax.Array


class _Start(NamedTuple):
    """N(mean, std^2 I), from which a level's annealing starts: mean [batch, ...], std []."""

    mean: jax.Array
    std: jax.Array

    def energy(self, x: jax.Array) -> jax.Array:
        squares = jnp.sum((x - self.mean) ** 2, axis=range(1, x.ndim))
        return squares / (2 * self.std**2)

    def log_z(self) -> jax.Array:
        return math.prod(self.mean.shape[1:]) * (0.5 * np.log(2 * np.pi) + jnp.log(self.std))


def noising_path(
    rng_key: jax.Array, densities: Densities, x: jax.Array, index: jax.Array
) -> jax.Array:
    """x_0 .. x_n [levels, batch, ...] of the noising process from x = x_0 of level 0."""
    a, sigma = densities.noising_steps()

    def up(x: jax.Array, step: tuple[jax.Array, jax.Array, jax.Array]):
        level, a, sigma = step
        x = a * x + sigma * random.normal(jax.random.fold_in(rng_key, level), index, x)
        return x, x

    _, above = jax.lax.scan(up, x, (jnp.arange(len(a)), a, sigma))
    return jnp.concatenate([x[None], above])


def tune_steps(
    rng_key: jax.Array,
    densities: Densities,
    path: jax.Array,
    levels: jax.Array | np.ndarray,
    *,
    num_steps: int,
    target_acceptance: float,
) -> jax.Array:
    """h of MALA on the conditionals of some levels, [levels].

    Args:
      path: x_0 .. x_n [all levels, batch, ...], where chains on the conditionals start.
      levels: int [levels]. num_steps: of the warm-up, at least 20.
    """

    def at_level(level: jax.Array) -> jax.Array:
        assert densities.conditional_std is not None
        end, _ = _ends(densities, level, path)
        found = samplers.warmup(
            jax.random.fold_in(rng_key, level),
            lambda step, mass: samplers.mala(end, step),
            path[level],
            num_steps,
            initial_step_size=_mala_step(densities.conditional_std[level], path[level]),
            target_acceptance=target_acceptance,
            adapt_mass=False,
        )
        return found.step_size

    return jax.lax.map(at_level, levels)


def conditional_bounds(
    rng_key: jax.Array,
    densities: Densities,
    path: jax.Array,
    levels: jax.Array | np.ndarray,
    step_sizes: jax.Array,
    first_chain: jax.Array,
    *,
    num_temperatures: int,
) -> Bounds:
    """The bound of the module for images x_0 and their noising paths: the sum over some levels.

    Reverse chains start at the path's x_t after num_temperatures steps of MALA on the conditional.

    Args:
      rng_key: chains' noise is a function of it, the level and the chain. densities: those with
        conditionals. path: [all levels, batch, ...]. levels: int [levels]; the sums over parts of
        the levels add up to the bound. step_sizes: [levels], see `tune_steps`.
      first_chain: index of the first image. num_temperatures: of each conditional's annealing.
    """
    a, sigma = densities.noising_steps()  # those of the top are not read
    top, num_values = len(path) - 1, math.prod(path.shape[2:])

    def log_noising(level: jax.Array) -> jax.Array:
        """log q(x_{t+1} | x_t) [batch]; 0 at the top."""
        noise = (path[jnp.minimum(level + 1, top)] - a[level] * path[level]) / sigma[level]
        squares = jnp.sum(noise**2, axis=range(1, noise.ndim))
        log_z = num_values * (0.5 * np.log(2 * np.pi) + jnp.log(sigma[level]))
        return jnp.where(level == top, 0.0, -0.5 * squares - log_z)

    def at_level(at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        level, narrowest = at
        drawing, rising, falling, settling = jax.random.split(jax.random.fold_in(rng_key, level), 4)
        x = path[level]
        end, start = _ends(densities, level, path)
        energy_path = samplers.geometric_path(start.energy, end)
        widest = _mala_step(start.std, x)
        betas = _temperatures(widest / narrowest, num_temperatures)
        scaled = 1 / ((1 - betas) / widest + betas / narrowest)

        def log_weights(key: jax.Array, x: jax.Array, betas: jax.Array, steps: jax.Array):
            found = samplers.ais(
                key,
                energy_path,
                x,
                betas,
                lambda energy_fn, *step: samplers.mala(energy_fn, *step),
                num_steps=_MOVES,
                kernel_params=steps,
                first_chain=first_chain,
            )
            return found.log_weights

        index = first_chain + jnp.arange(len(x))
        drawn = start.mean + start.std * random.normal(drawing, index, x)
        forward = start.log_z() + log_weights(rising, drawn, betas, scaled[1:])
        kernel = samplers.mala(end, scaled[-1])
        settled, _ = samplers.run_chain(
            settling, kernel, x, num_temperatures, first_chain=first_chain
        )
        down = log_weights(falling, settled.x, betas[::-1], scaled[:-1][::-1])
        reverse = start.log_z() - down
        return -end(x) - log_noising(level) - jnp.stack([reverse, forward]), reverse - forward

    of_levels, widths = jax.lax.map(at_level, (levels, step_sizes))
    lower, upper = of_levels.sum(0)
    return Bounds(lower, upper, widths.T)


def _mala_step(std: jax.Array, x: jax.Array) -> jax.Array:
    """h for a Gaussian of this standard deviation over the values of x [batch, ...]."""
    return (_STEP * std) ** 2 / (2 * math.prod(x.shape[1:]) ** (1 / 3))


def _temperatures(ratio: jax.Array, number: int) -> jax.Array:
    """betas 0 .. 1 [number + 1] at equal ratios of the precision, which grows by the ratio."""
    log_ratio = jnp.maximum(jnp.log(ratio), 1e-3)
    return jnp.expm1(jnp.linspace(0.0, 1.0, number + 1) * log_ratio) / jnp.expm1(log_ratio)


def _ends(densities: Densities, level: jax.Array, path: jax.Array) -> tuple[EnergyFn, _Start]:
    """The energy of x_t given x_{t+1} of the path, or of the top level, and its Gaussian start."""
    top = densities.num_conditionals
    assert densities.conditional is not None
    a, sigma = densities.noising_steps()  # those of the top are not read
    is_top = level == top
    x_noisy = path[jnp.minimum(level + 1, top)]
    base = densities.base
    mean = jnp.where(is_top, base.center, x_noisy / a[level])
    std = jnp.where(is_top, base.std, sigma[level] / a[level])
    return densities.conditional(level, x_noisy), _Start(mean, std)
