"""Energy discrepancy on E(x) = k x^2 / 2 and data N(0, 1 / p), where everything is known.

With M -> infinity and w = 0 the inner mean is a Gaussian integral: with t = s^2,

    loss(k) = k / (2 p) - log(1 + k t) / 2 - k (1 / p + t) / (2 (1 + k t)),

whose minimum is k = p for every t. loss / t -> k^2 / (2 p) - k as t -> 0, the loss of score
matching; d loss / dk -> 1 / (2 p) - 1 / (2 k) as t -> infinity, the gradient of the likelihood.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import jit_optimized
from toy_networks import Quadratic

from ebm_jax.methods import MethodState
from ebm_jax.methods.energy_discrepancy import (
    EnergyDiscrepancy,
    EnergyDiscrepancySampler,
    energy_discrepancy_losses,
    perturbed_points,
)
from ebm_jax.samplers import random

PRECISION = 2.0


def exact_loss(k, t):
    return k / (2 * PRECISION) - jnp.log1p(k * t) / 2 - k * (1 / PRECISION + t) / (2 * (1 + k * t))


def losses(k, t, *, num_points, number=4_000, seed=0):
    x_key, key = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(x_key, (number, 1)) / np.sqrt(PRECISION)
    points = perturbed_points(key, x, jnp.arange(number), num_points, jnp.sqrt(t))
    return energy_discrepancy_losses(k * x[:, 0] ** 2 / 2, k * points[..., 0] ** 2 / 2, 0.0)


@jit_optimized
def slopes(k, t):
    """The derivatives by k of eight losses of their own draws."""

    def slope(seed):
        return jax.grad(lambda k: losses(k, t, num_points=500, seed=seed).mean())(k)

    return jax.lax.map(slope, jnp.arange(8))


@pytest.mark.parametrize("t", [0.01, 0.3, 4.0])
@pytest.mark.parametrize("k", [0.5, 2.0, 5.0])
def test_loss_is_the_gaussian_integral(k, t):
    found = jit_optimized(functools.partial(losses, num_points=2_000))(k, t)
    error = found.std() / np.sqrt(len(found))
    # The log of a mean over M points lies low by half its relative variance.
    bias = (2 + k * t) / (2 * 2_000) * 5
    assert abs(found.mean() - exact_loss(k, t)) < 4 * error + bias


@pytest.mark.parametrize("t", [0.01, 0.3, 4.0])
def test_the_minimum_is_the_precision_of_the_data_whatever_t_is(t):
    np.testing.assert_allclose(jax.grad(exact_loss)(PRECISION, t), 0.0, atol=1e-6)
    found = slopes(PRECISION, t)
    error = found.std(ddof=1) / np.sqrt(8)
    assert abs(found.mean()) < 5 * error
    assert slopes(0.5 * PRECISION, t).mean() < -5 * error
    assert slopes(2.0 * PRECISION, t).mean() > 5 * error


@pytest.mark.parametrize("k", [0.5, 2.0, 5.0])
def test_small_t_is_score_matching(k):
    t = 1e-4
    np.testing.assert_allclose(exact_loss(k, t) / t, k**2 / (2 * PRECISION) - k, rtol=0.02)
    # Quantiles in place of draws: the terms of order sqrt(t) cancel, which they do for no draws.
    x, shared, own = (jax.scipy.special.ndtri((jnp.arange(n) + 0.5) / n) for n in (400, 50, 1_000))
    x = x / np.sqrt(PRECISION)
    points = x[:, None, None] + np.sqrt(t) * (shared[:, None] + own)
    others = (k * points**2 / 2).reshape(-1, 1_000)
    found = energy_discrepancy_losses(jnp.repeat(k * x**2 / 2, 50), others, 0.0)
    np.testing.assert_allclose(found.mean() / t, k**2 / (2 * PRECISION) - k, rtol=0.05)


@pytest.mark.parametrize("k", [0.5, 2.0, 5.0])
def test_large_t_is_maximum_likelihood(k):
    likelihood = 1 / (2 * PRECISION) - 1 / (2 * k)
    np.testing.assert_allclose(jax.grad(exact_loss)(k, 1e4), likelihood, atol=2e-4)
    found = jit_optimized(jax.grad(lambda k: losses(k, 100.0, num_points=2_000).mean()))(k)
    np.testing.assert_allclose(found, jax.grad(exact_loss)(k, 100.0), atol=0.02)


def test_the_stabilization_bounds_the_loss_from_below():
    energy, others = jnp.zeros(3), jnp.full((3, 4), 1e4)
    for stabilization in ((), (1.0,)):  # which is usual
        found = energy_discrepancy_losses(energy, others, *stabilization)
        np.testing.assert_allclose(found, np.log(1 / 4))
    np.testing.assert_allclose(energy_discrepancy_losses(energy, others, 8.0), np.log(2.0))
    assert (energy_discrepancy_losses(energy, others, 0.0) < -9e3).all()


def test_the_points_of_an_example_share_half_of_their_noise():
    x = jnp.zeros((2_000, 1))
    points = perturbed_points(jax.random.key(1), x, jnp.arange(2_000), 3, 0.5)[..., 0]
    covariance = np.cov(np.asarray(points).T)
    np.testing.assert_allclose(covariance, 0.25 * (np.ones((3, 3)) + np.eye(3)), atol=0.06)


def test_points_depend_on_key_and_index_alone():
    x = jax.random.normal(jax.random.key(0), (6, 2))
    key, index = jax.random.key(1), jnp.arange(6)
    whole = perturbed_points(key, x, index, 4, 0.3)
    part = perturbed_points(key, x[2:4], index[2:4], 4, 0.3)
    np.testing.assert_array_equal(whole[2:4], part)
    noise = random.normal(key, index, jnp.zeros((6, 5, 2)))  # that which is shared is the first
    np.testing.assert_allclose(whole, x[:, None] + 0.3 * (noise[:, :1] + noise[:, 1:]), rtol=1e-5)


THETA, INDEX = 0.8, jnp.array([4, 1])


def of_known_settings(kernel="langevin"):
    """On E = theta |x|^2 / 2 + |x - 1|^2 / 18, with data in the box from -2 to 4."""
    return EnergyDiscrepancy(
        Quadratic(2), low=-2.0, high=4.0, noise_std=0.5, num_points=3, stabilization=2.0,
        base_std=3.0,
        sampler=EnergyDiscrepancySampler(num_steps=5, step_size=0.1, kernel=kernel),
    )  # fmt: skip


def energy_by_hand(x):
    x = np.asarray(x, np.float64)
    return THETA * np.sum(x**2, -1) / 2 + np.sum((x - 1) ** 2, -1) / 18


def test_the_loss_of_the_method_by_hand():
    x = jax.random.normal(jax.random.key(0), (2, 2))
    batch, key = {"image": x, "index": INDEX}, jax.random.key(1)
    params = {"theta": jnp.float32(THETA)}
    loss, (_, metrics) = of_known_settings().loss(params, MethodState(), batch, key)
    of_data = energy_by_hand(x)
    of_points = energy_by_hand(perturbed_points(key, x, INDEX, 3, 0.5))
    terms = 2.0 / 3 + np.mean(np.exp(of_data[:, None] - of_points), axis=1)
    assert loss == pytest.approx(np.mean(np.log(terms)), rel=1e-4)
    assert metrics["energy_pos"].value() == pytest.approx(of_data.mean(), rel=1e-5)
    assert metrics["energy_neg"].value() == pytest.approx(of_points.mean(), rel=1e-5)


def test_samples_step_by_step():
    """Of five steps the first two are annealed: at 0 and 1/2 of the network."""
    params, key, like = {"theta": jnp.float32(THETA)}, jax.random.key(2), jnp.zeros((2, 2))
    start_key, chain_key = jax.random.split(key)
    x = 1 + 3 * np.asarray(random.normal(start_key, INDEX, like))
    for step, beta in enumerate((0.0, 0.5, 1.0, 1.0, 1.0)):
        noise = np.asarray(random.normal(jax.random.fold_in(chain_key, step), INDEX, like))
        x = x - 0.1 * (beta * THETA * x + (x - 1) / 9) + np.sqrt(0.2) * noise
    found = jax.jit(of_known_settings().sample)(params, key, INDEX)
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", ["langevin", "mala"])
def test_the_density_and_its_chain(kernel):
    params, x = {"theta": jnp.float32(THETA)}, jax.random.normal(jax.random.key(0), (40, 2))
    densities = of_known_settings(kernel).densities(params)
    np.testing.assert_allclose(densities.energy(jnp.asarray(0))(x), energy_by_hand(x), rtol=1e-5)
    assert densities.base == (1.0, 3.0, None)
    np.testing.assert_array_equal([densities.a_bar, densities.sigma_bar], [[1], [0]])
    native = densities.native_kernel(densities.energy(jnp.asarray(0)), jnp.asarray(0))
    _, info = native.step(jax.random.key(1), native.init(x))
    assert bool((info.acceptance < 1).any()) == (kernel == "mala")
