"""Annealed Langevin and annealed inpainting, whose outcome on Gaussians is known exactly."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_conditionals import COVARIANCE, KNOWN, MEAN, assert_gaussian, conditional
from toy_networks import Quadratic

from ebm_jax.methods import DenoisingScoreMatching
from ebm_jax.methods.denoising_score_matching import AnnealedLangevinSampler
from ebm_jax.methods.denoising_score_matching.loss import score_matching_losses
from ebm_jax.methods.denoising_score_matching.sampling import annealed_sample, inpaint_annealed
from ebm_jax.networks import FunctionNetwork
from ebm_jax.samplers import random

KEY = jax.random.key(0)
NUMBER = 4_000


def test_samples_have_the_variance_of_the_linear_recursion():
    """On E = theta x^2 / 2 all steps and the jump are linear: the variance follows exactly."""
    theta, step_size, target = 2.0, 0.3, 0.5
    temperatures = np.array([4.0] * 20 + [2.0, 1.0, 0.5, 0.0])
    sampler = AnnealedLangevinSampler(
        step_size=step_size, start_temperature=4.0, num_hot=19, num_cooling=2, num_final=3
    )
    np.testing.assert_allclose(sampler.temperatures, temperatures, rtol=1e-6)
    method = DenoisingScoreMatching(
        Quadratic(2),
        low=0.5,
        high=1.5,
        num_levels=2,
        min_noise=0.4,
        max_noise=0.5,
        target_sigma=target,
        sampler=sampler,
    )
    a = 1 - step_size**2 / 2 * theta
    jump = 1 - target**2 * theta
    variance = 1.0
    for temperature in temperatures:
        variance = a**2 * variance + step_size**2 * temperature
    num_samples = 20_000
    params = {"theta": jnp.float32(theta)}
    sample = jax.jit(method.sample)
    x = sample(params, KEY, jnp.arange(num_samples))
    error = np.sqrt(2 / (2 * num_samples))  # relative, of a variance from 2 numbers per sample
    deviation = jump * np.sqrt(variance)
    mean = jump * a ** len(temperatures)
    assert np.mean(x) == pytest.approx(mean, abs=4 * deviation / np.sqrt(2 * num_samples))
    assert np.var(x) == pytest.approx(deviation**2, rel=4 * error)
    part = sample(params, KEY, jnp.arange(5, 8))
    np.testing.assert_allclose(part, x[5:8], rtol=1e-5, atol=1e-6)


def test_annealed_inpainting_at_one_temperature_is_the_conditional_of_the_noisy_values():
    """m given x + sigma_0 xi at T = 1; the jump shrinks m about its mean by I - sigma_0^2 P_mm."""
    precision, target, eps = np.linalg.inv(COVARIANCE), 0.3, 0.2

    def energy_fn(x):
        x = x - jnp.asarray(MEAN, jnp.float32)
        return 0.5 * jnp.einsum("ni,ij,nj->n", x, jnp.asarray(precision, jnp.float32), x)

    x = jnp.tile(jnp.array([1.3, 100.0, 100.0]), (NUMBER, 1))
    start = random.normal(jax.random.key(1), jnp.arange(NUMBER), x)
    filled = inpaint_annealed(
        KEY, energy_fn, start, x, KNOWN, np.ones(400), jnp.arange(NUMBER),
        step_size=eps, target_sigma=target,
    )  # fmt: skip
    filled = np.asarray(filled, np.float64)
    assert np.all(filled[:, 0] == np.float32(1.3))
    gain, offset, left = conditional(MEAN, COVARIANCE)
    curvature = precision[~KNOWN][:, ~KNOWN]
    # Unadjusted steps h = eps^2/2 leave the variance (P - h P^2 / 2)^-1.
    left = np.linalg.inv(curvature - eps**2 / 4 * curvature @ curvature)
    jump = np.eye(2) - target**2 * curvature
    covariance = jump @ left @ jump.T + target**2 * gain @ gain.T
    assert_gaussian(filled[:, ~KNOWN], gain @ [1.3] + offset, covariance)


def test_annealed_inpainting_step_by_step():
    """On E = x'Ax / 2, with the noise of known values that belongs to the key, and no other."""
    matrix = np.array([[2.0, 0.6, -0.4], [0.6, 1.0, 0.3], [-0.4, 0.3, 1.5]])
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    temperatures, index, eps, target = [4.0, 2.0], jnp.array([3, 8]), 0.2, 0.3
    method = DenoisingScoreMatching(
        FunctionNetwork(
            lambda params, x: jnp.einsum("ni,ij,nj->n", x, matrix, x) / 2, lambda key: (), (3,)
        ),
        low=1.0, high=5.0, target_sigma=target,
        sampler=AnnealedLangevinSampler(eps, 4.0, num_hot=0, num_cooling=2, num_final=0),
    )  # fmt: skip
    filled = method.inpaint({"energy": ()}, KEY, jnp.asarray(x), KNOWN, index, jnp.zeros(2, int))
    start_key, run_key = jax.random.split(KEY)
    start = 3 + np.asarray(random.normal(start_key, index, jnp.asarray(x)))
    noise_key, chain_key = jax.random.split(run_key)
    of_known = np.asarray(random.normal(noise_key, index, jnp.asarray(x)))
    y = start
    for step, temperature in enumerate(temperatures):
        noise = random.normal(jax.random.fold_in(chain_key, step), index, jnp.asarray(x))
        clamped = np.where(KNOWN, x + target * np.sqrt(temperature) * of_known, y)
        y = y - eps**2 / 2 * clamped @ matrix + eps * np.sqrt(temperature) * np.asarray(noise)
    y = y - target**2 * np.where(KNOWN, clamped, y) @ matrix
    np.testing.assert_allclose(filled, np.where(KNOWN, x, y), rtol=1e-4, atol=1e-5)


