"""Kernels without bias keep their target's law: moments and quantiles at four standard errors.

Thousands of independent chains, so that the standard errors are those of independent draws. Where
exploring is easy the chains start elsewhere; where it is not (funnel), from exact draws, which an
unbiased kernel must leave as they are while it moves them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampler_targets import assert_law, banana, correlated_gaussian, funnel, mixture

from ebm_jax import samplers

GAUSSIAN = correlated_gaussian(4, condition_number=100)
MIXTURE = mixture([0.2, 0.5, 0.3], [[-2.0, 0.0], [1.0, 1.5], [2.0, -1.5]], scale=0.8)


def run(kernel, x0, num_steps, seed):
    state, info = samplers.run_chain(jax.random.key(seed), kernel, jnp.asarray(x0), num_steps)
    return np.asarray(state.x), info


def tempered_mala(energy_fn, temperature):
    return samplers.mala(energy_fn, 0.01 * temperature, temperature=temperature)


@pytest.mark.parametrize(
    ("kernel", "num_steps"),
    [
        (samplers.hmc(GAUSSIAN.energy_fn, 0.12, 9), 40),
        (samplers.mala(GAUSSIAN.energy_fn, 0.012), 700),
        (samplers.underdamped_langevin(GAUSSIAN.energy_fn, 0.1, friction=1.0), 250),
        (samplers.parallel_tempering(GAUSSIAN.energy_fn, [1.0, 3.0], tempered_mala), 500),
    ],
    ids=["hmc", "mala", "underdamped", "tempering"],
)
def test_correlated_gaussian_from_far_away(kernel, num_steps):
    x, info = run(kernel, np.full((4000, 4), 3.0, "f"), num_steps, seed=0)
    assert_law(GAUSSIAN, x)
    assert 0.4 < float(info.acceptance.mean()) <= 1.0


def test_diagonal_mass_and_step_size_per_dimension():
    scales = jnp.array([[0.05, 1.0, 20.0]])

    def energy_fn(x):
        return 0.5 * jnp.sum((x / scales) ** 2, axis=1)

    rng = np.random.default_rng(1)
    x0 = (rng.normal(size=(6000, 3)) * 3 * np.asarray(scales)).astype("f")
    for kernel, num_steps in (
        (samplers.hmc(energy_fn, 0.9, 2, mass=1 / scales**2), 12),
        (samplers.mala(energy_fn, 0.6 * scales**2), 40),
        (samplers.underdamped_langevin(energy_fn, 0.8, mass=1 / scales**2), 40),
    ):
        x, info = run(kernel, x0, num_steps, seed=1)
        z = x / np.asarray(scales)
        assert np.abs(z.mean(0)).max() < 4 / np.sqrt(6000)
        assert np.abs(z.var(0) - 1).max() < 4 * np.sqrt(2 / 6000)
        assert float(info.acceptance.mean()) > 0.5


@pytest.mark.parametrize(
    ("make_kernel", "num_steps", "least_move"),
    [
        (lambda e: samplers.mala(e, 0.1), 60, 1.0),
        (lambda e: samplers.hmc(e, 0.25, 5), 20, 1.0),
    ],
    ids=["mala", "hmc"],
)
@pytest.mark.parametrize("target", [funnel(10), banana(), MIXTURE], ids=["funnel", "banana", "mix"])
def test_exact_draws_stay_exact(make_kernel, num_steps, least_move, target):
    x0 = target.draw(np.random.default_rng(2), 20_000)
    assert_law(target, x0)
    x, info = run(make_kernel(target.energy_fn), x0, num_steps, seed=3)
    assert_law(target, x)
    assert np.median(info.displacement) > least_move


def test_temperature_is_that_of_the_law():
    """At T the target N(0, 1) becomes N(0, T), for each chain its own T."""
    temperature = jnp.repeat(jnp.array([0.5, 3.0]), 8000)

    def energy_fn(x):
        return 0.5 * jnp.sum(x**2, axis=1)

    for kernel in (
        samplers.mala(energy_fn, 0.5, temperature=temperature),
        samplers.hmc(energy_fn, 0.6, 3, temperature=temperature),
        samplers.underdamped_langevin(energy_fn, 0.7, temperature=temperature),
    ):
        x, _ = run(kernel, np.ones((16_000, 1), "f"), 40, seed=4)
        for values, t in zip(np.split(x[:, 0], 2), (0.5, 3.0), strict=True):
            assert abs(values.mean()) < 4 * np.sqrt(t / 8000)
            assert abs(values.var() - t) < 4 * t * np.sqrt(2 / 8000)


def test_clipped_gradients_let_chains_walk_down_a_wall_and_keep_the_law():
    """E = 50 |x|: a move by the gradient is 2.5 long, from 1 to -1.5, and so seldom accepted."""

    def energy_fn(x):
        return 50 * jnp.abs(x[:, 0])

    h = 0.05
    walls = np.ones((4_000, 1), "f")
    stuck, _ = run(samplers.mala(energy_fn, h), walls, 100, seed=6)
    assert np.median(np.abs(stuck)) > 0.5
    clipped = samplers.mala(energy_fn, h, max_grad=np.sqrt(2 / h))
    x, _ = run(clipped, walls, 400, seed=6)
    # |x| is exponential: mean 1/50, standard deviation of its square sqrt(20) / 50^2
    assert abs(np.abs(x).mean() - 1 / 50) < 4 / 50 / np.sqrt(4_000)
    assert abs((x**2).mean() - 2 / 50**2) < 4 * np.sqrt(20 / 4_000) / 50**2


def test_log_density_of_one_position():
    def logdensity_fn(x):  # of one vector, as elsewhere
        return -0.5 * jnp.sum((x - 2.0) ** 2) + 17.0

    energy_fn = samplers.from_log_density(logdensity_fn)
    x, _ = run(samplers.mala(energy_fn, 0.6), np.zeros((6000, 1), "f"), 30, seed=5)
    assert abs(x.mean() - 2) < 4 / np.sqrt(6000)
    assert abs(x.var() - 1) < 4 * np.sqrt(2 / 6000)
