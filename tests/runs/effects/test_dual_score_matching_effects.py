"""What the fields of dual score matching and of its sampler do, against their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import THETA, as_images, squares
from effects_stubs import (
    EXAMPLES,
    INDEX,
    KEY,
    built,
    config_of,
    full_bars,
    loss_of,
    stubs,
)
from effects_table import DUAL, changed, shows

from ebm_jax import samplers
from ebm_jax.methods.persistent_chains import moved
from ebm_jax.methods.probability_flow import ProbabilityFlow
from ebm_jax.samplers import random

__all__ = ["full_bars", "stubs"]


def dual(*fields, **values):
    return changed(
        config_of("dual_score_matching", min_noise=0.1, max_noise=20.0, num_levels=4, **values),
        *fields,
    )


def dual_energy(method):
    """(y [n, ..], log t [n]) -> U, float64, in NumPy, of theta (1 + log t) |y'|^2 / 2."""
    moments, largest = method.data_moments, method.max_noise**2
    spread = np.linalg.eigvalsh(moments.covariance)

    def energy(y, log_t):
        t, flat = np.exp(log_t), np.asarray(y, np.float64).reshape(len(y), -1)
        gaussian = []
        for row, variance in zip(flat - moments.mean, t, strict=True):
            covariance = moments.covariance + variance * np.eye(4)
            log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
            gaussian.append((row @ np.linalg.inv(covariance) @ row + log_det) / 2)
        at = lambda t: 1 / (1 + t / spread.max())  # noqa: E731
        faded = (at(t) - at(largest)) / (1 - at(largest))
        factor = np.sqrt(spread.mean() / (spread.mean() + t))[:, None]
        drawn_in = moments.mean + factor * (flat - moments.mean)
        return np.array(gaussian) + faded * THETA * (1 + log_t) * np.sum(drawn_in**2, 1) / 2

    return energy


def central(energy, y, log_t):
    """(grad_y U, dU / d log t) by central differences."""
    grad = np.zeros(y.shape)
    for place in np.ndindex(y.shape[1:]):
        step = np.zeros(y.shape)
        step[(slice(None), *place)] = 1e-5
        slope = (energy(y + step, log_t) - energy(y - step, log_t)) / 2e-5
        grad[(slice(None), *place)] = slope
    return grad, (energy(y, log_t + 1e-5) - energy(y, log_t - 1e-5)) / 2e-5


@shows(*(f"{DUAL}.{name}" for name in ("min_noise", "max_noise", "num_levels")))
@pytest.mark.parametrize("name", [None, "min_noise", "max_noise", "num_levels"])
def test_dual_score_matching_in_closed_form(name):
    config = dual(*([f"{DUAL}.{name}"] if name else []))
    s, (method, params, state) = config.method, built(config)
    loss, metrics, _ = loss_of(method, params, state)
    keys = jax.random.split(KEY)
    place = np.asarray(random.uniform(keys[0], INDEX, ()), np.float64)
    log_t = 2 * (np.log(s.min_noise) + place * np.log(s.max_noise / s.min_noise))
    noise = np.asarray(random.normal(keys[1], INDEX, jnp.asarray(EXAMPLES)), np.float64)
    y = EXAMPLES + as_images(np.exp(log_t / 2)) * noise
    grad, slope = central(dual_energy(method), y, log_t)
    of_y = squares(as_images(np.exp(log_t / 2)) * grad - noise) / 4
    of_t = (slope - (4 - squares(noise)) / 2) ** 2 / 16
    assert loss == pytest.approx(np.mean(of_y + of_t), rel=2e-3)
    assert metrics["score_loss"].shape == (s.num_levels,)
    levels = np.geomspace(s.min_noise, s.max_noise, s.num_levels)
    densities = method.densities(params)
    np.testing.assert_allclose(densities.sigma_bar, levels, rtol=1e-5)
    x = jnp.asarray(EXAMPLES)
    found = densities.energy(jnp.asarray(1))(x)
    expected = dual_energy(method)(EXAMPLES, np.full(len(x), 2 * np.log(levels[1])))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@shows(*(f"{DUAL}.{name}" for name in ("chain_weight", "chain_moves", "chain_after")))
