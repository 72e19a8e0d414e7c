"""Parallel tempering: right weights of modes that plain chains never leave, right replicas."""

import jax
import jax.numpy as jnp
import numpy as np
from sampler_targets import assert_law, mixture

from ebm_jax import samplers
from ebm_jax.samplers.tempering import exchange


def test_weights_of_two_modes_ten_sigma_apart():
    target = mixture([0.2, 0.8], [[-5.0, 0.0], [5.0, 0.0]])
    temperatures = jnp.geomspace(1.0, 25.0, 5)
    kernel = samplers.parallel_tempering(
        target.energy_fn,
        temperatures,
        lambda energy_fn, t: samplers.hmc(energy_fn, 0.8 * jnp.sqrt(t), 3, temperature=t),
    )
    x0 = jnp.full((3000, 2), -5.0)  # all in the light mode
    key = jax.random.key(0)
    state, info = samplers.run_chain(key, kernel, x0, 300)
    assert_law(target, np.asarray(state.x))
    assert 0.2 < float(info.swap_acceptance.mean(axis=0).min())
    plain = samplers.hmc(target.energy_fn, 0.8, 3)
    stuck, _ = samplers.run_chain(key, plain, x0[:500], 300)
    assert np.mean(np.asarray(stuck.x)[:, 0] < 0) > 0.95


def test_every_replica_has_the_law_of_its_temperature():
    temperatures = np.array([0.5, 1.0, 3.0])
    kernel = samplers.parallel_tempering(
        lambda x: 0.5 * jnp.sum(x**2, axis=1),
        temperatures,
        lambda energy_fn, t: samplers.underdamped_langevin(energy_fn, 0.5, temperature=t),
    )
    state, info = samplers.run_chain(jax.random.key(1), kernel, jnp.zeros((6000, 1)), 30)
    for values, t in zip(np.asarray(state.replicas.x)[:, :, 0].T, temperatures, strict=True):
        assert abs(values.mean()) < 4 * np.sqrt(t / 6000)
        assert abs(values.var() - t) < 4 * t * np.sqrt(2 / 6000)
    np.testing.assert_array_equal(state.x, state.replicas.x[:, 0])
    np.testing.assert_allclose(state.energy, 0.5 * state.x[:, 0] ** 2, rtol=1e-5)
    assert info.replica_acceptance.shape == (6000, 3)
    assert info.swap_acceptance.shape == (6000, 2)


def test_exchange_probability_and_alternation():
    temperatures = jnp.array([1.0, 2.0, 4.0, 8.0])
    energy = jnp.array([[3.0, 1.0, 5.0, 4.9], [0.0, 4.0, 2.0, jnp.nan]])
    log_u = jnp.log(jnp.full((2, 4), 0.3))
    beta = 1 / np.asarray(temperatures)
    with np.errstate(invalid="ignore"):
        ratio = np.exp((beta[:-1] - beta[1:]) * -np.diff(np.asarray(energy), axis=1))
    expected = np.where(np.isnan(ratio), 0, np.minimum(ratio, 1))
    source, acceptance = exchange(energy, temperatures, log_u, jnp.array([0, 0]))
    np.testing.assert_allclose(acceptance, expected, rtol=1e-5)
    # Even rounds propose (0, 1) and (2, 3), odd rounds (1, 2).
    np.testing.assert_array_equal(source, [[1, 0, 3, 2], [0, 1, 2, 3]])
    source, _ = exchange(energy, temperatures, log_u, jnp.array([1, 1]))
    np.testing.assert_array_equal(source, [[0, 2, 1, 3], [0, 2, 1, 3]])
