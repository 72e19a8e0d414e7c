"""Diffusion recovery likelihood (Gao, Song, Poole, Wu & Kingma 2020, arXiv 2012.08125).

One energy per pair of neighbouring noise levels, trained on the conditional of the cleaner given
the noisier: with y = multiplier_t x_t,

    -log p(y | x_{t+1}) = E(y, t) / s_t^2 + r_t |y - x_{t+1}|^2 / (2 sigma_{t+1}^2) + const.

The factor 1 / s_t^2 belongs to the model (a fixed temperature per level, `energy_scale`); the step
size of a chain is another number, though the paper gives both the same s_t.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ebm_jax import energy, networks, samplers
from ebm_jax.diffusion import NoiseSchedule, q_sample_pairs
from ebm_jax.networks import spectral_norm
from ebm_jax.objectives.base import (
    Objective,
    ObjectiveState,
    example_index,
    figures_per_level,
)
from ebm_jax.samplers import random
from ebm_jax.samplers.base import energy_and_grad

LevelEnergy = Callable[[jax.Array], energy.EnergyFn]  # level t -> marginal energy of y_t
LevelKernel = Callable[[energy.EnergyFn, jax.Array], samplers.Kernel]  # (energy, level t) -> kernel

DRAW_VARIANCES = ("step", "posterior")  # of `normal_draw_per_level`


def langevin_per_level(
    schedule: NoiseSchedule,
    *,
    step_scale: float = 2e-4,
    step_growth: float = 1.0,
    noise_scale: float = 1.0,
) -> LevelKernel:
    """The paper's chain: y <- y - s_t^2 / 2 grad E(y | x_{t+1}) + nu s_t xi.

    Args:
      schedule: the noise levels. step_scale, step_growth: of s_t^2, see `langevin_scale`.
      noise_scale: nu, 1 in training and .99 when sampling.
    Returns:
      (energy_fn, level [] or [batch]) -> Langevin kernel.
    """
    scale = schedule.langevin_scale(step_scale, step_growth)

    def make_kernel(energy_fn: energy.EnergyFn, level: jax.Array) -> samplers.Kernel:
        return samplers.langevin(energy_fn, scale[level] / 2, temperature=noise_scale**2)

    return make_kernel


def normal_draw_per_level(
    schedule: NoiseSchedule, *, variance: str = "step", noise_scale: float = 1.0
) -> LevelKernel:
    """The paper's T1k: one draw of a normal law in place of the chain.

        y ~ N(x_{t+1} - sigma_{t+1}^2 grad E(x_{t+1}), v_t I),

    grad E of the marginal energy. It is one step of Langevin from x_{t+1}, h = sigma_{t+1}^2 and
    T = v_t / (2 h), as the quadratic term of the conditional has no gradient where it starts.

    Args:
      schedule: the noise levels, so close that the data vary little over sigma_{t+1}.
      variance: of the draw, v_t. 'step' is sigma_{t+1}^2, the paper's. Along a direction in which
        the data do not vary, y_t has the variance a_{t+1}^2 sbar_t^2, which at the first levels (of
        the 1,000, the first alone) is less: no energy then makes negatives like the data, and
        training drives it to infinity. 'posterior' is the variance of y_t given x_{t+1} along such
        a direction, 1 / (1 / (multiplier_t sbar_t)^2 + r_t / sigma_{t+1}^2), the least that there
        can be; there E becomes the energy of x_{t+1}, which makes the draw exact.
      noise_scale: nu, factor of the standard deviation.
    Returns:
      (energy_fn, level [] or [batch]) -> kernel to be run for one step from x_{t+1}.
    Raises:
      ValueError: for another variance.
    """
    step, temperature = _draw_as_langevin(schedule, variance, noise_scale)

    def make_kernel(energy_fn: energy.EnergyFn, level: jax.Array) -> samplers.Kernel:
        return samplers.langevin(energy_fn, step[level], temperature=temperature[level])

    return make_kernel


def _draw_as_langevin(
    schedule: NoiseSchedule, variance: str, noise_scale: float
) -> tuple[jax.Array, jax.Array]:
    """([T], [T]): step size and temperature that make a step of Langevin the normal draw."""
    step = schedule.sigma[1:] ** 2
    match variance:
        case "step":
            drawn = step
        case "posterior":
            drawn = (schedule.multiplier * schedule.conditional_std) ** 2
        case _:
            known = ", ".join(DRAW_VARIANCES)
            raise ValueError(f"draw_variance is {variance!r}: write one of {known}")
    return step, noise_scale**2 * drawn / (2 * step)


def noise_of_the_draw(
    schedule: NoiseSchedule, level: jax.Array, noise: jax.Array, next_noise: jax.Array
) -> jax.Array:
    """xi for the draw of a pair's negative, from the pair's own noises.

        xi = (sigma_{t+1} eps - a_{t+1} sbar_t eps') / sqrt(a_{t+1}^2 sbar_t^2 + sigma_{t+1}^2)

    is what x_t has and x_{t+1} does not show: standard normal whatever x_0 and x_{t+1} are, so that
    negatives drawn with it have their law, and the expected gradient of the loss is that of a fresh
    xi. But y_t = E[y_t | x_0, x_{t+1}] + sqrt(v_t) xi with the 'posterior' variance v_t: xi drops
    out of y_pos - y_neg, which it would otherwise fill, and to first order in sigma_{t+1} the loss
    has the gradient of denoising score matching.

    Args:
      level: t [batch]. noise, next_noise: eps, eps' of `q_sample_pairs` [batch, ...].
    """
    shape = (-1,) + (1,) * (noise.ndim - 1)
    sigma = schedule.sigma[1:][level].reshape(shape)
    within = (schedule.a[1:] * schedule.sigma_bar[:-1])[level].reshape(shape)
    return (sigma * noise - within * next_noise) / jnp.sqrt(within**2 + sigma**2)


def chain_per_level(
    schedule: NoiseSchedule,
    *,
    num_steps: int,
    step_scale: float = 2e-4,
    step_growth: float = 1.0,
    noise_scale: float = 1.0,
    draw_variance: str = "step",
) -> tuple[LevelKernel, int]:
    """What moves x_{t+1} to y_t at each level, and for how many steps.

    `langevin_per_level` for num_steps, or with num_steps = 0 one step of `normal_draw_per_level`.
    """
    if num_steps == 0:
        draw = normal_draw_per_level(schedule, variance=draw_variance, noise_scale=noise_scale)
        return draw, 1
    steps = {"step_scale": step_scale, "step_growth": step_growth}
    return langevin_per_level(schedule, noise_scale=noise_scale, **steps), num_steps


def energy_scale(
    schedule: NoiseSchedule,
    *,
    step_scale: float = 2e-4,
    step_growth: float = 1.0,
    energy_in_nats: bool = False,
    num_steps: int = 1,
) -> jax.Array:
    """[T] what a network's output is multiplied by: 1 / s_t^2, or 1 where it is in nats already.

    With num_steps = 0, where there is no step, 1 / sbar_t: the output's gradient is then of the
    order of the noise eps in x_t at every level.
    """
    if energy_in_nats:
        return jnp.ones(schedule.num_pairs)
    if num_steps == 0:
        return 1 / schedule.sigma_bar[:-1]
    return 1 / schedule.langevin_scale(step_scale, step_growth)


def conditional_energy(
    energy_fn: energy.EnergyFn, schedule: NoiseSchedule, x_noisy: jax.Array, level: jax.Array
) -> energy.EnergyFn:
    """Energy of y_t given x_{t+1} at levels t, from the marginal energy of y_t."""
    return energy.recovery_energy(
        energy_fn, x_noisy, schedule.sigma[1:][level], schedule.recovery_weight[level]
    )


def progressive_sample(
    rng_key: jax.Array,
    level_energy: LevelEnergy,
    schedule: NoiseSchedule,
    x: jax.Array,
    *,
    make_kernel: LevelKernel,
    num_steps: int,
    keep_trajectory: bool = False,
    first_chain: int | jax.Array = 0,
):
    """From noise to data through the levels T-1 .. 0, each a chain on its conditional.

    The chain of pair t starts at y = x_{t+1} and ends at x_t = y / multiplier_t (algorithm 2).

    Args:
      rng_key: the draw of chain i depends on it, the level, the step and i.
      level_energy: (t []) -> marginal energy of y_t, its scale 1 / s_t^2 included.
      schedule: T pairs. x: x_T [batch, ...], N(0, I).
      make_kernel: (conditional energy, t []) -> kernel. num_steps: K steps per level.
      keep_trajectory: return what every level ended with.
      first_chain: place of x[0] in a batch that is shared by several devices.
    Returns:
      x_0-like samples [batch, ...] (of level 0), or with keep_trajectory the pair of it and the
      trajectory [T + 1, batch, ...]: x_T first, the samples last.
    """

    def one_level(x: jax.Array, level: jax.Array):
        energy_fn = conditional_energy(level_energy(level), schedule, x, level)
        state, _ = samplers.run_chain(
            jax.random.fold_in(rng_key, level),
            make_kernel(energy_fn, level),
            x,
            num_steps,
            first_chain=first_chain,
        )
        x = state.x / schedule.multiplier[level]
        return x, x if keep_trajectory else None

    levels = jnp.arange(schedule.num_pairs - 1, -1, -1)
    last, ends = jax.lax.scan(one_level, x, levels)
    return (last, jnp.concatenate([x[None], ends])) if keep_trajectory else last


def network_level_energy(
    module: nn.Module, params: Any, energy_scale: jax.Array, *, power_state: Any = None
) -> LevelEnergy:
    """The marginal energies E(y, t) / s_t^2 of a network, its parameters normalised once for all.

    Args:
      module, params: the network. energy_scale: 1 / s_t^2 [T].
      power_state: vectors of the spectral norm; None: the converged ones.
    """
    normalized, _ = networks.normalize_params(module, params, power_state)

    def level_energy(level: jax.Array) -> energy.EnergyFn:
        return networks.bind(module, normalized, level, scale=energy_scale[level])

    return level_energy


def recovery_likelihood(
    module: nn.Module,
    schedule: NoiseSchedule,
    *,
    num_steps: int = 30,
    step_scale: float = 2e-4,
    step_growth: float = 1.0,
    energy_in_nats: bool = False,
    noise_scale: float = 1.0,
    sampling_noise_scale: float = 0.99,
    draw_variance: str = "step",
) -> Objective:
    """The objective of diffusion recovery likelihood, `algorithm 1` of the paper.

    Per example a level t uniform on 0..T-1, a pair (x_t, x_{t+1}), a K-step Langevin chain from
    x_{t+1} on the conditional (K = 0: one draw of `normal_draw_per_level`, the paper's T1k), and

        loss = mean (sigma_1 / sigma_{t+1}) (E(y_pos, t) - E(y_neg, t)),

    the negatives held constant. 1 / s_t^2 is not in the loss.

    Args:
      module: network called as module(y, t) -> [batch]. schedule: the levels.
      num_steps: K. step_scale: b^2; fixes the model's energy scale 1 / s_t^2 too,
        unless energy_in_nats. Not used with K = 0, see `energy_scale`.
      step_growth: how s_t^2 grows with the level, see `NoiseSchedule.langevin_scale`.
      energy_in_nats: the network's output is the energy itself. With 1 / s_t^2 in front, a level of
        short steps wants small outputs, which one step of Adam on the last layer then upsets.
      noise_scale, sampling_noise_scale: nu of the chain in training and in `sample`.
      draw_variance: with K = 0, of the draw: see `normal_draw_per_level`.
    Returns:
      Objective. Metrics, each by `figures_per_level`: 'level_loss', 'energy_pos', 'energy_neg',
      'displacement' (L2 distance from a chain's start x_{t+1} to its end as x_t, as published),
      'chain_grad_norm' (of the conditional energy in y, at the chain's last step).
    Raises:
      ValueError: for num_steps < 0, step_scale <= 0 or an unknown draw_variance.
    """
    if num_steps < 0 or step_scale <= 0:
        raise ValueError(
            f"num_steps is {num_steps} and step_scale {step_scale}: "
            "write at least 1 step, or 0 for one draw, and a positive scale"
        )
    num_levels = schedule.num_pairs
    scale = energy_scale(
        schedule,
        step_scale=step_scale,
        step_growth=step_growth,
        energy_in_nats=energy_in_nats,
        num_steps=num_steps,
    )
    steps = {"step_scale": step_scale, "step_growth": step_growth}
    train_kernel = langevin_per_level(schedule, noise_scale=noise_scale, **steps)
    sample_kernel, chain_steps = chain_per_level(
        schedule,
        num_steps=num_steps,
        noise_scale=sampling_noise_scale,
        draw_variance=draw_variance,
        **steps,
    )

    def init(rng_key, params, example_batch) -> ObjectiveState:
        del example_batch
        if not networks.has_spectral_norm(module):
            return ObjectiveState()
        mode = module.spectral_norm_mode
        return ObjectiveState(spectral_norm.init_power_state(rng_key, params, mode))

    def draw_pairs(rng_key, x, index):
        """Levels and pairs, each a function of (rng_key, place in the global batch)."""

        keys = jax.random.split(rng_key, 3)
        uniform = random.uniform(keys[0], index, ())
        level = jnp.floor(num_levels * uniform).astype(jnp.int32)
        noise, next_noise = (random.normal(key, index, x) for key in keys[1:])
        pair = q_sample_pairs(schedule, x, level, noise, next_noise)
        return level, *pair, (noise, next_noise)

    def run_chains(rng_key, marginal, level, x_noisy, first_chain):
        """Negatives y_t, and the norm of the gradient that the last step went along."""
        conditional = conditional_energy(marginal, schedule, x_noisy, level)
        state, info = samplers.run_chain(
            rng_key, train_kernel(conditional, level), x_noisy, num_steps, first_chain=first_chain
        )
        return state.x, info.grad_norm

    def draw_once(marginal, level, x_noisy, noises):
        """The same of one normal draw, with the noise that belongs to the pair."""
        step, temperature = _draw_as_langevin(schedule, draw_variance, noise_scale)
        _, grad = energy_and_grad(marginal, x_noisy)
        noise = noise_of_the_draw(schedule, level, *noises)
        drawn = samplers.langevin_update(x_noisy, grad, noise, step[level], temperature[level])
        return drawn, jnp.sqrt(jnp.sum(grad**2, axis=tuple(range(1, grad.ndim))))

    def loss(params, objective_state, batch, rng_key):
        pair_key, chain_key = jax.random.split(rng_key)
        index = example_index(batch)
        level, x_t, x_noisy, noises = draw_pairs(pair_key, batch["image"], index)
        multiplier = schedule.multiplier[level].reshape((-1,) + (1,) * (x_t.ndim - 1))
        y_pos = multiplier * x_t

        normalized, power_state = networks.normalize_params(
            module, params, objective_state.power_state
        )
        marginal = networks.bind(
            module, jax.lax.stop_gradient(normalized), level, scale=scale[level]
        )
        if num_steps == 0:
            y_neg, grad_norm = draw_once(marginal, level, x_noisy, noises)
        else:
            y_neg, grad_norm = run_chains(chain_key, marginal, level, x_noisy, index[0])
        y_neg = jax.lax.stop_gradient(y_neg)

        both_energy_fn = networks.bind(module, normalized, jnp.concatenate([level, level]))
        energy_pos, energy_neg = jnp.split(both_energy_fn(jnp.concatenate([y_pos, y_neg])), 2)
        level_weight = schedule.sigma[1] / schedule.sigma[1:][level]
        losses = level_weight * (energy_pos - energy_neg)
        moved = y_neg / multiplier - x_noisy
        displacement = jnp.sqrt(jnp.sum(moved**2, axis=tuple(range(1, moved.ndim))))
        figures = {
            "level_loss": losses,
            "energy_pos": energy_pos,
            "energy_neg": energy_neg,
            "displacement": displacement,
            "chain_grad_norm": grad_norm,
        }
        metrics = figures_per_level(figures, level, num_levels)
        new_state = objective_state._replace(power_state=power_state)
        return jnp.mean(losses), (new_state, jax.lax.stop_gradient(metrics))

    def sample(rng_key, params, num_samples, *, first_sample=0, keep_trajectory=False):
        start_key, chain_key = jax.random.split(rng_key)
        like = jnp.zeros((num_samples, *module.input_shape))
        x = random.normal(start_key, first_sample + jnp.arange(num_samples), like)
        return progressive_sample(
            chain_key,
            network_level_energy(module, params, scale),
            schedule,
            x,
            make_kernel=sample_kernel,
            num_steps=chain_steps,
            keep_trajectory=keep_trajectory,
            first_chain=first_sample,
        )

    return Objective(init, loss, sample)
