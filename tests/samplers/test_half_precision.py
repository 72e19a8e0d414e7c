"""Chains in bfloat16 and float16 move in float32: steps below their spacing are not lost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers
from ebm_jax.samplers.mala import mala_log_ratio
from ebm_jax.samplers.metropolis import energy_difference

KEY = jax.random.key(21)
H, CHAINS, DIMENSIONS = 0.002, 1000, 50


def square(x):
    return 0.5 * jnp.sum(jnp.square(x.astype(jnp.float32)), axis=1)


def start(dtype):
    return jax.random.normal(jax.random.key(5), (CHAINS, DIMENSIONS)).astype(dtype)


def assert_standard(x, variance=1.0):
    """Variance of independent draws at four standard errors."""
    found = np.asarray(x, np.float64).var()
    assert abs(found - variance) < 4 * variance * np.sqrt(2 / x.size)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    "kernel",
    [
        samplers.langevin(square, H),
        samplers.drl_langevin(square, np.sqrt(2 * H)),
        samplers.mala(square, H),
        samplers.underdamped_langevin(square, 0.05),  # momenta start at rest: 10 units of time
        samplers.igebm_langevin(square, H, noise_std=np.sqrt(2 * H), box=None),
    ],
    ids=["langevin", "drl", "mala", "underdamped", "igebm"],
)
def test_small_steps_keep_the_variance(kernel, dtype):
    state, info = samplers.run_chain(KEY, kernel, start(dtype), 200)
    assert state.x.dtype == dtype
    assert_standard(state.x)
    assert info.displacement.mean() > 2.0  # they have moved


def test_steps_far_below_the_spacing_diffuse_as_in_float32():
    """A thousand steps of 1e-6, each a hundredth of bfloat16's spacing at 4."""
    x0 = jnp.full((500, 50), 4.0, jnp.bfloat16)
    kernel = samplers.langevin(lambda x: 0 * square(x), 1e-6)
    state, _ = samplers.run_chain(KEY, kernel, x0, 1000)
    moved = np.asarray(state.x.astype(jnp.float32) + state.remainder) - 4.0
    assert_standard(moved, 2e-3)


def test_a_schedule_hands_the_remainder_on():
    make_kernel = functools.partial(samplers.mdsm_langevin, square, eps=float(np.sqrt(2 * H)))
    state, _ = samplers.run_schedule(KEY, make_kernel, jnp.ones(200), start(jnp.bfloat16), 1)
    assert state.x.dtype == jnp.bfloat16
    assert_standard(state.x)


def test_chunks_continue_where_they_ended():
    kernel = samplers.langevin(square, H)
    whole, _ = samplers.run_chain(KEY, kernel, start(jnp.bfloat16), 40)
    half, _ = samplers.run_chain(KEY, kernel, start(jnp.bfloat16), 20)
    rest, _ = samplers.run_chain(KEY, kernel, half, 20, first_step=20)
    np.testing.assert_array_equal(rest.x, whole.x)


def test_updates_of_half_types_round_once():
    rng = np.random.default_rng(0)
    x, g, n = (jnp.asarray(rng.normal(size=(4, 3)), jnp.bfloat16) for _ in range(3))
    got = samplers.langevin_update(x, g, n, 0.001, 0.5)
    wide = samplers.langevin_update(*(a.astype(jnp.float32) for a in (x, g, n)), 0.001, 0.5)
    np.testing.assert_array_equal(got, wide.astype(jnp.bfloat16))
    got, p = samplers.baoab_update(x, g, g, n, 0.01)
    wide, wide_p = samplers.baoab_update(*(a.astype(jnp.float32) for a in (x, g, g, n)), 0.01)
    np.testing.assert_array_equal(got, wide.astype(jnp.bfloat16))
    np.testing.assert_array_equal(p, wide_p.astype(jnp.bfloat16))
    got = samplers.igebm_update(x, n, lambda x: x, 0.1, box=None)
    assert got.dtype == jnp.bfloat16


def test_bounds_of_gradients_and_differences_are_not_rounded():
    """Of energies 256 and 1/2, and a bound of 0.1, none of which bfloat16 can tell exactly."""
    x = jnp.array([[4.0, -4.0]], jnp.bfloat16)
    kernel = samplers.langevin(square, 1.0, temperature=0.0, max_grad=0.1)
    state, _ = jax.jit(lambda x: kernel.step(KEY, kernel.init(x)))(x)
    moved = state.x.astype(jnp.float32) + state.remainder
    np.testing.assert_allclose(moved, [[3.9, -3.9]], rtol=1e-6)

    rng = np.random.default_rng(1)
    grads = jnp.asarray(rng.normal(size=(2, 1, 2)), jnp.bfloat16)
    noise = jnp.asarray(rng.normal(size=(1, 2)), jnp.float32)
    first, second = jnp.array([256.0], jnp.bfloat16), jnp.array([0.5], jnp.bfloat16)
    states = [samplers.State(x, e, g, None) for e, g in ((first, grads[0]), (second, grads[1]))]
    wide = [jax.tree.map(lambda a: a.astype(jnp.float32), state) for state in states]
    found, wanted = (mala_log_ratio(*pair, noise, 0.3, 0.7, 0.6) for pair in (states, wide))
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(energy_difference(*states, 2.0), [127.75])
    np.testing.assert_array_equal(energy_difference(*states[::-1], 2.0), [-127.75])


@pytest.mark.parametrize(("dtype", "num_steps"), [(jnp.bfloat16, 600), (jnp.float16, 5000)])
def test_sums_do_not_saturate(dtype, num_steps):
    kernel = samplers.langevin(lambda x: 0.5 * jnp.sum(x**2, axis=1), 0.1)
    _, info = samplers.run_chain(KEY, kernel, jnp.zeros((3, 2), dtype), num_steps)
    np.testing.assert_array_equal(info.acceptance, 1.0)


def test_log_weights_of_half_types_add_up_in_float32():
    """1,000 increments of -1/2 nats per thousand: log w = -1/2 sum x^2 / 1000 each."""
    path = samplers.geometric_path(lambda x: 0 * square(x), lambda x: 0 * square(x) + 8.0)
    x = jnp.ones((4, 2), jnp.bfloat16)
    result = samplers.ais(KEY, path, x, jnp.linspace(0, 1, 1001), lambda e: samplers.mala(e, 0.1))
    np.testing.assert_allclose(result.log_weights, -8.0, rtol=1e-5)
    assert result.log_z.dtype == jnp.float32
