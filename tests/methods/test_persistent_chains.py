"""Chains that persist through training, on laws that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers
from ebm_jax.methods.persistent_chains import jumped, moved

WIDTHS = jnp.array([0.1, 0.3])  # the narrower is the least


def bowl(x):
    return 0.5 * jnp.sum((x / WIDTHS) ** 2, -1)


@jax.jit
def moves(x, rng_key, first_chain):
    return moved(rng_key, bowl, x, num_moves=30, least_std=0.1, first_chain=first_chain)


def test_they_find_their_law_from_elsewhere_and_keep_it():
    """Standard deviations and means of 4,000 chains, from a point and from the law itself."""
    number, key = 4_000, jax.random.key(0)
    for x in (jnp.full((number, 2), 0.2), WIDTHS * jax.random.normal(key, (number, 2))):
        found = moves(x, jax.random.key(1), 0)
        np.testing.assert_allclose(found.x.std(0), WIDTHS, rtol=4 / np.sqrt(2 * number))
        np.testing.assert_allclose(found.x.mean(0) / WIDTHS, 0, atol=4 / np.sqrt(number))
        assert found.acceptance.shape == (number,)
        assert 0.9 < found.acceptance.mean() < 1


def test_a_chain_is_the_same_among_others():
    """Its numbers are those of its place among all chains: on one device or on two."""
    x = jax.random.normal(jax.random.key(2), (6, 2))
    whole = moves(x, jax.random.key(3), 0).x
    half = moves(x[2:4], jax.random.key(3), 2).x
    np.testing.assert_allclose(half, whole[2:4], rtol=1e-4)
    assert np.abs(whole[0] - moves(x[:1], jax.random.key(3), 1).x[0]).max() > 1e-3


def test_a_move_is_of_five_jittered_leapfrog_steps():
    """Each of .6 of the least standard deviation."""
    x, key = jax.random.normal(jax.random.key(2), (6, 2)) / 5, jax.random.key(3)
    kernel = samplers.hmc(bowl, 0.06, 5, jitter=0.5)
    end, info = jax.jit(lambda x: samplers.run_chain(key, kernel, x, 30, first_chain=7))(x)
    found = moves(x, key, 7)
    np.testing.assert_allclose(found.x, end.x, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.acceptance, info.acceptance, rtol=1e-3)


def test_no_moves_are_refused():
    with pytest.raises(ValueError, match="num_steps"):
        moved(
            jax.random.key(0), bowl, jnp.ones((2, 2)), num_moves=0, least_std=0.1,
            first_chain=jnp.asarray(0),
        )  # fmt: skip


def two_modes(share, width):
    """Minus the log density of a mixture of two Gaussians at -3 and 3, the first having `share`."""

    def energy_fn(x):
        each = [-0.5 * jnp.sum((x - at) ** 2, -1) / width**2 for at in (-3.0, 3.0)]
        return -jnp.logaddexp(jnp.log(share) + each[0], jnp.log1p(-share) + each[1])

    return energy_fn


def test_draws_of_a_base_that_has_the_modes_even_out_their_masses():
    """From chains that are all in one: masses, widths, and chances to move, by quadrature."""
    number, index = 4_000, jnp.arange(4_000)
    energy_fn, base_energy_fn = two_modes(0.8, 0.4), two_modes(0.5, 0.5)

    @jax.jit
    def jump(x, rng_key):
        keys = jax.random.split(rng_key, 3)
        modes = jnp.where(jax.random.uniform(keys[0], (number, 1)) < 0.5, -3.0, 3.0)
        draws = modes + 0.5 * jax.random.normal(keys[1], (number, 1))
        return jumped(keys[2], energy_fn, base_energy_fn, x, draws, index)

    x = jnp.full((number, 1), 3.0)
    for n in range(40):
        x, acceptance = jump(x, jax.random.fold_in(jax.random.key(0), n))
    assert np.mean(x < 0) == pytest.approx(0.8, abs=4 * np.sqrt(0.8 * 0.2 / number))
    away = x - jnp.sign(x) * 3
    assert away.std() == pytest.approx(0.4, rel=4 / np.sqrt(2 * number))
    # of chains at their law, E min(1, r), r the ratio of weights of a draw and of a chain
    grid = np.linspace(-6, 6, 601)[:, None]
    law, base = (np.exp(-np.asarray(fn(jnp.asarray(grid)))) for fn in (energy_fn, base_energy_fn))
    law, base = law / law.sum(), base / base.sum()
    weights = law / base
    expected = np.einsum("i,j,ij", law, base, np.minimum(1, weights / weights[:, None]))
    assert acceptance.mean() == pytest.approx(expected, abs=0.02)


def test_a_draw_of_no_energy_is_not_taken():
    x, index = jnp.zeros((3, 1)), jnp.arange(3)
    found = jumped(
        jax.random.key(0), lambda x: jnp.sum(x, -1), lambda x: 0 * x[:, 0], x,
        jnp.full((3, 1), jnp.nan), index,
    )  # fmt: skip
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.acceptance, np.zeros(3))
