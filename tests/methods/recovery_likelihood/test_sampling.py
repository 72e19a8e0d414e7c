"""Progressive sampling and inpainting by noise levels, against closed forms and the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recovery_in_numpy as plain
from flax import linen as nn
from gaussian_conditionals import COVARIANCE, KNOWN, MEAN, assert_gaussian, conditional
from gaussian_levels import (
    A_BAR,
    CENTERS,
    CURVATURE,
    EXACT,
    MULTIPLIER,
    SCHEDULE,
    SIGMA_BAR,
    SPREADS,
    after_steps,
    conditional_mean,
    gaussian_energy,
    mixture_energy,
)
from reference_files import assert_close, below, load_reference, replay_noise

from ebm_jax import convert, networks, samplers
from ebm_jax.diffusion import make_schedule, t6_schedule
from ebm_jax.methods import RecoveryLikelihood
from ebm_jax.methods.recovery_likelihood import RecoverySampler
from ebm_jax.methods.recovery_likelihood.sampling import inpaint_levels, progressive_sample
from ebm_jax.methods.recovery_likelihood.transitions import Transition, langevin_transition
from ebm_jax.networks import EnergyMLP
from ebm_jax.samplers import random

KEY = jax.random.key(0)
NUMBER = 4_000


def sample_from_noise(level_energy, transition, number):
    """Progressive samples by the paper's schedule from N(0, I), in one dimension."""
    return jax.jit(
        lambda key: progressive_sample(
            key,
            level_energy,
            SCHEDULE,
            transition,
            jax.random.normal(jax.random.fold_in(key, 100), (number, 1)),
            jnp.arange(number),
        )
    )(KEY)


def after_progressive_sampling(steps, num_steps, noise_scale=1.0):
    """(mean, variance) of its output, level by level: each y_t is linear in x_{t+1}."""
    mean, variance = 0.0, 1.0
    for t in range(5, -1, -1):
        ends = [
            after_steps(steps[t], CURVATURE[t], conditional_mean(t, x), x, num_steps, noise_scale)
            for x in (mean, mean + 1)
        ]
        slope = ends[1][0] - ends[0][0]
        mean = ends[0][0] / MULTIPLIER[t]
        variance = (slope**2 * variance + ends[0][1]) / MULTIPLIER[t] ** 2
    return mean, variance


@pytest.mark.parametrize(
    ("name", "steps", "num_steps", "wanted"),
    [
        ("the paper's step, too small for this data", plain.langevin_scale(EXACT, 2e-4), 30, 2.903),
        ("a step that fits its curvature", 0.02 / CURVATURE, 1000, 0.25135),
    ],
)
def test_progressive_samples_have_their_mean_and_variance(name, steps, num_steps, wanted):
    """x_0 ~ N(.3, .25), exact energies: the target at level 0 has variance .2501.

    The energies are the same in both cases, only the sampler's step is not.
    """
    mean, variance = after_progressive_sampling(steps, num_steps)
    np.testing.assert_allclose(variance, wanted, atol=5e-4 if wanted > 1 else 5e-6, err_msg=name)
    number, half_steps = 10_000, jnp.asarray(steps / 2, jnp.float32)

    def make_kernel(energy_fn, level):
        return samplers.langevin(energy_fn, half_steps[level])

    x = sample_from_noise(gaussian_energy, Transition(make_kernel, num_steps), number)
    assert abs(x.mean() - mean) < 4 * np.sqrt(variance / number)
    np.testing.assert_allclose(x.var(), variance, rtol=4 * np.sqrt(2 / number))


def test_progressive_sampling_of_a_mixture_with_another_kernel():
    """MALA leaves each conditional exactly invariant, so the output is the mixture at level 0."""
    number = 4_000

    def make_kernel(energy_fn, level):
        return samplers.mala(energy_fn, 0.5 / jnp.asarray(CURVATURE, jnp.float32)[level])

    x = sample_from_noise(mixture_energy, Transition(make_kernel, 150), number)[:, 0]
    right = x > 0
    assert abs(right.mean() - 0.7) < 4 * np.sqrt(0.21 / number)
    for k, members in ((0, x[~right]), (1, x[right])):
        variance = A_BAR[0] ** 2 * SPREADS[k] + SIGMA_BAR[0] ** 2
        assert abs(members.mean() - A_BAR[0] * CENTERS[k]) < 4 * np.sqrt(variance / len(members))
        np.testing.assert_allclose(members.var(), variance, rtol=4 * np.sqrt(2 / len(members)))


# ---- inpainting ----


