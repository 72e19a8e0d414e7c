"""The papers' updates, entry by entry in NumPy, and their laws on quadratics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers
from ebm_jax.samplers import random

KEY = jax.random.key(2)


def arrays(count, shape=(5, 4), seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(count)]


def assert_moments(x, mean, variance):
    """Sample mean and variance of independent Gaussian draws, four standard errors."""
    x = np.asarray(x, np.float64)
    assert abs(x.mean() - mean) < 4 * np.sqrt(variance / x.size)
    assert abs(x.var() - variance) < 4 * variance * np.sqrt(2 / x.size)


def quadratic(x, curvature=3.0, centre=0.4):
    return 0.5 * curvature * jnp.sum((x - centre) ** 2, axis=1)


def test_drl_update():
    x, g, noise = arrays(3)
    s = jnp.array([0.1, 0.2, 0.3, 0.4, 0.5])  # a level for each chain
    got = samplers.drl_update(x, g, noise, s, 0.99)
    column = np.asarray(s)[:, None]
    np.testing.assert_allclose(
        got, x - column**2 / 2 * g + 0.99 * column * noise, rtol=1e-5, atol=1e-6
    )


def test_drl_chain_has_its_closed_form_law():
    """K steps on curvature lam: mean m + A^K (x - m), A = 1 - s^2 lam / 2, and its variance."""
    s, nu, num_steps, lam, centre, start = 0.4, 0.99, 30, 3.0, 0.4, 2.0
    kernel = samplers.drl_langevin(quadratic, s, nu)
    state, _ = samplers.run_chain(KEY, kernel, jnp.full((20_000, 1), start), num_steps)
    a = 1 - s**2 * lam / 2
    variance = nu**2 * s**2 * (1 - a ** (2 * num_steps)) / (1 - a**2)
    assert_moments(state.x, centre + a**num_steps * (start - centre), variance)


def test_noise_std_as_a_temperature():
    x, g, noise = arrays(3)
    t = samplers.temperature_of_noise(10.0, 0.005)
    got = samplers.langevin_update(x, g, noise, 10.0, t)
    np.testing.assert_allclose(got, x - 10.0 * g + 0.005 * noise, rtol=1e-5, atol=1e-6)
    several = samplers.temperature_of_noise([10.0, 2.5], [0.005, 0.1])
    np.testing.assert_allclose(several, [1.25e-6, 0.002], rtol=1e-5)


def igebm_in_numpy(x, noise, grad_fn, step_size, noise_std, bound=None, batch_norm=None):
    noisy = x + noise_std * noise
    grad = grad_fn(noisy)
    if bound is not None:
        grad = np.clip(grad, -bound, bound)
    if batch_norm is not None:
        grad = grad * min(1.0, batch_norm / np.sqrt((grad**2).sum()))
    return np.clip(noisy - step_size * grad, 0.0, 1.0)


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"max_grad": 0.3}, {"bound": 0.3}),
        ({"max_batch_norm": 0.8}, {"batch_norm": 0.8}),
        ({"max_batch_norm": 1e3}, {"batch_norm": 1e3}),
        ({}, {}),
    ],
)
def test_igebm_update(options, reference):
    x, noise = arrays(2)
    x = jnp.clip(x + 0.5, 0, 1)

    def grad_fn(x):
        return 3.0 * (x - 0.4)

    got = samplers.igebm_update(x, noise, grad_fn, 0.7, noise_std=0.1, **options)
    expected = igebm_in_numpy(*map(np.asarray, (x, noise)), grad_fn, 0.7, 0.1, **reference)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_igebm_update_of_half_types_rounds_at_its_end_alone():
    """The gradient is that at the noisy point in bfloat16; all else is computed in float32."""
    x, noise = arrays(2, shape=(50, 4))
    x, noise = (jnp.asarray(a, jnp.bfloat16) for a in (jnp.clip(x + 0.5, 0, 1), noise))
    got = samplers.igebm_update(
        x, noise, lambda x: 3 * (x - 1), 0.07, noise_std=0.35, max_grad=0.7, box=(0.1, 0.9)
    )
    noisy = x.astype(jnp.float32) + 0.35 * noise.astype(jnp.float32)
    grad = 3 * (noisy.astype(jnp.bfloat16) - 1)
    end = jnp.clip(noisy - 0.07 * jnp.clip(grad.astype(jnp.float32), -0.7, 0.7), 0.1, 0.9)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, end.astype(jnp.bfloat16))
    options = {"noise_std": 0.35, "max_grad": 0.1, "box": None}
    kernel = samplers.igebm_langevin(lambda x: 1.5 * jnp.sum((x - 1) ** 2, 1), 0.07, **options)
    state, _ = jax.jit(lambda x: kernel.step(KEY, kernel.init(x)))(x)
    noisy = x.astype(jnp.float32) + 0.35 * random.normal(KEY, jnp.arange(50), noisy)
    slope = jnp.clip(3 * (noisy.astype(jnp.bfloat16) - 1).astype(jnp.float32), -0.1, 0.1)
    moved = state.x.astype(jnp.float32) + state.remainder
    np.testing.assert_allclose(moved, noisy - 0.07 * slope, rtol=1e-5, atol=1e-6)


def test_igebm_kernel_is_its_update():
    x = jnp.clip(arrays(1)[0] + 0.5, 0, 1)
    kernel = samplers.igebm_langevin(quadratic, 0.7, noise_std=0.1, max_grad=0.3)
    state, info = samplers.run_chain(KEY, kernel, x, 1)
    noise = random.normal(jax.random.fold_in(KEY, 0), jnp.arange(5), x)
    update = functools.partial(samplers.igebm_update, noise_std=0.1, max_grad=0.3)
    np.testing.assert_allclose(state.x, update(x, noise, jax.grad(_total), 0.7), atol=1e-6)
    noisy = x + 0.1 * noise
    np.testing.assert_allclose(info.energy, quadratic(noisy), rtol=1e-5)
    np.testing.assert_allclose(state.grad, 3.0 * (noisy - 0.4), rtol=1e-4, atol=1e-6)


def _total(x):
    return jnp.sum(quadratic(x))


def test_igebm_stays_in_its_box_and_without_one_has_its_law():
    kernel = samplers.igebm_langevin(quadratic, 0.2, noise_std=0.5)
    state, _ = samplers.run_chain(KEY, kernel, jnp.full((1000, 1), 0.5), 5)
    assert float(state.x.min()) == 0.0
    assert float(state.x.max()) == 1.0
    kernel = samplers.igebm_langevin(quadratic, 0.2, noise_std=0.5, box=None)
    state, _ = samplers.run_chain(KEY, kernel, jnp.full((20_000, 1), 2.0), 4)
    a = 1 - 0.2 * 3.0  # x' - c = a (x - c + noise): the noise is shrunk with the rest
    variance = 0.25 * a**2 * (1 - a**8) / (1 - a**2)
    assert_moments(state.x, 0.4 + a**4 * 1.6, variance)


def test_settings_are_those_of_the_papers_where_none_are_given():
    x, noise = jnp.full((3, 2), 0.5), random.normal(KEY, jnp.arange(3), jnp.zeros((3, 2)))

    def slope(x):
        return 3.0 * jnp.sum(x, axis=1)

    def end(kernel):
        return kernel.step(KEY, kernel.init(x))[0].x

    gradient = jnp.full((3, 2), 3.0)
    drl = x - 0.02 * 3 + 0.2 * noise  # s^2 / 2 and s
    mdsm = x - 2e-4 * 3 + 0.02 * np.sqrt(7.0) * noise  # eps = 0.02
    ncsn = x - 0.1 * 3 + np.sqrt(0.2) * noise  # alpha = 2e-5 100^2
    igebm = jnp.clip(x + 0.005 * noise - 0.1 * 3, 0, 1)
    for found, wanted in (
        (samplers.drl_update(x, gradient, noise, 0.2), drl),
        (end(samplers.drl_langevin(slope, 0.2)), drl),
        (samplers.mdsm_update(x, gradient, noise, 7.0), mdsm),
        (end(samplers.mdsm_langevin(slope, 7.0)), mdsm),
        (samplers.ncsn_step_size(1.0, 0.01), 0.2),
        (end(samplers.ncsn_langevin(lambda x, sigma: sigma.sum() * slope(x), 1.0, 0.01)), ncsn),
        (samplers.igebm_update(x, noise, lambda x: gradient, 0.1), igebm),
        (end(samplers.igebm_langevin(slope, 0.1)), igebm),
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    far = jnp.array([[-3.0], [0.25], [3.0]])
    boxed = samplers.igebm_update(far, jnp.zeros((3, 1)), jnp.zeros_like, 1.0)
    np.testing.assert_array_equal(boxed, [[0.0], [0.25], [1.0]])
    np.testing.assert_array_equal(end(samplers.igebm_langevin(slope, 9.0)), jnp.zeros((3, 2)))
    np.testing.assert_array_equal(end(samplers.igebm_langevin(lambda x: -slope(x), 9.0)), x + 0.5)


def test_levels_may_be_lists():
    steps = samplers.ncsn_step_size([3.0, 1.0], [0.3, 0.5], [0.02, 0.1])
    np.testing.assert_allclose(steps, [2.0, 0.4], rtol=1e-5)


def test_mdsm_temperatures():
    t = samplers.mdsm_temperatures()
    assert t.shape == (2700,)
    assert (t[:501] == 100).all()
    np.testing.assert_allclose(t[1500], 100 * np.exp(-1000 * np.log(100) / 2000))
    np.testing.assert_allclose(t[2499], 1.0023, atol=1e-4)
    np.testing.assert_allclose(t[2500:], np.linspace(1, 0, 200))
    linear = samplers.mdsm_temperatures(cooling="linear")
    np.testing.assert_allclose(linear[500:2500], np.linspace(100, 1, 2000))


def test_mdsm_annealing_has_its_closed_form_law():
    t = samplers.mdsm_temperatures(start=20.0, num_hot=10, num_cooling=30, num_final=10)
    eps, start = 0.3, 1.5
    make_kernel = functools.partial(samplers.mdsm_langevin, quadratic, eps=eps)
    state, _ = samplers.run_schedule(KEY, make_kernel, t, jnp.full((20_000, 1), start), 1)
    a, mean, variance = 1 - eps**2 / 2 * 3.0, start, 0.0
    for temperature in t:
        mean, variance = 0.4 + a * (mean - 0.4), a**2 * variance + eps**2 * temperature
    assert_moments(state.x, mean, variance)
    x, g, noise = arrays(3)
    expected = x - eps**2 / 2 * g + np.sqrt(20.0) * eps * noise
    np.testing.assert_allclose(
        samplers.mdsm_update(x, g, noise, 20.0, eps), expected, rtol=1e-5, atol=1e-6
    )


def test_ncsn_levels_have_their_closed_form_law():
    """Energy of N(0, 1 + sigma^2) at each level: a linear recursion for the variance."""
    sigmas, eps, num_steps = np.array([3.0, 1.0, 0.3]), 0.02, 15

    def energy_fn(x, sigma):
        return 0.5 * jnp.sum(x**2, axis=1) / (1 + sigma**2)

    def make_kernel(sigma):
        return samplers.ncsn_langevin(energy_fn, sigma, sigmas[-1], eps)

    state, info = samplers.run_schedule(
        KEY, make_kernel, sigmas, jnp.full((20_000, 1), 2.0), num_steps
    )
    mean, variance = 2.0, 0.0
    for sigma in sigmas:
        alpha = eps * (sigma / 0.3) ** 2
        np.testing.assert_allclose(samplers.ncsn_step_size(sigma, 0.3, eps), alpha, rtol=1e-5)
        a = 1 - alpha / 2 / (1 + sigma**2)
        for _ in range(num_steps):
            mean, variance = a * mean, a**2 * variance + alpha
    assert_moments(state.x, mean, variance)
    assert info.energy.shape == (3, 20_000)
    x, g, noise = arrays(3)
    expected = x - 0.05 * g + np.sqrt(0.1) * noise
    np.testing.assert_allclose(
        samplers.ncsn_update(x, g, noise, 0.1), expected, rtol=1e-5, atol=1e-6
    )
