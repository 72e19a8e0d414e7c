"""What the fields of recovery likelihood and of its sampler do, against their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import KNOWN, LABEL, THETA, as_images, squares
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
from effects_table import RECOVERY, changed, shows, value_of

from ebm_jax.methods.recovery_likelihood import level_classifier, sampling
from ebm_jax.methods.recovery_likelihood.loss import sample_pairs
from ebm_jax.samplers import random

__all__ = ["full_bars", "stubs"]


class Levels:
    """Everything of the levels that the formulas need, from a config's settings alone."""

    def __init__(self, settings):
        fine = np.cumprod(np.sqrt(1 - np.linspace(1e-4, 0.02, 1_000)))
        T = settings.num_pairs
        places = np.append(np.arange(T) * (1_000 // (2 * (T - 1))), 999)
        a_bar = fine[places]
        if settings.noise_levels:
            a_bar = np.append(np.sqrt(1 - np.square(settings.noise_levels)), fine[999])
        a = a_bar / np.append(1, a_bar[:-1])
        self.a, self.sigma = a, np.sqrt(1 - a**2)
        self.a_bar, self.sigma_bar = a_bar, np.sqrt(1 - a_bar**2)
        self.multiplier = np.append(a[1:-1], 1.0)
        self.weight = np.append(np.ones(T - 1), 0.0)
        growth = (self.sigma_bar[:-1] / self.sigma_bar[0]) ** settings.step_growth
        self.square = settings.step_scale * growth * self.sigma[1:] ** 2  # s_t^2
        self.scale = 1 / self.square
        if settings.transition == "gaussian":
            self.scale = 1 / self.sigma_bar[:-1]
        if settings.energy_in_nats:
            self.scale = np.ones(T)

    def chain(self, y, x_noisy, level, num_steps):
        """Langevin steps without noise."""
        for _ in range(num_steps):
            grad = as_images(self.scale[level] * THETA * (1 + level)) * y
            grad = grad + as_images((self.weight / self.sigma[1:] ** 2)[level]) * (y - x_noisy)
            y = y - as_images(self.square[level] / 2) * grad
        return y

    def negatives(self, settings, pairs):
        """y_neg of pairs: a chain without noise, or T1k's Gaussian step with the pair's noise."""
        level, x_noisy = np.asarray(pairs.level), np.asarray(pairs.x_noisy, np.float64)
        if settings.transition == "langevin":
            return self.chain(x_noisy, x_noisy, level, settings.num_steps)
        variance = self.sigma[1:] ** 2
        if settings.transition_variance == "posterior":
            given = self.weight * (self.a / self.sigma)[1:] ** 2
            of_x = 1 / (1 / self.sigma_bar[:-1] ** 2 + given)
            variance = self.multiplier**2 * of_x
        within = as_images((self.a[1:] * self.sigma_bar[:-1])[level])
        sigma = as_images(self.sigma[1:][level])
        noise = sigma * np.asarray(pairs.noise) - within * np.asarray(pairs.next_noise)
        noise = noise / np.sqrt(within**2 + sigma**2)
        grad = as_images(self.scale[level] * THETA * (1 + level)) * x_noisy
        moved = x_noisy - sigma**2 * grad
        return moved + settings.noise_scale * as_images(np.sqrt(variance[level])) * noise


def recovery(*fields, **values):
    quiet = {"num_pairs": 2, "num_steps": 2, "noise_scale": 0.0, **values}
    return changed(config_of("recovery_likelihood", **quiet), *fields)


def check_recovery(config):
    """Loss and metrics of a batch are those of the formulas; returns whether they are."""
    method, params, state = built(config)
    levels = Levels(config.method)
    loss, metrics, _ = loss_of(method, params, state)
    pairs = sample_pairs(jax.random.split(KEY)[0], method.schedule, jnp.asarray(EXAMPLES), INDEX)
    level, y_neg = np.asarray(pairs.level), levels.negatives(config.method, pairs)
    multiplier = as_images(levels.multiplier[level])
    factor = THETA * (1 + level) / 2
    gap = factor * (squares(multiplier * np.asarray(pairs.x)) - squares(y_neg))
    by_hand = np.mean(levels.sigma[1] / levels.sigma[1:][level] * gap)
    assert loss == pytest.approx(by_hand, rel=2e-3, abs=2e-5)
    moved = np.sqrt(squares(y_neg / multiplier - np.asarray(pairs.x_noisy)))
    per_level = [np.mean(moved[level == t]) for t in range(config.method.num_pairs)]
    assert metrics["displacement"].shape == (config.method.num_pairs,)
    np.testing.assert_allclose(metrics["displacement"], per_level, rtol=2e-3)
    return method, params


CHANGES = {
    "none": (),
    "num_pairs": ("num_pairs",),
    "noise_levels": ("noise_levels",),
    "num_steps": ("num_steps",),
    "step_scale": ("step_scale",),
    "step_growth": ("step_growth",),
    "energy_in_nats": ("energy_in_nats", "step_scale"),
    "transition": ("transition",),
    "transition_variance": ("transition", "transition_variance"),
}


@shows(*(f"{RECOVERY}.{name}" for name in CHANGES if name != "none"), f"{RECOVERY}.noise_scale")
@pytest.mark.parametrize("fields", CHANGES.values(), ids=CHANGES)
def test_recovery_likelihood_in_closed_form(fields):
    noisy = {"noise_scale": 0.7} if "transition" in fields else {}
    config = recovery(*(f"{RECOVERY}.{name}" for name in fields), **noisy)
    method, params = check_recovery(config)
    levels, densities = Levels(config.method), method.densities(params)
    of = slice(1, None) if "transition" in fields else slice(None, -1)
    np.testing.assert_allclose(densities.sigma_bar, levels.sigma_bar[of], rtol=1e-4)
    assert densities.num_levels == config.method.num_pairs


@shows(f"{RECOVERY}.level_classifier")
def test_the_classifiers_terms_are_added_to_the_loss():
    """Of theta (1 + t) |y|^2 / 2 and a constant per level, the classifier's own functions."""
    config = recovery(energy_in_nats=True)
    without, *_ = loss_of(*built(config))
    method, params, state = built(changed(config, f"{RECOVERY}.level_classifier"))
    loss, metrics, _ = loss_of(method, params, state)
    np.testing.assert_allclose(params["per_value"], np.log(2 * np.pi) / 2, rtol=1e-6)
    levels = Levels(config.method)

    def energy(level):
        scale = THETA * (1 + level) * jnp.asarray(levels.multiplier)[level] ** 2
        return lambda x: scale * jnp.sum(x**2, (1, 2, 3)) / 2 + 4 * np.log(2 * np.pi) / 2

    by_hand = method.densities(params)._replace(energy=energy)
    terms = []
    for i, (name, term) in enumerate(
        {
            "neighbors": level_classifier.neighbor_losses,
            "levels": level_classifier.level_losses,
        }.items()
    ):
        losses = term(jax.random.fold_in(KEY, i), by_hand, jnp.asarray(EXAMPLES), INDEX)
        terms.append(float(losses.mean()))
        assert metrics[f"classifier_of_{name}"] == pytest.approx(terms[-1], rel=1e-4)
    assert loss == pytest.approx(without + 2.0 * sum(terms), rel=1e-4)


def test_noise_of_the_chain_in_training():
    with pytest.raises(AssertionError):
        check_recovery(recovery(noise_scale=1.0))


def descended(levels, x, first_level, num_steps):
    """Without noise from x_{first_level + 1} to x_0."""
    for level in range(first_level, -1, -1):
        at = np.full(len(x), level)
        x = levels.chain(x, x, at, num_steps) / levels.multiplier[level]
    return x


@shows(
    "sampler:recovery_likelihood.num_steps",
    "sampler:recovery_likelihood.noise_scale",
    "sampler:recovery_likelihood.restore_level",
)
def test_recovery_samples_in_closed_form():
    fields = ["sampler:recovery_likelihood.noise_scale"]
    start = np.asarray(random.normal(jax.random.split(KEY)[0], INDEX, jnp.asarray(EXAMPLES)))
    method, params, _ = built(recovery())
    noisy = np.asarray(jax.jit(method.sample)(params, KEY, INDEX))
    for name, num_steps in (("noise_scale", 2), ("num_steps", 3)):
        fields.append(f"sampler:recovery_likelihood.{name}")
        config = recovery(*fields)
        method, params, _ = built(config)
        levels = Levels(config.method)
        expected = descended(levels, start, 1, num_steps)
        found = jax.jit(method.sample)(params, KEY, INDEX)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5)
        assert np.max(np.abs(noisy - expected)) > 1e-3
    for level in (1, value_of("sampler:recovery_likelihood.restore_level")):
        config.sampler.restore_level = level
        method, params, _ = built(config)
        noised = levels.a_bar[level] * EXAMPLES + levels.sigma_bar[level] * start
        expected = descended(levels, noised, level - 1, 3)
        found = jax.jit(method.restore)(params, KEY, jnp.asarray(EXAMPLES), INDEX, LABEL)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5)


@shows("sampler:recovery_likelihood.inpaint_rounds")
def test_inpaint_rounds():
    config = recovery("sampler:recovery_likelihood.inpaint_rounds")
    method, params, _ = built(config)
    x = jnp.asarray(EXAMPLES)
    found = np.asarray(jax.jit(method.inpaint)(params, KEY, x, KNOWN, INDEX, LABEL))
    for rounds in (1, 2, 5):
        by_hand = jax.jit(
            lambda x, rounds=rounds: sampling.inpaint_levels(
                KEY, method.level_energy(params), method.schedule, method.sampling_transition,
                x, KNOWN, INDEX, num_rounds=rounds,
            )
        )(x)  # fmt: skip
        assert np.allclose(found, by_hand, atol=1e-6) == (rounds == 2)
    np.testing.assert_array_equal(found[:, KNOWN], EXAMPLES[:, KNOWN])
