"""The multilayer perceptron's energy, against its equation in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import recovery_in_numpy as plain

from ebm_jax import networks
from ebm_jax.networks.mlp import EnergyMLP

MODULE = EnergyMLP(input_size=3, width=8, depth=2, num_frequencies=5, frequency=1.5)


def embedding(level, size):
    """sin then cos of level * 10000^(-k / (size / 2 - 1))."""
    angle = level * 10_000.0 ** (-np.arange(size // 2) / (size // 2 - 1))
    return np.concatenate([np.sin(angle), np.cos(angle)])


def in_numpy(weights, x, levels):
    """The energies of x [batch, 3] at levels [batch], or with None those of one density."""
    angle = x @ weights["frequencies/kernel"]
    h = np.concatenate([x, np.sin(angle), np.cos(angle)], axis=-1)
    for layer in range(2):
        h = h @ weights[f"hidden_{layer}/kernel"] + weights[f"hidden_{layer}/bias"]
        if levels is not None:
            at_levels = np.stack([embedding(level, 8) for level in levels])
            h += at_levels @ weights[f"level_{layer}/kernel"] + weights[f"level_{layer}/bias"]
        h = h / (1 + np.exp(-h))
    return (h @ weights["energy/kernel"] + weights["energy/bias"])[:, 0]


def test_energies_and_input_gradients():
    weights = plain.random_weights(MODULE)
    x = np.random.default_rng(1).normal(size=(4, 3))
    levels = np.array([0, 1, 3, 5])
    params = plain.as_tree(weights)

    @jax.jit
    def values_and_slopes(x):
        energy_fn = networks.make_energy_fn(MODULE, params, levels)
        return energy_fn(x), jax.grad(lambda x: jnp.sum(energy_fn(x)))(x)

    values, slopes = values_and_slopes(x.astype(np.float32))
    np.testing.assert_allclose(values, in_numpy(weights, x, levels), rtol=1e-5, atol=1e-5)
    wanted = plain.input_gradient(lambda x, i: in_numpy(weights, x, levels[i]), x)
    np.testing.assert_allclose(slopes, wanted, rtol=1e-4, atol=1e-5)


def test_one_density_has_no_level_weights():
    params = jax.eval_shape(MODULE.init, jax.random.key(0), jnp.zeros((1, 3)))["params"]
    assert sorted(params) == ["energy", "frequencies", "hidden_0", "hidden_1"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    x = np.random.default_rng(2).normal(size=(2, 3))
    wanted = in_numpy(plain.as_flat(params), x, None)
    np.testing.assert_allclose(
        networks.make_energy_fn(MODULE, params)(x), wanted, rtol=1e-4, atol=1e-4
    )


def test_waves_start_with_the_standard_deviation_that_is_asked_for():
    module = EnergyMLP(width=4, depth=1, num_frequencies=2_000, frequency=2.5)
    params = module.init(jax.random.key(0), jnp.zeros((1, 2)))["params"]
    waves = params["frequencies"]["kernel"]
    assert waves.shape == (2, 2_000)
    assert abs(waves.std() - 2.5) < 4 * 2.5 / np.sqrt(2 * 4_000)
    assert params["hidden_0"]["kernel"].shape == (2 + 4_000, 4)
