"""Recovery likelihood on Gaussians and their mixtures, where every law is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recovery_in_numpy as plain
from flax import linen as nn
from reference_files import jit_once

from ebm_jax import energy, samplers
from ebm_jax.diffusion import q_sample_pairs, t6_schedule
from ebm_jax.objectives import recovery_likelihood as recovery
from ebm_jax.objectives.base import ObjectiveState

SCHEDULE, EXACT = t6_schedule(), plain.schedule(6)
A_BAR, SIGMA_BAR, NEXT_SIGMA = EXACT["a_bar"][:-1], EXACT["sigma_bar"][:-1], EXACT["sigma"][1:]
MULTIPLIER, RECOVERY = plain.multiplier(EXACT), np.array([1, 1, 1, 1, 1, 0])
MEAN, VARIANCE = 0.3, 0.25
KEY = jax.random.key(0)

# Of y_t for x_0 ~ N(MEAN, VARIANCE), and of its conditional given x_{t+1} = noisy:
PRIOR_MEAN = MULTIPLIER * A_BAR * MEAN
PRIOR_VARIANCE = MULTIPLIER**2 * (A_BAR**2 * VARIANCE + SIGMA_BAR**2)
CURVATURE = 1 / PRIOR_VARIANCE + RECOVERY / NEXT_SIGMA**2


def conditional_mean(t, noisy):
    return (PRIOR_MEAN[t] / PRIOR_VARIANCE[t] + RECOVERY[t] * noisy / NEXT_SIGMA[t] ** 2) / (
        CURVATURE[t]
    )


def gaussian_energy(level):
    """The exact marginal energy of y_t [n, 1], level [] or [n]."""
    mean, variance = (jnp.asarray(v, jnp.float32)[level] for v in (PRIOR_MEAN, PRIOR_VARIANCE))
    return lambda y: (y[:, 0] - mean) ** 2 / (2 * variance)


def law_of_steps(step, curvature, mean, start, num_steps, noise_scale=1.0):
    """(mean, variance) of y <- y - step/2 curvature (y - mean) + noise_scale sqrt(step) xi."""
    shrink = 1 - step * curvature / 2
    added = noise_scale**2 * step * (1 - shrink ** (2 * num_steps)) / (1 - shrink**2)
    return mean + shrink**num_steps * (start - mean), added


def law_of_progressive_sampler(steps, num_steps, noise_scale=1.0):
    """(mean, variance) of its output, level by level: each y_t is linear in x_{t+1}."""
    mean, variance = 0.0, 1.0
    for t in range(5, -1, -1):
        ends = [
            law_of_steps(steps[t], CURVATURE[t], conditional_mean(t, x), x, num_steps, noise_scale)
            for x in (mean, mean + 1)
        ]
        slope = ends[1][0] - ends[0][0]
        mean = ends[0][0] / MULTIPLIER[t]
        variance = (slope**2 * variance + ends[0][1]) / MULTIPLIER[t] ** 2
    return mean, variance


@pytest.mark.parametrize("t", range(6))
def test_conditional_of_a_gaussian_in_closed_form(t):
    """L = (a^2 C)^-1 + r I / sigma^2 and mean L^-1 [(a^2 C)^-1 a abar mu + r x~ / sigma^2],

    with C = abar^2 S + sbar^2 I, for a full covariance S.
    """
    mu, noisy, y = np.random.default_rng(t).normal(size=(3, 2))
    covariance = np.array([[0.5, 0.3], [0.3, 0.4]])
    of_level = A_BAR[t] ** 2 * covariance + SIGMA_BAR[t] ** 2 * np.eye(2)
    prior = np.linalg.inv(MULTIPLIER[t] ** 2 * of_level)
    m = MULTIPLIER[t] * A_BAR[t] * mu

    def marginal(y):
        return 0.5 * jnp.einsum("ni,ij,nj->n", y - m, jnp.asarray(prior, jnp.float32), y - m)

    energy_fn = recovery.conditional_energy(marginal, SCHEDULE, jnp.asarray(noisy)[None], t)
    gradient, hessian = jit_once(
        lambda y: (jax.grad(lambda y: energy_fn(y[None])[0])(y),
                   jax.hessian(lambda y: energy_fn(y[None])[0])(y))
    )(jnp.asarray(y, jnp.float32))  # fmt: skip
    precision = prior + RECOVERY[t] * np.eye(2) / NEXT_SIGMA[t] ** 2
    mean = np.linalg.solve(precision, prior @ m + RECOVERY[t] * noisy / NEXT_SIGMA[t] ** 2)
    np.testing.assert_allclose(hessian, precision, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, precision @ (y - mean), rtol=1e-4, atol=1e-4)


def test_expected_recovery_likelihood_is_the_best_there_is():
    """Mean log p(y_t | x_{t+1}) over pairs of q_sample_pairs: log(L) / 2 - log(2 pi e) / 2."""
    number = 20_000
    keys = jax.random.split(KEY, 3)
    x, noise, next_noise = (jax.random.normal(key, (6 * number, 1)) for key in keys)
    level = jnp.repeat(jnp.arange(6), number)
    x_t, x_noisy = q_sample_pairs(SCHEDULE, MEAN + np.sqrt(VARIANCE) * x, level, noise, next_noise)
    y = SCHEDULE.multiplier[level][:, None] * x_t
    conditional = recovery.conditional_energy(gaussian_energy(level), SCHEDULE, x_noisy, level)
    t = np.asarray(level)
    at_the_mean = conditional(jnp.asarray(conditional_mean(t, x_noisy[:, 0])[:, None]))
    log_z = 0.5 * np.log(2 * np.pi / CURVATURE[t]) - np.asarray(at_the_mean, np.float64)
    log_density = (-np.asarray(conditional(y), np.float64) - log_z).reshape(6, number)
    wanted = 0.5 * np.log(CURVATURE) - 0.5 * np.log(2 * np.pi * np.e)
    np.testing.assert_allclose(log_density.mean(axis=1), wanted, atol=4 * np.sqrt(0.5 / number))


@pytest.mark.parametrize(("step_scale", "noise_scale"), [(2e-4, 1.0), (0.02, 0.99)])
def test_law_of_the_chain_of_each_level(step_scale, noise_scale):
    """Mean and variance after 30 steps from x_{t+1} = 1.2, all levels in one batch."""
    number, start = 10_000, 1.2
    level = jnp.repeat(jnp.arange(6), number)
    x_noisy = jnp.full((6 * number, 1), start)
    energy_fn = recovery.conditional_energy(gaussian_energy(level), SCHEDULE, x_noisy, level)
    make_kernel = recovery.langevin_per_level(
        SCHEDULE, step_scale=step_scale, noise_scale=noise_scale
    )
    state, _ = samplers.run_chain(KEY, make_kernel(energy_fn, level), x_noisy, 30)
    ends = np.asarray(state.x).reshape(6, number)
    mean, variance = law_of_steps(
        plain.langevin_scale(EXACT, step_scale), CURVATURE,
        conditional_mean(np.arange(6), start), start, 30, noise_scale,
    )  # fmt: skip
    assert np.all(np.abs(ends.mean(axis=1) - mean) < 4 * np.sqrt(variance / number))
    np.testing.assert_allclose(ends.var(axis=1), variance, rtol=4 * np.sqrt(2 / number))


@pytest.mark.parametrize(
    ("name", "steps", "num_steps", "wanted"),
    [
        ("the paper's step, too small for this data", plain.langevin_scale(EXACT, 2e-4), 30, 2.903),
        ("a step that fits its curvature", 0.02 / CURVATURE, 1000, 0.25135),
    ],
)
def test_law_of_the_progressive_sampler(name, steps, num_steps, wanted):
    """x_0 ~ N(.3, .25), exact energies: the target at level 0 has variance .2501.

    The energies are the same in both cases, only the sampler's step is not.
    """
    mean, variance = law_of_progressive_sampler(steps, num_steps)
    np.testing.assert_allclose(variance, wanted, atol=5e-4 if wanted > 1 else 5e-6, err_msg=name)
    number, half_steps = 10_000, jnp.asarray(steps / 2, jnp.float32)

    def make_kernel(energy_fn, level):
        return samplers.langevin(energy_fn, half_steps[level])

    x = jax.jit(
        lambda key: recovery.progressive_sample(
            key,
            gaussian_energy,
            SCHEDULE,
            jax.random.normal(jax.random.fold_in(key, 100), (number, 1)),
            make_kernel=make_kernel,
            num_steps=num_steps,
        )
    )(KEY)
    assert abs(x.mean() - mean) < 4 * np.sqrt(variance / number)
    np.testing.assert_allclose(x.var(), variance, rtol=4 * np.sqrt(2 / number))


# ---- a mixture of two Gaussians ----

WEIGHTS, CENTRES, SPREADS = np.array([0.3, 0.7]), np.array([-1.0, 1.0]), np.array([0.04, 0.09])


def component(level, k):
    """(mean, variance) of y_t's k-th component."""
    mean = MULTIPLIER[level] * A_BAR[level] * CENTRES[k]
    return mean, MULTIPLIER[level] ** 2 * (A_BAR[level] ** 2 * SPREADS[k] + SIGMA_BAR[level] ** 2)


