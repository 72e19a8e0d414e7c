"""Metrics by noise level: their means, and a log of a thousand levels that can be read."""

import jax.numpy as jnp
import numpy as np

from ebm_jax.methods.base import metrics_per_level


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


def test_groups_of_a_thousand_levels_are_hundreds():
    found = metrics_per_level({"gap": jnp.ones(2)}, jnp.array([99, 100]), 1_000)
    assert found["gap/levels_0_to_99"].count == found["gap/levels_100_to_199"].count == 1
    assert jnp.isnan(found["gap/levels_900_to_999"].value())
