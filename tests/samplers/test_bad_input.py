"""What goes in wrong comes back as one line that says what to write; NaN stays in its chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers

KEY = jax.random.key(0)
X = jnp.ones((4, 3))


def square(x):
    return 0.5 * jnp.sum(x**2, axis=1)


def run(energy_fn, x, make=samplers.mala):
    return samplers.run_chain(KEY, make(energy_fn, 0.1), x, 2)


@pytest.mark.parametrize(
    ("energy_fn", "error", "message"),
    [
        (lambda x: jnp.sum(x**2), ValueError, r"returned shape \(\): return \(4,\), one per chain"),
        (lambda x: jnp.sum(x**2, axis=1, keepdims=True), ValueError, r"\(4, 1\).*take \[:, 0\]"),
        (lambda x: x**2, ValueError, r"\(4, 3\).*sum over all axes but the first"),
        (lambda x: 3.0, TypeError, "returned a float: return an array"),
        (lambda x: square(x).astype(int), TypeError, "returned int32"),
    ],
)
def test_energy_of_the_wrong_shape_or_type(energy_fn, error, message):
    with pytest.raises(error, match=message):
        run(energy_fn, X)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (jnp.ones((0, 3)), ValueError, "the chain axis is empty"),
        (jnp.ones((4, 3), int), TypeError, r"positions are int32: cast them, x.astype"),
        (jnp.float32(1.0), ValueError, "no chain axis"),
        ({}, ValueError, "empty pytree"),
        ({"a": jnp.ones((4, 1)), "b": jnp.ones((3, 1))}, ValueError, r"have \[3, 4\] chains"),
        (
            {"a": jnp.ones((4, 1)), "b": jnp.ones((4, 1), jnp.bfloat16)},
            TypeError,
            "positions mix bfloat16, float32",
        ),
    ],
)
@pytest.mark.parametrize("make", [samplers.mala, samplers.langevin])
def test_positions_that_are_none(x, error, message, make):
    with pytest.raises(error, match=message):
        run(lambda x: square(x), x, make)


def test_float32_positions_and_float64_data():
    with jax.enable_x64(True):
        centre = jnp.zeros(3, jnp.float64)
        with pytest.raises(TypeError, match=r"returned float64 for float32 positions.*one float"):
            run(lambda x: square(x - centre), X.astype(jnp.float32))
        with pytest.raises(TypeError, match="positions mix float32, float64"):
            run(square, {"a": X.astype(jnp.float32), "b": X.astype(jnp.float64)})
        state, info = run(square, X.astype(jnp.float64))
        assert state.x.dtype == state.energy.dtype == info.acceptance.dtype == jnp.float64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.mala(square, -0.1), "step_size is -0.1: give a finite value above 0"),
        (lambda: samplers.langevin(square, 0.0), "step_size is 0: give a finite value above 0"),
        (lambda: samplers.langevin(square, np.array([0.1, np.nan])), "step_size is nan"),
        (lambda: samplers.langevin(square, 0.1, temperature=-1), "temperature is -1.*at least 0"),
        (lambda: samplers.langevin(square, 0.1, max_grad=-1.0), "max_grad is -1"),
        (lambda: samplers.mala(square, 0.1, temperature=0.0), "temperature is 0.*above 0"),
        (lambda: samplers.hmc(square, 0.1, 0), "num_leapfrog_steps is 0: give a Python int"),
        (lambda: samplers.hmc(square, 0.1, 2, mass=jnp.zeros((1, 3))), "mass is 0"),
        (lambda: samplers.underdamped_langevin(square, 0.1, friction=-1.0), "friction is -1"),
        (
            lambda: samplers.igebm_langevin(square, 1.0, max_grad=1.0, max_batch_norm=1.0),
            "give one of them",
        ),
        (lambda: samplers.mdsm_temperatures(cooling="log"), "give 'exp' or 'linear'"),
        (
            lambda: samplers.parallel_tempering(square, [1.0], samplers.mala),
            r"temperatures have shape \(1,\): give \[replicas\], at least two",
        ),
    ],
)
def test_numbers_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("shape", [(3,), (2,), (4, 2), (4, 1, 3), (1, 4)])
def test_step_sizes_of_unclear_shape(shape):
    with pytest.raises(ValueError, match=r"give a scalar, \(4,\) per chain or \(1, 3\) per dim"):
        samplers.run_chain(KEY, samplers.mala(square, jnp.full(shape, 0.1)), X, 1)


def test_metropolis_needs_one_temperature_per_chain():
    kernel = samplers.mala(square, 0.1, temperature=jnp.ones((1, 3)))
    with pytest.raises(ValueError, match="give a scalar or one per chain"):
        samplers.run_chain(KEY, kernel, X, 1)


@pytest.mark.parametrize(
    "kernel",
    [
        samplers.langevin(lambda x: breaks_beyond_two(x), 0.01),
        samplers.mala(lambda x: breaks_beyond_two(x), 0.01),
        samplers.hmc(lambda x: breaks_beyond_two(x), 0.05, 2),
        samplers.underdamped_langevin(lambda x: breaks_beyond_two(x), 0.05),
    ],
    ids=["langevin", "mala", "hmc", "underdamped"],
)
def test_a_chain_with_nan_is_flagged_and_the_others_go_on(kernel):
    x0 = jnp.array([[0.1, 0.1, 0.1], [9.0, 0.0, 0.0], [0.3, 0.2, 0.1]])
    state, info = samplers.run_chain(KEY, kernel, x0, 5)
    np.testing.assert_array_equal(info.is_finite, [True, False, True])
    assert np.isfinite(np.asarray(state.x)[[0, 2]]).all()
    alone, _ = samplers.run_chain(KEY, kernel, x0[:1], 5)
    np.testing.assert_allclose(state.x[0], alone.x[0], rtol=1e-5)


def breaks_beyond_two(x):
    return jnp.sum(jnp.where(x > 2, jnp.nan, 0.5) * x**2, axis=1)


def test_metropolis_never_moves_into_nan():
    def energy_fn(x):
        return jnp.where(x[:, 0] > 0.5, jnp.nan, 0.5 * x[:, 0] ** 2)

    state, info = samplers.run_chain(KEY, samplers.mala(energy_fn, 0.5), jnp.zeros((500, 1)), 30)
    assert float(state.x.max()) <= 0.5
    assert not bool(info.is_finite.all())  # proposals beyond were made, and are told
    assert np.isfinite(np.asarray(info.acceptance)).all()
