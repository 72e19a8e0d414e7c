"""Densities of T1k's levels, on a Gaussian: of which variable they are, and what they condition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ebm_jax.diffusion import make_schedule, t1k_schedule
from ebm_jax.evaluation.marginals import recovery_marginals

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


def of_draws():
    return recovery_marginals(OfTheNoisier(), {}, SCHEDULE, jnp.ones(101))


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


def test_chains_start_at_finite_places():
    """Also below the noisiest level of the fine schedule, whose a is 0."""
    fine = t1k_schedule()
    marginals = recovery_marginals(OfTheNoisier(), {}, fine, jnp.ones(1_000))
    np.testing.assert_array_equal(marginals.multiplier[:998], fine.a[2:1_000])
    np.testing.assert_array_equal(marginals.multiplier[998:], 1.0)
