"""Noise levels against the published table and the reference arrays; laws of x_t and of a pair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recovery_in_numpy as plain
from reference_files import assert_close, load_reference

from ebm_jax.diffusion import (
    make_schedule,
    q_sample,
    q_sample_pairs,
    t1k_schedule,
    t6_schedule,
)

TABLE = {  # the paper's T6, five decimals
    "a": [0.99995, 0.94617, 0.85629, 0.77480, 0.70092, 0.63396, 0.02278],
    "sigma": [0.01, 0.32368, 0.51650, 0.63221, 0.71324, 0.77337, 0.99974],
    "sigma_bar": [0.01, 0.32382, 0.58622, 0.77845, 0.89801, 0.96031, 0.99998],
}


def test_t6_is_the_published_table():
    schedule = t6_schedule()
    assert schedule.num_pairs == 6
    for name, wanted in TABLE.items():
        np.testing.assert_allclose(getattr(schedule, name), wanted, atol=6e-6, err_msg=name)


def test_t6_is_the_reference_schedule():
    reference, schedule = load_reference("drl"), t6_schedule()
    keys = {"a": "a_s", "sigma": "sigmas", "a_bar": "a_s_cum", "sigma_bar": "sigmas_cum"}
    for name, key in keys.items():
        assert_close(getattr(schedule, name), reference[key], 1e-6, name)
    # For the pair (t, t + 1) the published code reads these at t + 1.
    assert_close(schedule.multiplier, reference["a_s_prev"][1:], 1e-6, "multiplier")
    assert_close(schedule.recovery_weight, reference["is_recovery"][1:], 1e-6, "recovery_weight")


@pytest.mark.parametrize("num_pairs", [1, 2, 3, 6, 501, 1000])
def test_levels_are_products_of_fine_steps(num_pairs):
    schedule, wanted = make_schedule(num_pairs), plain.schedule(num_pairs)
    assert schedule.num_pairs == num_pairs
    for name, values in wanted.items():
        array = getattr(schedule, name)
        assert array.shape == (num_pairs + 1,)
        assert array.dtype == jnp.float32
        np.testing.assert_allclose(array, values, rtol=2e-5, atol=1e-7, err_msg=name)
    assert np.all(np.diff(schedule.sigma_bar) > 0) or num_pairs > 6  # float32 runs out near 1
    assert np.all(np.diff(schedule.a_bar) < 0)


def test_levels_of_given_noise():
    """a_t and sigma_t are those of steps between them, and the last level stays noise."""
    schedule = make_schedule(2, (0.05, 0.4))
    np.testing.assert_allclose(schedule.sigma_bar, [0.05, 0.4, t6_schedule().sigma_bar[-1]], 1e-6)
    np.testing.assert_allclose(schedule.a_bar**2 + schedule.sigma_bar**2, 1, 1e-6)
    # x_1 = a_1 x_0 + sigma_1 eps has the noise a_1^2 sbar_0^2 + sigma_1^2
    noise = schedule.a[1] ** 2 * 0.05**2 + schedule.sigma[1] ** 2
    assert float(noise) == pytest.approx(0.4**2, rel=1e-6)
    published = make_schedule(6, [float(s) for s in t6_schedule().sigma_bar[:-1]])
    np.testing.assert_allclose(published.sigma, t6_schedule().sigma, rtol=2e-4)


@pytest.mark.parametrize(
    ("num_pairs", "levels", "says"),
    [
        (6, (0.05, 0.4), "num_pairs: expected 2, the number of noise_levels, got 6"),
        (2, (0.4, 0.05), "expected standard deviations that grow from above 0 to below 1"),
        (2, (0.0, 0.4), "expected standard deviations that grow"),
        (2, (0.5, 1.0), "expected standard deviations that grow"),
        (2, (0.4, 0.4), r"from above 0 to below 1, got \(0.4, 0.4\)"),
        (1, (0.99999,), "expected standard deviations that grow"),  # the last level's is .99998
    ],
)
def test_levels_that_are_none(num_pairs, levels, says):
    with pytest.raises(ValueError, match=says):
        make_schedule(num_pairs, levels)


def test_spread_given_the_next_level():
    """Precisions add up, 1 / sbar_t^2 and (a / sigma)^2 of the next step; none at the last pair."""
    sbar = np.array([0.1, 0.5, 0.9])
    schedule = make_schedule(3, sbar)
    a = np.sqrt((1 - sbar[1:] ** 2) / (1 - sbar[:-1] ** 2))
    wanted = 1 / np.sqrt(1 / sbar**2 + np.append(a**2 / (1 - a**2), 0))
    np.testing.assert_allclose(schedule.conditional_std, wanted, rtol=1e-5)


def test_last_level_of_t1k_is_pure_noise():
    schedule = t1k_schedule()
    assert (schedule.a[-1], schedule.sigma[-1]) == (0, 1)
    assert (schedule.a_bar[-1], schedule.sigma_bar[-1]) == (0, 1)
    assert np.all(np.isfinite(schedule.langevin_scale(2e-4)))


@pytest.mark.parametrize("num_pairs", [-1, 0, 502, 999, 1001])
def test_other_sizes_are_refused(num_pairs):
    with pytest.raises(ValueError, match=rf"expected 1 to 501, or 1000 .*, got {num_pairs}"):
        make_schedule(num_pairs)


def test_last_pair_is_a_marginal_with_multiplier_one():
    schedule = t6_schedule()
    np.testing.assert_array_equal(schedule.multiplier, [*schedule.a[1:6], 1])
    np.testing.assert_array_equal(schedule.recovery_weight, [1, 1, 1, 1, 1, 0])


def test_langevin_scale_of_the_paper():
    wanted = [2.095e-5, 1.728e-3, 4.686e-3, 7.920e-3, 1.074e-2, 1.920e-2]
    np.testing.assert_allclose(t6_schedule().langevin_scale(2e-4), wanted, rtol=3e-4)
    np.testing.assert_allclose(
        t6_schedule().langevin_scale(3e-3), plain.langevin_scale(plain.schedule(6), 3e-3), rtol=1e-5
    )


def test_langevin_scale_without_growth_is_a_part_of_each_conditionals_variance():
    schedule, levels = t6_schedule(), plain.schedule(6)
    flat = schedule.langevin_scale(0.2, 0.0)
    np.testing.assert_allclose(flat, 0.2 * levels["sigma"][1:] ** 2, rtol=1e-5)
    between = schedule.langevin_scale(0.2, 0.5)
    np.testing.assert_allclose(between**2, flat * schedule.langevin_scale(0.2), rtol=1e-5)


def test_langevin_scale_grows_as_told():
    """With growth 0 the same part of sigma_{t+1}^2 at each level, with g a power of sbar_t."""
    schedule, exact = t6_schedule(), plain.schedule(6)
    sigma, ratio = exact["sigma"][1:], exact["sigma_bar"][:-1] / exact["sigma_bar"][0]
    for growth in (0.0, 0.5, 1.0):
        wanted = 3e-3 * ratio**growth * sigma**2
        np.testing.assert_allclose(schedule.langevin_scale(3e-3, growth), wanted, rtol=1e-5)


def test_pairs_are_the_reference_pairs():
    reference = load_reference("drl")
    x_t, x_next = jax.jit(q_sample_pairs)(
        t6_schedule(), *(reference[k] for k in ("x0", "t", "eps_t", "eps_t1"))
    )
    assert_close(x_t, reference["x_t"], 1e-6)
    assert_close(x_next, reference["x_t_plus_one"], 1e-6)


def test_laws_of_a_pair_on_a_gaussian():
    """Means, variances and the covariance of (x_t, x_{t+1}) for x_0 ~ N(.3, .25), at every t."""
    schedule, exact, number = t6_schedule(), plain.schedule(6), 40_000
    keys = jax.random.split(jax.random.key(0), 3)
    x, noise, next_noise = (jax.random.normal(key, (6 * number, 1)) for key in keys)
    level = jnp.repeat(jnp.arange(6), number)
    x_t, x_next = q_sample_pairs(schedule, 0.3 + 0.5 * x, level, noise, next_noise)
    by_level = np.stack([x_t[:, 0], x_next[:, 0]]).reshape(2, 6, number)
    for t in range(6):
        a, a_bar = exact["a"][t + 1], exact["a_bar"]
        variance = [a_bar[i] ** 2 * 0.25 + exact["sigma_bar"][i] ** 2 for i in (t, t + 1)]
        mean = 0.3 * a_bar[[t, t + 1]]
        covariance = np.cov(by_level[:, t])
        four_errors = 4 * np.sqrt(np.array(variance) / number)
        assert np.all(np.abs(by_level[:, t].mean(axis=1) - mean) < four_errors)
        np.testing.assert_allclose(np.diag(covariance), variance, rtol=4 * np.sqrt(2 / number))
        largest = np.sqrt((variance[0] * variance[1] + a**2 * variance[0] ** 2) / number)
        assert abs(covariance[0, 1] - a * variance[0]) < 4 * largest


def test_one_level_for_all_is_that_level_per_example():
    schedule = t6_schedule()
    x, noise, next_noise = np.random.default_rng(0).normal(size=(3, 4, 2, 3)).astype(np.float32)
    one = q_sample_pairs(schedule, x, 2, noise, next_noise)
    each = q_sample_pairs(schedule, x, jnp.full(4, 2), noise, next_noise)
    np.testing.assert_array_equal(one, each)
    np.testing.assert_array_equal(q_sample(schedule, x, 2, noise), one[0])
    np.testing.assert_array_equal(q_sample(schedule, x, [2] * 4, noise), one[0])


def test_last_level_can_be_drawn_though_it_has_no_pair():
    schedule = t6_schedule()
    x_t = q_sample(schedule, np.ones((2, 3), np.float32), jnp.array([6, 0]), jnp.zeros((2, 3)))
    np.testing.assert_allclose(x_t[:, 0], [schedule.a_bar[6], schedule.a_bar[0]])
