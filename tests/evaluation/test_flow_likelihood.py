"""Log densities along the probability flow, on laws that are known at every noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from ebm_jax.data import Mixture, Moments
from ebm_jax.evaluation.density.flow_likelihood import flow_log_density
from ebm_jax.methods import DualScoreMatching
from ebm_jax.methods.dual_score_matching import DualScoreSampler
from ebm_jax.methods.mixture_base import MixtureBase
from ebm_jax.methods.probability_flow import ProbabilityFlow
from ebm_jax.networks import FunctionNetwork
from ebm_jax.networks.film_resnet import FilmResNet

KEY = jax.random.key(0)
SMALLEST, LARGEST = 0.04, 400.0  # t
COVARIANCES = np.array([[[0.3, 0.2], [0.2, 0.4]], [[0.5, -0.1], [-0.1, 0.1]]])
TWO = Mixture(np.array([0.3, 0.7]), np.array([[1.0, 0.5], [-0.8, 0.0]]), COVARIANCES)


def flow(energy, steps):
    """energy: of (y, t)."""
    log_t = jnp.linspace(np.log(LARGEST), np.log(SMALLEST), steps + 1)
    return ProbabilityFlow(
        lambda log_t: lambda y: energy(y, jnp.exp(log_t)), lambda y: energy(y, LARGEST), log_t
    )


def log_density(energy, y, *, steps, key=KEY):
    y = jnp.asarray(y, jnp.float32)
    found = jax.jit(lambda y: flow_log_density(key, flow(energy, steps), y, jnp.arange(len(y))))
    return np.asarray(found(y), np.float64)


def points(number):
    rng = np.random.default_rng(0)
    of = (rng.uniform(size=number) > TWO.weights[0]).astype(int)
    noise = np.einsum(
        "nij,nj->ni", np.linalg.cholesky(COVARIANCES)[of], rng.normal(size=(number, 2))
    )
    return TWO.means[of] + noise + np.sqrt(SMALLEST) * rng.normal(size=(number, 2))


def test_exact_energies_give_the_density_of_a_mixture_to_second_order_in_the_steps():
    """Of single points, whose probes err, and closer of their mean."""
    y, energy = points(400), MixtureBase.of_mixture(TWO).energy
    exact = np.logaddexp(
        *(
            np.log(weight) + multivariate_normal(mean, covariance + SMALLEST * np.eye(2)).logpdf(y)
            for weight, mean, covariance in zip(*TWO, strict=True)
        )
    )
    errors = {steps: log_density(energy, y, steps=steps) - exact for steps in (40, 80, 320)}
    assert np.std(errors[320]) < 0.2
    assert abs(errors[320].mean()) < 4 * errors[320].std() / 20 + 2e-3
    # With the same probes what they err by goes, and the steps' own error is left.
    first, second = (errors[steps].mean() - errors[320].mean() for steps in (40, 80))
    assert abs(first) < 0.2
    assert abs(second) < 0.6 * abs(first)


def test_a_gaussian_of_equal_variances_needs_no_luck():
    """Its Jacobian is a multiple of 1, so that any probe gives the trace."""
    v = 0.3

    def energy(y, t):
        squares = jnp.sum(y**2, axis=(1, 2, 3)) / (v + t)
        return 0.5 * (squares + 6 * jnp.log(2 * jnp.pi * (v + t)))

    y = np.random.default_rng(0).normal(size=(5, 2, 3, 1))
    found = log_density(energy, y, steps=400)
    np.testing.assert_allclose(found, -np.asarray(energy(y, SMALLEST)), atol=5e-3)


def bumpy(y, t):
    """Energies of no law with noise: a mixture's, with a hole where t is small."""
    hole = 6 * jnp.exp(-0.5 * jnp.sum((y - 2.0) ** 2, axis=1)) / (1 + (t / 0.3) ** 2)
    return MixtureBase.of_mixture(TWO).energy(y, t) - hole