def test_temperatures_of_sampling_and_of_restoring():
    settings = {"start_temperature": 4.0, "num_hot": 1, "num_cooling": 2, "num_final": 3}
    for cooling, falls in (("exp", [4.0, 2.0]), ("linear", [4.0, 1.0])):
        sampler = AnnealedLangevinSampler(**settings, cooling=cooling, restore_temperature=2.5)
        np.testing.assert_allclose(sampler.temperatures, [4.0, *falls, 1.0, 0.5, 0.0], rtol=1e-6)
        cooler = [*falls[1:], 1.0, 0.5, 0.0]
        np.testing.assert_allclose(sampler.restoring_temperatures, cooler, rtol=1e-6)
        all_of_them = dataclasses.replace(sampler, restore_temperature=4.0)
        np.testing.assert_array_equal(all_of_them.restoring_temperatures, sampler.temperatures)


def test_samplers_without_steps_are_refused():
    with pytest.raises(ValueError, match="expected at least one step"):
        AnnealedLangevinSampler(num_hot=0, num_cooling=0, num_final=0)
    with pytest.raises(ValueError, match="start_temperature: expected a number > 0, got -1"):
        AnnealedLangevinSampler(start_temperature=-1.0)


def test_usual_steps_and_noise_are_the_papers():
    """epsilon = .02 and sigma_0 = .1, as the method's own settings."""
    usual = DenoisingScoreMatching(Quadratic(2))
    assert (usual.sampler.step_size, usual.target_sigma) == (0.02, 0.1)
    x, index = jnp.array([[1.0, -2.0]]), jnp.array([3])
    noise = np.asarray(random.normal(jax.random.fold_in(KEY, 0), index, x))
    found = annealed_sample(KEY, lambda temperature: lambda x: jnp.sum(x**2, 1), x, [4.0], index)
    moved = np.asarray(x) * (1 - 0.02**2) + 0.02 * 2 * noise
    np.testing.assert_allclose(found, moved * (1 - 2 * 0.1**2), rtol=1e-5)
    x_noisy = x + 0.5
    losses, energies = score_matching_losses(lambda x: jnp.sum(x**2, 1), x, x_noisy, 0.3)
    residual = 2 * np.asarray(x_noisy) - 0.5 / 0.1**2
    np.testing.assert_allclose(losses, np.sum(residual**2, 1) / 0.3**2, rtol=1e-5)
    np.testing.assert_allclose(energies, [1.5**2 + 1.5**2], rtol=1e-6)
    native = usual.densities({"theta": 1.0}).native_kernel(lambda x: 0 * x[:, 0], 0)
    state, _ = native.step(KEY, native.init(x)._replace(chain=index))  # at temperature 1
    np.testing.assert_allclose(state.x - x, 0.02 * random.normal(KEY, index, x), rtol=1e-4)
