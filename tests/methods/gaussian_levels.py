"""Noise levels of x_0 ~ N(MEAN, VARIANCE) and of a mixture, by the paper's schedule of six pairs.

Every distribution that recovery likelihood speaks of is known in closed form.
"""

import jax.numpy as jnp
import numpy as np
import recovery_in_numpy as plain

from ebm_jax import energy
from ebm_jax.diffusion import t6_schedule

SCHEDULE, EXACT = t6_schedule(), plain.schedule(6)
A_BAR, SIGMA_BAR, NEXT_SIGMA = EXACT["a_bar"][:-1], EXACT["sigma_bar"][:-1], EXACT["sigma"][1:]
MULTIPLIER, RECOVERY = plain.multiplier(EXACT), np.array([1, 1, 1, 1, 1, 0])
MEAN, VARIANCE = 0.3, 0.25

# Of y_t for x_0 ~ N(MEAN, VARIANCE), and of its conditional given x_{t+1} = noisy:
PRIOR_MEAN = MULTIPLIER * A_BAR * MEAN
PRIOR_VARIANCE = MULTIPLIER**2 * (A_BAR**2 * VARIANCE + SIGMA_BAR**2)
CURVATURE = 1 / PRIOR_VARIANCE + RECOVERY / NEXT_SIGMA**2


def conditional_mean(t, noisy):
    """Of y_t given x_{t+1} = noisy."""
    return (PRIOR_MEAN[t] / PRIOR_VARIANCE[t] + RECOVERY[t] * noisy / NEXT_SIGMA[t] ** 2) / (
        CURVATURE[t]
    )


def gaussian_energy(level):
    """The exact marginal energy of y_t [n, 1], level [] or [n]."""
    mean, variance = (jnp.asarray(v, jnp.float32)[level] for v in (PRIOR_MEAN, PRIOR_VARIANCE))
    return lambda y: (y[:, 0] - mean) ** 2 / (2 * variance)


def after_steps(step, curvature, mean, start, num_steps, noise_scale=1.0):
    """(mean, variance) of y <- y - step/2 curvature (y - mean) + noise_scale sqrt(step) xi."""
    shrink = 1 - step * curvature / 2
    added = noise_scale**2 * step * (1 - shrink ** (2 * num_steps)) / (1 - shrink**2)
    return mean + shrink**num_steps * (start - mean), added


# A mixture of two Gaussians.
WEIGHTS, CENTERS, SPREADS = np.array([0.3, 0.7]), np.array([-1.0, 1.0]), np.array([0.04, 0.09])


def component(level, k):
    """(mean, variance) of y_t's k-th component."""
    mean = MULTIPLIER[level] * A_BAR[level] * CENTERS[k]
    return mean, MULTIPLIER[level] ** 2 * (A_BAR[level] ** 2 * SPREADS[k] + SIGMA_BAR[level] ** 2)


def mixture_energy(level):
    """The exact marginal energy of y_t [n, 1] at one level []."""
    tables = np.array([[component(t, k) for t in range(6)] for k in (0, 1)])
    means, variances = jnp.asarray(tables.transpose(2, 0, 1), jnp.float32)[:, :, level]

    def part(k):
        return lambda y: (
            (y[:, 0] - means[k]) ** 2 / (2 * variances[k]) + 0.5 * jnp.log(variances[k])
        )

    return energy.mixture_energy([part(0), part(1)], WEIGHTS)
