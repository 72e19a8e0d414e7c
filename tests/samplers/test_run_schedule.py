"""run_schedule: each level is run_chain's steps with that level's kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers

KEY = jax.random.key(4)
LEVELS = {"curvature": jnp.array([1.0, 2.0, 4.0]), "step": jnp.array([0.3, 0.2, 0.1])}


def make_kernel(level):
    def energy_fn(x):
        return 0.5 * level["curvature"] * jnp.sum(x**2, axis=1)

    return samplers.mala(energy_fn, level["step"])


def start():
    return jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)), jnp.float32)


def test_levels_in_turn_with_consecutive_draws():
    state, info = samplers.run_schedule(KEY, make_kernel, LEVELS, start(), 4, keep=lambda s: s.x)
    x = start()
    for n in range(3):
        kernel = make_kernel(jax.tree.map(lambda a, n=n: a[n], LEVELS))
        expected, level_info = samplers.run_chain(KEY, kernel, x, 4, first_step=4 * n)
        x = expected.x
        np.testing.assert_allclose(info.kept[n], x, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(info.acceptance[n], level_info.acceptance, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state, expected
    )


def test_part_of_the_chains_and_new_levels_without_retracing():
    traces = []

    def counting(level):
        traces.append(level)
        return make_kernel(level)

    whole, _ = samplers.run_schedule(KEY, make_kernel, LEVELS, start(), 2)
    first, _ = samplers.run_schedule(KEY, counting, LEVELS, start()[2:], 2, first_chain=2)
    np.testing.assert_allclose(first.x, whole.x[2:], rtol=1e-5, atol=1e-6)
    count = len(traces)
    other = jax.tree.map(lambda a: 2 * a, LEVELS)
    samplers.run_schedule(jax.random.key(5), counting, other, start()[2:], 2, first_chain=2)
    assert len(traces) == count


@pytest.mark.parametrize(
    "levels", [jnp.float32(1.0), jnp.ones(0), {"a": jnp.ones(2), "b": jnp.ones(3)}, {}]
)
def test_levels_without_one_leading_axis(levels):
    with pytest.raises(ValueError, match=r"expected levels with one leading axis, \[levels, ...\]"):
        samplers.run_schedule(KEY, make_kernel, levels, start(), 2)
