"""Energies from energies, from networks, and conditionals: closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recovery_in_numpy as plain

from ebm_jax import energy, networks, samplers
from ebm_jax.networks.mlp import EnergyMLP

X = np.linspace(-3, 3, 7, dtype=np.float32)[:, None]


def gaussian(mean, variance):
    """Normalised: the energy is minus the log density, so that mixtures have a closed form."""

    def energy_fn(x):
        squares = jnp.sum((x - mean) ** 2, axis=-1)
        return 0.5 * squares / variance + 0.5 * x.shape[-1] * jnp.log(2 * jnp.pi * variance)

    return energy_fn


def normal_density(x, mean, variance):
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def test_sum_is_the_product_of_the_densities():
    """N(1, 1/2) N(-1, 1/4)^3 is proportional to N((2 - 12) / 14, 1 / 14)."""
    product = energy.sum_energies([gaussian(1, 0.5), gaussian(-1, 0.25)], [1.0, 3.0])
    wanted = gaussian(-10 / 14, 1 / 14)
    for _ in range(2):  # it may be evaluated again
        difference = product(X) - wanted(X)
        np.testing.assert_allclose(difference, np.full(7, difference[0]), atol=1e-4)


def test_combinations_of_one_energy_are_itself():
    (one,) = energies = (gaussian(1, 0.5),)
    for combine in (energy.sum_energies, energy.mean_energy, energy.mixture_energy):
        np.testing.assert_allclose(combine(energies)(X), one(X), rtol=1e-6)


def test_clamped_entries_are_replaced_and_have_no_gradient():
    squares = energy.clamp(
        lambda x: jnp.sum(jnp.arange(1, 4) * x**2, axis=1),
        np.array([True, False, True]),
        jnp.array([[2.0, 9, 3], [4, 9, 5]]),
    )
    x = jnp.array([[7.0, 1, 7], [7, -2, 7]])
    energies, pull = jax.vjp(squares, x)
    np.testing.assert_array_equal(energies, [4 + 2 + 27, 16 + 8 + 75])
    np.testing.assert_array_equal(pull(jnp.ones(2))[0], [[0, 4, 0], [0, -8, 0]])


def test_sum_without_weights_and_mean():
    energies = [gaussian(0, 1), gaussian(2, 3)]
    np.testing.assert_allclose(
        energy.sum_energies(energies)(X), energies[0](X) + energies[1](X), rtol=1e-6
    )
    np.testing.assert_allclose(
        energy.mean_energy(energies)(X), (energies[0](X) + energies[1](X)) / 2, rtol=1e-6
    )


def test_mixture_is_the_sum_of_the_densities():
    mixture = energy.mixture_energy([gaussian(-1, 0.5), gaussian(2, 0.1)], [0.3, 0.7])
    density = 0.3 * normal_density(X, -1, 0.5) + 0.7 * normal_density(X, 2, 0.1)
    np.testing.assert_allclose(mixture(X), -np.log(density[:, 0]), rtol=1e-5)


def test_mixture_is_equal_by_default_and_a_weight_of_zero_leaves_one_out():
    energies = [gaussian(-1, 0.5), gaussian(2, 0.1)]
    np.testing.assert_allclose(
        energy.mixture_energy(energies)(X), energy.mixture_energy(energies, [0.5, 0.5])(X)
    )
    alone = energy.mixture_energy(energies, [1, 0])
    value, grad = jax.value_and_grad(lambda x: jnp.sum(alone(x)))(X)
    wanted = jax.value_and_grad(lambda x: jnp.sum(energies[0](x)))(X)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-6)
    np.testing.assert_allclose(grad, wanted[1], rtol=1e-6)


def test_mixture_far_out_neither_overflows_nor_loses_its_slope():
    mixture = energy.mixture_energy([gaussian(-1, 1e-4), gaussian(1, 1e-4)])
    x = jnp.array([[30.0]])
    value, grad = jax.value_and_grad(lambda x: mixture(x)[0])(x)
    assert np.isfinite(value)
    np.testing.assert_allclose(grad, [[29e4]], rtol=1e-5)


def test_temper_divides():
    flat = energy.temper(gaussian(0, 1), 4.0)
    difference = flat(X) - gaussian(0, 4)(X)
    np.testing.assert_allclose(difference, np.full(7, difference[0]), atol=1e-6)


def test_bad_lists_are_refused():
    one = [gaussian(0, 1)]
    for combine in (energy.sum_energies, energy.mean_energy, energy.mixture_energy):
        with pytest.raises(ValueError, match="energy_fns: expected at least one, got none"):
            combine([])
    with pytest.raises(ValueError, match="weights: expected one for each of 1 energies, got 2"):
        energy.sum_energies(one, [1, 2])
    with pytest.raises(ValueError, match="weights: expected one for each of 1 energies, got 2"):
        energy.mixture_energy(one, [1, 2])
    with pytest.raises(ValueError, match=r"weights: expected >= 0 in a mixture, got \[-1\]"):
        energy.mixture_energy(one, [-1])


def test_recovery_energy_of_a_gaussian_is_the_posterior():
    """Prior N(m, v I) of y and x~ = y + sigma eps: precision 1/v + 1/sigma^2, per example."""
    mean, variance = 0.4, 0.7
    sigma, weight = np.array([0.5, 0.2, 0.9]), np.array([1.0, 1.0, 0.0])
    y, x_noisy = np.random.default_rng(0).normal(size=(2, 3, 2, 2))

    def prior(y):
        return jnp.sum((y - mean) ** 2, axis=(1, 2)) / (2 * variance)

    conditional = energy.recovery_energy(prior, jnp.asarray(x_noisy), sigma, weight)
    grad = jax.grad(lambda y: jnp.sum(conditional(y)))(jnp.asarray(y))
    precision = (1 / variance + weight / sigma**2)[:, None, None]
    noisy_part = (weight / sigma**2)[:, None, None] * x_noisy
    posterior_mean = (mean / variance + noisy_part) / precision
    np.testing.assert_allclose(grad, precision * (y - posterior_mean), rtol=2e-5, atol=1e-5)


MLP = EnergyMLP(input_size=2, width=8, depth=2)
LEVEL = np.array([0, 1, 4])


@pytest.fixture(scope="module")
def mlp():
    """(params, x [3, 2]) of a small network."""
    x = np.random.default_rng(2).normal(size=(3, 2)).astype(np.float32)
    return plain.as_tree(plain.random_weights(MLP)), x


def test_prepared_energy_of_a_network_without_norm_is_the_module_applied(mlp):
    params, x = mlp
    assert not networks.has_spectral_norm(MLP)
    assert networks.normalize_params(MLP, params) == (params, ())
    assert networks.init_power_state(jax.random.key(0), MLP, params) == ()

    def both(level):
        direct = MLP.apply({"params": params}, x, level)
        return networks.make_energy_fn(MLP, params, level)(x), direct

    each, one = jax.jit(both)(LEVEL), jax.jit(both)(1)
    np.testing.assert_allclose(*each, rtol=1e-5)
    np.testing.assert_allclose(*one, rtol=1e-5)
    assert np.argmin(np.abs(each[0] - one[0])) == 1  # the only example at that level
    assert np.max(np.abs(each[0] - one[0])) > 1e-3


def test_scale_multiplies_each_energy(mlp):
    params, x = mlp
    scale = np.array([1.0, 10.0, 0.5])
    scaled = networks.make_energy_fn(MLP, params, LEVEL, scale=scale)(x)
    np.testing.assert_allclose(
        scaled, scale * networks.make_energy_fn(MLP, params, LEVEL)(x), rtol=1e-6
    )


def test_gradients_are_finite_differences(mlp):
    params, x = mlp
    energy_fn = networks.make_energy_fn(MLP, params, LEVEL, scale=3.0)
    grad = jax.grad(lambda x: jnp.sum(energy_fn(x)))(x)
    eps = 1e-2
    for i in range(2):
        step = eps * np.eye(2, dtype=np.float32)[i]
        slope = (energy_fn(x + step) - energy_fn(x - step)) / (2 * eps)
        np.testing.assert_allclose(grad[:, i], slope, rtol=2e-3, atol=2e-3)


def test_unconditional_network_is_one_density(mlp):
    _, x = mlp
    params = jax.jit(MLP.init)(jax.random.key(0), x)["params"]
    assert "level_0" not in params
    energy_fn = networks.make_energy_fn(MLP, params)
    hidden = x.astype(np.float64)
    for layer in ("hidden_0", "hidden_1"):
        hidden = hidden @ params[layer]["kernel"] + params[layer]["bias"]
        hidden = hidden / (1 + np.exp(-hidden))
    wanted = hidden @ params["energy"]["kernel"] + params["energy"]["bias"]
    np.testing.assert_allclose(energy_fn(x), wanted[:, 0], rtol=1e-5, atol=1e-6)


def test_the_samplers_step_does_not_enter_the_model(mlp):
    """An energy is sampled with any step: the same gradient, a move in proportion to the step."""
    params, x = mlp
    energy_fn = networks.make_energy_fn(MLP, params, LEVEL, scale=1 / 0.01)
    energies, moves = [], []
    for step_size in (0.01, 0.001):
        kernel = samplers.langevin(energy_fn, step_size, temperature=0.0)
        state, info = samplers.run_chain(jax.random.key(0), kernel, x, 1)
        energies.append(info.energy)
        moves.append(state.x - x)
    np.testing.assert_array_equal(*energies)
    np.testing.assert_allclose(moves[0], 10 * moves[1], rtol=1e-3, atol=1e-4)