def test_it_is_the_density_of_the_samples_also_where_that_of_the_energy_is_not():
    """Over the plane the flow's integrates to 1, and in a quadrant to the samples' share of it."""
    cell, number = 0.25, 20_000
    side = np.arange(-6, 6, cell) + cell / 2
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    energies = np.asarray(bumpy(jnp.asarray(grid, jnp.float32), SMALLEST), np.float64)
    assert cell**2 * np.exp(-energies).sum() > 6
    of_points = jax.jit(
        lambda y, key: flow_log_density(key, flow(bumpy, 100), y, jnp.arange(len(y)))
    )
    keys = jax.random.split(KEY, 16)  # the mean over probes is all but the trace
    y = jnp.asarray(grid, jnp.float32)
    log_p = np.mean([np.asarray(of_points(y, key), np.float64) for key in keys], 0)
    mass = cell**2 * np.exp(log_p)
    assert mass.sum() == pytest.approx(1, abs=0.01)
    # At the largest t the law is all but N(0, t I), from which samples start.
    start = np.random.default_rng(1).normal(size=(number, 2)) * np.sqrt(LARGEST)
    x = np.asarray(jax.jit(flow(bumpy, 100).carry)(jnp.asarray(start, jnp.float32)))
    for low in (0.0, 1.0, 1.5):
        share, expected = (x > low).all(1).mean(), mass[(grid > low).all(1)].sum()
        assert share == pytest.approx(expected, abs=4 * np.sqrt(expected / number))


def test_probes_are_an_examples_own():
    """Whatever batch it is in; another key has others."""
    y, energy = points(6), MixtureBase.of_mixture(TWO).energy
    along, y = flow(energy, 5), jnp.asarray(y, jnp.float32)
    whole = flow_log_density(KEY, along, y, jnp.arange(6))
    part = flow_log_density(KEY, along, y[2:4], jnp.array([2, 3]))
    np.testing.assert_allclose(part, whole[2:4], rtol=1e-5)
    other = flow_log_density(jax.random.key(1), along, y, jnp.arange(6))
    assert np.abs(other - whole).max() > 0.01


def test_it_goes_through_a_networks_own_convolutions():
    """Whose gradients are written by hand in one formulation, and XLA's in the other."""
    moments = Moments(np.zeros(16), 0.3 * np.eye(16))
    y = 0.5 * jax.random.normal(KEY, (3, 4, 4, 1))
    found = []
    for formulation in ("flipped", "native"):
        network = FilmResNet(4, channels=1, width=4, num_blocks=1, formulation=formulation)
        method = DualScoreMatching(network, moments, min_noise=0.2, max_noise=8.0, num_levels=3)
        params, _ = method.init(KEY, {"image": y})
        params = jax.tree.map(
            lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size).reshape(p.shape)), params
        )
        along = method.densities(params).flow
        assert along is not None
        found.append(
            jax.jit(lambda y, along=along: flow_log_density(KEY, along, y, jnp.arange(3)))(y)
        )
        start = method.densities(params).flow.start_energy(y)
        np.testing.assert_allclose(
            start,
            -multivariate_normal(np.zeros(16), 64.3 * np.eye(16)).logpdf(y.reshape(3, 16)),
            rtol=1e-4,
        )
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)
    plain = -np.asarray(method.base_law.energy(y, jnp.asarray(0.04)))
    assert np.abs(found[0] - plain).max() > 0.1  # the network does something


def test_a_methods_own_flow_ends_at_the_law_of_its_lowest_noise():
    """About a mixture with a network that is nothing: its samples' law, not that of the data."""
    nothing = FunctionNetwork(
        lambda params, x, t: params * jnp.sum(x, 1) + 0 * t, lambda key: jnp.zeros(()), (2,)
    )
    mean = TWO.weights @ TWO.means
    apart = TWO.means - mean
    covariance = np.tensordot(TWO.weights, COVARIANCES, 1) + (apart.T * TWO.weights) @ apart
    method = DualScoreMatching(
        nothing, Moments(mean, covariance), min_noise=np.sqrt(SMALLEST), max_noise=20.0,
        num_components=2, data_mixture=TWO, sampler=DualScoreSampler(num_steps=20),
    )  # fmt: skip
    params, _ = method.init(KEY, {"image": jnp.zeros((2, 2))})
    along = method.densities(params).flow
    assert along is not None
    y = jnp.asarray(points(400), jnp.float32)
    found = jax.jit(lambda y: flow_log_density(KEY, along, y, jnp.arange(400)))(y)
    exact = TWO._replace(covariances=COVARIANCES + SMALLEST * np.eye(2)).log_density(np.asarray(y))
    error = np.asarray(found) - exact
    assert np.std(error) < 0.2
    assert abs(error.mean()) < 4 * error.std() / 20 + 5e-3


def test_a_sampler_of_chains_has_no_flow():
    moments, network = (
        Moments(np.zeros(2), np.eye(2)),
        FunctionNetwork(
            lambda params, x, t: params * jnp.sum(x, 1), lambda key: jnp.zeros(()), (2,)
        ),
    )
    method = DualScoreMatching(
        network, moments, max_noise=9.0, sampler=DualScoreSampler(kind="langevin")
    )
    assert method.densities(jnp.zeros(())).flow is None
