"""Chains that persist through training, on laws that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.methods.persistent_chains import moved

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


def test_no_moves_are_refused():
    with pytest.raises(ValueError, match="num_steps"):
        moved(
            jax.random.key(0), bowl, jnp.ones((2, 2)), num_moves=0, least_std=0.1,
            first_chain=jnp.asarray(0),
        )  # fmt: skip
