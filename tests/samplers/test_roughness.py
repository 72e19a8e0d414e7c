"""Energies that jump between neighboring floats are measured, and stuck warm-ups say so."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers

KEY = jax.random.key(2)
X = jax.random.normal(jax.random.key(1), (64, 50))


def smooth(x):
    return 0.5 * jnp.sum(x**2, axis=1)


def in_bfloat16(x):
    """Energies near 25 with the digits of bfloat16: spacing 1/8, an error of 0.036 rms."""
    return smooth(x).astype(jnp.bfloat16).astype(jnp.float32) + 0 * smooth(x)


def wiggly(x):
    return smooth(x) + 20 * jnp.sin(1e6 * x.sum(axis=1))


def test_smooth_energies_have_none():
    found = samplers.roughness(smooth, X)
    assert found.nats < 1e-4
    assert found.jumps.shape == found.distance.shape == (3, 64)
    np.testing.assert_allclose(found.energy, smooth(X), rtol=1e-6)
    assert isinstance(float(found.nats), float)
    assert samplers.roughness(lambda x: jnp.sum(jnp.cos(x) + x**4 / 8, axis=1), X).nats < 1e-3


def test_jumps_have_the_size_of_the_rounding():
    """Two roundings to a spacing of s differ by s / sqrt(6) rms where the points are far apart."""
    found = samplers.roughness(in_bfloat16, X)
    energies = np.asarray(smooth(X))
    spacing = 2.0 ** (np.floor(np.log2(energies)) - 7)
    wanted = np.sqrt(np.mean(spacing**2) / 6)
    assert 0.6 * wanted < found.nats < 1.6 * wanted
    assert samplers.roughness(wiggly, X).nats > 5


def test_jumps_of_a_cube_have_their_closed_form():
    """sum x^3 leaves -sum d^3 / 2 once its slope is taken off, d the move of each entry."""
    with jax.enable_x64(True):
        x = jnp.array([[1.5, -2.0, 0.0], [0.5, 1e-4, 3.0]], jnp.float64)
        noise = np.asarray(samplers.random.normal(jax.random.key(0), jnp.arange(2), x))
        found = samplers.roughness(lambda x: jnp.sum(x**3, axis=1), x, ulps=(2**46, 2**44))
        for n, unit in enumerate((2.0**-6, 2.0**-8)):
            d = unit * np.maximum(np.abs(x), 1e-3) * noise
            np.testing.assert_allclose(found.jumps[n], -(d**3).sum(1) / 2, rtol=1e-6)
            np.testing.assert_allclose(found.distance[n], np.sqrt((d**2).sum(1)), rtol=1e-9)
        wanted = np.sqrt(np.mean(np.asarray(found.jumps) ** 2, axis=1)).max()
        np.testing.assert_allclose(found.nats, wanted, rtol=1e-9)


def test_half_types_move_by_two_units_at_least():
    """Most of the distances are less than what bfloat16 can tell."""
    x = jnp.array([[1.0, -6.0, 0.25, 1e-6]] * 3, jnp.bfloat16)
    wide = np.asarray(x, np.float32)
    noise = np.asarray(samplers.random.normal(jax.random.key(0), jnp.arange(3), wide))
    for ulps, unit in ((4, 2.0**-6), (2**16, 2.0**-6), (2**18, 2.0**-5)):  # an eps is 2^-7
        near = jnp.asarray(wide + unit * np.maximum(np.abs(wide), 1e-3) * noise).astype(x.dtype)
        step = np.asarray(near, np.float32) - wide
        found = samplers.roughness(lambda x: jnp.sum(x, axis=1), x, ulps=(ulps,))
        np.testing.assert_allclose(found.distance[0], np.sqrt((step**2).sum(1)), rtol=1e-5)
        rise = np.subtract(*(np.asarray(jnp.sum(at, axis=1), np.float32) for at in (near, x)))
        np.testing.assert_allclose(found.jumps[0], rise - step.sum(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("energy_fn", [wiggly, lambda x: smooth(x) + 8 * jnp.sin(3e3 * x.sum(1))])
def test_warmup_says_that_chains_stand_still(energy_fn):
    def make_kernel(step_size, mass):
        return samplers.hmc(energy_fn, step_size, 4)

    with pytest.warns(UserWarning, match="of their spread .* and a step size of .* after 0.1"):
        found = samplers.warmup(KEY, make_kernel, X, 200, adapt_mass=False)
    assert found.is_stuck
    assert found.movement < 0.05
    assert found.acceptance > 0.5  # which alone would look right


def test_no_alarm_where_chains_move():
    """Well scaled, too small a first step, one chain, all from one point, 100-fold scales."""
    scales = jnp.geomspace(0.1, 10.0, 50)
    cases = [
        (smooth, X, {}),
        (smooth, X, {"initial_step_size": 1e-3}),
        (smooth, X[:1], {}),
        (smooth, jnp.zeros_like(X), {}),
        (lambda x: smooth(x / scales), X * scales, {"adapt_mass": False}),
        (lambda x: smooth(x / 1e-3), X * 1e-3, {"adapt_mass": False}),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for energy_fn, x, options in cases:

            def make_kernel(step_size, mass, energy_fn=energy_fn):
                return samplers.hmc(energy_fn, step_size, 8, mass=mass)

            found = samplers.warmup(KEY, make_kernel, x, 200, **options)
            assert not found.is_stuck
            assert found.roughness < 0.01
