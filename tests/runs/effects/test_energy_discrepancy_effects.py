"""What the fields of energy discrepancy and of its sampler do, against their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import THETA, squares
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
from effects_table import ED, changed, shows

from ebm_jax import samplers
from ebm_jax.methods.energy_discrepancy import perturbed_points
from ebm_jax.samplers import random

__all__ = ["full_bars", "stubs"]

OF_DISCREPANCY = ("noise_std", "num_points", "stabilization", "base_std")


@shows(*(f"{ED}.{name}" for name in OF_DISCREPANCY))
@pytest.mark.parametrize("name", [None, *OF_DISCREPANCY])
def test_energy_discrepancy_in_closed_form(name):
    config = config_of("energy_discrepancy", num_points=2, stabilization=0.5)
    config.data.high = 2.0  # so that the center, 1/2, shows
    config = changed(config, *([f"{ED}.{name}"] if name else []))
    s = config.method
    method, params, state = built(config)
    loss, _, _ = loss_of(method, params, state)

    def energy(x):
        return THETA * squares(x) / 2 + squares(x - 0.5) / (2 * s.base_std**2)

    x = jnp.asarray(EXAMPLES)
    points = np.asarray(perturbed_points(KEY, x, INDEX, s.num_points, s.noise_std))
    shared, own = points[:, 0] - points[:, 1], s.noise_std * np.sqrt(2)
    assert np.std(shared) == pytest.approx(own, rel=0.35)
    gaps = np.exp([energy(EXAMPLES) - energy(points[:, j]) for j in range(s.num_points)])
    expected = np.mean(np.log(s.stabilization / s.num_points + np.mean(gaps, 0)))
    assert loss == pytest.approx(expected, rel=1e-4)
    assert method.densities(params).base == (0.5, s.base_std, None)


@shows(
    "sampler:energy_discrepancy.num_steps",
    "sampler:energy_discrepancy.step_size",
    "sampler:energy_discrepancy.kernel",
)
@pytest.mark.parametrize("name", [None, "num_steps", "step_size", "kernel"])
def test_annealed_chains_by_hand(name):
    config = config_of("energy_discrepancy", base_std=2.0)
    config.sampler.update(num_steps=4, step_size=0.1)
    config = changed(config, *([f"sampler:energy_discrepancy.{name}"] if name else []))
    s, (method, params, _) = config.sampler, built(config)
    make = {"langevin": samplers.langevin, "mala": samplers.mala}[s.kernel]

    def kernel(beta):
        curvature = beta * THETA + 1 / 4
        return make(lambda x: curvature * jnp.sum(x**2, (1, 2, 3)) / 2, s.step_size)

    start_key, chain_key = jax.random.split(KEY)
    start = 2 * random.normal(start_key, INDEX, jnp.asarray(EXAMPLES))
    betas = np.minimum(np.arange(s.num_steps) / (s.num_steps // 2), 1).astype(np.float32)
    state, _ = samplers.run_schedule(chain_key, kernel, betas, start, 1)
    found = jax.jit(method.sample)(params, KEY, INDEX)
    np.testing.assert_allclose(found, state.x, rtol=1e-4, atol=1e-5)
    native = method.densities(params).native_kernel(lambda x: jnp.sum(x**2, (1, 2, 3)), 0)
    moved = native.step(KEY, native.init(start))[0].x
    by_hand = make(lambda x: jnp.sum(x**2, (1, 2, 3)), s.step_size)
    np.testing.assert_allclose(moved, by_hand.step(KEY, by_hand.init(start))[0].x, rtol=1e-5)
