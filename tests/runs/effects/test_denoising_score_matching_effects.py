"""What the fields of score matching and its sampler do, against their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import LABEL, THETA, as_images, squares
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
from effects_table import DSM, changed, shows

from ebm_jax.methods.denoising_score_matching.sampling import annealed_sample
from ebm_jax.samplers import random

__all__ = ["full_bars", "stubs"]


def matching(*fields, **values):
    ladder = {"num_levels": 4, "min_noise": 0.1, "max_noise": 1.0, "target_sigma": 0.3, **values}
    config = config_of("denoising_score_matching", **ladder)
    config.sampler.update(num_hot=2, num_cooling=4, num_final=2, start_temperature=4.0)
    return changed(config, *fields)


OF_MATCHING = ("num_levels", "min_noise", "max_noise", "spacing", "target_sigma")


@shows(*(f"{DSM}.{name}" for name in OF_MATCHING))
@pytest.mark.parametrize("name", [None, *OF_MATCHING])
def test_score_matching_in_closed_form(name):
    config = matching(*([f"{DSM}.{name}"] if name else []))
    settings = config.method
    method, params, state = built(config)
    loss, metrics, _ = loss_of(method, params, state)
    space = np.geomspace if settings.spacing == "log" else np.linspace
    ladder = space(settings.min_noise, settings.max_noise, settings.num_levels)
    sigma = ladder[INDEX % settings.num_levels]
    noise = np.asarray(random.normal(KEY, INDEX, jnp.asarray(EXAMPLES)))
    x_noisy = EXAMPLES + as_images(sigma) * noise
    residual = THETA * x_noisy - (x_noisy - EXAMPLES) / settings.target_sigma**2
    losses = squares(residual) / sigma**2
    assert loss == pytest.approx(np.mean(losses), rel=1e-4)
    relative = settings.target_sigma**4 * np.mean(losses)
    assert metrics["normalized_loss"] == pytest.approx(relative, rel=1e-4)
    assert metrics["energy_noisy"] == pytest.approx(np.mean(THETA * squares(x_noisy) / 2), rel=1e-4)
    assert method.densities(params).sigma_bar == pytest.approx(settings.target_sigma)


OF_ANNEALING = (
    "step_size", "start_temperature", "num_hot", "num_cooling", "num_final", "cooling",
    "restore_temperature",
)  # fmt: skip


@shows(*(f"sampler:denoising_score_matching.{name}" for name in OF_ANNEALING))
@pytest.mark.parametrize("name", [None, *OF_ANNEALING])
def test_annealed_samples_by_hand(name):
    config = matching(*([f"sampler:denoising_score_matching.{name}"] if name else []))
    s = config.sampler
    hot = np.full(s.num_hot, s.start_temperature)
    falling = s.start_temperature ** (1 - np.arange(s.num_cooling) / s.num_cooling)
    if s.cooling == "linear":
        falling = np.linspace(s.start_temperature, 1, s.num_cooling)
    temperatures = np.concatenate([hot, falling, np.linspace(1, 0, s.num_final)])
    method, params, _ = built(config)
    np.testing.assert_allclose(method.sampler.temperatures, temperatures, rtol=1e-6)

    def by_hand(key, x, temperatures):
        return annealed_sample(
            key, lambda _: lambda x: THETA * jnp.sum(x**2, (1, 2, 3)) / 2, x, temperatures, INDEX,
            step_size=s.step_size, target_sigma=0.3,
        )  # fmt: skip

    start_key, chain_key = jax.random.split(KEY)
    x = jnp.asarray(EXAMPLES)
    start = random.normal(start_key, INDEX, x)
    expected = by_hand(chain_key, start, temperatures)
    np.testing.assert_allclose(
        jax.jit(method.sample)(params, KEY, INDEX), expected, rtol=1e-4, atol=1e-5
    )
    cool = temperatures[temperatures <= s.restore_temperature]
    restored = jax.jit(method.restore)(params, KEY, x, INDEX, LABEL)
    np.testing.assert_allclose(restored, by_hand(KEY, x, cool), rtol=1e-4, atol=1e-5)