def test_inpainting_by_levels_is_the_exact_conditional():
    """Levels of the exact marginals N(a abar mu, a^2 (abar^2 S + sbar^2 I)), exact transitions.

    The known coordinate at level 0 is abar_0 x + sbar_0 eps.
    """
    schedule = make_schedule(6)
    multiplier, a_bar, sigma_bar = (
        np.asarray(v, np.float64)
        for v in (schedule.multiplier, schedule.a_bar[:-1], schedule.sigma_bar[:-1])
    )
    of_level = [
        (m * a * MEAN, m**2 * (a**2 * COVARIANCE + s**2 * np.eye(3)))
        for m, a, s in zip(multiplier, a_bar, sigma_bar, strict=True)
    ]
    means = jnp.asarray([mean for mean, _ in of_level], jnp.float32)
    precisions = jnp.asarray([np.linalg.inv(c) for _, c in of_level], jnp.float32)

    def level_energy(level):
        def energy_fn(y):
            y = y - means[level]
            return 0.5 * jnp.einsum("ni,ij,nj->n", y, precisions[level], y)

        return energy_fn

    def make_kernel(energy_fn, level):
        return samplers.mala(energy_fn, 0.4 * schedule.sigma[1:][level] ** 2)

    x = np.zeros((NUMBER, 3), np.float32)
    x[:, 0] = 1.3
    x[:, 1:] = 100.0  # unknown: of no influence

    @jax.jit
    def fill(key):
        return inpaint_levels(
            key, level_energy, schedule, Transition(make_kernel, 15), jnp.asarray(x), KNOWN,
            jnp.arange(NUMBER), num_rounds=12,
        )  # fmt: skip

    filled = np.asarray(fill(KEY), np.float64)
    assert np.all(filled[:, 0] == np.float32(1.3))
    a, s = a_bar[0], sigma_bar[0]
    gain, offset, left = conditional(a * MEAN, a**2 * COVARIANCE + s**2 * np.eye(3))
    expected = gain @ [a * 1.3] + offset
    assert_gaussian(filled[:, ~KNOWN], expected, left + s**2 * gain @ gain.T, extra=0.004)


# ---- the reference ----


def test_reference_progressive_chain(monkeypatch):
    """180 steps, levels 5 to 0, every example at the same level."""
    arrays = load_reference("drl")
    converted = convert.from_reference("drl", below(arrays, "w"))
    network = converted.module.clone(image_size=arrays["x"].shape[1])
    schedule, noise = t6_schedule(), arrays["prog_noise"]
    num_steps = noise.shape[1]
    replay_noise(monkeypatch, noise.reshape(-1, *noise.shape[2:]))
    transition = langevin_transition(schedule, num_steps=num_steps)

    def make_kernel(energy_fn, level):  # a level's step n is step (5 - level) K + n of the record
        kernel = transition.make_kernel(energy_fn, level)
        first = (5 - level) * num_steps
        return samplers.Kernel(kernel.init, lambda n, state: kernel.step(first + n, state))

    def sample(x):
        normalized, _ = networks.normalize_params(network, converted.params, converted.power_state)
        scale = 1 / schedule.langevin_scale(2e-4)

        def level_energy(level):
            return networks.bind(network, normalized, level, scale=scale[level])

        return progressive_sample(
            KEY, level_energy, schedule, Transition(make_kernel, num_steps), x, jnp.arange(len(x))
        )

    assert_close(jax.jit(sample)(arrays["prog_x"]), arrays["prog_out"], 1e-3)


# ---- what must not matter ----


@pytest.fixture(scope="module")
def small():
    """(method, params) on the plane, three levels."""
    network = EnergyMLP(input_size=2, width=8, depth=1)
    method = RecoveryLikelihood(network, num_pairs=3, num_steps=3, step_scale=1e-2)
    return method, plain.as_tree(plain.random_weights(network))


def test_samples_do_not_depend_on_how_they_are_batched(small):
    method, params = small
    sample = jax.jit(method.sample)
    whole = sample(params, KEY, jnp.arange(8))
    parts = [sample(params, KEY, jnp.arange(i, i + 4)) for i in (0, 4)]
    np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-5, atol=1e-6)
    on_each = jax.pmap(lambda index: method.sample(params, KEY, index))  # one on each of eight
    np.testing.assert_allclose(whole, on_each(np.arange(8)[:, None])[:, 0], rtol=1e-5, atol=1e-6)
    assert len(np.unique(whole, axis=0)) == 8


