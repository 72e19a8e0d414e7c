"""The classifier of the noise level, on laws that are known at every level."""

import functools
import types

import gaussian_levels as known
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import two_modes
from flax import linen as nn

from ebm_jax import networks
from ebm_jax.methods import BaseDistribution, Densities, RecoveryLikelihood
from ebm_jax.methods.recovery_likelihood import level_classifier
from ebm_jax.methods.recovery_likelihood.densities import langevin_densities
from ebm_jax.networks import EnergyMLP, LevelConstants, RecoveryResNet
from ebm_jax.samplers import random

KEY = jax.random.key(0)
TERMS = (level_classifier.neighbor_losses, level_classifier.level_losses)
# log Z of `gaussian_energy`, of x_t = y_t / multiplier_t
LOG_Z = jnp.asarray(
    np.log(2 * np.pi * known.PRIOR_VARIANCE) / 2 - np.log(known.MULTIPLIER), jnp.float32
)


def gaussian_densities(constants):
    """Exact energies of the Gaussian at all six levels, plus constants [6]."""

    def level_energy(level):
        energy_fn = known.gaussian_energy(level)
        return lambda y: energy_fn(y) + constants[level]

    scale = known.SCHEDULE.langevin_scale(0.1, 0.0)
    return langevin_densities(level_energy, known.SCHEDULE, scale)


def gaussian_data(number):
    return known.MEAN + np.sqrt(known.VARIANCE) * jax.random.normal(KEY, (number, 1))


