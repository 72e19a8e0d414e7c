"""The density of contrastive divergence: exp(-T E) on the box of its chains, classes mixed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_networks import Bowl

from ebm_jax.methods import ContrastiveDivergence

KEY = jax.random.key(3)
PARAMS = {"scale": jnp.asarray(2.0)}
X = np.random.default_rng(0).normal(size=(3, 2, 2, 1)).astype(np.float32)
SQUARES = ((X - 0.25) ** 2).sum((1, 2, 3))


@pytest.mark.parametrize("temperature", [1.0, 1.5])
@pytest.mark.parametrize("num_classes", [None, 2])
def test_energies_are_the_networks_without_noise(num_classes, temperature):
    """|x - 1/4|^2, or -log of the mean of exp(-|x - 1/4|^2) and exp(-2 |x - 1/4|^2), times T."""
    method = ContrastiveDivergence(Bowl(num_classes), temperature=temperature)
    densities = method.densities(PARAMS)
    found = jax.jit(lambda: densities.energy_and_grad_norm(KEY, jnp.asarray(0), X, jnp.arange(3)))()
    wanted = temperature * SQUARES
    if num_classes:
        wanted = -np.log((np.exp(-wanted) + np.exp(-2 * wanted)) / 2)
    else:
        slope = temperature * 2 * np.sqrt(SQUARES)
        np.testing.assert_allclose(found["grad_norm"], slope, rtol=1e-5)
    np.testing.assert_allclose(found["energy"], wanted, rtol=1e-5)
    assert densities.num_levels == 1
    assert densities.log_z is None
    assert densities.num_classes == (num_classes or 0)
    if num_classes:
        of_each = temperature * SQUARES[:, None] * [1, 2]
        np.testing.assert_allclose(densities.class_energies(0, X), of_each, rtol=1e-5)
    else:
        assert densities.class_energy is None


def test_the_box_is_that_of_the_chains_and_a_caveat_says_their_temperature():
    method = ContrastiveDivergence(Bowl(), low=-1.0, high=3.0, noise_std=0.005, step_size=10.0)
    densities = method.densities(PARAMS)
    assert densities.base.box == (-1.0, 3.0)
    u = densities.base.sample(KEY, jnp.arange(1_000), (2, 2, 1))
    assert -1 <= u.min() < -0.9
    assert 2.9 < u.max() <= 3
    np.testing.assert_allclose(densities.base.log_z(4), 4 * np.log(4.0))
    np.testing.assert_allclose(
        densities.base.reflect(jnp.array([-1.5, 0.0, 3.5, 7.5])), [-0.5, 0.0, 2.5, -0.5], atol=1e-6
    )
    (caveat,) = densities.caveats
    assert f"{0.02**2 / 20:.2g}" in caveat
    own = ContrastiveDivergence(Bowl(), make_kernel=lambda energy_fn: energy_fn)
    assert own.densities(PARAMS).caveats == ()
    assert own.densities(PARAMS).native_kernel("energies", 0) == "energies"
