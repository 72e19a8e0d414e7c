"""Metrics by noise level: their means, and a log of a thousand levels that can be read."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.methods.base import (
    example_index,
    mean_per_level,
    mean_where,
    metrics_per_level,
    per_example,
)


def test_few_levels_have_a_mean_each():
    level = jnp.array([0, 2, 2])
    found = metrics_per_level({"gap": jnp.array([1.0, 2.0, 4.0])}, level, 3)
    np.testing.assert_array_equal(found["gap"].value(), [1.0, np.nan, 3.0])


def test_many_levels_are_logged_in_ten_groups():
    level = jnp.arange(25)
    found = metrics_per_level({"level": level.astype(jnp.float32)}, level, 25)
    assert len(found) == 10
    everything = []
    for name, mean in found.items():
        first, last = (int(part) for part in name.removeprefix("level/levels_").split("_to_"))
        assert mean.value() == (first + last) / 2
        everything += range(first, last + 1)
    assert everything == list(range(25))


def test_twenty_levels_are_logged_by_themselves_and_one_more_in_groups():
    values, level = {"gap": jnp.array([2.0, 4.0, 7.0])}, jnp.array([3, 4, 20])
    few = metrics_per_level(values, level, 20)  # that of no level is left out
    np.testing.assert_array_equal(few["gap"].count, np.isin(np.arange(20), (3, 4)))
    groups = metrics_per_level(values, level, 21)
    first = [0, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21]
    names = [f"gap/levels_{a}_to_{b - 1}" for a, b in itertools.pairwise(first)]
    assert list(groups) == names
    assert [float(mean.total) for mean in groups.values()] == [0, 6, *[0] * 7, 7]
    assert [float(mean.count) for mean in groups.values()] == [0, 2, *[0] * 7, 1]


def test_means_over_some_and_values_per_example():
    mean = mean_where(jnp.array([1.0, np.nan, 5.0]), jnp.array([True, False, True]))
    assert (mean.total, mean.count) == (6.0, 2.0)
    with jax.enable_x64(True):
        per_level = mean_per_level(jnp.ones(2, jnp.float32), jnp.array([1, 1]), 3)
    for one in (mean, per_level):
        assert {array.dtype for array in one} == {np.dtype(np.float32)}
    x = jnp.ones((2, 3, 1))
    assert per_example(jnp.array([1.0, 2.0]), x).shape == (2, 1, 1)
    np.testing.assert_array_equal(per_example(jnp.array(3.0), x) * x, 3 * x)
    np.testing.assert_array_equal(example_index({"image": x}), [0, 1])
    np.testing.assert_array_equal(example_index({"image": x, "index": jnp.array([7, 8])}), [7, 8])


def test_groups_of_a_thousand_levels_are_hundreds():
    found = metrics_per_level({"gap": jnp.ones(2)}, jnp.array([99, 100]), 1_000)
    assert found["gap/levels_0_to_99"].count == found["gap/levels_100_to_199"].count == 1
    assert jnp.isnan(found["gap/levels_900_to_999"].value())
