"""Paths between two samples: their noise, and how far they jump."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.methods.interpolation import largest_steps, sample_paths
from ebm_jax.samplers import random

KEY = jax.random.key(0)


def test_ends_of_a_path_are_the_two_samples_and_all_of_it_is_standard_normal():
    num_points, like = 5, jnp.zeros((20_000, 2))
    paths = sample_paths(4_000, num_points)
    noise = np.asarray(random.normal(KEY, paths, like)).reshape(-1, num_points, 2)
    plain = np.asarray(random.normal(KEY, jnp.arange(8_000), jnp.zeros((8_000, 2))))
    np.testing.assert_array_equal(noise[:, 0], plain[::2])
    np.testing.assert_array_equal(noise[:, -1], plain[1::2])
    half = (plain[::2] + plain[1::2]) / np.sqrt(2)
    np.testing.assert_allclose(noise[:, 2], half, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(noise.var((0, 2)), 1.0, atol=4 * np.sqrt(2 / 8_000))


def test_paths_and_their_jumps():
    paths = sample_paths(2, 3)
    np.testing.assert_array_equal(paths.first, [0, 0, 0, 2, 2, 2])
    np.testing.assert_array_equal(paths.second, [1, 1, 1, 3, 3, 3])
    np.testing.assert_array_equal(paths.first_weight[[0, 2]], [1, 0])
    np.testing.assert_array_equal(paths.second_weight[[0, 2]], [0, 1])
    straight = np.linspace(0, 1, 6)[:, None] * np.array([[3.0, 4.0]])
    jumping = np.concatenate([np.zeros((5, 2)), [[3.0, 4.0]]])
    np.testing.assert_allclose(
        largest_steps(7 + np.concatenate([straight, jumping]), 6), [0.2, 1.0], rtol=1e-12
    )
    for part, wanted in zip(sample_paths(1, 2), ([0, 0], [1, 1], [1, 0], [0, 1]), strict=True):
        np.testing.assert_array_equal(part, wanted)
    assert {array.dtype for array in paths[:2]} == {np.dtype(np.int32)}
    for pairs, points in ((0, 2), (1, 1)):
        with pytest.raises(ValueError, match=f"{pairs} pairs of {points} points make no path"):
            sample_paths(pairs, points)
    with pytest.raises(TypeError, match="expected an unadjusted kernel for blended chains"):
        random.uniform(KEY, paths, jnp.zeros((6, 2)))