def test_two_classes_and_many_are_cross_entropies():
    gaps = jnp.array([-2.0, 0.0, 30.0])
    found = level_classifier.two_class_losses(gaps, -gaps)
    expected = 2 * np.log1p(np.exp(-np.asarray(gaps, np.float64)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    logits = jax.random.normal(KEY, (4, 3))
    chosen = jnp.array([0, 2, 1, 1])
    expected = -np.asarray(jax.nn.log_softmax(logits))[np.arange(4), chosen]
    np.testing.assert_allclose(level_classifier.class_losses(logits, chosen), expected, rtol=1e-5)
    of_two = level_classifier.class_losses(jnp.stack([gaps, 0 * gaps], 1), jnp.zeros(3, int))
    np.testing.assert_allclose(of_two, jax.nn.softplus(-gaps), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("num_levels", "compared"), [(6, 6), (8, 8), (40, 8)])
def test_many_levels_are_compared_by_eight_of_them(num_levels, compared):
    """All energies 0, as all densities then differ by abar alone."""
    seen = []

    def energy(levels):
        seen.append(np.unique(levels))
        return lambda y: jnp.zeros(len(y))

    densities = types.SimpleNamespace(
        num_levels=num_levels,
        a_bar=jnp.ones(num_levels),
        sigma_bar=jnp.ones(num_levels),
        energy=energy,
    )
    x = jnp.zeros((3, 2))
    losses = level_classifier.level_losses(KEY, densities, x, jnp.arange(3))
    (levels,) = seen
    assert len(levels) == compared
    assert (levels[0], levels[-1]) == (0, num_levels - 1)
    assert np.ptp(np.diff(levels)) <= 1  # evenly
    np.testing.assert_allclose(losses, np.log(compared), rtol=1e-6)


def test_the_constants_that_are_best_are_those_of_the_gaussian_at_every_level():
    """Both terms have no slope there; off by .3 at one level, they have."""
    x, index = gaussian_data(20_000), jnp.arange(20_000)

    @jax.jit
    def slopes(constants):
        return [
            jax.jacfwd(lambda c, term=term: term(KEY, gaussian_densities(c), x, index))(constants)
            for term in TERMS
        ]

    for wrong in (0.0, 0.3):
        neighbors, levels = (np.asarray(s) for s in slopes(LOG_Z + wrong * jnp.eye(6)[2]))
        error = neighbors.std(0) / np.sqrt(len(x))
        is_flat = np.abs(neighbors.mean(0)) < 4 * error
        # the level itself, and the two that are told apart from it
        assert is_flat.tolist() == (
            [True] * 6 if not wrong else [True, False, False, False, True, True]
        )
        # of all levels together the common constant is free
        error = levels.std(0) / np.sqrt(len(x))
        assert (np.abs(levels.mean(0)) < 4 * error + 1e-6).all() == (not wrong)
        np.testing.assert_allclose(levels.sum(1), 0, atol=1e-4)


def test_losses_are_functions_of_key_and_index():
    x, index = gaussian_data(6), jnp.array([4, 0, 9, 2, 2, 7])
    for term in TERMS:
        run = jax.jit(lambda x, i, term=term: term(KEY, gaussian_densities(LOG_Z), x, i))
        whole = run(x, index)
        assert whole.shape == (6,)
        np.testing.assert_allclose(run(x[2:4], index[2:4]), whole[2:4], rtol=1e-4, atol=1e-5)


def test_both_terms_by_hand():
    """Of vectors as images of two values, levels E_t(x) = (t + 1) |x - t|^2 / 2 and a wide base."""
    a_bar, sigma_bar = np.array([0.9, 0.6, 0.2]), np.array([0.3, 0.8, 0.95])
    densities = Densities(
        lambda t: lambda x: (t + 1) * jnp.sum((x[:, :, 0] - jnp.expand_dims(t, -1)) ** 2, 1) / 2,
        jnp.asarray(a_bar), jnp.asarray(sigma_bar), BaseDistribution(center=0.5, std=2.0),
    )  # fmt: skip
    x, index = np.random.default_rng(0).normal(size=(12, 2, 1)), jnp.arange(12)
    x = x.astype(np.float32)

    def log_density(t, x):
        return -(t + 1) * np.sum((x[:, 0] - t) ** 2) / 2

    def log_base(x):
        return np.sum(-(((x[:, 0] - 0.5) / 2) ** 2) / 2 - np.log(2) - np.log(2 * np.pi) / 2)

    def levels_of(key):
        return np.floor(3 * np.asarray(random.uniform(key, index, ()))).astype(int)

    def noise_of(key):
        return np.asarray(random.normal(key, index, x))

    keys, expected = jax.random.split(KEY, 3), []
    chosen, of_lower, of_upper = levels_of(keys[0]), noise_of(keys[1]), noise_of(keys[2])
    assert set(chosen) == {0, 1, 2}
    for i, t in enumerate(chosen):
        lower = a_bar[t] * x[i] + sigma_bar[t] * of_lower[i]
        if t == 2:
            upper, log_upper = 0.5 + 2 * of_upper[i], log_base
        else:
            upper = a_bar[t + 1] * x[i] + sigma_bar[t + 1] * of_upper[i]
            log_upper = functools.partial(log_density, t + 1)
        at_lower, at_upper = (log_density(t, u) - log_upper(u) for u in (lower, upper))
        expected.append(np.logaddexp(0, -at_lower) + np.logaddexp(0, at_upper))
    neighbors, levels = jax.jit(lambda: [term(KEY, densities, x, index) for term in TERMS])()
    np.testing.assert_allclose(neighbors, expected, rtol=1e-4, atol=1e-5)

    keys, expected = jax.random.split(KEY), []
    noise = noise_of(keys[1])
    for i, t in enumerate(levels_of(keys[0])):
        y = x[i] + sigma_bar[t] / a_bar[t] * noise[i]
        logs = [2 * np.log(a_bar[s]) + log_density(s, a_bar[s] * y) for s in range(3)]
        expected.append(np.logaddexp.reduce(logs) - logs[t])
    np.testing.assert_allclose(levels, expected, rtol=1e-4, atol=1e-4)


def test_a_constant_for_each_level_beside_any_network():
    base = RecoveryResNet(4, 1, width=4, multipliers=(1,), num_blocks=1)
    network = LevelConstants(base, 3)
    x, level = jax.random.normal(KEY, (2, 4, 4, 1)), jnp.array([2, 0])

    @jax.jit
    def both():
        params = network.init(KEY, x, level)["params"]
        params["per_value"] = jnp.array([1.0, 2.0, 3.0])
        normalized, _ = networks.normalize_params(network, params)
        of_base, _ = networks.normalize_params(base, params["base"])
        mine = networks.bind(network, normalized, level)(x)
        return mine, networks.bind(base, of_base, level)(x)

    mine, of_base = both()
    np.testing.assert_allclose(mine - of_base, 16 * np.array([3.0, 1.0]), rtol=1e-5)
    start = LevelConstants(EnergyMLP(width=8, depth=1), 2).init(
        KEY, jnp.zeros((1, 2)), jnp.zeros(1, int)
    )
    np.testing.assert_allclose(start["params"]["per_value"], np.log(2 * np.pi) / 2, rtol=1e-6)


def test_a_classifier_wants_energies_in_nats():
    with pytest.raises(
        ValueError, match=r"expected method\.energy_in_nats=True with it, or 0, got 2"
    ):
        RecoveryLikelihood(EnergyMLP(), level_classifier=2.0)
    method = RecoveryLikelihood(EnergyMLP(), energy_in_nats=True, level_classifier=2.0)
    again = RecoveryLikelihood(method.network, energy_in_nats=True, level_classifier=2.0)
    assert again.network is method.network  # it has its constants
    assert RecoveryLikelihood(EnergyMLP(), energy_in_nats=True).network == EnergyMLP()


# ------------------------------------------------------------------ two modes far apart


class TwoBowls(nn.Module):
    """The mixture's own energy at all levels but for each one's split of mass and constant."""

    spread: float
    input_shape = (2,)
    has_level_constants = True

    @nn.compact
    def __call__(self, y, level=0):
        split = self.param("split", nn.initializers.zeros, (3,))
        constant = self.param("constant", nn.initializers.zeros, (3,))
        level = jnp.broadcast_to(level, (max(len(y), jnp.size(level)),))
        levels = SCHEDULE.a_bar[level] * SCHEDULE.multiplier[level]
        noise = (SCHEDULE.sigma_bar * jnp.append(SCHEDULE.multiplier, 1.0))[level]
        variance = levels**2 * self.spread**2 + noise**2
        squares = jnp.sum((y[:, None] - levels[:, None, None] * FAR) ** 2, -1) / 2
        logits = jnp.stack([split[level], -split[level]], -1) / 2 - squares / variance[:, None]
        return constant[level] - jax.nn.logsumexp(logits, axis=1)


FAR = 3 * np.array([[-1.0, 0.0], [1.0, 0.0]])  # at .1 of noise, 20 standard deviations apart
SCHEDULE = RecoveryLikelihood(EnergyMLP(), num_pairs=3, noise_levels=(0.1, 0.6, 0.95)).schedule


@pytest.mark.parametrize("weight", [0.0, 10.0])
def test_the_mass_of_far_modes_is_recovered_with_the_classifier_alone(weight):
    """.3 and .7. No chain crosses from one to the other at the low levels."""
    method = RecoveryLikelihood(
        TwoBowls(0.2), num_pairs=3, noise_levels=(0.1, 0.6, 0.95), num_steps=30, step_scale=0.2,
        step_growth=0.0, energy_in_nats=True, level_classifier=weight,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    which = rng.choice(2, (300, 256), p=[0.3, 0.7])
    data = jnp.asarray(FAR[which] + 0.2 * rng.normal(size=(300, 256, 2)), jnp.float32)
    params = two_modes.train(method, data, 0.03)
    share = 1 / (1 + np.exp(-np.asarray(params["split"])))  # of the mode on the left
    if weight:
        np.testing.assert_allclose(share, 0.3, atol=0.05)
        log_z = method.densities(params).log_z
        np.testing.assert_array_equal(log_z, np.zeros(3))
    else:
        assert abs(share[0] - 0.3) > 0.1  # where it began, at a half
        assert method.densities(params).log_z is None
