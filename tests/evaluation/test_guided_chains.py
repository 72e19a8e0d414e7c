"""Inpainting of a correlated Gaussian against its exact conditional; blends of chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_files import jit_once

from ebm_jax import samplers
from ebm_jax.diffusion import make_schedule
from ebm_jax.evaluation import guided_chains as guided
from ebm_jax.evaluation.interpolation import largest_steps, sample_paths
from ebm_jax.samplers import random

KEY = jax.random.key(0)
NUMBER = 4_000
MEAN = np.array([0.4, -0.2, 0.1])
COVARIANCE = np.array([[0.5, 0.35, -0.2], [0.35, 0.6, 0.1], [-0.2, 0.1, 0.4]])
KNOWN = np.array([True, False, False])


def conditional(mean, covariance):
    """(gain, offset, covariance) of the unknown given the known: m | u ~ N(gain u + offset, .)."""
    uu, mu = covariance[KNOWN][:, KNOWN], covariance[~KNOWN][:, KNOWN]
    gain = mu @ np.linalg.inv(uu)
    return gain, mean[~KNOWN] - gain @ mean[KNOWN], covariance[~KNOWN][:, ~KNOWN] - gain @ mu.T


def assert_law(draws, mean, covariance, extra=0.0):
    """Mean and covariance within 4 standard errors, the covariance of normal draws."""
    n = len(draws)
    deviations = np.diag(covariance)
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean), 4 * np.sqrt(deviations / n) + extra)
    errors = np.sqrt((np.outer(deviations, deviations) + covariance**2) / n)
    np.testing.assert_array_less(np.abs(np.cov(draws.T) - covariance), 4 * errors + extra)


def test_inpainting_by_levels_is_the_exact_conditional():
    """Levels of the exact marginals N(a abar mu, a^2 (abar^2 S + sbar^2 I)), exact transitions.

    The known coordinate at level 0 is abar_0 x + sbar_0 eps.
    """
    schedule = make_schedule(6)
    multiplier, a_bar, sigma_bar = (
        np.asarray(v, np.float64)
        for v in (schedule.multiplier, schedule.a_bar[:-1], schedule.sigma_bar[:-1])
    )
    of_level = [
        (m * a * MEAN, m**2 * (a**2 * COVARIANCE + s**2 * np.eye(3)))
        for m, a, s in zip(multiplier, a_bar, sigma_bar, strict=True)
    ]
    means = jnp.asarray([mean for mean, _ in of_level], jnp.float32)
    precisions = jnp.asarray([np.linalg.inv(c) for _, c in of_level], jnp.float32)

    def level_energy(level):
        def energy_fn(y):
            y = y - means[level]
            return 0.5 * jnp.einsum("ni,ij,nj->n", y, precisions[level], y)

        return energy_fn

    def make_kernel(energy_fn, level):
        return samplers.mala(energy_fn, 0.4 * schedule.sigma[1:][level] ** 2)

    x = np.zeros((NUMBER, 3), np.float32)
    x[:, 0] = 1.3
    x[:, 1:] = 100.0  # unknown: of no influence

    @jit_once
    def fill(key):
        return guided.inpaint_levels(
            key, level_energy, schedule, jnp.asarray(x), KNOWN,
            make_kernel=make_kernel, num_steps=15, num_rounds=12, index=jnp.arange(NUMBER),
        )  # fmt: skip

    filled = np.asarray(fill(KEY), np.float64)
    assert np.all(filled[:, 0] == np.float32(1.3))
    a, s = a_bar[0], sigma_bar[0]
    gain, offset, left = conditional(a * MEAN, a**2 * COVARIANCE + s**2 * np.eye(3))
    expected = gain @ [a * 1.3] + offset
    assert_law(filled[:, ~KNOWN], expected, left + s**2 * gain @ gain.T, extra=0.004)


def test_annealed_inpainting_at_one_temperature_is_the_conditional_of_the_noisy_pixels():
    """m given x + sigma_0 xi at T = 1; the jump shrinks m about its mean by I - sigma_0^2 P_mm."""
    precision, target, eps = np.linalg.inv(COVARIANCE), 0.3, 0.2

    def energy_fn(x):
        x = x - jnp.asarray(MEAN, jnp.float32)
        return 0.5 * jnp.einsum("ni,ij,nj->n", x, jnp.asarray(precision, jnp.float32), x)

    x = jnp.tile(jnp.array([1.3, 100.0, 100.0]), (NUMBER, 1))
    start = random.normal(jax.random.key(1), jnp.arange(NUMBER), x)
    filled = guided.inpaint_annealed(
        KEY, energy_fn, start, x, KNOWN, np.ones(400),
        step_size=eps, target_sigma=target, index=jnp.arange(NUMBER),
    )  # fmt: skip
    filled = np.asarray(filled, np.float64)
    assert np.all(filled[:, 0] == np.float32(1.3))
    gain, offset, left = conditional(MEAN, COVARIANCE)
    curvature = precision[~KNOWN][:, ~KNOWN]
    # Unadjusted steps h = eps^2/2 leave the variance (P - h P^2 / 2)^-1.
    left = np.linalg.inv(curvature - eps**2 / 4 * curvature @ curvature)
    jump = np.eye(2) - target**2 * curvature
    covariance = jump @ left @ jump.T + target**2 * gain @ gain.T
    assert_law(filled[:, ~KNOWN], gain @ [1.3] + offset, covariance)


def test_ends_of_a_path_are_the_two_samples_and_all_of_it_has_their_law():
    num_points, like = 5, jnp.zeros((20_000, 2))
    paths = sample_paths(4_000, num_points)
    noise = np.asarray(random.normal(KEY, paths, like)).reshape(-1, num_points, 2)
    plain = np.asarray(random.normal(KEY, jnp.arange(8_000), jnp.zeros((8_000, 2))))
    np.testing.assert_array_equal(noise[:, 0], plain[::2])
    np.testing.assert_array_equal(noise[:, -1], plain[1::2])
    half = (plain[::2] + plain[1::2]) / np.sqrt(2)
    np.testing.assert_allclose(noise[:, 2], half, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(noise.var((0, 2)), 1.0, atol=4 * np.sqrt(2 / 8_000))


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_starts_in_a_box_keep_their_law_on_a_path(kind):
    low, high = -1.0, 3.0
    paths = sample_paths(5_000, 3)

    def draw(index):
        z = random.normal(KEY, index, jnp.zeros((index.shape[0], 2)))
        if kind == "normal":
            return (low + high) / 2 + (high - low) / 2 * z
        return low + (high - low) * jax.scipy.special.ndtr(z)

    found = jit_once(lambda: guided.blended_starts(draw, kind, paths, low, high))()
    found = np.asarray(found).reshape(5_000, 3, 2)
    plain = np.asarray(draw(jnp.arange(10_000)))
    np.testing.assert_allclose(found[:, 0], plain[::2], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(found[:, 2], plain[1::2], rtol=1e-5, atol=2e-6)
    middle = found[:, 1].ravel()
    variance = (high - low) ** 2 / (12 if kind == "uniform" else 4)
    assert middle.mean() == pytest.approx(1.0, abs=4 * np.sqrt(variance / 10_000))
    assert middle.var() == pytest.approx(variance, rel=4 * np.sqrt(2 / 10_000))
    if kind == "uniform":
        share = np.mean(middle < low + (high - low) / 10)
        assert share == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / 10_000))


def test_paths_and_their_jumps():
    paths = sample_paths(2, 3)
    np.testing.assert_array_equal(paths.first, [0, 0, 0, 2, 2, 2])
    np.testing.assert_array_equal(paths.second, [1, 1, 1, 3, 3, 3])
    np.testing.assert_array_equal(paths.first_weight[[0, 2]], [1, 0])
    np.testing.assert_array_equal(paths.second_weight[[0, 2]], [0, 1])
    straight = np.linspace(0, 1, 6)[:, None] * np.array([[3.0, 4.0]])
    jumping = np.concatenate([np.zeros((5, 2)), [[3.0, 4.0]]])
    np.testing.assert_allclose(
        largest_steps(np.concatenate([straight, jumping]), 6), [0.2, 1.0], rtol=1e-12
    )
    with pytest.raises(ValueError, match="0 pairs of 1 points make no path"):
        sample_paths(0, 1)
    with pytest.raises(TypeError, match="blended chains take no Metropolis tests"):
        random.uniform(KEY, paths, jnp.zeros((6, 2)))