def test_trajectory_goes_from_noise_to_the_samples(small):
    method, params = small
    last, trajectory = jax.jit(
        lambda key: method.sample(params, key, jnp.arange(2_000), keep_trajectory=True)
    )(KEY)
    assert trajectory.shape == (4, 2_000, 2)
    np.testing.assert_array_equal(trajectory[-1], last)
    # x_T is standard normal; each later level is another one
    assert abs(trajectory[0].mean()) < 4 / np.sqrt(4_000)
    assert abs(trajectory[0].var() - 1) < 4 * np.sqrt(2 / 4_000)
    assert all(np.abs(np.diff(trajectory, axis=0)).mean(axis=(1, 2)) > 1e-3)


# ---- step by step ----


class Bowls(nn.Module):
    """(t + 1) |y|^2 / 2 of points of three values, in nats."""

    input_shape = (3,)

    @nn.compact
    def __call__(self, y, level):
        return (level + 1) * jnp.sum(y**2, -1) / 2


def test_samples_inpainting_and_restoring_by_hand():
    """Every step with its noise, in NumPy, of settings that are not the usual ones."""
    method = RecoveryLikelihood(
        Bowls(), num_pairs=3, noise_levels=(0.2, 0.6, 0.9), num_steps=9, step_scale=0.3,
        step_growth=0.5, energy_in_nats=True,
        sampler=RecoverySampler(num_steps=2, noise_scale=0.8, inpaint_rounds=2, restore_level=2),
    )  # fmt: skip
    index = jnp.array([4, 1])
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    a, sigma, a_bar, sigma_bar = (np.asarray(v, np.float64) for v in method.schedule)
    scale = 0.3 * (sigma_bar[:-1] / sigma_bar[0]) ** 0.5 * sigma[1:] ** 2
    multiplier = [a[1], a[2], 1.0]

    def noise_of(key):
        return np.asarray(random.normal(key, index, jnp.zeros((2, 3))), np.float64)

    def chain(key, noisier, level, is_known=False, u=0.0):
        y = np.asarray(noisier, np.float64)
        for step in range(2):
            y = np.where(is_known, u, y)
            slope = (level + 1) * y + (level < 2) * (y - noisier) / sigma[level + 1] ** 2
            noise = noise_of(jax.random.fold_in(key, step))
            y = y - scale[level] / 2 * slope + 0.8 * np.sqrt(scale[level]) * noise
        return np.where(is_known, u, y) / multiplier[level]

    def descend(key, top, levels, rounds, is_known=False, path=(0.0, 0.0, 0.0)):
        for level in levels:
            for number in range(rounds):
                up_key, chain_key = jax.random.split(
                    jax.random.fold_in(jax.random.fold_in(key, level), number)
                )
                if number:
                    top = a[level + 1] * top + sigma[level + 1] * noise_of(up_key)
                u = multiplier[level] * path[level]
                top = chain(chain_key, top, level, is_known, u)
        return top

    @jax.jit
    def all_three(x):
        label = jnp.zeros(2, int)
        return (
            method.sample({}, KEY, index),
            method.inpaint({}, KEY, x, KNOWN, index, label),
            method.restore({}, KEY, x, index, label),
        )

    found = all_three(x)
    start_key, chain_key = jax.random.split(KEY)
    sample = noise_of(start_key)
    for level in (2, 1, 0):
        sample = chain(jax.random.fold_in(chain_key, level), sample, level)
    restored = a_bar[2] * x + sigma_bar[2] * noise_of(start_key)
    restored = descend(chain_key, restored, (1, 0), 1)

    start_key, path_key, chain_key = jax.random.split(KEY, 3)
    path, u = [], x
    for level in range(4):
        u = a[level] * u + sigma[level] * noise_of(jax.random.fold_in(path_key, level))
        path.append(u)
    top = np.where(KNOWN, path[3], noise_of(start_key))
    filled = np.where(KNOWN, x, descend(chain_key, top, (2, 1, 0), 2, KNOWN, path))
    for name, one, wanted in zip(
        ("sample", "inpaint", "restore"), found, (sample, filled, restored), strict=True
    ):
        np.testing.assert_allclose(one, wanted, rtol=1e-4, atol=1e-5, err_msg=name)

    native = method.densities({}).native_kernel(lambda x: 0 * x[:, 0], 1)  # noise alone
    moved, _ = native.step(KEY, native.init(jnp.asarray(x))._replace(chain=index))
    step = np.sqrt(scale[1]) / multiplier[1]
    np.testing.assert_allclose(moved.x - x, step * noise_of(KEY), rtol=1e-4, atol=1e-6)
