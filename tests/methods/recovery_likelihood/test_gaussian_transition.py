"""T1k: one Gaussian transition per level in place of a chain, on Gaussians in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recovery_in_numpy as plain
from flax import linen as nn

from ebm_jax import samplers
from ebm_jax.diffusion import t1k_schedule
from ebm_jax.methods import MethodState, RecoveryLikelihood
from ebm_jax.methods.recovery_likelihood.sampling import progressive_sample
from ebm_jax.methods.recovery_likelihood.transitions import (
    VARIANCES,
    conditional_energy,
    energy_scale,
    gaussian_transition,
)

KEY = jax.random.key(0)
MEAN, VARIANCE = 0.3, 0.25
FINE = plain.schedule(1000)


def of_levels(exact, data_variance):
    """Per level: variance v of y_t, its mean, sigma_{t+1}^2, r_t, and the multiplier."""
    multiplier = plain.multiplier(exact)
    a_bar, sigma_bar = exact["a_bar"][:-1], exact["sigma_bar"][:-1]
    variance = multiplier**2 * (a_bar**2 * data_variance + sigma_bar**2)
    weight = np.append(np.ones(len(variance) - 1), 0.0)
    return variance, multiplier * a_bar * MEAN, exact["sigma"][1:] ** 2, weight, multiplier


def transition_variance(exact, kind):
    """v_t of the transition."""
    narrow, _, step, weight, _ = of_levels(exact, 0.0)
    return step if kind == "step" else 1 / (1 / narrow + weight / step)


@pytest.mark.parametrize("kind", VARIANCES)
def test_transitions_of_each_level_have_their_mean_and_variance(kind):
    """Mean x~ - sigma^2 (x~ - m) / v and the variance of its kind; nu scales the deviation."""
    variance, mean, step, _, _ = of_levels(FINE, VARIANCE)
    t, number, start, nu = np.array([0, 1, 30, 500, 998, 999]), 5_000, 1.2, 0.9
    level = jnp.repeat(jnp.asarray(t), number)
    m, v = (jnp.asarray(values, jnp.float32)[level] for values in (mean, variance))
    x_noisy = jnp.full((len(level), 1), start)
    energy_fn = conditional_energy(
        lambda y: (y[:, 0] - m) ** 2 / (2 * v), t1k_schedule(), x_noisy, level
    )
    transition = gaussian_transition(t1k_schedule(), variance=kind, noise_scale=nu)
    assert transition.num_steps == 1
    state, _ = samplers.run_chain(KEY, transition.make_kernel(energy_fn, level), x_noisy, 1)
    ends = np.asarray(state.x).reshape(len(t), number)
    wanted = start - step * (start - mean) / variance
    spread = nu**2 * transition_variance(FINE, kind)[t]
    assert np.all(np.abs(ends.mean(axis=1) - wanted[t]) < 4 * np.sqrt(spread / number))
    np.testing.assert_allclose(ends.var(axis=1), spread, rtol=4 * np.sqrt(2 / number))


def test_posterior_variance_is_exact_where_the_data_do_not_vary():
    """With E of x_{t+1}, it is p(y_t | x_{t+1}) of METHODS 5a: mean and 1 / L at S = 0."""
    variance, mean, step, weight, _ = of_levels(FINE, 0.0)
    precision = 1 / variance + weight / step
    np.testing.assert_allclose(transition_variance(FINE, "posterior"), 1 / precision)
    noisy = 1.2
    inside = slice(0, 999)  # the last pair has no conditional
    conditional_mean = (mean / variance + noisy / step) / precision
    transition_mean = noisy - step * (noisy - mean) / (variance + step)
    np.testing.assert_allclose(transition_mean[inside], conditional_mean[inside], rtol=1e-9)


def test_step_variance_is_too_wide_at_the_first_level_alone():
    """Its negatives vary by sigma^2 at least, more than y_0 itself where S = 0."""
    variance, _, step, _, _ = of_levels(FINE, 0.0)
    inside = slice(0, 999)
    assert np.flatnonzero(step[inside] > variance[inside]).tolist() == [0]
    assert np.all(transition_variance(FINE, "posterior") <= variance * (1 + 1e-12))


def after_sampling(exact, data_variance, kind):
    """(mean, variance) after one transition per level with the exact energies, from N(0, 1)."""
    variance, mean, step, _, multiplier = of_levels(exact, data_variance)
    added = transition_variance(exact, kind)
    m, v = 0.0, 1.0
    for t in reversed(range(len(variance))):
        shrink = 1 - step[t] / variance[t]
        m = (mean[t] + shrink * (m - mean[t])) / multiplier[t]
        v = (shrink**2 * v + added[t]) / multiplier[t] ** 2
    return m, v


@pytest.mark.parametrize(("kind", "wanted"), [("step", 0.24836), ("posterior", 0.24288)])
def test_t1k_samples_have_their_mean_and_variance(kind, wanted):
    """x_0 ~ N(.3, .25): of the whole sampler, and by 2,000 samples; the target is .2501."""
    mean, variance = after_sampling(FINE, VARIANCE, kind)
    np.testing.assert_allclose([mean, variance], [0.3, wanted], atol=2e-5)
    of_level = [jnp.asarray(values, jnp.float32) for values in of_levels(FINE, VARIANCE)[:2]]

    def level_energy(level):
        v, m = (values[level] for values in of_level)
        return lambda y: (y[:, 0] - m) ** 2 / (2 * v)

    number, schedule = 2_000, t1k_schedule()
    x = jax.jit(
        lambda key: progressive_sample(
            key,
            level_energy,
            schedule,
            gaussian_transition(schedule, variance=kind),
            jax.random.normal(jax.random.fold_in(key, 1_000), (number, 1)),
            jnp.arange(number),
        )
    )(KEY)
    assert abs(x.mean() - mean) < 4 * np.sqrt(variance / number)
    np.testing.assert_allclose(x.var(), variance, rtol=4 * np.sqrt(2 / number))


class Quadratic(nn.Module):
    """E(y, t) = curvature_t (y - mean_t)^2 / 2 in nats, the curvatures parameters."""

    mean: tuple[float, ...]
    curvature: tuple[float, ...]
    input_shape = (1,)

    @nn.compact
    def __call__(self, y, level):
        curvature = self.param("curvature", lambda _: jnp.asarray(self.curvature))
        return curvature[level] * (y[:, 0] - jnp.asarray(self.mean)[level]) ** 2 / 2


def gradients(exact, curvature, kind, data_variance, num_batches=64):
    """Of the loss in the curvatures [num_batches, T], each of 2,048 examples over the levels."""
    mean = of_levels(exact, data_variance)[1]
    method = RecoveryLikelihood(
        Quadratic(tuple(mean), tuple(curvature)),
        num_pairs=len(mean),
        transition="gaussian",
        energy_in_nats=True,
        transition_variance=kind,
    )

    def one_batch(rng_key):
        data_key, loss_key = jax.random.split(rng_key)
        x = MEAN + np.sqrt(data_variance) * jax.random.normal(data_key, (2_048, 1))
        loss = lambda p: method.loss(p, MethodState(), {"image": x}, loss_key)[0]  # noqa: E731
        return jax.grad(loss)({"curvature": jnp.asarray(curvature, jnp.float32)})["curvature"]

    batches = jax.jit(lambda keys: jax.lax.map(one_batch, keys))(jax.random.split(KEY, num_batches))
    return np.asarray(batches, np.float64)


@pytest.mark.parametrize("kind", VARIANCES)
def test_gradient_has_the_expectation_of_independent_negatives(kind):
    """w_t / 2T (var(y_t) - (1 - sigma^2 theta)^2 var(x~) - v_t), away from the best curvature."""
    exact, data_variance = plain.schedule(101), 0.25
    variance, _, step, _, _ = of_levels(exact, data_variance)
    a_bar, sigma_bar = exact["a_bar"][1:], exact["sigma_bar"][1:]
    noisy = a_bar**2 * data_variance + sigma_bar**2
    curvature = 2 / noisy
    inside = slice(0, 100)  # the last pair is wide apart: its means differ
    negative = (1 - step * curvature) ** 2 * noisy + transition_variance(exact, kind)
    weight = exact["sigma"][1] / exact["sigma"][1:]
    wanted = (weight * (variance - negative) / 2 / len(variance))[inside]
    found = gradients(exact, curvature, kind, data_variance)[:, inside]
    scores = (found.mean(axis=0) - wanted) / (found.std(axis=0, ddof=1) / np.sqrt(len(found)))
    assert np.abs(scores).max() < 4.5
    assert 0.7 < np.std(scores) < 1.3
    # Of independent negatives, the variance of y_pos^2 - y_neg^2 alone would be this at least.
    count = 2_048 / len(variance)
    independent = (weight / 2 / len(variance)) ** 2 * 2 * (variance**2 + negative**2) / count
    assert np.mean(found.var(axis=0) / independent[inside]) < 0.6


def test_nothing_is_left_of_the_noise_where_the_data_do_not_vary():
    """With E of x_{t+1} and the posterior's variance the negative is the positive itself."""
    exact = plain.schedule(101)
    noisy = exact["sigma_bar"][1:] ** 2
    best = gradients(exact, 1 / noisy, "posterior", 0.0, num_batches=4)[:, :100]
    other = gradients(exact, 2 / noisy, "posterior", 0.0, num_batches=4)[:, :100]
    assert np.abs(best).max() < 1e-3 * np.abs(other).max()


def test_energy_is_scaled_so_that_gradients_of_the_output_are_noise():
    """E = F / sbar_t: with E = |x - abar x_0|^2 / 2 sbar^2, grad F is eps."""
    scale = energy_scale(t1k_schedule(), transition="gaussian")
    np.testing.assert_allclose(scale, 1 / FINE["sigma_bar"][:-1], rtol=1e-4)


def test_unknown_variance_is_refused():
    with pytest.raises(ValueError, match="variance: expected one of step, posterior, got 'none'"):
        gaussian_transition(t1k_schedule(), variance="none")
