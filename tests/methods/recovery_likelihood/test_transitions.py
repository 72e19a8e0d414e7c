"""Transitions and conditionals of recovery likelihood on Gaussians and mixtures, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recovery_in_numpy as plain
from gaussian_levels import (
    A_BAR,
    CURVATURE,
    EXACT,
    MEAN,
    MULTIPLIER,
    NEXT_SIGMA,
    RECOVERY,
    SCHEDULE,
    SIGMA_BAR,
    VARIANCE,
    WEIGHTS,
    after_steps,
    component,
    conditional_mean,
    gaussian_energy,
    mixture_energy,
)

from ebm_jax import samplers
from ebm_jax.diffusion import q_sample_pairs
from ebm_jax.methods.recovery_likelihood.transitions import (
    conditional_energy,
    langevin_transition,
)

KEY = jax.random.key(0)


@pytest.mark.parametrize("t", range(6))
def test_conditional_of_a_gaussian_in_closed_form(t):
    """L = (a^2 C)^-1 + r I / sigma^2 and mean L^-1 [(a^2 C)^-1 a abar mu + r x~ / sigma^2],

    with C = abar^2 S + sbar^2 I, for a full covariance S.
    """
    mu, noisy, y = np.random.default_rng(t).normal(size=(3, 2))
    covariance = np.array([[0.5, 0.3], [0.3, 0.4]])
    of_level = A_BAR[t] ** 2 * covariance + SIGMA_BAR[t] ** 2 * np.eye(2)
    prior = np.linalg.inv(MULTIPLIER[t] ** 2 * of_level)
    m = MULTIPLIER[t] * A_BAR[t] * mu

    def marginal(y):
        return 0.5 * jnp.einsum("ni,ij,nj->n", y - m, jnp.asarray(prior, jnp.float32), y - m)

    energy_fn = conditional_energy(marginal, SCHEDULE, jnp.asarray(noisy)[None], t)
    gradient, hessian = jax.jit(
        lambda y: (jax.grad(lambda y: energy_fn(y[None])[0])(y),
                   jax.hessian(lambda y: energy_fn(y[None])[0])(y))
    )(jnp.asarray(y, jnp.float32))  # fmt: skip
    precision = prior + RECOVERY[t] * np.eye(2) / NEXT_SIGMA[t] ** 2
    mean = np.linalg.solve(precision, prior @ m + RECOVERY[t] * noisy / NEXT_SIGMA[t] ** 2)
    np.testing.assert_allclose(hessian, precision, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, precision @ (y - mean), rtol=1e-4, atol=1e-4)


def test_expected_recovery_likelihood_is_the_best_there_is():
    """Mean log p(y_t | x_{t+1}) over pairs of q_sample_pairs: log(L) / 2 - log(2 pi e) / 2."""
    number = 20_000
    keys = jax.random.split(KEY, 3)
    x, noise, next_noise = (jax.random.normal(key, (6 * number, 1)) for key in keys)
    level = jnp.repeat(jnp.arange(6), number)
    x_t, x_noisy = q_sample_pairs(SCHEDULE, MEAN + np.sqrt(VARIANCE) * x, level, noise, next_noise)
    y = SCHEDULE.multiplier[level][:, None] * x_t
    conditional = conditional_energy(gaussian_energy(level), SCHEDULE, x_noisy, level)
    t = np.asarray(level)
    at_the_mean = conditional(jnp.asarray(conditional_mean(t, x_noisy[:, 0])[:, None]))
    log_z = 0.5 * np.log(2 * np.pi / CURVATURE[t]) - np.asarray(at_the_mean, np.float64)
    log_density = (-np.asarray(conditional(y), np.float64) - log_z).reshape(6, number)
    wanted = 0.5 * np.log(CURVATURE) - 0.5 * np.log(2 * np.pi * np.e)
    np.testing.assert_allclose(log_density.mean(axis=1), wanted, atol=4 * np.sqrt(0.5 / number))


@pytest.mark.parametrize(("step_scale", "noise_scale"), [(2e-4, 1.0), (0.02, 0.99)])
def test_chains_of_each_level_have_their_mean_and_variance(step_scale, noise_scale):
    """Mean and variance after 30 steps from x_{t+1} = 1.2, all levels in one batch."""
    number, start = 10_000, 1.2
    level = jnp.repeat(jnp.arange(6), number)
    x_noisy = jnp.full((6 * number, 1), start)
    energy_fn = conditional_energy(gaussian_energy(level), SCHEDULE, x_noisy, level)
    transition = langevin_transition(
        SCHEDULE, num_steps=30, step_scale=step_scale, noise_scale=noise_scale
    )
    kernel = transition.make_kernel(energy_fn, level)
    state, _ = samplers.run_chain(KEY, kernel, x_noisy, transition.num_steps)
    ends = np.asarray(state.x).reshape(6, number)
    mean, variance = after_steps(
        plain.langevin_scale(EXACT, step_scale), CURVATURE,
        conditional_mean(np.arange(6), start), start, 30, noise_scale,
    )  # fmt: skip
    assert np.all(np.abs(ends.mean(axis=1) - mean) < 4 * np.sqrt(variance / number))
    np.testing.assert_allclose(ends.var(axis=1), variance, rtol=4 * np.sqrt(2 / number))


# ---- a mixture of two Gaussians ----


def normal(x, mean, variance):
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


@pytest.mark.parametrize("t", range(6))
def test_conditional_of_a_mixture_is_the_mixture_of_conditionals(t):
    """Weights proportional to pi_k N(x~; a abar mu_k, a^2 v_k + sigma^2), on a grid."""
    noisy, grid = 0.15, np.linspace(-6, 6, 4_001)
    wanted, total = 0.0, 0.0
    for k in (0, 1):
        mean, variance = component(t, k)
        precision = 1 / variance + RECOVERY[t] / NEXT_SIGMA[t] ** 2
        posterior_mean = (mean / variance + RECOVERY[t] * noisy / NEXT_SIGMA[t] ** 2) / precision
        evidence = normal(noisy, mean, variance + NEXT_SIGMA[t] ** 2) if RECOVERY[t] else 1.0
        wanted = wanted + WEIGHTS[k] * evidence * normal(grid, posterior_mean, 1 / precision)
        total = total + WEIGHTS[k] * evidence
    x_noisy = jnp.full((len(grid), 1), noisy)
    energy_fn = conditional_energy(mixture_energy(t), SCHEDULE, x_noisy, t)
    density = np.exp(-np.asarray(energy_fn(jnp.asarray(grid, jnp.float32)[:, None]), np.float64))
    density /= density.sum() * (grid[1] - grid[0])
    np.testing.assert_allclose(density, wanted / total, rtol=2e-4, atol=1e-6)
