"""Detailed balance of MALA and HMC, directly: on pairs of points, and between cells."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers
from ebm_jax.samplers.base import init_state
from ebm_jax.samplers.hmc import leapfrog
from ebm_jax.samplers.mala import mala_log_ratio

H, TEMPERATURE = 0.35, 1.7


def energy_fn(x):
    """Not even, not separable."""
    a, b = x[:, 0], x[:, 1]
    return 0.5 * a**2 + 0.3 * jnp.sin(3 * a) * b + 0.4 * (b - 0.5 * a**2) ** 2


@jax.jit
def start(x):
    return init_state(x, energy_fn=energy_fn)


def grid_pairs():
    axis = np.linspace(-1.5, 1.5, 4)
    points = np.array([(a, b) for a in axis for b in axis], np.float64)
    return np.repeat(points, len(points), axis=0), np.tile(points, (len(points), 1))


@pytest.mark.parametrize("max_grad", [None, 0.8])
def test_mala_on_a_grid_of_pairs(max_grad):
    """pi(x) q(y | x) a(x, y) = pi(y) q(x | y) a(y, x), with q written out here."""
    x, y = grid_pairs()
    step = np.array([H, 0.2])  # one step size per dimension

    with jax.enable_x64(True):
        state, proposal = (start(jnp.asarray(p)) for p in (x, y))
        h = jnp.asarray(step)[None, :]

        @jax.jit
        def log_ratio(a, b):
            grad = a.grad if max_grad is None else jnp.clip(a.grad, -max_grad, max_grad)
            noise = (b.x - a.x + h * grad) / jnp.sqrt(2 * h * TEMPERATURE)
            return mala_log_ratio(a, b, noise, h, TEMPERATURE, max_grad)

        forward = np.asarray(log_ratio(state, proposal))
        backward = np.asarray(log_ratio(proposal, state))
        (e0, g0), (e1, g1) = ((np.asarray(s.energy), np.asarray(s.grad)) for s in (state, proposal))

    def log_q(to, start, grad):
        grad = grad if max_grad is None else np.clip(grad, -max_grad, max_grad)
        return -np.sum((to - start + step * grad) ** 2 / (4 * step * TEMPERATURE), axis=1)

    flow = -e0 / TEMPERATURE + log_q(y, x, g0) + np.minimum(forward, 0)
    back = -e1 / TEMPERATURE + log_q(x, y, g1) + np.minimum(backward, 0)
    np.testing.assert_allclose(flow, back, rtol=1e-10, atol=1e-10)
    assert np.ptp(forward) > 1  # the test is about something


def test_leapfrog_is_reversible_and_keeps_volume():
    """Then min(1, exp(H - H')) on the reversed map is in detailed balance."""
    x, p = grid_pairs()
    mass = jnp.array([[0.5, 2.0]])
    with jax.enable_x64(True):

        @jax.jit
        def orbit(state, p):
            return leapfrog(energy_fn, state, p, 0.3, 5, mass, TEMPERATURE)

        end, p_end = orbit(start(jnp.asarray(x)), jnp.asarray(p))
        back, p_back = orbit(end, -p_end)
        np.testing.assert_allclose(back.x, x, atol=1e-10)
        np.testing.assert_allclose(-p_back, p, atol=1e-10)
        assert np.abs(np.asarray(end.x) - x).max() > 0.5

        def flow(phase):
            end, p_end = orbit(start(phase[None, :2]), phase[None, 2:])
            return jnp.concatenate([end.x[0], p_end[0]])

        phases = jnp.concatenate([jnp.asarray(x), jnp.asarray(p)], axis=1)[::16]
        volume = np.linalg.det(np.asarray(jax.jit(jax.vmap(jax.jacfwd(flow)))(phases)))
    np.testing.assert_allclose(volume, 1.0, rtol=1e-9)


@functools.cache
def exact_draws(n, seed):
    """Draws of exp(-E / T) by inverting a fine grid: uniform within cells of 0.02."""
    rng = np.random.default_rng(seed)
    axis = np.arange(-7, 9, 0.02) + 0.01
    a, b = np.meshgrid(axis, axis, indexing="ij")
    points = np.stack([a.ravel(), b.ravel()], axis=1).astype("f")
    weights = np.exp(-np.asarray(jax.jit(energy_fn)(points), np.float64) / TEMPERATURE)
    which = np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(n))
    return points[which] + rng.uniform(-0.01, 0.01, size=(n, 2)).astype("f")


@pytest.mark.parametrize(
    "kernel",
    [
        samplers.mala(energy_fn, H, temperature=TEMPERATURE),
        samplers.mala(energy_fn, H, temperature=TEMPERATURE, max_grad=0.8),
        samplers.hmc(energy_fn, 0.5, 3, mass=jnp.array([[0.5, 2.0]]), temperature=TEMPERATURE),
    ],
    ids=["mala", "mala with clipped gradients", "hmc"],
)
def test_as_many_moves_each_way_between_cells(kernel):
    n = 200_000
    x0 = exact_draws(n, seed=1)
    state, _ = samplers.run_chain(jax.random.key(0), kernel, jnp.asarray(x0), 1)

    def cell(x):
        x = np.asarray(x)
        return 3 * np.digitize(x[:, 0], [-0.7, 0.7]) + np.digitize(x[:, 1], [-0.3, 1.0])

    moves = np.zeros((9, 9))
    np.add.at(moves, (cell(x0), cell(state.x)), 1)
    excess = (moves - moves.T) / np.sqrt(np.maximum(moves + moves.T, 1))
    assert np.abs(excess).max() < 4
    assert np.sum((moves + moves.T)[np.triu_indices(9, 1)] > 100) >= 30  # of 36 pairs
