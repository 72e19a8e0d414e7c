"""Denoising score matching where its optimum is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import two_modes
from flax import linen as nn
from toy_networks import Quadratic

from ebm_jax import samplers
from ebm_jax.methods import DenoisingScoreMatching, MethodState
from ebm_jax.methods.denoising_score_matching import AnnealedLangevinSampler
from ebm_jax.methods.denoising_score_matching.loss import noise_ladder
from ebm_jax.networks import EnergyMLP

KEY = jax.random.key(0)


def one_level(network, sigma):
    """Plain denoising score matching at one noise."""
    return DenoisingScoreMatching(
        network, num_levels=1, min_noise=sigma, max_noise=sigma, target_sigma=sigma,
        sampler=AnnealedLangevinSampler(start_temperature=1.0),
    )  # fmt: skip


class Bumps(nn.Module):
    """E(x) = sum_k w_k phi_k(x), even in x: the loss is quadratic in w, its optimum exact."""

    input_shape = (1,)
    centers = np.linspace(0.0, 3.0, 16)
    width = 0.3

    @nn.compact
    def __call__(self, x, condition=None):
        weights = self.param("weights", nn.initializers.zeros, (1 + len(self.centers),))
        bumps = sum(jnp.exp(-0.5 * ((x - s * self.centers) / self.width) ** 2) for s in (-1, 1))
        return jnp.concatenate([x**2, bumps], axis=-1) @ weights


# ---- METHODS 5e: the optimum of the loss over a ladder ----

DATA_DEVIATION = 0.3
LADDER = noise_ladder(128, 0.05, 1.2)


def optimal_denoising(x_noisy):
    """sigma_0^2 E'(x) = x E[1 / (s^2 + sigma^2) | x] / E[1 / sigma^2 | x] at x = x_noisy."""
    variance = DATA_DEVIATION**2 + LADDER**2
    likelihood = np.exp(-0.5 * np.square(x_noisy)[:, None] / variance) / np.sqrt(variance)
    posterior = likelihood / likelihood.sum(axis=1, keepdims=True)
    return x_noisy * (posterior @ (1 / variance)) / (posterior @ (1 / LADDER**2))


def test_optimum_of_the_ladder_on_a_gaussian():
    places = np.array([0.1, 0.5, 1.0, 2.0])
    # to the digits that METHODS 5e gives
    np.testing.assert_allclose(
        optimal_denoising(places), [0.01478, 0.10319, 0.57592, 1.78529], atol=2e-5
    )
    module, batch_size = Bumps(), 128 * 512
    method = DenoisingScoreMatching(module)
    np.testing.assert_array_equal(method.sigma, LADDER.astype(np.float32))
    x = DATA_DEVIATION * jax.random.normal(KEY, (batch_size, 1))
    num_weights = 1 + len(Bumps.centers)
    zeros = {"weights": jnp.zeros(num_weights)}

    def loss(params, rng_key):
        return method.loss(params, MethodState(), {"image": x}, rng_key)[0]

    @jax.jit
    def normal_equations(rng_key):
        """(Hessian, gradient at 0) of the quadratic loss, from differences of gradients."""
        size = 100.0  # of the energy, as its slope is about x / sigma_0^2
        points = jnp.concatenate([zeros["weights"][None], size * jnp.eye(num_weights)])
        slopes = jax.lax.map(lambda w: jax.grad(loss)({"weights": w}, rng_key)["weights"], points)
        return (slopes[1:] - slopes[0]) / size, slopes[0]

    hessian, gradient = sum_over(normal_equations, 16)
    weights = np.linalg.lstsq(hessian, -gradient, rcond=1e-7)[0]
    energy_fn = lambda x: module.apply({"params": {"weights": weights}}, x)  # noqa: E731
    slope = jax.vmap(jax.grad(lambda x: energy_fn(x[None, None])[0]))(jnp.asarray(places))
    np.testing.assert_allclose(0.1**2 * slope, optimal_denoising(places), rtol=0.05)


def sum_over(compute, number):
    """The float64 sum of what `compute` gives for so many keys."""
    total = None
    for i in range(number):
        parts = [np.asarray(a, np.float64) for a in compute(jax.random.fold_in(KEY, i))]
        total = parts if total is None else [a + b for a, b in zip(total, parts, strict=True)]
    return total


def test_one_level_learns_the_density_of_noisy_data():
    """E = theta x^2 / 2 on N(0, s^2): the optimum is 1 / (s^2 + sigma^2), exactly solvable."""
    sigma, batch_size = 0.4, 4096
    method = one_level(Quadratic(2), sigma)
    x = jax.random.normal(KEY, (batch_size, 2))
    x = DATA_DEVIATION * x / jnp.sqrt(jnp.mean(x**2))  # exactly of variance s^2

    def loss(theta, rng_key):
        return method.loss({"theta": theta}, MethodState(), {"image": x}, rng_key)[0]

    slopes = jax.jit(lambda k: [jax.grad(loss)(jnp.float32(theta), k) for theta in (0.0, 1.0)])
    at_zero, at_one = sum_over(slopes, 50)
    theta = at_zero / (at_zero - at_one)
    # The relative error of the regression slope is about sqrt(1 / numbers sampled).
    assert theta == pytest.approx(1 / (DATA_DEVIATION**2 + sigma**2), rel=0.01)


