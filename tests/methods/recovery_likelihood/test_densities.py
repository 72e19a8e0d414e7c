"""Which variable a level's energy is of, and what it is conditioned on: Gaussians in closed form.

With Langevin chains pair t's energy is that of x_t (METHODS 5a). With Gaussian transitions (T1k) it
is that of x_{t+1}, called level t: with V the variance of x_{t+1}, the variance of y_t is V - s^2
(s = sigma_{t+1}), and negatives of the energy theta y^2 / 2 have (1 - s^2 theta)^2 V + v, v that of
the transition. The loss is at rest where the two are equal. With the variance of y_t given x_{t+1},
v = s^2 (1 - s^2 / V), that is theta = 1 / V exactly.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recovery_in_numpy as plain
from flax import linen as nn
from scipy.optimize import brentq

from ebm_jax.diffusion import make_schedule, t1k_schedule
from ebm_jax.methods import MethodState, RecoveryLikelihood
from ebm_jax.methods.recovery_likelihood.densities import gaussian_densities
from ebm_jax.methods.recovery_likelihood.transitions import gaussian_transition
from ebm_jax.samplers import random

KEY = jax.random.key(0)
MEAN, VARIANCE = 0.3, 0.25
SCHEDULE = make_schedule(101)
EXACT = plain.schedule(101)  # in float64
A, SIGMA, A_BAR, SIGMA_BAR = (EXACT[name] for name in ("a", "sigma", "a_bar", "sigma_bar"))


class OfLevels(nn.Module):
    """(x - factor abar m)^2 / 2 factor^2 (abar^2 v + sbar^2) in nats, levels given as tuples."""

    a_bar: tuple[float, ...]
    sigma_bar: tuple[float, ...]
    factor: tuple[float, ...]
    input_shape = (1,)

    @nn.compact
    def __call__(self, x, level):
        a_bar, sigma_bar, factor = (
            jnp.asarray(values)[level] for values in (self.a_bar, self.sigma_bar, self.factor)
        )
        variance = factor**2 * (a_bar**2 * VARIANCE + sigma_bar**2)
        return (x[:, 0] - factor * a_bar * MEAN) ** 2 / (2 * variance)


def exact_densities(transition):
    """Of the exact energies: of y_t for 'langevin', of x_{t+1} for 'gaussian'."""
    if transition == "langevin":
        levels = slice(0, -1)
        factor, settings = np.asarray(SCHEDULE.multiplier), {}
    else:
        levels = slice(1, None)
        factor, settings = np.ones(101), {"transition_variance": "posterior"}
    network = OfLevels(tuple(A_BAR[levels]), tuple(SIGMA_BAR[levels]), tuple(factor.tolist()))
    method = RecoveryLikelihood(
        network, num_pairs=101, transition=transition, energy_in_nats=True, **settings
    )
    return method.densities({})


def exact_levels(transition):
    """(abar, sbar) of the variables whose densities the levels are, [101] each."""
    levels = slice(0, -1) if transition == "langevin" else slice(1, None)
    return A_BAR[levels], SIGMA_BAR[levels]


# ---- what the densities are ----


@pytest.mark.parametrize("transition", ["langevin", "gaussian"])
def test_a_level_is_the_density_of_its_noised_data(transition):
    """(x - abar m)^2 / 2 (abar^2 v + sbar^2): of x_t with chains, of x_{t+1} without."""
    densities = exact_densities(transition)
    a_bar, sigma_bar = exact_levels(transition)
    np.testing.assert_allclose(densities.a_bar, a_bar, rtol=1e-5)
    np.testing.assert_allclose(densities.sigma_bar, sigma_bar, rtol=1e-5)
    assert densities.num_levels == 101
    assert densities.log_z is None
    x = jnp.array([[-1.0], [0.2], [1.5]])
    clean = MEAN + np.sqrt(VARIANCE) * jax.random.normal(KEY, (4_000, 1))
    energies = jax.jit(
        lambda level, key: (
            densities.energy(level)(x),
            densities.energy(level)(densities.noised(key, level, clean, jnp.arange(len(clean)))),
        )
    )
    for level in (0, 1, 50, 99, 100):
        found, of_noised = energies(jnp.asarray(level), jax.random.key(level))
        variance = a_bar[level] ** 2 * VARIANCE + sigma_bar[level] ** 2
        wanted = (np.asarray(x)[:, 0] - a_bar[level] * MEAN) ** 2 / (2 * variance)
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
        # chi-squared / 2 with one degree of freedom
        assert of_noised.mean() == pytest.approx(0.5, abs=0.04)


def test_energies_and_gradient_norms_are_of_data_at_the_levels_noise():
    level, index = 40, jnp.array([3, 0, 8])
    densities, x = exact_densities("langevin"), jnp.array([[0.1], [-0.4], [2.0]])
    found = jax.jit(lambda: densities.energy_and_grad_norm(KEY, jnp.asarray(level), x, index))()
    noise = random.normal(jax.random.fold_in(KEY, level), index, x)
    residual = np.asarray(A_BAR[level] * x + SIGMA_BAR[level] * noise)[:, 0] - A_BAR[level] * MEAN
    variance = A_BAR[level] ** 2 * VARIANCE + SIGMA_BAR[level] ** 2
    np.testing.assert_allclose(found["energy"], residual**2 / (2 * variance), rtol=1e-4)
    np.testing.assert_allclose(found["grad_norm"], np.abs(residual) / variance, rtol=1e-4)


def test_chains_are_the_native_kernel_where_there_are_chains():
    """One step of s_t^2 / 2 multiplier_t^2 in x is the step of s_t^2 / 2 in y."""
    level, x = 40, jnp.zeros((20_000, 1))
    densities = exact_densities("langevin")
    kernel = densities.native_kernel(densities.energy(jnp.asarray(level)), jnp.asarray(level))
    moved, _ = kernel.step(KEY, kernel.init(x))
    step = float(SCHEDULE.langevin_scale(2e-4)[level]) / float(SCHEDULE.multiplier[level]) ** 2
    assert moved.x.std() == pytest.approx(np.sqrt(step), rel=4 / np.sqrt(2 * 20_000))
    assert exact_densities("gaussian").native_kernel is None


@pytest.mark.parametrize("level", [0, 40, 98])
@pytest.mark.parametrize("transition", ["langevin", "gaussian"])
def test_conditionals_are_products_of_gaussians(transition, level):
    """The density times N(x_noisier; a x, sigma^2): precision 1 / v + a^2 / sigma^2."""
    a_bar, sigma_bar = (values[level] for values in exact_levels(transition))
    next_level = level + (1 if transition == "langevin" else 2)
    variance = a_bar**2 * VARIANCE + sigma_bar**2
    a, sigma = A[next_level], SIGMA[next_level]
    noisy = jnp.full((3, 1), 0.8)
    energy_fn = exact_densities(transition).conditional(jnp.asarray(level), noisy)
    grad = jax.grad(lambda x: energy_fn(x).sum())
    x = jnp.array([[-1.0], [0.0], [2.0]])
    wanted = (x - a_bar * MEAN) / variance + a * (a * x - 0.8) / sigma**2
    np.testing.assert_allclose(grad(x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("level", [99, 100])
def test_the_last_two_of_gaussian_transitions_are_marginals(level):
    """x_T is noise that says nothing of x_{T-1}, and has no noisier one itself."""
    densities, x = exact_densities("gaussian"), jnp.array([[0.4], [1.0]])
    energy_fn = densities.conditional(jnp.asarray(level), x + 1.0)
    np.testing.assert_allclose(energy_fn(x), densities.energy(jnp.asarray(level))(x), rtol=1e-6)


def test_chains_start_at_the_transition():
    """x_{t+1} given x_{t+2}: its exact mean, by Tweedie's formula; the transition's variance."""
    level, noisy = 40, jnp.full((20_000, 1), 0.8)
    a, sigma = A[level + 2], SIGMA[level + 2]
    variance = A_BAR[level + 2] ** 2 * VARIANCE + SIGMA_BAR[level + 2] ** 2
    mean = (0.8 - sigma**2 * (0.8 - A_BAR[level + 2] * MEAN) / variance) / a
    densities = exact_densities("gaussian")
    # With the variance alone; a model's own chains have the factor nu^2 = .99^2 in it.
    transition = gaussian_transition(SCHEDULE, variance="posterior")
    plain = gaussian_densities(densities.energy, SCHEDULE, transition)
    start = plain.conditional_start(jax.random.key(1), jnp.asarray(level), noisy)
    std = float(plain.conditional_std[level])
    assert std == pytest.approx(1 / np.sqrt(1 / SIGMA_BAR[level + 1] ** 2 + a**2 / sigma**2))
    assert start.mean() == pytest.approx(mean, abs=4 * std / np.sqrt(20_000))
    assert start.std() == pytest.approx(std, rel=0.02)
    start = densities.conditional_start(jax.random.key(1), jnp.asarray(level), noisy)
    assert start.std() == pytest.approx(0.99 * std, rel=0.02)


def test_chains_start_where_the_one_above_ended():
    """With Langevin chains: x_{t+1} is the start in y_t, so over a_{t+1} in x_t."""
    densities, noisy = exact_densities("langevin"), jnp.array([[0.8], [-0.3]])
    for level in (0, 40, 99):
        start = densities.conditional_start(KEY, jnp.asarray(level), noisy)
        np.testing.assert_allclose(start, noisy / A[level + 1], rtol=1e-5)
    assert densities.num_conditionals == 100
    assert exact_densities("gaussian").num_conditionals == 99
    for num_pairs in (1, 2):  # the last two are marginals, or all that there are
        few = RecoveryLikelihood(
            PerDirection(2), num_pairs=num_pairs, transition="gaussian"
        ).densities({"theta": jnp.ones((2, 2))})
        assert (few.num_conditionals, few.num_levels) == (0, num_pairs)
    for transition in ("langevin", "gaussian"):
        assert exact_densities(transition).base == (0.0, 1.0, None)


def test_the_fine_schedule_is_finite_to_its_top():
    """Its last a is 0: nothing of x_{T-1} is in x_T, and the last conditionals are marginals."""
    schedule = t1k_schedule()
    network = OfLevels(*(tuple(np.resize(values, 1_000)) for values in (A_BAR, SIGMA_BAR, [1.0])))
    fine = RecoveryLikelihood(
        network,
        num_pairs=1_000,
        transition="gaussian",
        transition_variance="posterior",
        energy_in_nats=True,
    ).densities({})
    np.testing.assert_array_equal(fine.sigma_bar, schedule.sigma_bar[1:])
    assert np.isfinite(fine.conditional_std).all()
    assert fine.conditional_std[999] == fine.conditional_std[998].round(4) == 1
    assert fine.conditional_std[997] == pytest.approx(np.sqrt(0.02), rel=0.01)
    x = jax.random.normal(KEY, (50, 1))
    for level in (996, 997, 998):
        start = fine.conditional_start(jax.random.key(1), jnp.asarray(level), x)
        assert np.isfinite(start).all()
        assert start.std() == pytest.approx(1, abs=0.3)


# ---- T1k: of which variable the trained energy is ----


def fixed_point(variance_of_noisy, step, added):
    """theta at which negatives of theta y^2 / 2 vary as y_t does, by root finding."""

    def excess(theta):
        return (1 - step * theta) ** 2 * variance_of_noisy + added - (variance_of_noisy - step)

    return brentq(excess, 0.0, 1 / step, xtol=1e-14)


def transition_variances(level, data_variance):
    """(V of x_{t+1}, s^2, v) of a level t, v by kind."""
    noisy = A_BAR[level + 1] ** 2 * data_variance + SIGMA_BAR[level + 1] ** 2
    step = SIGMA[level + 1] ** 2
    within = A[level + 1] ** 2 * SIGMA_BAR[level] ** 2
    kinds = {
        "exact": step * (1 - step / noisy),
        "posterior": 1 / (1 / within + 1 / step),
        "step": step,
    }
    return noisy, step, kinds


@pytest.mark.parametrize("data_variance", [0.0, 0.01, 0.25])
@pytest.mark.parametrize("level", [0, 1, 30, 99])
def test_the_fixed_point_is_the_precision_of_the_noisier_variable(level, data_variance):
    """With the exact variance, and so with the posterior's where the data do not vary.

    Where they vary, the posterior's variance is below the exact one, and theta is nearer to the
    precision of x_{t+1} than to that of y_t all the same.
    """
    noisy, step, added = transition_variances(level, data_variance)
    of_noisy, of_cleaner = 1 / noisy, 1 / (noisy - step)
    assert fixed_point(noisy, step, added["exact"]) == pytest.approx(of_noisy, rel=1e-9)
    theta = fixed_point(noisy, step, added["posterior"])
    if data_variance == 0:
        assert theta == pytest.approx(of_noisy, rel=1e-9)
        assert of_cleaner / of_noisy > 1.004
    else:
        assert theta < of_noisy < of_cleaner
        assert abs(theta - of_noisy) < abs(theta - of_cleaner)


@pytest.mark.parametrize("level", [30, 60, 90])
def test_the_papers_variance_puts_the_fixed_point_halfway(level):
    """1 - s^2 theta = sqrt(1 - 2 s^2 / V): 1 / theta = V - s^2 / 2 to second order, y_t's: V - s^2.

    So v = s^2 favors neither reading, whatever the data are; the exact variance decides.
    """
    noisy, step, added = transition_variances(level, 0.25)
    theta = fixed_point(noisy, step, added["step"])
    assert theta == pytest.approx((1 - np.sqrt(1 - 2 * step / noisy)) / step, rel=1e-9)
    assert (noisy - 1 / theta) / step == pytest.approx(0.5, abs=step / noisy)


class PerDirection(nn.Module):
    """E(y, t) = sum_i theta_ti y_i^2 / 2 in nats, from theta_ti = 1."""

    num_levels: int
    input_shape = (2,)

    @nn.compact
    def __call__(self, y, level):
        theta = self.param("theta", nn.initializers.ones, (self.num_levels, 2))
        return jnp.sum(theta[level] * y**2, axis=-1) / 2


def trained(variance, num_updates=600, batch_size=2_048):
    """(method, theta [T, 2]) on data N(0, .25) in one direction and 0 in the other."""
    levels = (0.3, 0.4, 0.5, 0.6, 0.7)
    method = RecoveryLikelihood(
        PerDirection(5),
        num_pairs=5,
        noise_levels=levels,
        transition="gaussian",
        transition_variance=variance,
        energy_in_nats=True,
    )
    schedule = method.schedule
    data = jax.scipy.special.ndtri((jnp.arange(batch_size) + 0.5) / batch_size)
    data = jax.random.permutation(KEY, data * np.sqrt(0.25) / jnp.std(data))
    batch = {"image": jnp.stack([data, jnp.zeros(batch_size)], axis=1)}
    # d grad / d theta is weight s^2 (1 - s^2 theta) V / T, here without its middle factor
    noisy = (
        schedule.a_bar[1:, None] ** 2 * jnp.array([0.25, 0.0]) + schedule.sigma_bar[1:, None] ** 2
    )
    step = schedule.sigma[1:, None] ** 2
    rate = 0.3 * 5 / (schedule.sigma[1] / schedule.sigma[1:, None] * step * noisy)

    def update(theta, number):
        loss = lambda p: method.loss(  # noqa: E731
            p, MethodState(), batch, jax.random.fold_in(KEY, number)
        )[0]
        grads = jax.grad(loss)({"theta": theta})["theta"]
        theta = theta - rate * grads
        return theta, theta

    _, path = jax.jit(lambda t: jax.lax.scan(update, t, jnp.arange(num_updates)))(jnp.ones((5, 2)))
    return method, np.asarray(path[num_updates // 3 :]).mean(0)


@pytest.mark.parametrize("variance", ["posterior", "step"])
def test_training_reaches_the_fixed_point(variance):
    method, theta = trained(variance)
    densities = method.densities({"theta": jnp.asarray(theta)})
    a_bar, sigma_bar = (np.asarray(v, float) for v in (densities.a_bar, densities.sigma_bar))
    np.testing.assert_array_equal(densities.sigma_bar, method.schedule.sigma_bar[1:])
    step, within = (
        np.asarray(v, float)[:4]
        for v in (
            method.schedule.sigma[1:] ** 2,
            (method.schedule.a[1:] * method.schedule.sigma_bar[:-1]) ** 2,
        )
    )
    added = step if variance == "step" else 1 / (1 / within + 1 / step)
    for direction, data_variance in enumerate((0.25, 0.0)):
        noisy = (a_bar**2 * data_variance + sigma_bar**2)[:4]
        wanted = [fixed_point(*of_level) for of_level in zip(noisy, step, added, strict=True)]
        exact = variance == "posterior" and not data_variance  # no noise is left in the loss
        np.testing.assert_allclose(theta[:4, direction], wanted, rtol=1e-4 if exact else 0.02)
        if exact:  # level t is x_{t+1}: its noise, and not that of x_t
            np.testing.assert_allclose(wanted, 1 / sigma_bar[:4] ** 2, rtol=1e-5)
            assert np.all(theta[:4, direction] < 0.8 / within)
