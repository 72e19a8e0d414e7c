"""The density of denoising score matching: its one energy, of data with noise sigma_0."""

import jax
import jax.numpy as jnp
import numpy as np
from toy_networks import Bowl

from ebm_jax.methods import DenoisingScoreMatching
from ebm_jax.methods.denoising_score_matching import AnnealedLangevinSampler
from ebm_jax.samplers import random

KEY = jax.random.key(3)
PARAMS = {"scale": jnp.asarray(2.0)}
X = np.random.default_rng(0).normal(size=(3, 2, 2, 1)).astype(np.float32)
INDEX = jnp.arange(3)


def test_energies_are_the_networks_of_data_with_noise_sigma_0():
    densities = DenoisingScoreMatching(Bowl(), target_sigma=0.2).densities(PARAMS)
    level = jnp.asarray(0)
    found, energies = jax.jit(
        lambda: (
            densities.energy_and_grad_norm(KEY, level, X, INDEX),
            densities.energy(level)(X),
        )
    )()
    np.testing.assert_allclose(energies, ((X - 0.25) ** 2).sum((1, 2, 3)), rtol=1e-5)
    noisy = X + 0.2 * random.normal(jax.random.fold_in(KEY, 0), INDEX, jnp.asarray(X))
    squares = np.asarray(((noisy - 0.25) ** 2).sum((1, 2, 3)))
    np.testing.assert_allclose(found["energy"], squares, rtol=1e-5)
    np.testing.assert_allclose(found["grad_norm"], 2 * np.sqrt(squares), rtol=1e-5)


def test_the_base_is_about_the_middle_of_the_data():
    densities = DenoisingScoreMatching(Bowl(), low=-1.0, high=2.0).densities(PARAMS)
    assert densities.base.center == 0.5
    assert densities.base.box is None
    usual = DenoisingScoreMatching(Bowl()).densities(PARAMS).base
    assert usual == (0.5, 1.0, None)


def test_a_ladder_has_a_caveat_and_one_level_has_none():
    assert len(DenoisingScoreMatching(Bowl()).densities(PARAMS).caveats) == 1
    one = DenoisingScoreMatching(
        Bowl(), num_levels=1, min_noise=0.3, max_noise=0.3,
        sampler=AnnealedLangevinSampler(start_temperature=1.0),
    )  # fmt: skip
    assert one.densities(PARAMS).caveats == ()
