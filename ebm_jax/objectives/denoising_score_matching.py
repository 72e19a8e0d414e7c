"""Denoising score matching at one or many noise levels (Li, Chen & Sommer, arXiv 1910.07762).

One energy E(x) for all levels. With x_noisy = x + sigma eps, eps ~ N(0, I),

    loss = mean_i |grad E(x_noisy_i) - (x_noisy_i - x_i) / sigma_0^2|^2 / sigma_i^2,

sigma_0 fixed whatever sigma_i is. With the one level sigma_0 this is denoising score matching
(Vincent 2011), whose optimum is the log density of x_noisy. With a ladder the optimum is

    sigma_0^2 grad E(x_noisy) = E[(x_noisy - x) / sigma^2 | x_noisy] / E[1 / sigma^2 | x_noisy],

which is no log density at any level: do not read likelihoods at sigma_0 off it.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ebm_jax import energy, networks, samplers
from ebm_jax.objectives.base import (
    Objective,
    ObjectiveState,
    example_index,
    mean_over_batch,
    mean_per_level,
)
from ebm_jax.samplers import random
from ebm_jax.samplers.base import energy_and_grad

_MAX_GROUPS = 8  # of neighbouring levels in the metrics: a ladder may have one per example


def noise_ladder(
    num_levels: int, min_noise: float, max_noise: float, *, spacing: str = "linear"
) -> np.ndarray:
    """sigma [num_levels], equally ('linear') or logarithmically ('log') spaced, both ends included.

    The papers' rows: linear .05 to 1.2 (CIFAR-10, CelebA), log .1 to 3 (MNIST, Fashion-MNIST), one
    level per example of the batch. In units of the data.

    Raises:
      ValueError: for a noise that is not positive, ends in the wrong order, one level of two
        different ends, or another spacing.
    """
    if not 0 < min_noise <= max_noise:
        raise ValueError(
            f"the noise goes from {min_noise} to {max_noise}: write 0 < min_noise <= max_noise"
        )
    if num_levels < 1 or (num_levels == 1) != (min_noise == max_noise):
        raise ValueError(
            f"{num_levels} levels from {min_noise} to {max_noise}: write at least two levels for "
            "a ladder, and equal ends for a single level"
        )
    if spacing not in ("linear", "log"):
        raise ValueError(f"spacing is {spacing!r}: write 'linear' or 'log'")
    space = np.linspace if spacing == "linear" else np.geomspace
    return space(min_noise, max_noise, num_levels)


def score_matching_losses(
    energy_fn: energy.EnergyFn,
    x: jax.Array,
    x_noisy: jax.Array,
    sigma: jax.Array,
    target_sigma: float = 0.1,
) -> tuple[jax.Array, jax.Array]:
    """Per example, the loss above and the energy of x_noisy; both [batch].

    Args:
      x, x_noisy: [batch, ...]. sigma: [] or [batch]. target_sigma: sigma_0.
    """
    energies, grad = energy_and_grad(energy_fn, x_noisy)
    residual = grad - (x_noisy - x) / target_sigma**2
    return jnp.sum(residual**2, axis=tuple(range(1, x.ndim))) / sigma**2, energies


def annealed_sample(
    rng_key: jax.Array,
    energy_fn: energy.EnergyFn,
    x: jax.Array,
    temperatures: Sequence[float] | np.ndarray,
    *,
    step_size: float = 0.02,
    target_sigma: float = 0.1,
    first_chain: Any = 0,
) -> jax.Array:
    """Langevin with a temperature per step, then one jump to the mean of clean given noisy data.

    Step i: x <- x - eps^2 / 2 grad E(x) + eps sqrt(T_i) xi; the jump: x - sigma_0^2 grad E(x).
    Nothing is clipped.

    Args:
      rng_key: the draw of chain i depends on it, the step and i. x: starts [batch, ...].
      temperatures: T_i [steps], such as `samplers.mdsm_temperatures()`.
      step_size: eps. target_sigma: sigma_0. first_chain: place of x[0] in the whole set.
    """
    state, _ = samplers.run_schedule(
        rng_key,
        functools.partial(samplers.mdsm_langevin, energy_fn, eps=step_size),
        jnp.asarray(temperatures, jnp.float32),
        x,
        1,
        first_chain=first_chain,
    )
    return state.x - target_sigma**2 * state.grad


def denoising_score_matching(
    module: nn.Module,
    sigma: Sequence[float] | np.ndarray,
    *,
    batch_size: int,
    target_sigma: float = 0.1,
    temperatures: Sequence[float] | np.ndarray | None = None,
    step_size: float = 0.02,
    centre: float = 0.5,
) -> Objective:
    """The objective of (multiscale) denoising score matching.

    Example i of the global batch has the level i mod len(sigma), at each step the same, so that
    the noise does not depend on the number of devices.

    Args:
      module: network called as module(x) -> [batch].
      sigma: the levels, see `noise_ladder`; one for plain denoising score matching.
      batch_size: examples per step on all devices, a multiple of the number of levels.
      target_sigma: sigma_0, for one level usually that level.
      temperatures: of `sample`, one per step; None: `samplers.mdsm_temperatures()`, 2,700 steps.
      step_size: eps of `sample`. centre: of the start centre + N(0, I), the middle of the data.
    Returns:
      Objective. Metrics: 'normalized_loss', sigma_0^4 times the loss (as the paper's code logs
      it), and 'normalized_loss_by_noise', the same for up to 8 groups of neighbouring levels, both
      means over examples; 'energy_noisy', of x_noisy.
    Raises:
      ValueError: a sigma that is not positive, a batch that is no multiple of the levels, no
        temperatures or negative ones, or temperatures above 1 with one level: a single level says
        nothing of where such chains go.
    """
    sigma = np.asarray(sigma, np.float32)
    if sigma.ndim != 1 or not sigma.size or not np.all(sigma > 0) or target_sigma <= 0:
        raise ValueError(
            f"sigma is {sigma.tolist()} and target_sigma {target_sigma}: write positive noises"
        )
    num_levels = len(sigma)
    if batch_size % num_levels:
        nearest = max(1, round(batch_size / num_levels)) * num_levels
        raise ValueError(
            f"a batch of {batch_size} does not spread over {num_levels} noise levels: "
            f"write {nearest}, or {batch_size} levels"
        )
    if temperatures is None:
        temperatures = samplers.mdsm_temperatures()
    temperatures = np.asarray(temperatures, np.float32)
    if temperatures.ndim != 1 or not temperatures.size or np.min(temperatures) < 0:
        raise ValueError("temperatures must be a list of numbers of at least 0, one per step")
    if num_levels == 1 and np.max(temperatures) > 1:
        raise ValueError(
            f"a ladder with one level cannot be annealed from temperature {np.max(temperatures):g}:"
            " write at least two levels, or temperatures of at most 1"
        )
    num_groups = min(num_levels, _MAX_GROUPS)

    def init(rng_key, params, example_batch) -> ObjectiveState:
        del example_batch
        return ObjectiveState(networks.init_power_state(rng_key, module, params))

    def loss(params, objective_state, batch, rng_key):
        x, index = batch["image"], example_index(batch)
        level = index % num_levels
        level_sigma = jnp.asarray(sigma)[level]
        noise = random.normal(rng_key, index, x)
        x_noisy = x + level_sigma.reshape(-1, *(1,) * (x.ndim - 1)) * noise
        normalized, power_state = networks.normalize_params(
            module, params, objective_state.power_state
        )
        losses, energies = score_matching_losses(
            networks.bind(module, normalized), x, x_noisy, level_sigma, target_sigma
        )
        relative = target_sigma**4 * losses
        metrics = {
            "normalized_loss": mean_over_batch(relative),
            "normalized_loss_by_noise": mean_per_level(
                relative, level * num_groups // num_levels, num_groups
            ),
            "energy_noisy": mean_over_batch(energies),
        }
        new_state = objective_state._replace(power_state=power_state)
        return jnp.mean(losses), (new_state, jax.lax.stop_gradient(metrics))

    def sample(rng_key, params, num_samples, *, first_sample=0):
        start_key, chain_key = jax.random.split(rng_key)
        like = jnp.zeros((num_samples, *module.input_shape))
        return annealed_sample(
            chain_key,
            networks.make_energy_fn(module, params),
            centre + random.normal(start_key, first_sample + jnp.arange(num_samples), like),
            temperatures,
            step_size=step_size,
            target_sigma=target_sigma,
            first_chain=first_sample,
        )

    return Objective(init, loss, sample)
