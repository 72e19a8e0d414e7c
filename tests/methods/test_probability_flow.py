"""The probability flow where its paths are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.methods.probability_flow import ProbabilityFlow


def test_the_flow_of_a_gaussian_is_a_scaling():
    """y(t) = y(T) sqrt((v + t) / (v + T)), to second order in the steps."""
    v, start = 0.3, jnp.array([[1.0], [-2.0]])

    def energy_at(log_t):
        return lambda y: jnp.sum(y**2, axis=1) / (2 * (v + jnp.exp(log_t)))

    def carried(y, steps):
        log_t = jnp.linspace(np.log(25.0), np.log(0.01), steps + 1)
        return ProbabilityFlow(energy_at, energy_at(log_t[0]), log_t).carry(y)

    ends = jax.jit(lambda y: [carried(y, steps) for steps in (20, 40)])(start)
    exact = np.asarray(start) * np.sqrt((v + 0.01) / (v + 25))
    errors = [np.abs(end - exact).max() for end in ends]
    assert errors[1] < 5e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)