def normal(x, mean, variance):
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def mixture_energy(level):
    """The exact marginal energy of y_t [n, 1] at one level []."""
    tables = np.array([[component(t, k) for t in range(6)] for k in (0, 1)])
    means, variances = jnp.asarray(tables.transpose(2, 0, 1), jnp.float32)[:, :, level]

    def part(k):
        return lambda y: (
            (y[:, 0] - means[k]) ** 2 / (2 * variances[k]) + 0.5 * jnp.log(variances[k])
        )

    return energy.mixture_energy([part(0), part(1)], WEIGHTS)


@pytest.mark.parametrize("t", range(6))
def test_conditional_of_a_mixture_is_the_mixture_of_conditionals(t):
    """Weights proportional to pi_k N(x~; a abar mu_k, a^2 v_k + sigma^2), on a grid."""
    noisy, grid = 0.15, np.linspace(-6, 6, 4_001)
    wanted, total = 0.0, 0.0
    for k in (0, 1):
        mean, variance = component(t, k)
        precision = 1 / variance + RECOVERY[t] / NEXT_SIGMA[t] ** 2
        posterior_mean = (mean / variance + RECOVERY[t] * noisy / NEXT_SIGMA[t] ** 2) / precision
        evidence = normal(noisy, mean, variance + NEXT_SIGMA[t] ** 2) if RECOVERY[t] else 1.0
        wanted = wanted + WEIGHTS[k] * evidence * normal(grid, posterior_mean, 1 / precision)
        total = total + WEIGHTS[k] * evidence
    x_noisy = jnp.full((len(grid), 1), noisy)
    energy_fn = recovery.conditional_energy(mixture_energy(t), SCHEDULE, x_noisy, t)
    density = np.exp(-np.asarray(energy_fn(jnp.asarray(grid, jnp.float32)[:, None]), np.float64))
    density /= density.sum() * (grid[1] - grid[0])
    np.testing.assert_allclose(density, wanted / total, rtol=2e-4, atol=1e-6)


