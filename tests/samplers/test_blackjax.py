"""BlackJAX algorithms as kernels and kernels as BlackJAX algorithms, on known targets."""

import sys
import types
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers
from ebm_jax.samplers import from_blackjax, run_chain, to_blackjax

MEAN = jnp.array([1.0, -2.0])
COVARIANCE = jnp.array([[1.0, 0.6], [0.6, 0.5]])
PRECISION = jnp.linalg.inv(COVARIANCE)
SD = jnp.sqrt(jnp.diag(COVARIANCE))


def logdensity_fn(x):
    return -0.5 * (x - MEAN) @ PRECISION @ (x - MEAN)


def energy_fn(x):
    return -jax.vmap(logdensity_fn)(x)


def test_nuts_over_many_chains_has_the_targets_moments():
    nuts = blackjax.nuts(logdensity_fn, step_size=0.5, inverse_mass_matrix=jnp.ones(2))
    kernel = from_blackjax(nuts)
    run = jax.jit(lambda key, x: run_chain(key, kernel, x, 120, keep_every=1))
    state, info = run(jax.random.key(0), jnp.zeros((64, 2)))
    draws = info.kept
    summary = jax.jit(samplers.summarize)(draws[20:])
    assert (summary.r_hat < 1.05).all()
    assert (jnp.abs(summary.mean - MEAN) < 4 * summary.mcse_mean).all()
    assert (jnp.abs(summary.sd - SD) < 4 * summary.mcse_sd).all()
    assert 0.6 < info.acceptance.mean() < 1.0
    assert info.is_finite.all()
    # What State and Info promise: energy and gradient of the position, of the point left behind.
    np.testing.assert_allclose(state.energy, energy_fn(state.x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.grad, (state.x - MEAN) @ PRECISION, rtol=1e-4, atol=1e-4)
    before = jax.vmap(energy_fn)(draws[:-1])
    np.testing.assert_allclose(info.energy[1:], before, rtol=1e-4, atol=1e-4)
    moved = jnp.linalg.norm(draws[1:] - draws[:-1], axis=-1)
    np.testing.assert_allclose(info.displacement[1:], moved, atol=1e-5)


def test_wrapped_step_is_blackjaxs_own():
    """One step of chain i is the algorithm's step with the key of (step's key, i)."""
    algorithm = blackjax.hmc(logdensity_fn, 0.3, jnp.ones(2), 2)
    kernel = from_blackjax(algorithm)
    x, key = jax.random.normal(jax.random.key(1), (4, 2)), jax.random.key(2)
    step = jax.jit(kernel.step)
    state, info = step(key, kernel.init(x))
    own, own_info = jax.jit(algorithm.step)(jax.random.fold_in(key, 3), algorithm.init(x[3]))
    np.testing.assert_allclose(state.x[3], own.position, rtol=1e-5)
    np.testing.assert_allclose(info.acceptance[3], own_info.acceptance_rate, rtol=1e-5)
    numbered = kernel.init(x[2:])._replace(chain=jnp.array([2, 3], jnp.int32))
    np.testing.assert_allclose(step(key, numbered)[0].x, state.x[2:], rtol=1e-5)


def test_algorithms_without_gradient_or_with_a_drawn_start():
    x = {"a": jnp.zeros((8, 2)), "b": jnp.ones(8)}

    def log_density(x):
        return -0.5 * (jnp.sum(x["a"] ** 2) + x["b"] ** 2)

    walk = blackjax.additive_step_random_walk.normal_random_walk(log_density, jnp.full(3, 0.5))
    run = jax.jit(lambda key: run_chain(key, from_blackjax(walk), x, 10))
    state, info = run(jax.random.key(0))
    assert state.grad is None
    assert jnp.isnan(info.grad_norm).all()
    assert info.is_finite.all()
    np.testing.assert_allclose(state.energy, -jax.vmap(log_density)(state.x), rtol=1e-5)
    assert 0.2 < info.acceptance.mean() < 1.0

    ghmc = from_blackjax(blackjax.ghmc(log_density, 0.3, 1.0, 0.5, 0.1), init_key=jax.random.key(5))
    momentum = jax.tree.leaves(ghmc.init(x).algorithm.momentum)[0]
    assert len(np.unique(np.asarray(momentum).round(6), axis=0)) == 8  # one for each chain


class Position(NamedTuple):
    """The least that a state has."""

    position: Any


class Weighed(NamedTuple):
    """Without a gradient."""

    position: Any
    logdensity: Any


class Verdict(NamedTuple):
    """Of a step."""

    is_accepted: Any


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_an_algorithm_does_not_tell_is_not_known(dtype):
    move = jnp.array([3.0, 4.0], dtype)

    def made(state_of, info_of):
        def step(key, state):
            return state_of(state.position + move), info_of(state.position)

        return from_blackjax(types.SimpleNamespace(init=lambda x, key: state_of(x), step=step))

    x = jnp.array([[1.0, 0.0], [-1.0, 0.0], [2.0, jnp.inf]], dtype)
    kernel = made(Position, lambda x: Verdict(x[0] > 0))
    state = kernel.init(x)
    assert state.grad is None
    assert state.energy.dtype == dtype
    new, info = kernel.step(jax.random.key(0), state)
    np.testing.assert_array_equal(new.x, x + move)
    np.testing.assert_array_equal(new.chain, [0, 1, 2])
    np.testing.assert_array_equal(info.acceptance, [1, 0, 1])
    np.testing.assert_array_equal(info.displacement[:2], [5, 5])
    np.testing.assert_array_equal(info.is_finite, [True, True, False])
    for unknown in (state.energy, info.energy, info.grad_norm):
        assert np.isnan(np.asarray(unknown, float)).all()
    assert info.acceptance.dtype == info.grad_norm.dtype == jnp.float32

    kernel = made(lambda x: Weighed(x, jnp.where(x[0] > 3, 7 * x[0], jnp.nan)), lambda x: ())
    new, info = kernel.step(jax.random.key(0), kernel.init(x + move))
    np.testing.assert_array_equal(new.energy, -7 * new.x[:, 0])
    np.testing.assert_array_equal(info.energy.astype(float), [-28, np.nan, -35])
    np.testing.assert_array_equal(info.is_finite, [True, True, False])
    assert np.isnan(np.asarray(info.acceptance)).all()
    new, info = kernel.step(jax.random.key(0), kernel.init(x))
    np.testing.assert_array_equal(info.is_finite, [True, False, False])


def test_blackjaxs_hmc_as_a_transition_of_annealed_importance_sampling():
    def make_kernel(energy_fn):
        def log_density(x):
            return -energy_fn(x[None])[0]

        return from_blackjax(blackjax.hmc(log_density, 0.3, jnp.ones(2), 3))

    path = samplers.geometric_path(lambda x: 0.5 * jnp.sum(x**2, axis=-1), energy_fn)
    x = jax.random.normal(jax.random.key(3), (500, 2))
    result = samplers.ais(jax.random.key(4), path, x, jnp.linspace(0, 1, 31), make_kernel)
    truth = 0.5 * jnp.linalg.slogdet(COVARIANCE)[1]
    assert abs(result.log_z - truth) < 4 * result.standard_error
    assert result.standard_error < 0.2


def test_kernel_under_blackjaxs_own_runner():
    """Mean and variance of MALA, run by blackjax.util.run_inference_algorithm over chains."""
    algorithm = to_blackjax(samplers.mala(energy_fn, step_size=0.2))

    def one_chain(key):
        _, draws = blackjax.util.run_inference_algorithm(
            rng_key=key,
            inference_algorithm=algorithm,
            num_steps=400,
            initial_position=MEAN,
            transform=lambda state, info: (state.position, info.acceptance_rate),
        )
        return draws

    draws, acceptance = jax.jit(jax.vmap(one_chain))(jax.random.split(jax.random.key(6), 32))
    summary = jax.jit(samplers.summarize)(draws.swapaxes(0, 1))
    assert (jnp.abs(summary.mean - MEAN) < 4 * summary.mcse_mean).all()
    assert (jnp.abs(summary.sd - SD) < 4 * summary.mcse_sd).all()
    assert 0.3 < acceptance.mean() < 1.0


def test_there_and_back_is_the_same_chain():
    kernel = samplers.hmc(energy_fn, 0.3, 3)
    algorithm = to_blackjax(kernel)
    x, key = jnp.array([0.5, 0.5]), jax.random.key(7)
    state = algorithm.init(x)
    np.testing.assert_allclose(state.logdensity, logdensity_fn(x), rtol=1e-5)
    np.testing.assert_allclose(state.logdensity_grad, jax.grad(logdensity_fn)(x), rtol=1e-5)
    direct, info = jax.jit(kernel.step)(key, kernel.init(x[None]))
    through, own_info = jax.jit(algorithm.step)(key, state)
    np.testing.assert_allclose(through.position, direct.x[0], rtol=1e-6)
    np.testing.assert_allclose(own_info.acceptance_rate, info.acceptance[0], rtol=1e-6)


def test_a_single_chain_has_index_0_wherever_it_begins():
    kernel = samplers.mala(energy_fn, 0.1)
    later = kernel._replace(init=lambda x: kernel.init(x)._replace(chain=jnp.array([5])))
    chain = to_blackjax(later).init(jnp.zeros(2)).kernel_state.chain
    np.testing.assert_array_equal(chain, [0])
    assert chain.dtype == jnp.int32
    number = to_blackjax(samplers.mala(jnp.square, 0.1)).init(0.5)
    assert (number.position, number.logdensity, number.logdensity_grad) == (0.5, -0.25, -1.0)


def test_bad_input_is_refused_in_one_line(monkeypatch):
    with pytest.raises(TypeError, match="got function without init"):
        from_blackjax(logdensity_fn)
    odd = blackjax.base.SamplingAlgorithm(lambda x, key: (x,), lambda key, state: (state, None))
    with pytest.raises(TypeError, match="expected states with a position"):
        from_blackjax(odd).init(jnp.zeros((2, 2)))
    monkeypatch.setitem(sys.modules, "blackjax.base", None)
    with pytest.raises(ImportError, match="pip install"):
        to_blackjax(samplers.mala(energy_fn, 0.1))


def test_warmup_of_a_walk_that_has_no_gradient():
    """Its roughness cannot be told; its step is found all the same."""

    def make_kernel(step_size, mass):
        steps = blackjax.mcmc.random_walk.normal(step_size * SD)
        return from_blackjax(blackjax.additive_step_random_walk(logdensity_fn, steps))

    start = MEAN + SD * jax.random.normal(jax.random.key(1), (64, 2))
    warmed = samplers.warmup(
        jax.random.key(0), make_kernel, start, 200, target_acceptance=0.5, adapt_mass=False
    )  # fmt: skip
    assert np.isnan(warmed.roughness)
    assert 0.45 < warmed.acceptance < 0.55
    assert 0.5 < warmed.step_size < 3
