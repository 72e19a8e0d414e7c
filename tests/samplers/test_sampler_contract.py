"""The contract of docs/design.md, on every sampler of the registry and on those made of them."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers

KEY = jax.random.key(0)
CHAINS = 6


def energy_fn(x):
    return 0.5 * jnp.sum(x**2, axis=1) + jnp.sum(jnp.cos(x), axis=1)


# Arguments that a maker of the registry may ask for beside the energy.
SETTINGS = {"step_size": 0.3, "num_leapfrog_steps": 3}


def from_registry(name, energy_fn, **settings):
    """The registered kernel with the settings that it has no default for."""
    parameters = inspect.signature(samplers.KERNELS[name]).parameters.values()
    asked = [p.name for p in parameters if p.default is inspect.Parameter.empty][1:]
    return samplers.KERNELS[name](energy_fn, **{n: (SETTINGS | settings)[n] for n in asked})


KERNELS = {name: functools.partial(from_registry, name) for name in samplers.KERNELS} | {
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


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (samplers.run_chain, {"keep_every": None, "unroll": 1, "first_step": 0}),
        (samplers.run_schedule, {"keep": None, "unroll": 1}),
        (samplers.run_with_progress, {"report_every": None, "stream": None, "first_step": 0}),
        (samplers.ais, {"num_steps": 1, "kernel_params": None, "return_info": False}),
        (samplers.bootstrap_standard_error, {"num_resamples": 1_000}),
        (
            samplers.smc,
            {
                "num_steps": 5, "betas": (0.0, 1.0), "target_ess": 0.5, "target_acceptance": 0.8,
                "num_groups": 8, "max_temperatures": 500,
            },
        ),
        (samplers.adapt_temperatures, {"num_rounds": 6, "num_steps": 50}),
        (
            samplers.warmup,
            {
                "initial_step_size": 0.1, "target_acceptance": 0.8, "adapt_mass": True,
                "per_chain": False, "axis_name": None,
            },
        ),
        (
            samplers.sample,
            {
                "num_draws": 1_000, "num_warmup": 1_000, "num_leapfrog_steps": 8,
                "steps_per_draw": 1, "target_acceptance": 0.8,
            },
        ),
        (samplers.roughness, {"ulps": (4, 1_024, 65_536)}),
        (
            samplers.underdamped_langevin, {"friction": 1.0, "mass": 1.0, "temperature": 1.0}
        ),
        (samplers.baoab_update, {"friction": 1.0, "mass": 1.0, "temperature": 1.0}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_settings_where_none_are_given(function, wanted):
    found = {name: default for name, _, default in names_and_defaults(function)}
    assert wanted.items() <= found.items()


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
    new, info = jax.jit(kernel.step)(KEY, state)
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


@each_kernel
def test_what_is_measured_of_half_types_is_in_float32(make):
    """Sums of acceptances in bfloat16 stand still at 256."""
    x = start().astype(jnp.bfloat16)
    kernel = make(lambda x: energy_fn(x).astype(jnp.bfloat16))
    new, info = jax.eval_shape(kernel.step, KEY, kernel.init(x))
    assert new.x.dtype == jnp.bfloat16
    for field in ("acceptance", "grad_norm", "displacement"):
        assert getattr(info, field).dtype == jnp.float32
    assert getattr(info, "swap_acceptance", info.acceptance).dtype == jnp.float32


@each_kernel
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_types_stay_where_float64_is_allowed(make, dtype):
    with jax.enable_x64(True):
        x = start().astype(dtype)
        kernel = make(energy_fn)
        state = jax.eval_shape(kernel.init, x)
        new, info = jax.eval_shape(kernel.step, KEY, state)
        assert jax.tree.map(jnp.result_type, new) == jax.tree.map(jnp.result_type, state)
        assert {leaf.dtype for leaf in jax.tree.leaves(info)} == {jnp.dtype(bool), jnp.dtype(dtype)}
    assert state.chain.dtype == jnp.int32


@pytest.mark.parametrize("name", samplers.KERNELS)
def test_low_energy_is_likely(name):
    """The sign, in the runner: exp(-E); chains end where the energy is low."""
    kernel = from_registry(name, lambda x: 2.0 * jnp.sum((x - 2.0) ** 2, axis=1), step_size=0.05)
    run = jax.jit(lambda key: samplers.run_chain(key, kernel, start(), 200, keep_every=100))
    state, info = run(KEY)
    assert info.kept.shape == (2, CHAINS, 3)
    np.testing.assert_array_equal(info.kept[-1], state.x)
    assert abs(jnp.mean(state.x) - 2.0) < 0.5


def test_registry():
    """Makers from an energy and a step size; another sampler is a line there and a file."""
    assert set(samplers.KERNELS) >= {"langevin", "mala", "hmc", "underdamped_langevin"}
    for name, make in samplers.KERNELS.items():
        assert make is getattr(samplers, name)
        first = list(inspect.signature(make).parameters)[:2]
        assert first == ["energy_fn", "step_size"]


@each_kernel
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_keeps_types_and_sums_in_float32(make, dtype):
    kernel, x = make(energy_fn), start().astype(dtype)
    state, info = jax.jit(lambda x: samplers.run_chain(KEY, kernel, x, 3))(x)
    assert state.x.dtype == dtype
    assert jax.tree.map(jnp.result_type, state) == jax.tree.map(jnp.result_type, kernel.init(x))
    for name in ("acceptance", "grad_norm", "displacement"):
        assert getattr(info, name).dtype == jnp.float32


@each_kernel
def test_a_kernel_is_an_argument_of_jit(make):
    kernel, x = make(energy_fn), start()
    inside = jax.jit(lambda kernel, x: samplers.run_chain(KEY, kernel, x, 2)[0].x)(kernel, x)
    outside = jax.jit(lambda x: samplers.run_chain(KEY, kernel, x, 2)[0].x)(x)
    np.testing.assert_allclose(inside, outside, rtol=1e-6)
    again = jax.tree.unflatten(jax.tree.structure(kernel), jax.tree.leaves(kernel))
    assert jax.tree.structure(again) == jax.tree.structure(kernel)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(kernel))
