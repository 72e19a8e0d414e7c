"""The residual network with FiLM, against its equation in float64."""

import jax
import jax.numpy as jnp
import networks_in_numpy as plain
import numpy as np
import pytest

from ebm_jax import networks
from ebm_jax.networks.film_resnet import FilmResNet
from ebm_jax.networks.recovery_resnet import RecoveryResNet, level_embedding

MODULE = FilmResNet(image_size=4, channels=2, width=4, multipliers=(1, 2), num_blocks=2)
X = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype(np.float32)
LOG_T = np.array([-3.2, 0.4, 5.1], np.float32)


def test_energies_at_numbers_and_at_vectors():
    embedded = np.asarray(level_embedding(jnp.asarray(LOG_T), 4), np.float64)
    vectors = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    for condition, seen in ((LOG_T, embedded), (vectors, vectors)):
        params = plain.random_params(MODULE, jnp.asarray(condition))
        wanted = plain.film_resnet(plain.as_float64(params), X, seen, resolutions=2, num_blocks=2)
        energies = networks.make_energy_fn(MODULE, params, jnp.asarray(condition))(X)
        np.testing.assert_allclose(energies, wanted, rtol=2e-5)


def test_slopes_in_the_image_and_in_the_condition():
    """Of the float32 energies, against differences of the float64 equation."""
    params = plain.random_params(MODULE, jnp.asarray(LOG_T))
    exact = plain.as_float64(params)

    def total(x, log_t):
        return jnp.sum(MODULE.apply({"params": params}, x, log_t))

    def energies(x, log_t):
        angle = np.asarray(log_t, np.float64)[:, None] * 10_000.0 ** -np.arange(2)
        embedded = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
        return plain.film_resnet(exact, x, embedded, resolutions=2, num_blocks=2)

    of_x, of_t = jax.jit(jax.grad(total, argnums=(0, 1)))(jnp.asarray(X), jnp.asarray(LOG_T))
    direction, step = np.random.default_rng(2).normal(size=X.shape), 1e-5
    x = X.astype(np.float64)
    along = (energies(x + step * direction, LOG_T) - energies(x - step * direction, LOG_T)) / step
    np.testing.assert_allclose(np.sum(of_x * direction, (1, 2, 3)), along / 2, rtol=1e-4)
    log_t = LOG_T.astype(np.float64)
    in_t = (energies(x, log_t + step) - energies(x, log_t - step)) / (2 * step)
    np.testing.assert_allclose(of_t, in_t, rtol=1e-4)


def test_a_size_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="can be halved 1 times in patches of 4, such as 32"):
        MODULE.clone(image_size=28, patch_size=4).init(
            jax.random.key(0), jnp.zeros((1, 28, 28, 2)), 0
        )


def test_patches_are_channels_of_its_first_convolution():
    module = FilmResNet(8, channels=3, width=6, multipliers=(1, 3), num_blocks=1, patch_size=2)
    x = jnp.zeros((1, 8, 8, 3))
    params = jax.eval_shape(module.init, jax.random.key(0), x, 0)["params"]
    assert params["conv_in"]["kernel"].shape == (3, 3, 12, 6)
    assert params["condition"]["kernel"].shape == (6, 24)
    assert params["head"]["kernel"].shape == (24, 18)
    wider = params["resolution_1_block_0"]
    assert wider["conv_shortcut"]["kernel"].shape == (1, 1, 6, 18)
    assert wider["conv2"]["kernel"].shape == (3, 3, 18, 18)
    assert "conv_shortcut" not in params["resolution_0_block_0"]
    assert module.input_shape == (8, 8, 3)


@pytest.mark.parametrize("module", [MODULE, RecoveryResNet(4, 2, width=4, multipliers=(1,))])
def test_no_level_is_refused_in_words(module):
    with pytest.raises(
        ValueError, match="expected a noise level, got none: a method without levels wants"
    ):
        module.init(jax.random.key(0), jnp.asarray(X), None)