# ---- the noise, and the metrics ----


def test_noise_and_level_depend_on_the_index_in_the_global_batch_alone():
    ladder = noise_ladder(4, 0.1, 0.8, spacing="log")
    method = DenoisingScoreMatching(
        Quadratic(2), num_levels=4, min_noise=0.1, max_noise=0.8, spacing="log"
    )
    x, params = jax.random.normal(KEY, (8, 2)), {"theta": jnp.float32(1.5)}
    state = MethodState()
    loss = jax.jit(method.loss)
    whole, (_, metrics) = loss(params, state, {"image": x, "index": jnp.arange(8)}, KEY)
    parts = [
        loss(params, state, {"image": x[i : i + 4], "index": jnp.arange(i, i + 4)}, KEY)
        for i in (0, 4)
    ]
    np.testing.assert_allclose(np.mean([part[0] for part in parts]), whole, rtol=1e-6)
    by_noise = metrics["normalized_loss_by_noise"]
    np.testing.assert_array_equal(by_noise.count, [2, 2, 2, 2])
    summed = sum(part[1][1]["normalized_loss_by_noise"].total for part in parts)
    np.testing.assert_allclose(summed, by_noise.total, rtol=1e-6)

    noise = samplers.random.normal(KEY, jnp.arange(8), x)
    sigma = np.asarray(ladder)[np.arange(8) % 4][:, None]
    residual = 1.5 * (x + sigma * noise) - sigma * noise / 0.1**2
    wanted = np.mean(np.sum(residual**2, axis=1) / sigma[:, 0] ** 2)
    np.testing.assert_allclose(whole, wanted, rtol=1e-5)
    np.testing.assert_allclose(metrics["normalized_loss"].value(), 1e-4 * wanted, rtol=1e-5)


def test_many_levels_are_in_eight_groups_of_neighbors():
    method = DenoisingScoreMatching(Quadratic(2), num_levels=12)
    batch = {"image": jnp.ones((24, 2))}
    params = {"theta": jnp.float32(1.0)}
    _, (_, metrics) = jax.jit(method.loss)(params, MethodState(), batch, KEY)
    by_noise = metrics["normalized_loss_by_noise"]
    np.testing.assert_array_equal(by_noise.count, [4, 2, 4, 2, 4, 2, 4, 2])
    total = metrics["normalized_loss"].total
    np.testing.assert_allclose(by_noise.total.sum(), total, rtol=1e-5)


def test_ladders():
    np.testing.assert_allclose(noise_ladder(3, 0.05, 1.25), [0.05, 0.65, 1.25])
    np.testing.assert_allclose(noise_ladder(3, 0.1, 10.0, spacing="log"), [0.1, 1.0, 10.0])
    np.testing.assert_allclose(noise_ladder(1, 0.2, 0.2), [0.2])


# ---- METHODS 5g: a density on the plane against a grid ----


def test_one_level_on_the_plane_against_a_grid():
    """The model of one level is the density of the noisy data."""
    deviation, sigma, batch_size = 0.3, 0.3, 512
    method = one_level(EnergyMLP(width=64, depth=2), sigma)
    data = two_modes.batches(deviation, num_updates=1500, batch_size=batch_size)
    params = two_modes.train(method, data, learning_rate=5e-3)
    assert -1e-3 < two_modes.kl_divergence(method, params, deviation**2 + sigma**2) < 0.05


# ---- refusals ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 0.0, 1.0), r"expected 0 < min_noise <= max_noise, got 0\.0 and 1\.0"),
        ((3, -0.1, 1.0), r"expected 0 < min_noise <= max_noise, got -0\.1"),
        ((3, 1.0, 0.5), r"expected 0 < min_noise <= max_noise, got 1\.0 and 0\.5"),
        ((1, 0.1, 1.0), r"at least 2 for a ladder, or 1 for equal ends, got 1 from 0\.1 to 1\.0"),
        ((0, 0.1, 0.1), r"or 1 for equal ends, got 0"),
        ((3, 0.1, 0.1), r"or 1 for equal ends, got 3"),
    ],
)
def test_ladders_that_are_none_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        noise_ladder(*arguments)


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="spacing: expected linear or log, got 'cosine'"):
        noise_ladder(3, 0.1, 1.0, spacing="cosine")
    make = functools.partial(DenoisingScoreMatching, Quadratic(2))
    with pytest.raises(ValueError, match=r"method.min_noise: expected a number > 0, got 0.0"):
        make(min_noise=0.0)
    with pytest.raises(ValueError, match=r"method.target_sigma: expected a number > 0, got 0"):
        make(target_sigma=0.0)
    with pytest.raises(ValueError, match=r"max_noise, got 1.0 and 0.5"):
        make(min_noise=1.0, max_noise=0.5)
    with pytest.raises(ValueError, match=r"multiple of the 4 noise levels, such as 8, got 7"):
        make(num_levels=4).init(KEY, {"image": jnp.zeros((7, 2))})
    with pytest.raises(ValueError, match=r"multiple of the 4 noise levels, such as 4, got 1"):
        make(num_levels=4).init(KEY, {"image": jnp.zeros((1, 2))})
    with pytest.raises(ValueError, match=r"at most 1 with a single noise level, got 100"):
        make(num_levels=1, min_noise=0.1, max_noise=0.1)
