"""What docs/design.md promises of every sampler, checked on every sampler there is."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_files import jit_once

from ebm_jax import samplers

KEY = jax.random.key(0)
CHAINS = 6


def energy_fn(x):
    return 0.5 * jnp.sum(x**2, axis=1) + jnp.sum(jnp.cos(x), axis=1)


KERNELS = {
    "langevin": lambda e: samplers.langevin(e, 0.05),
    "mala": lambda e: samplers.mala(e, 0.3),
    "hmc": lambda e: samplers.hmc(e, 0.4, 3),
    "underdamped_langevin": lambda e: samplers.underdamped_langevin(e, 0.3),
    "drl_langevin": lambda e: samplers.drl_langevin(e, 0.3),
    "mdsm_langevin": lambda e: samplers.mdsm_langevin(e, 1.0, eps=0.3),
    "parallel_tempering": lambda e: samplers.parallel_tempering(
        e, [1.0, 2.0], lambda e, t: samplers.mala(e, 0.2 * t, temperature=t)
    ),
}
each_kernel = pytest.mark.parametrize("make", KERNELS.values(), ids=KERNELS)


def start():
    return jnp.asarray(np.random.default_rng(0).normal(size=(CHAINS, 3)), jnp.float32)


def names_and_defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind is p.KEYWORD_ONLY, p.default) for p in parameters]


def test_names_of_the_contract():
    assert samplers.Kernel._fields == ("init", "step")
    assert samplers.State._fields[:3] == ("x", "energy", "grad")
    wanted = {"acceptance", "energy", "grad_norm", "displacement", "is_finite"}
    assert wanted <= set(samplers.Info._fields)
    assert samplers.AISResult._fields == ("log_z", "standard_error", "ess", "log_weights", "x")
    for function, positional, keywords in [
        (samplers.langevin, ["energy_fn", "step_size"], {"temperature", "max_grad", "project"}),
        (samplers.mala, ["energy_fn", "step_size"], set()),
        (samplers.hmc, ["energy_fn", "step_size", "num_leapfrog_steps"], set()),
        (samplers.underdamped_langevin, ["energy_fn", "step_size"], set()),
        (samplers.run_chain, ["rng_key", "kernel", "x", "num_steps"], {"keep_every", "unroll"}),
        (samplers.ais, ["rng_key", "energy_path", "x", "betas", "make_kernel"], {"num_steps"}),
        (samplers.langevin_update, ["x", "grad", "noise", "step_size", "temperature"], set()),
    ]:
        found = names_and_defaults(function)
        assert [name for name, keyword, _ in found if not keyword] == positional
        options = {name for name, keyword, default in found if keyword}
        assert keywords <= options
        assert all(
            default is not inspect.Parameter.empty for _, keyword, default in found if keyword
        )


@each_kernel
def test_state_and_info_of_a_step(make):
    """Chain axis first; energy and gradient are those of x; Info is about the point moved from."""
    kernel, x = make(energy_fn), start()
    state = kernel.init(x)
    grad = jax.grad(lambda x: energy_fn(x).sum())
    np.testing.assert_array_equal(state.x, x)
    np.testing.assert_allclose(state.energy, energy_fn(x), rtol=1e-6)
    np.testing.assert_allclose(state.grad, grad(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(state.chain, np.arange(CHAINS))
    new, info = jit_once(kernel.step)(KEY, state)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
    assert jax.tree.map(jnp.result_type, new) == jax.tree.map(jnp.result_type, state)
    np.testing.assert_allclose(new.energy, energy_fn(new.x), rtol=1e-5)
    np.testing.assert_allclose(new.grad, grad(new.x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(info.energy, state.energy, rtol=1e-6)
    np.testing.assert_allclose(info.grad_norm, np.linalg.norm(state.grad, axis=1), rtol=1e-5)
    moved = np.linalg.norm(np.asarray(new.x - state.x), axis=1)
    np.testing.assert_allclose(info.displacement, moved, rtol=1e-4, atol=1e-6)
    for field in samplers.Info._fields[:5]:
        assert getattr(info, field).shape == (CHAINS,)
    assert info.is_finite.dtype == bool
    assert info.is_finite.all()
    assert ((info.acceptance >= 0) & (info.acceptance <= 1)).all()


@pytest.mark.parametrize("name", ["langevin", "mala", "hmc", "underdamped_langevin"])
def test_low_energy_is_likely(name):
    """The sign, in the runner: exp(-E); chains end where the energy is low."""
    kernel = KERNELS[name](lambda x: 2.0 * jnp.sum((x - 2.0) ** 2, axis=1))
    run = jit_once(lambda key: samplers.run_chain(key, kernel, start(), 60, keep_every=30))
    state, info = run(KEY)
    assert info.kept.shape == (2, CHAINS, 3)
    np.testing.assert_array_equal(info.kept[-1], state.x)
    assert abs(jnp.mean(state.x) - 2.0) < 0.5
