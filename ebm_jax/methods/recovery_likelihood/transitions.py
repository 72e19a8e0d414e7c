"""Transitions from x_{t+1} to y_t at each level: the paper's Langevin chain, and T1k's Gaussian."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax import samplers
from ebm_jax.diffusion import NoiseSchedule
from ebm_jax.energy import EnergyFn, recovery_energy
from ebm_jax.methods.base import per_example

LevelEnergy = Callable[[jax.Array], EnergyFn]  # level t -> marginal energy of y_t
LevelKernel = Callable[[EnergyFn, jax.Array], samplers.Kernel]  # (energy, level t) -> kernel

MakeChain = Callable[..., samplers.Kernel]  # (energy, step size, temperature=) -> kernel

VARIANCES = ("step", "posterior")  # of `gaussian_transition`


class Transition(NamedTuple):
    """Moves x_{t+1} to y_t: num_steps of make_kernel(conditional energy, t)."""

    make_kernel: LevelKernel
    num_steps: int


def langevin_transition(
    schedule: NoiseSchedule,
    *,
    num_steps: int,
    step_scale: float = 2e-4,
    step_growth: float = 1.0,
    noise_scale: float = 1.0,
    make_chain: MakeChain = samplers.langevin,
) -> Transition:
    """The paper's chain: K times y <- y - s_t^2 / 2 grad E(y | x_{t+1}) + nu s_t xi.

    Args:
      schedule: the noise levels. num_steps: K. step_scale, step_growth: of s_t^2, see
        `NoiseSchedule.langevin_scale`. noise_scale: nu, 1 in training and .99 when sampling.
      make_chain: `samplers.langevin`, or `bounded_mala`.
    """
    scale = schedule.langevin_scale(step_scale, step_growth)

    def make_kernel(energy_fn: EnergyFn, level: jax.Array) -> samplers.Kernel:
        return make_chain(energy_fn, scale[level] / 2, temperature=noise_scale**2)

    return Transition(make_kernel, num_steps)


def bounded_mala(
    energy_fn: EnergyFn, step_size: jax.Array, temperature: jax.typing.ArrayLike = 1.0
) -> samplers.Kernel:
    """MALA whose gradients move no value by more than the noise's standard deviation.

    Both matter where an energy is steep over less than a step. Without the test a Langevin chain
    climbs there, and with unbounded moves a tested one stands still: its end is no sample, training
    raises the energy there, and it gets steeper.
    """
    max_grad = jnp.sqrt(2 * temperature / step_size)
    return samplers.mala(energy_fn, step_size, temperature=temperature, max_grad=max_grad)


def gaussian_transition(
    schedule: NoiseSchedule, *, variance: str = "step", noise_scale: float = 1.0
) -> Transition:
    """The paper's T1k: one Gaussian transition in place of the chain.

        y ~ N(x_{t+1} - sigma_{t+1}^2 grad E(x_{t+1}), v_t I),

    grad E of the marginal energy. It is one step of Langevin from x_{t+1}, h = sigma_{t+1}^2 and
    T = v_t / (2 h), as the quadratic term of the conditional has no gradient where it starts.

    Args:
      schedule: the noise levels, so close that the data vary little over sigma_{t+1}.
      variance: v_t. 'step' is sigma_{t+1}^2, the paper's. Along a direction in which the data do
        not vary, y_t has the variance a_{t+1}^2 sbar_t^2, which at the first levels (of the 1,000,
        the first alone) is less: no energy then makes negatives like the data, and training drives
        it to infinity. 'posterior' is the variance of y_t given x_{t+1} along such a direction,
        1 / (1 / (multiplier_t sbar_t)^2 + r_t / sigma_{t+1}^2), the least that there can be; there
        E becomes the energy of x_{t+1}, which makes the transition exact.
      noise_scale: nu, factor of the standard deviation.
    Raises:
      ValueError: for another variance.
    """
    step, temperature = gaussian_as_langevin(schedule, variance, noise_scale)

    def make_kernel(energy_fn: EnergyFn, level: jax.Array) -> samplers.Kernel:
        return samplers.langevin(energy_fn, step[level], temperature=temperature[level])

    return Transition(make_kernel, 1)


def gaussian_as_langevin(
    schedule: NoiseSchedule, variance: str, noise_scale: float
) -> tuple[jax.Array, jax.Array]:
    """([T], [T]): step size and temperature that make a Langevin step the Gaussian transition."""
    step = schedule.sigma[1:] ** 2
    match variance:
        case "step":
            of_transition = step
        case "posterior":
            of_transition = (schedule.multiplier * schedule.conditional_std) ** 2
        case _:
            raise ValueError(
                f"transition_variance: expected one of {', '.join(VARIANCES)}, got {variance!r}"
            )
    return step, noise_scale**2 * of_transition / (2 * step)


def posterior_noise(
    schedule: NoiseSchedule, level: jax.Array, noise: jax.Array, next_noise: jax.Array
) -> jax.Array:
    """xi for the Gaussian transition of a pair's negative, from the pair's own noises.

        xi = (sigma_{t+1} eps - a_{t+1} sbar_t eps') / sqrt(a_{t+1}^2 sbar_t^2 + sigma_{t+1}^2)

    is what x_t has and x_{t+1} does not show: standard normal whatever x_0 and x_{t+1} are, so that
    negatives made with it keep their distribution, and the expected gradient of the loss is that of
    a fresh xi. But y_t = E[y_t | x_0, x_{t+1}] + sqrt(v_t) xi with the 'posterior' variance v_t: xi
    drops out of y_pos - y_neg, which it would otherwise fill, and to first order in sigma_{t+1} the
    loss has the gradient of denoising score matching.

    Args:
      level: t [batch]. noise, next_noise: eps, eps' of `q_sample_pairs` [batch, ...].
    """
    sigma = per_example(schedule.sigma[1:][level], noise)
    within = per_example((schedule.a[1:] * schedule.sigma_bar[:-1])[level], noise)
    return (sigma * noise - within * next_noise) / jnp.sqrt(within**2 + sigma**2)


def energy_scale(
    schedule: NoiseSchedule,
    *,
    transition: str = "langevin",
    step_scale: float = 2e-4,
    step_growth: float = 1.0,
    energy_in_nats: bool = False,
) -> jax.Array:
    """[T] factor of a network's output: 1 / s_t^2, or 1 where the output is in nats already.

    With Gaussian transitions, which have no s_t, 1 / sbar_t: the output's gradient is then of the
    order of the noise eps in x_t at every level.
    """
    if energy_in_nats:
        return jnp.ones(schedule.num_pairs)
    if transition == "gaussian":
        return 1 / schedule.sigma_bar[:-1]
    return 1 / schedule.langevin_scale(step_scale, step_growth)


def conditional_energy(
    energy_fn: EnergyFn, schedule: NoiseSchedule, x_noisy: jax.Array, level: jax.Array
) -> EnergyFn:
    """Energy of y_t given x_{t+1} at levels t, from the marginal energy of y_t."""
    return recovery_energy(
        energy_fn, x_noisy, schedule.sigma[1:][level], schedule.recovery_weight[level]
    )
