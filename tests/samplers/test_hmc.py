"""HMC's jitter and what its Info says of its trajectories."""

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import samplers

KEY = jax.random.key(12)
L = 60


def normal(x):
    return 0.5 * jnp.sum(x**2, axis=1)


def mean_from_three(jitter):
    kernel = samplers.hmc(normal, 2 * np.sin(np.pi / L), L, jitter=jitter)
    state, info = samplers.run_chain(KEY, kernel, jnp.full((1000, 2), 3.0), 20)
    return float(state.x.mean()), float(state.x.var()), info


def test_jitter_breaks_the_period_of_a_gaussian():
    """A period per step: x' = x exactly; with jitter j, the mean falls by sin(2 pi j) / 2 pi j."""
    still, _, _ = mean_from_three(0.0)
    assert still > 2.9
    mean, variance, info = mean_from_three(0.2)
    error = 1 / np.sqrt(2000)
    assert abs(mean - 3 * np.sinc(2 * 0.2) ** 20) < 4 * error
    assert abs(variance - 1) < 4 * np.sqrt(2) * error
    assert info.acceptance.mean() > 0.99


def test_jitter_is_on_by_default_and_leaves_one_leapfrog_step_alone():
    x = jnp.ones((4, 2))

    def end(*args, **options):
        return samplers.run_chain(KEY, samplers.hmc(normal, *args, **options), x, 3)[0].x

    np.testing.assert_array_equal(end(0.5, 3), end(0.5, np.int64(3), jitter=0.2))
    for number in (2, 3):
        assert (end(0.5, number) != end(0.5, number, jitter=0.0)).any()
    np.testing.assert_array_equal(end(0.5, 1), end(0.5, 1, jitter=0.0))


def test_energy_error_of_one_step_is_the_formula():
    kernel = samplers.hmc(normal, 0.7, 1)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    step_key = jax.random.fold_in(KEY, 0)
    _, info = samplers.run_chain(KEY, kernel, x, 1)
    p = samplers.random.normal(step_key, jnp.arange(5), x)
    half = p - 0.35 * x
    end = x + 0.7 * half
    new_p = half - 0.35 * end
    error = normal(end) + normal(new_p) - normal(x) - normal(p)
    np.testing.assert_allclose(info.energy_error, error, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(info.acceptance, jnp.exp(jnp.minimum(-error, 0)), rtol=1e-4)
    assert not info.is_divergent.any()


def test_a_step_is_its_formula_with_all_settings():
    """In NumPy, of E = |x|^4 / 4: three leapfrog steps, a mass, a temperature, a jitter."""
    x = np.random.default_rng(1).normal(size=(8, 3)) * 1.5
    mass, t, jitter, key = np.array([[0.5, 1.0, 4.0]]), np.linspace(0.5, 4.0, 8), 0.4, KEY

    def energy(x):
        return 0.25 * (x**2).sum(1) ** 2

    def slope(x):
        return (x**2).sum(1, keepdims=True) * x

    kernel = samplers.hmc(energy, 0.7, 3, mass=mass, temperature=t, jitter=jitter)
    start = kernel.init(jnp.asarray(x, jnp.float32))
    state, info = kernel.step(key, start)

    chain, like = jnp.arange(8), jnp.zeros((8, 3))
    u = np.asarray(samplers.random.uniform(jax.random.fold_in(key, 1), chain, ()), float)
    e = 0.7 * (1 + jitter * (2 * u - 1))[:, None]
    p = first = np.sqrt(mass) * np.asarray(samplers.random.normal(key, chain, like), float)
    end = x
    for _ in range(3):
        p = p - e / 2 * slope(end) / t[:, None]
        end = end + e * p / mass
        p = p - e / 2 * slope(end) / t[:, None]
    error = (energy(end) - energy(x)) / t + ((p**2 - first**2) / (2 * mass)).sum(1)
    np.testing.assert_allclose(info.energy_error, error, rtol=1e-4, atol=1e-4)
    accepted = np.asarray(samplers.random.uniform(key, chain, like)) < np.exp(-error)
    assert 0 < accepted.sum() < 8
    np.testing.assert_allclose(state.x, np.where(accepted[:, None], end, x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(info.acceptance, np.exp(np.minimum(-error, 0)), rtol=1e-3)
    np.testing.assert_allclose(info.energy, energy(x), rtol=1e-5)
    np.testing.assert_allclose(info.grad_norm, np.sqrt((slope(x) ** 2).sum(1)), rtol=1e-5)
    moved = np.where(accepted, np.sqrt(((end - x) ** 2).sum(1)), 0)
    np.testing.assert_allclose(info.displacement, moved, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(state.grad, slope(np.asarray(state.x)), rtol=1e-4, atol=1e-5)


def test_errors_above_a_thousand_nats_are_divergences():
    """On two plateaus, where momenta stay as they are."""
    nats = jnp.array([1000.0, 1000.1])
    kernel = samplers.hmc(lambda x: jnp.where(x[:, 0] == 0, 0.0, nats), 1.0, 1)
    _, info = jax.jit(lambda x: kernel.step(KEY, kernel.init(x)))(jnp.zeros((2, 1)))
    np.testing.assert_array_equal(info.energy_error, nats)
    np.testing.assert_array_equal(info.is_divergent, [False, True])


def test_divergences_are_flagged_for_the_whole_block():
    """Beyond the stability limit 2 the error grows without bound; NaN counts as infinite."""
    x = jnp.ones((4, 2))
    _, info = samplers.run_chain(KEY, samplers.hmc(normal, 3.0, 20, jitter=0.0), x, 3)
    assert info.is_divergent.all()
    assert (info.energy_error > 1000).all()

    def broken(x):
        return jnp.where(x[:, 0] != 1.0, jnp.nan, normal(x))

    state, info = samplers.run_chain(KEY, samplers.hmc(broken, 0.1, 3), x, 3)
    np.testing.assert_array_equal(state.x, x)
    assert info.is_divergent.all()
    assert jnp.isposinf(info.energy_error).all()
    _, info = samplers.run_chain(KEY, samplers.hmc(normal, 0.5, 5), x, 50, keep_every=25)
    assert not info.is_divergent.any()
    assert jnp.abs(info.energy_error).max() < 0.2