def test_chains_of_dual_score_matching():
    """The weight times the energies' difference per value, from a step on, and moves of HMC."""

    def found(*fields, step=0, **values):
        method, params, state = built(dual(*(f"{DUAL}.{name}" for name in fields), **values))
        batch = {"image": jnp.asarray(EXAMPLES), "index": INDEX, "step": jnp.asarray(step)}
        loss, (new_state, metrics) = jax.jit(method.loss)(params, state, batch, KEY)
        ends = jax.tree.leaves(new_state.sharded)
        means = {name: metrics[name].value() for name in metrics}
        return float(loss), means, [state.sharded, *ends], method, params

    usual, _, (_, *chains), _, _ = found()
    assert not chains
    weighted, means, (start, ends), method, params = found("chain_weight", chain_moves=1)
    gap = float(means["energy_pos"] - means["energy_neg"]) / 4
    assert weighted - usual == pytest.approx(2.0 * gap, rel=1e-3)
    energy_fn = method.densities(params).energy(jnp.asarray(0))
    key = jax.random.split(jax.random.fold_in(KEY, 1))[1]
    for fields, number, ended in (
        ((), 1, ends),
        (("chain_moves",), 3, found("chain_weight", "chain_moves")[2][1]),
    ):
        by_hand = moved(
            key, energy_fn, start, num_moves=number, least_std=0.1, first_chain=jnp.asarray(0)
        )
        np.testing.assert_allclose(ended, by_hand.x, rtol=1e-3, atol=1e-4, err_msg=str(fields))
    for step, waits in ((6, True), (7, False)):
        loss, _, (start, ends), _, _ = found("chain_weight", "chain_after", step=step)
        assert (loss == pytest.approx(usual, rel=1e-5)) is waits
        assert np.array_equal(start, ends) is waits


@shows(f"{DUAL}.num_components")
def test_components_of_the_base():
    """Where the network is nothing, the density is the mixture's, at the lowest noise and above."""
    config = dual(f"{DUAL}.num_components")
    method, params, _ = built(config)
    energies = method.densities(jax.tree.map(jnp.zeros_like, params)).energy
    sigma = method.sigma.astype(np.float64)
    x = np.asarray(method.data_mixture.means, np.float32).reshape(-1, 2, 2, 1)
    for level in (0, 1):
        extra = sigma[level] ** 2 * np.eye(4)
        wider = method.data_mixture._replace(covariances=method.data_mixture.covariances + extra)
        found = energies(jnp.asarray(level))(jnp.asarray(x))
        np.testing.assert_allclose(found, -wider.log_density(x), rtol=1e-3, atol=1e-3)
    assert method.data_mixture.num_components == 3


@shows(*(f"sampler:dual_score_matching.{name}" for name in ("kind", "num_steps", "step_scale")))
@pytest.mark.parametrize(
    "names", [(), ("num_steps",), ("kind",), ("kind", "num_steps", "step_scale")]
)
def test_dual_samples_by_hand(names):
    config = dual(*(f"sampler:dual_score_matching.{name}" for name in names))
    s, (method, params, _) = config.sampler, built(config)
    keys, sigma = jax.random.split(KEY), jnp.asarray(method.sigma[::-1])
    start = method.base_law.sample(keys[0], INDEX, jnp.asarray(EXAMPLES), method.max_noise**2)
    energy_at = lambda log_t: method.energy(params, log_t)  # noqa: E731
    if s.kind == "ode":
        times = jnp.linspace(2 * jnp.log(sigma[0]), 2 * jnp.log(sigma[-1]), 3 * s.num_steps + 1)
        expected = ProbabilityFlow(energy_at, energy_at(times[0]), times).carry(start)
    else:
        expected, _ = samplers.run_schedule(
            keys[1],
            lambda sigma: samplers.langevin(energy_at(2 * jnp.log(sigma)), s.step_scale * sigma**2),
            sigma, start, s.num_steps,
        )  # fmt: skip
        expected = expected.x
    found = jax.jit(method.sample)(params, KEY, INDEX)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    kernel = method.densities(params).native_kernel(lambda x: 0 * jnp.sum(x, (1, 2, 3)), 1)
    x = jnp.zeros((2_000, 2, 2, 1))
    moved = kernel.step(KEY, kernel.init(x))[0].x
    assert moved.std() == pytest.approx(np.sqrt(2 * s.step_scale) * method.sigma[1], rel=0.05)
