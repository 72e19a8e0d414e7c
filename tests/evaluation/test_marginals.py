"""Densities of T1k's levels, on a Gaussian: of which variable they are, and what they condition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ebm_jax.diffusion import make_schedule, t1k_schedule
from ebm_jax.evaluation.marginals import draw_marginals
from ebm_jax.objectives.recovery_likelihood import normal_draw_per_level

MEAN, VARIANCE = 0.3, 0.25
SCHEDULE = make_schedule(101)


class OfTheNoisier(nn.Module):
    """E(x, t) = (x - m)^2 / 2 v of x_{t+1}, in nats."""

    input_shape = (1,)

    @nn.compact
    def __call__(self, x, level):
        a_bar, sigma_bar = SCHEDULE.a_bar[1:][level], SCHEDULE.sigma_bar[1:][level]
        variance = a_bar**2 * VARIANCE + sigma_bar**2
        return (x[:, 0] - a_bar * MEAN) ** 2 / (2 * variance)


def of_draws(schedule=SCHEDULE):
    draw = normal_draw_per_level(schedule, variance="posterior")
    return draw_marginals(OfTheNoisier(), {}, schedule, jnp.ones(schedule.num_pairs), draw)


def test_a_level_is_the_density_of_its_noised_data():
    """The energy of `noised` data is chi-squared / 2 with one degree of freedom at every level."""
    marginals, x = (
        of_draws(),
        MEAN + np.sqrt(VARIANCE) * jax.random.normal(jax.random.key(0), (4_000, 1)),
    )
    for level in (0, 1, 50, 99):
        noisy = marginals.noised(jax.random.key(level), level, x, jnp.arange(len(x)))
        assert marginals.energy(jnp.asarray(level))(noisy).mean() == pytest.approx(0.5, abs=0.04)
    assert marginals.own_kernel is None


@pytest.mark.parametrize("level", [0, 40, 98])
def test_conditionals_are_products_of_normal_laws(level):
    """x_{t+1} given x_{t+2}: precision 1 / v + a^2 / sigma^2, and its mean; the last has none."""
    a_bar, sigma_bar = (np.asarray(values, float) for values in SCHEDULE[2:])
    variance = a_bar[level + 1] ** 2 * VARIANCE + sigma_bar[level + 1] ** 2
    a, sigma = float(SCHEDULE.a[level + 2]), float(SCHEDULE.sigma[level + 2])
    noisy = jnp.full((3, 1), 0.8)
    energy_fn = of_draws().conditional(jnp.asarray(level), noisy)
    grad = jax.grad(lambda x: energy_fn(x).sum())
    x = jnp.array([[-1.0], [0.0], [2.0]])
    wanted = (x - a_bar[level + 1] * MEAN) / variance + a * (a * x - 0.8) / sigma**2
    np.testing.assert_allclose(grad(x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("level", [99, 100])
def test_the_last_two_are_marginals(level):
    """x_T is noise that says nothing of x_{T-1}, and has no noisier one itself."""
    marginals, x = of_draws(), jnp.array([[0.4], [1.0]])
    energy_fn = marginals.conditional(jnp.asarray(level), x + 1.0)
    np.testing.assert_allclose(energy_fn(x), marginals.energy(jnp.asarray(level))(x), rtol=1e-6)


def test_chains_start_at_the_draw():
    """x_{t+1} given x_{t+2}: its exact mean, by Tweedie's formula; the draw's own variance."""
    level, noisy = 40, jnp.full((20_000, 1), 0.8)
    a_bar, sigma_bar = (np.asarray(values, float) for values in SCHEDULE[2:])
    a, sigma = float(SCHEDULE.a[level + 2]), float(SCHEDULE.sigma[level + 2])
    variance = a_bar[level + 2] ** 2 * VARIANCE + sigma_bar[level + 2] ** 2
    mean = (0.8 - sigma**2 * (0.8 - a_bar[level + 2] * MEAN) / variance) / a
    start = of_draws().conditional_start(jax.random.key(1), jnp.asarray(level), noisy)
    std = float(of_draws().conditional_std[level])
    assert std == pytest.approx(1 / np.sqrt(1 / sigma_bar[level + 1] ** 2 + a**2 / sigma**2))
    assert start.mean() == pytest.approx(mean, abs=4 * std / np.sqrt(20_000))
    assert start.std() == pytest.approx(std, rel=0.02)


def test_the_fine_schedule_is_finite_to_its_top():
    """Its last a is 0: nothing of x_{T-1} is in x_T, and the last conditionals are marginals."""
    fine = of_draws(t1k_schedule())
    assert np.isfinite(fine.conditional_std).all()
    assert fine.conditional_std[999] == fine.conditional_std[998].round(4) == 1
    assert fine.conditional_std[997] == pytest.approx(np.sqrt(0.02), rel=0.01)
    x = jax.random.normal(jax.random.key(0), (50, 1))
    for level in (996, 997, 998):
        start = fine.conditional_start(jax.random.key(1), jnp.asarray(level), x)
        assert np.isfinite(start).all()
        assert start.std() == pytest.approx(1, abs=0.3)
