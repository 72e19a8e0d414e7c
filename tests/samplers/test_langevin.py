"""Unadjusted Langevin: its exact law on quadratics, its options, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ebm_jax import samplers

NUM_CHAINS = 20_000
CURVATURE, CENTRE = 2.0, 0.7


def quadratic(x):
    return 0.5 * CURVATURE * jnp.sum((x - CENTRE) ** 2, axis=1)


def assert_gaussian(x, mean, variance, num_errors=4.0):
    """Mean, variance and the median of independent draws `x` [n] of N(mean, variance)."""
    n = x.size
    assert abs(x.mean() - mean) < num_errors * np.sqrt(variance / n)
    assert abs(x.var() - variance) < num_errors * variance * np.sqrt(2 / n)
    assert stats.kstest(x, stats.norm(mean, np.sqrt(variance)).cdf).pvalue > 1e-4


def law_of_steps(num_steps, h, temperature, start_mean, start_variance):
    """Mean and variance after K steps on the quadratic above, in closed form."""
    a = 1 - h * CURVATURE
    mean = CENTRE + a**num_steps * (start_mean - CENTRE)
    added = 2 * h * temperature * (1 - a ** (2 * num_steps)) / (1 - a**2)
    return mean, a ** (2 * num_steps) * start_variance + added


@pytest.mark.parametrize("num_steps", [1, 2, 7, 200])
def test_law_after_some_steps_from_any_start(num_steps):
    h, temperature = 0.3, 0.6
    rng = np.random.default_rng(0)
    x0 = jnp.asarray(3.0 + 0.5 * rng.normal(size=(NUM_CHAINS, 1)), jnp.float32)
    kernel = samplers.langevin(quadratic, h, temperature=temperature)
    state, _ = samplers.run_chain(jax.random.key(num_steps), kernel, x0, num_steps)
    assert_gaussian(np.asarray(state.x)[:, 0], *law_of_steps(num_steps, h, temperature, 3.0, 0.25))


def test_stationary_variance_has_the_known_bias():
    v = 1 / CURVATURE
    h = jnp.repeat(jnp.array([0.1, 0.4, 0.8]), 8000)  # one step size per chain, up to 0.8 of 2v
    kernel = samplers.langevin(quadratic, h)
    x0 = jnp.full((h.size, 1), CENTRE)
    state, _ = samplers.run_chain(jax.random.key(1), kernel, x0, 60)
    for group, step in zip(np.split(np.asarray(state.x)[:, 0], 3), (0.1, 0.4, 0.8), strict=True):
        assert_gaussian(group, CENTRE, v / (1 - step / (2 * v)))


def test_update_with_given_noise_is_the_formula():
    rng = np.random.default_rng(2)
    x, g, noise = (jnp.asarray(rng.normal(size=(4, 3)), jnp.float32) for _ in range(3))
    per_chain = jnp.array([0.1, 0.2, 0.3, 0.4])
    got = samplers.langevin_update(x, g, noise, per_chain, 0.5)
    h = np.asarray(per_chain)[:, None]
    np.testing.assert_allclose(got, x - h * g + np.sqrt(2 * h * 0.5) * noise, rtol=1e-6)
    per_dimension = jnp.array([[0.1, 0.2, 0.3]])
    got = samplers.langevin_update({"a": x}, {"a": g}, {"a": noise}, {"a": per_dimension}, 0.0)
    np.testing.assert_allclose(got["a"], x - per_dimension * g, rtol=1e-6)


def test_a_bare_vector_of_dimensions_is_refused():
    kernel = samplers.langevin(quadratic, jnp.ones(3))
    with pytest.raises(ValueError, match=r"step_size of shape .*\(1, 3\) per dimension, got \(3,"):
        samplers.run_chain(jax.random.key(0), kernel, jnp.zeros((4, 3)), 1)


def test_zero_temperature_is_gradient_descent():
    kernel = samplers.langevin(quadratic, 0.25, temperature=0.0)
    x0 = jnp.linspace(-2, 2, 6).reshape(3, 2)
    state, info = samplers.run_chain(jax.random.key(0), kernel, x0, 3)
    np.testing.assert_allclose(state.x, CENTRE + 0.5**3 * (x0 - CENTRE), rtol=1e-5)
    np.testing.assert_allclose(info.energy, quadratic(CENTRE + 0.5**2 * (x0 - CENTRE)), rtol=1e-5)


def test_gradient_clipping_and_projection():
    kernel = samplers.langevin(
        quadratic, 1.0, temperature=0.0, max_grad=0.1, project=lambda x: jnp.clip(x, 0.0, 1.0)
    )
    x0 = jnp.array([[5.0, 0.72], [-3.0, 0.95], [0.05, 0.7]])
    state, info = samplers.run_chain(jax.random.key(0), kernel, x0, 1)
    expected = np.clip(x0 - np.clip(CURVATURE * (x0 - CENTRE), -0.1, 0.1), 0, 1)
    np.testing.assert_allclose(state.x, expected, atol=1e-6)
    unclipped = np.linalg.norm(CURVATURE * (np.asarray(x0) - CENTRE), axis=1)
    np.testing.assert_allclose(info.grad_norm, unclipped, rtol=1e-5)


def test_info_and_state_say_what_they_claim():
    x0 = jnp.asarray(np.random.default_rng(3).normal(size=(5, 4)), jnp.float32)
    kernel = samplers.langevin(quadratic, 0.1)
    state, info = samplers.run_chain(jax.random.key(4), kernel, x0, 1)
    np.testing.assert_allclose(state.energy, quadratic(state.x), rtol=1e-6)
    np.testing.assert_allclose(state.grad, CURVATURE * (state.x - CENTRE), rtol=1e-5)
    np.testing.assert_allclose(info.energy, quadratic(x0), rtol=1e-6)
    np.testing.assert_allclose(
        info.grad_norm, CURVATURE * np.linalg.norm(x0 - CENTRE, axis=1), rtol=1e-5
    )
    np.testing.assert_allclose(info.displacement, np.linalg.norm(state.x - x0, axis=1), rtol=1e-5)
    assert np.all(info.acceptance == 1)
    assert np.all(info.is_finite)


def test_pytree_positions_follow_the_same_law_leaf_by_leaf():
    def energy_fn(x):
        return quadratic(x["a"]) + 2 * jnp.sum(x["b"] ** 2, axis=(1, 2))

    x0 = {"a": jnp.zeros((8000, 1)), "b": jnp.zeros((8000, 2, 1))}
    h = {"a": 0.1, "b": 0.2}
    state, _ = samplers.run_chain(jax.random.key(5), samplers.langevin(energy_fn, h), x0, 50)
    assert_gaussian(np.asarray(state.x["a"])[:, 0], CENTRE, 0.5 / (1 - 0.1))
    for k in range(2):
        assert_gaussian(np.asarray(state.x["b"])[:, k, 0], 0.0, 0.25 / (1 - 0.4))


def test_gradients_where_there_is_no_noise():
    """x_3 = (1 - h)^3 x_0 on the unit quadratic: its derivative in h is -3 (1 - h)^2 x_0."""

    def end(h, temperature, make):
        kernel = make(lambda x: 0.5 * jnp.sum(x**2, axis=1), h, temperature=temperature)
        return samplers.run_chain(jax.random.key(0), kernel, jnp.ones((1, 1)), 3)[0].x.sum()

    found = jax.grad(end)(0.1, 0.0, samplers.langevin)
    np.testing.assert_allclose(found, -3 * 0.9**2, rtol=1e-5)
    assert np.isfinite(jax.grad(end, argnums=1)(0.1, 0.0, samplers.langevin))
    assert np.isfinite(jax.grad(end)(0.1, 0.0, samplers.underdamped_langevin))


def test_a_step_with_momenta_is_its_formula_with_all_settings():
    """In NumPy, of E = |x|^4 / 4: kick, drift, friction and noise, drift, kick; twice."""
    rng = np.random.default_rng(5)
    x, h, t = rng.normal(size=(5, 2)), np.array([[0.3, 0.2]]), np.linspace(0, 4, 5)[:, None]
    friction, mass, key = 0.7, np.array([[0.5, 3.0]]), jax.random.key(6)

    def slope(x):
        return (x**2).sum(1, keepdims=True) * x

    kernel = samplers.underdamped_langevin(
        lambda x: 0.25 * (x**2).sum(1) ** 2, h, friction=friction, mass=mass, temperature=t[:, 0]
    )
    state, step, p = (
        kernel.init(jnp.asarray(x, jnp.float32)),
        jax.jit(kernel.step),
        np.zeros((5, 2)),
    )
    np.testing.assert_array_equal(state.momentum, p)
    for n in range(2):
        step_key, before = jax.random.fold_in(key, n), x
        noise = np.asarray(samplers.random.normal(step_key, jnp.arange(5), jnp.zeros((5, 2))))
        state, info = step(step_key, state)
        p = p - h / 2 * slope(x)
        x = x + h / 2 * p / mass
        kept = np.exp(-friction * h)
        p = kept * p + np.sqrt((1 - kept**2) * t * mass) * noise
        x = x + h / 2 * p / mass
        p = p - h / 2 * slope(x)
        np.testing.assert_allclose(state.x, x, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state.momentum, p, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state.grad, slope(x), rtol=1e-3, atol=1e-4)
        moved = np.sqrt(((x - before) ** 2).sum(1))
        np.testing.assert_allclose(info.displacement, moved, rtol=1e-3, atol=1e-5)


def test_the_norm_has_a_gradient_at_zero():
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_array_equal(samplers.norm(x), [0.0, 5.0])
    slope = jax.grad(lambda x: samplers.norm(x).sum())(x)
    np.testing.assert_allclose(slope, [[0.0, 0.0], [0.6, 0.8]], rtol=1e-6)
    assert samplers.norm(jnp.full((1, 4), 300.0, jnp.float16)) == 600.0  # its square overflows
