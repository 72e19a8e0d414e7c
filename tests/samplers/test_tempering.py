"""Parallel tempering: right weights of modes that plain chains never leave, right replicas."""

import jax
import jax.numpy as jnp
import numpy as np
from sampler_targets import assert_law, mixture

from ebm_jax import samplers
from ebm_jax.samplers import random
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
    # A ratio of exp(-1), and numbers at it and below it.
    two, log_u = jnp.array([[0.0, 2.0]] * 2), jnp.array([[-1.0, 0.0], [-1.001, 0.0]])
    source, _ = exchange(two, temperatures[:2], log_u, jnp.array([0, 0]))
    np.testing.assert_array_equal(source, [[0, 1], [1, 0]])


def test_a_step_is_a_move_of_all_replicas_and_an_exchange():
    """With a key for each; what is said is of the coldest, and finite is what all are."""
    key, temperatures = jax.random.key(3), jnp.array([0.5, 1.0, 4.0])

    def energy_fn(x):
        return 0.5 * jnp.sum(x**2, axis=1)

    def make(energy_fn, t):
        def step(rng_key, state):
            u = random.uniform(rng_key, state.chain, ())
            new = plain.init(state.x + (t * u)[:, None])._replace(chain=state.chain)
            return new, samplers.Info(u, state.energy, u, u, state.x[:, 0] < 9)

        plain = samplers.langevin(energy_fn, 1.0)
        return samplers.Kernel(plain.init, step)

    kernel = samplers.parallel_tempering(energy_fn, temperatures, make)
    rng = np.random.default_rng(1)
    start, chain = rng.normal(size=(3, 3, 2)).astype(np.float32) * 2, np.array([6, 2, 9])
    start[1, 2, 0], start[2, 1:] = 10.0, [[6.0, 0.0], [0.0, 1.0]]
    index = (chain[:, None] * 3 + np.arange(3)).ravel()

    @jax.jit
    def both(start):
        state = kernel.init(start[:, 0])._replace(chain=jnp.asarray(chain))
        replicas = state.replicas._replace(x=start, energy=0.5 * jnp.sum(start**2, 2))
        state = state._replace(replicas=replicas, num_rounds=jnp.array([0, 1, 1]))
        u = [random.uniform(random.fold_in(key, n), index, ()) for n in (0, 1)]
        return state, kernel.step(key, state), jnp.reshape(jnp.stack(u), (2, 3, 3))

    state, (new, info), (first, second) = jax.device_get(both(start))
    moved = start + (np.array([0.5, 1, 4]) * first)[..., None]
    energy = 0.5 * (moved**2).sum(2)
    source, acceptance = exchange(
        jnp.asarray(energy), temperatures, np.log(second), state.num_rounds
    )
    np.testing.assert_array_equal(source, [[1, 0, 2], [0, 1, 2], [0, 2, 1]])
    x = np.take_along_axis(moved, np.asarray(source)[..., None], 1)
    np.testing.assert_allclose(new.replicas.x, x, rtol=1e-5)
    np.testing.assert_allclose(new.replicas.energy, 0.5 * (x**2).sum(2), rtol=1e-5)
    np.testing.assert_allclose(new.replicas.grad, x, rtol=1e-5)
    np.testing.assert_array_equal(new.replicas.chain, state.replicas.chain)
    np.testing.assert_allclose(new.x, x[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(new.num_rounds, [1, 2, 2])
    np.testing.assert_array_equal(new.chain, chain)
    np.testing.assert_allclose(info.swap_acceptance, acceptance, rtol=1e-4)
    np.testing.assert_allclose(info.replica_acceptance, first, rtol=1e-5)
    np.testing.assert_allclose(info.acceptance, first[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(info.is_finite, [True, False, True])
    np.testing.assert_allclose(
        info.displacement, np.linalg.norm(x[:, 0] - start[:, 0], axis=1), rtol=1e-4
    )
    np.testing.assert_allclose(info.energy, 0.5 * (start[:, 0] ** 2).sum(1), rtol=1e-5)
    np.testing.assert_allclose(info.grad_norm, np.linalg.norm(start[:, 0], axis=1), rtol=1e-5)
