"""Noise levels of the forward process, and its samples (Gao et al. 2020, section 3.1).

Levels are numbered 0..T. With a_i and sigma_i = sqrt(1 - a_i^2) per level,

    x_0 data,   x_t = abar_t x_0 + sbar_t eps,   x_{t+1} = a_{t+1} x_t + sigma_{t+1} eps'.

Level 0 is already one small step of noise. A pair (t, t+1) exists for t = 0..T-1; the model of pair
t is a density over y_t = multiplier_t x_t, with multiplier_t = a_{t+1} except that the last is 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

NUM_FINE_STEPS = 1000


class NoiseSchedule(NamedTuple):
    """Float arrays [T + 1] over the levels 0..T.

    a, sigma: the step from level i - 1 to i (from the data to level 0 for i = 0).
    a_bar, sigma_bar: from the data to level i, a_bar = cumprod(a).
    """

    a: jax.Array
    sigma: jax.Array
    a_bar: jax.Array
    sigma_bar: jax.Array

    @property
    def num_pairs(self) -> int:
        """T, the number of pairs of neighboring levels, each with an energy of its own."""
        return len(self.a) - 1

    @property
    def multiplier(self) -> jax.Array:
        """[T] factor between x_t and the model's variable y_t: a_{t+1}, but 1 for the last pair."""
        return self.a[1:].at[-1].set(1.0)

    @property
    def recovery_weight(self) -> jax.Array:
        """[T] r_t: 1 where the pair is conditional, 0 for the last, which is a marginal density."""
        return jnp.ones_like(self.a[1:]).at[-1].set(0.0)

    @property
    def conditional_std(self) -> jax.Array:
        """[T] of x_t given x_{t+1} along a direction in which the data do not vary."""
        of_noisy = self.recovery_weight * (self.a / self.sigma)[1:] ** 2
        return 1 / jnp.sqrt(1 / self.sigma_bar[:-1] ** 2 + of_noisy)

    def langevin_scale(self, step_scale: float, step_growth: float = 1.0) -> jax.Array:
        """[T] s_t^2 = b^2 c_t^2 sigma_{t+1}^2 with c_t^2 = (sbar_t / sbar_0)^g, b^2 = step_scale.

        step_growth: g. 1 is the paper's; with 0 every level's step is the same part of the variance
        sigma_{t+1}^2 of its conditional, so that chains of one length settle at every level.
        """
        growth = (self.sigma_bar[:-1] / self.sigma_bar[0]) ** step_growth
        return step_scale * growth * self.sigma[1:] ** 2


def make_schedule(num_pairs: int, noise_levels: Sequence[float] = ()) -> NoiseSchedule:
    """The paper's schedule with T = num_pairs, cut from 1,000 fine steps; or one of other levels.

    Fine steps: beta = linspace(1e-4, .02, 1000), then one more beta = 1. For T <= 501 the levels
    are the fine steps 0, s, 2s, .. (T of them, s = 1000 // (2 (T - 1))) and 999, as published;
    T = 1000 keeps every fine step (T1k). The published index formula has s = 0 from T = 502 on, so
    sizes in between are refused.

    Args:
      num_pairs: T, 1..501 or 1000.
      noise_levels: sbar_0 < .. < sbar_{T-1} in place of the published ones; level T stays.
    Returns:
      NoiseSchedule of T + 1 levels, float32.
    Raises:
      ValueError: for another T, and for noise levels that are not T growing numbers in 0..1.
    """
    beta = np.append(np.linspace(1e-4, 0.02, NUM_FINE_STEPS), 1.0)
    fine_a_bar = np.cumprod(np.sqrt(1 - beta))
    if len(noise_levels):
        a_bar = _a_bar_of(noise_levels, num_pairs, fine_a_bar[NUM_FINE_STEPS - 1])
    elif num_pairs == NUM_FINE_STEPS:
        a_bar = fine_a_bar
    elif 1 <= num_pairs <= NUM_FINE_STEPS // 2 + 1:
        stride = NUM_FINE_STEPS // (2 * max(num_pairs - 1, 1))
        a_bar = fine_a_bar[np.append(np.arange(num_pairs) * stride, NUM_FINE_STEPS - 1)]
    else:
        raise ValueError(
            f"num_pairs: expected 1 to 501, or 1000 for the fine schedule, got {num_pairs}"
        )
    a = a_bar / np.append(1.0, a_bar[:-1])
    return NoiseSchedule(
        *(
            jnp.asarray(values, jnp.float32)
            for values in (a, np.sqrt(1 - a**2), a_bar, np.sqrt(1 - a_bar**2))
        )
    )


def _a_bar_of(noise_levels: Sequence[float], num_pairs: int, last: float) -> np.ndarray:
    levels = np.asarray(noise_levels, float)
    if len(levels) != num_pairs:
        raise ValueError(
            f"num_pairs: expected {len(levels)}, the number of noise_levels, got {num_pairs}"
        )
    if not np.all(np.diff([0, *levels, np.sqrt(1 - last**2)]) > 0):
        raise ValueError(
            "noise_levels: expected standard deviations that grow from above 0 to below 1, got "
            f"{tuple(noise_levels)}"
        )
    return np.append(np.sqrt(1 - levels**2), last)


def t6_schedule() -> NoiseSchedule:
    """The published runs' schedule: seven levels, six pairs (T6)."""
    return make_schedule(6)


def t1k_schedule() -> NoiseSchedule:
    """Every fine step a level: 1,001 levels, 1,000 pairs (T1k)."""
    return make_schedule(NUM_FINE_STEPS)


def _per_example(values: jax.Array, level: jax.Array | int, x: jax.Array) -> jax.Array:
    """values[level], shaped so that it multiplies x [batch, ...] (level is [] or [batch])."""
    picked = values[jnp.asarray(level)]
    return picked.reshape(picked.shape + (1,) * (x.ndim - picked.ndim))


def q_sample(schedule: NoiseSchedule, x: jax.Array, level: jax.Array | int, noise: jax.Array):
    """x_t = abar_t x_0 + sbar_t eps.

    Args:
      x: data x_0 [batch, ...]. level: t, int [] or [batch]. noise: eps, standard normal, like x.
    Returns:
      x_t, like x.
    """
    a_bar, sigma_bar = (_per_example(v, level, x) for v in (schedule.a_bar, schedule.sigma_bar))
    return a_bar * x + sigma_bar * noise


def q_sample_pairs(
    schedule: NoiseSchedule,
    x: jax.Array,
    level: jax.Array,
    noise: jax.Array,
    next_noise: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Draws (x_t, x_{t+1}): x_t by `q_sample`, then x_{t+1} = a_{t+1} x_t + sigma_{t+1} eps'.

    Args:
      x: data x_0 [batch, ...]. level: t, int [] or [batch], 0 <= t < T.
      noise, next_noise: eps and eps', standard normal, like x.
    Returns:
      (x_t, x_{t+1}), each like x.
    """
    x_t = q_sample(schedule, x, level, noise)
    a, sigma = (_per_example(v[1:], level, x) for v in (schedule.a, schedule.sigma))
    return x_t, a * x_t + sigma * next_noise