def test_progressive_sampling_of_a_mixture_with_another_kernel():
    """MALA leaves each conditional exactly invariant, so the output is the mixture at level 0."""
    number = 4_000

    def make_kernel(energy_fn, level):
        return samplers.mala(energy_fn, 0.5 / jnp.asarray(CURVATURE, jnp.float32)[level])

    x = jax.jit(
        lambda key: recovery.progressive_sample(
            key,
            mixture_energy,
            SCHEDULE,
            jax.random.normal(jax.random.fold_in(key, 100), (number, 1)),
            make_kernel=make_kernel,
            num_steps=150,
        )
    )(KEY)[:, 0]
    right = x > 0
    assert abs(right.mean() - 0.7) < 4 * np.sqrt(0.21 / number)
    for k, members in ((0, x[~right]), (1, x[right])):
        variance = A_BAR[0] ** 2 * SPREADS[k] + SIGMA_BAR[0] ** 2
        assert abs(members.mean() - A_BAR[0] * CENTRES[k]) < 4 * np.sqrt(variance / len(members))
        np.testing.assert_allclose(members.var(), variance, rtol=4 * np.sqrt(2 / len(members)))


# ---- the objective at the truth ----


class GaussianModel(nn.Module):
    """E(y, t) = s_t^2 f*_t(y) for data N(mean, exp(log_variance)), both of them parameters."""

    step_scale: float

    @property
    def input_shape(self):
        return (1,)

    @nn.compact
    def __call__(self, y, level):
        mean = self.param("mean", nn.initializers.constant(MEAN), ())
        log_variance = self.param("log_variance", nn.initializers.constant(np.log(VARIANCE)), ())
        a_bar, sigma_bar, multiplier = (
            jnp.asarray(v, jnp.float32)[level] for v in (A_BAR, SIGMA_BAR, MULTIPLIER)
        )
        variance = multiplier**2 * (a_bar**2 * jnp.exp(log_variance) + sigma_bar**2)
        log_density = -((y[:, 0] - multiplier * a_bar * mean) ** 2) / (2 * variance)
        return -SCHEDULE.langevin_scale(self.step_scale)[level] * log_density


@pytest.fixture(scope="module")
def gradients():
    """(params -> parameter gradients of 128 batches of 256) with exact posterior draws."""
    curvature = jnp.asarray(CURVATURE, jnp.float32)

    def exact_draws(schedule, **_):  # on a quadratic, one step of size 1 / L at temperature 1/2
        def make_kernel(energy_fn, level):
            return samplers.langevin(energy_fn, 1 / curvature[level], temperature=0.5)

        return make_kernel

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "langevin_per_level", exact_draws)
        objective = recovery.recovery_likelihood(GaussianModel(2e-4), SCHEDULE, num_steps=1)

    def one_batch(params, rng_key):
        data_key, loss_key = jax.random.split(rng_key)
        x = MEAN + np.sqrt(VARIANCE) * jax.random.normal(data_key, (256, 1))
        loss = lambda p: objective.loss(p, ObjectiveState(), {"image": x}, loss_key)[0]  # noqa: E731
        return jax.grad(loss)(params)

    return jax.jit(
        lambda params: jax.vmap(one_batch, (None, 0))(params, jax.random.split(KEY, 128))
    )


TRUTH = {"mean": jnp.float32(MEAN), "log_variance": jnp.float32(np.log(VARIANCE))}


def in_standard_errors(values):
    return float(values.mean() / (values.std(ddof=1) / np.sqrt(len(values))))


def test_expected_gradient_is_zero_at_the_truth(gradients):
    for name, values in gradients(TRUTH).items():
        assert abs(in_standard_errors(values)) < 4, name


@pytest.mark.parametrize("shift", [-0.1, 0.1])
def test_gradient_points_back_to_the_truth(gradients, shift):
    moved = gradients({**TRUTH, "mean": TRUTH["mean"] + shift})
    assert in_standard_errors(np.sign(shift) * moved["mean"]) > 6
