"""Where annealing starts, and densities with classes and levels that can be written down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ebm_jax.methods import BaseDistribution, Densities
from ebm_jax.samplers import random

KEY = jax.random.key(0)
INDEX = jnp.array([5, 0, 3])


def test_a_normal_base_is_that_of_scipy():
    base, x = BaseDistribution(center=-1.5, std=0.4), jax.random.normal(KEY, (3, 2, 1))
    expected = stats.norm(-1.5, 0.4).logpdf(np.asarray(x, np.float64)).sum((1, 2))
    np.testing.assert_allclose(-base.energy(x) - base.log_z(2), expected, rtol=1e-5)
    assert type(base.log_z(2)) is float
    np.testing.assert_array_equal(base.reflect(x), x)
    noise = random.normal(KEY, INDEX, jnp.zeros((3, 2, 1)))
    np.testing.assert_allclose(base.sample(KEY, INDEX, (2, 1)), -1.5 + 0.4 * noise, rtol=1e-6)
    assert BaseDistribution() == (0.0, 1.0, None)


def test_a_box_is_uniform():
    base = BaseDistribution(box=(-2.0, 5.0))
    assert base.log_z(3) == pytest.approx(3 * np.log(7.0))
    assert type(base.log_z(3)) is float
    energy = base.energy(jnp.full((4, 3), 9.0, jnp.bfloat16))
    np.testing.assert_array_equal(energy, np.zeros(4))
    assert energy.dtype == jnp.bfloat16
    keys = [jax.random.fold_in(KEY, i) for i in INDEX]
    expected = [jax.random.uniform(key, (2,), minval=-2.0, maxval=5.0) for key in keys]
    np.testing.assert_array_equal(base.sample(KEY, INDEX, (2,)), expected)


def with_classes(**changes):
    """E_t(x, y) = (t + 1) (x - y)^2 of classes 0 to 2; x_1 = .8 x_0 + .6 eps, x_2 = eps."""

    def class_energy(level, label):
        return lambda x: (level + 1) * (x[:, 0] - label) ** 2

    return Densities(
        lambda level: lambda x: 5.0 * x[:, 0], jnp.array([1.0, 0.8, 0.0]),
        jnp.array([0.0, 0.6, 1.0]), BaseDistribution(), num_conditionals=2, num_classes=3,
        class_energy=class_energy,
    )._replace(**changes)  # fmt: skip


def test_energies_of_all_classes_and_the_lowest():
    x = jnp.array([[0.2], [1.7], [-3.0], [2.0]])
    expected = 2 * (np.asarray(x) - np.arange(3)) ** 2
    np.testing.assert_allclose(with_classes().class_energies(1, x), expected, rtol=1e-6)
    lowest = with_classes().lowest_class()
    np.testing.assert_allclose(lowest.energy(1)(x), expected.min(1), rtol=1e-5, atol=1e-6)
    assert lowest.num_levels == 3
    for lacking in ({"num_classes": 0}, {"class_energy": None}):
        for asks in (lambda d: d.class_energies(0, x), Densities.lowest_class):
            with pytest.raises(ValueError, match="an energy per class, got one without classes"):
                asks(with_classes(**lacking))


def test_noise_of_a_level_and_between_levels():
    x, densities = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), with_classes()
    noise = random.normal(KEY, INDEX, x)
    np.testing.assert_allclose(densities.noised(KEY, 1, x, INDEX), 0.8 * x + 0.6 * noise, rtol=1e-5)
    a, sigma = densities.noising_steps()
    np.testing.assert_allclose(a, [0.8, 0.0], atol=1e-6)
    np.testing.assert_allclose(sigma, [0.6, 1.0], rtol=1e-6)
    further = densities.noised_further(KEY, 0, x, INDEX)
    np.testing.assert_allclose(further, 0.8 * x + 0.6 * noise, rtol=1e-5)
    a, sigma = with_classes(num_conditionals=1).noising_steps()
    assert a.shape == sigma.shape == (1,)
    found = densities.energy_and_grad_norm(KEY, jnp.asarray(2), x, INDEX)
    noise = random.normal(jax.random.fold_in(KEY, 2), INDEX, x)
    np.testing.assert_allclose(found["energy"], 5 * noise[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found["grad_norm"], [5.0, 5.0, 5.0], rtol=1e-6)
