"""The bound through the conditionals on a Gaussian, where it is exact at every level."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from ebm_jax.diffusion import make_schedule
from ebm_jax.evaluation.density import conditional_bound
from ebm_jax.methods.recovery_likelihood.densities import langevin_densities

KEY = jax.random.key(0)
MEAN, VARIANCE = 0.3, 0.25
SCHEDULE = make_schedule(3, (0.1, 0.4, 0.8))
MULTIPLIER = SCHEDULE.multiplier
VARIANCES = SCHEDULE.a_bar**2 * VARIANCE + SCHEDULE.sigma_bar**2  # of x_t


def densities(error=0.0):
    """Exact energies of y_t up to a constant; error: added to the curvature of all of them."""

    def level_energy(level):
        mean = MULTIPLIER[level] * SCHEDULE.a_bar[level] * MEAN
        curvature = 1 / (MULTIPLIER[level] ** 2 * VARIANCES[level]) + error
        return lambda y: 5.0 * level + curvature * jnp.sum((y - mean) ** 2, (1, 2, 3)) / 2

    return langevin_densities(level_energy, SCHEDULE, SCHEDULE.langevin_scale(0.1, 0.0))


def images(number):
    """x_0 [number, 2, 1, 1]."""
    std = np.sqrt(float(VARIANCES[0]))
    mean = float(SCHEDULE.a_bar[0]) * MEAN
    x = mean + std * np.random.default_rng(0).normal(size=(number, 2, 1, 1))
    return jnp.asarray(x, jnp.float32)


def exact_log_density(x):
    std = np.sqrt(float(VARIANCES[0]))
    return norm(float(SCHEDULE.a_bar[0]) * MEAN, std).logpdf(np.asarray(x)).sum((1, 2, 3))


def bounds(known, x, num_temperatures):
    path = conditional_bound.noising_path(KEY, known, x, jnp.arange(len(x)))
    levels = jnp.arange(len(path))
    steps = conditional_bound.tune_steps(
        KEY, known, path, levels, num_steps=60, target_acceptance=0.8
    )
    found = conditional_bound.conditional_bounds(
        KEY, known, path, levels, steps, jnp.int32(0), num_temperatures=num_temperatures
    )
    return found


def test_the_noising_path_has_the_levels_variances():
    known, x = densities(), images(20_000)
    path = np.asarray(conditional_bound.noising_path(KEY, known, x, jnp.arange(len(x))))
    assert path.shape == (3, *x.shape)
    np.testing.assert_array_equal(path[0], x)
    np.testing.assert_allclose(path.var((1, 2, 3, 4)), VARIANCES[:3], rtol=0.03)
    means = SCHEDULE.a_bar[:3] * MEAN
    np.testing.assert_allclose(path.mean((1, 2, 3, 4)), means, atol=0.02)


def test_exact_conditionals_give_every_images_log_density():
    """With log Z known the bound is log p(x_0) for every path: no variance is left."""
    x = images(200)
    found = jax.jit(lambda x: bounds(densities(), x, 40))(x)
    exact = exact_log_density(x)
    for side, sign in (("lower", 1), ("upper", -1)):
        error = np.asarray(getattr(found, side)) - exact
        assert abs(error.mean()) < 0.15  # nats, of 3 log Z each
        assert sign * error.mean() < 4 * error.std() / np.sqrt(len(x))  # on its side
        assert error.std() < 0.6
    np.testing.assert_allclose(found.widths.sum(1), found.upper - found.lower, atol=2e-3)


def test_wrong_conditionals_lie_below_the_truth_and_more_temperatures_close_the_bracket():
    """The bound is log p(x_0) of the model itself, below that of the data on average."""
    x = images(200)
    exact = exact_log_density(x)
    wide, narrow = jax.jit(lambda x: [bounds(densities(error=6.0), x, n) for n in (3, 40)])(x)
    assert narrow.widths.sum(1).mean() < 0.3 * wide.widths.sum(1).mean()
    for side in (narrow.lower, narrow.upper):
        error = np.asarray(side) - exact
        assert error.mean() < -4 * error.std() / np.sqrt(len(x))


def test_parts_of_the_levels_add_up_to_the_whole():
    """Each level's chains are the same alone and among others; q is of each level once."""
    known, x = densities(), images(8)
    path = conditional_bound.noising_path(KEY, known, x, jnp.arange(8))

    def of(*levels):
        steps = 0.1 * jnp.ones(len(levels))
        return conditional_bound.conditional_bounds(
            KEY, known, path, np.asarray(levels), steps, jnp.int32(0), num_temperatures=4
        )

    whole, first, others = of(0, 1, 2), of(1), of(2, 0)
    np.testing.assert_allclose(whole.lower, first.lower + others.lower, rtol=1e-4)
    np.testing.assert_allclose(whole.upper, first.upper + others.upper, rtol=1e-4)
    np.testing.assert_array_equal(whole.widths[:, 1], first.widths[:, 0])
    np.testing.assert_array_equal(whole.widths[:, ::2], others.widths[:, ::-1])


def test_temperatures_are_of_the_conditional_that_sampling_runs_on():
    """exp(-E) of the contract's conditional at the path's end, and its Gaussian factor at 0."""
    known, x = densities(), images(3)
    path = conditional_bound.noising_path(KEY, known, x, jnp.arange(3))
    for level in (0, 1):
        end, start = conditional_bound._ends(known, jnp.asarray(level), path)
        difference = end(x) - start.energy(x) - known.energy(level)(x)
        np.testing.assert_allclose(difference, 0, atol=2e-3 * float(np.max(end(x))))
    end, start = conditional_bound._ends(known, jnp.asarray(2), path)
    np.testing.assert_allclose(end(x), known.energy(2)(x), rtol=1e-5)
    np.testing.assert_allclose(start.energy(x), np.sum(np.square(x), (1, 2, 3)) / 2, rtol=1e-5)
    assert start.log_z() == pytest.approx(np.log(2 * np.pi))


def test_steps_and_temperatures_by_hand():
    """h = (1.65 std d^(-1/6))^2 / 2 of d = 6 values; precisions 1, 2, 4, 8 of 1 + 7 beta."""
    x = jnp.zeros((5, 2, 3, 1))
    assert conditional_bound._mala_step(jnp.float32(0.7), x) == pytest.approx(
        (1.65 * 0.7 * 6 ** (-1 / 6)) ** 2 / 2
    )
    betas = conditional_bound._temperatures(jnp.float32(8.0), 3)
    np.testing.assert_allclose(betas, [0, 1 / 7, 3 / 7, 1], rtol=1e-5)
    for no_path in (1.0, 0.2):  # nothing narrows: equal distances
        betas = conditional_bound._temperatures(jnp.float32(no_path), 4)
        np.testing.assert_allclose(betas, [0, 0.25, 0.5, 0.75, 1], atol=2e-4)


def test_steps_are_tuned_from_those_of_a_gaussian(monkeypatch):
    """As wide as the level's conditional; in as many steps, and as often accepted, as is said."""
    known, x = densities(), images(3)
    asked = {}

    def warmup(rng_key, make, x, num_steps, *, initial_step_size, **options):
        asked.update(options, num_steps=num_steps, kernel=make("step", "mass"))
        return types.SimpleNamespace(step_size=initial_step_size + 0 * x.sum())

    monkeypatch.setattr(conditional_bound.samplers, "warmup", warmup)
    monkeypatch.setattr(conditional_bound.samplers, "mala", lambda energy_fn, *given: given)
    path = conditional_bound.noising_path(KEY, known, x, jnp.arange(3))
    found = conditional_bound.tune_steps(
        KEY, known, path, jnp.array([2, 0]), num_steps=31, target_acceptance=0.65
    )
    wanted = (1.65 * known.conditional_std[jnp.array([2, 0])]) ** 2 / (2 * 2 ** (1 / 3))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert asked == {
        "num_steps": 31, "kernel": ("step",), "target_acceptance": 0.65, "adapt_mass": False
    }  # fmt: skip


def test_a_level_is_annealed_both_ways(monkeypatch):
    """Three moves at each temperature, whose step lies between those of the two ends."""
    known, x = densities(), images(3)
    asked, numbers = [], jnp.arange(1.0, 5.0)

    def ais(rng_key, energy_path, x, betas, make_kernel, *, kernel_params, **options):
        figure = jnp.sum(numbers * kernel_params) + 10 * jnp.sum(numbers * betas[1:])
        if asked:  # from where chains have settled
            figure += 100 * x.mean()
        asked.append(options | {"kernel": make_kernel("energy", "step")})
        return types.SimpleNamespace(log_weights=jnp.full(len(x), figure))

    def run_chain(rng_key, kernel, x, num_steps, *, first_chain):
        asked.append({"num_steps": num_steps, "first_chain": first_chain})
        return types.SimpleNamespace(x=jnp.full_like(x, kernel[0])), None

    monkeypatch.setattr(conditional_bound.samplers, "ais", ais)
    monkeypatch.setattr(conditional_bound.samplers, "run_chain", run_chain)
    monkeypatch.setattr(conditional_bound.samplers, "mala", lambda energy_fn, *given: given)
    path = conditional_bound.noising_path(KEY, known, x, jnp.arange(3))
    narrowest = 0.05
    found = conditional_bound.conditional_bounds(
        KEY, known, path, jnp.array([1]), jnp.array([narrowest]), 7, num_temperatures=4
    )
    assert asked.pop(1) == {"num_steps": 4, "first_chain": 7}
    assert asked == [{"kernel": ("step",), "num_steps": 3, "first_chain": 7}] * 2
    a, sigma = (float(values[1]) for values in known.noising_steps())
    widest = (1.65 * sigma / a) ** 2 / (2 * 2 ** (1 / 3))
    ratio = (widest / narrowest) ** (np.arange(5) / 4)
    betas = (ratio - 1) / (widest / narrowest - 1)
    steps = widest / ratio
    up = np.arange(1, 5) @ (steps[1:] + 10 * betas[1:])
    down = np.arange(1, 5) @ (steps[:-1] + 10 * betas[:-1])[::-1] + 100 * narrowest
    np.testing.assert_allclose(found.widths, np.full((3, 1), -down - up), rtol=1e-5)
    np.testing.assert_allclose(found.upper - found.lower, np.full(3, -down - up), rtol=1e-4)


def test_bounds_of_an_image_do_not_depend_on_the_batch():
    known, x = densities(), images(3)

    @jax.jit
    def of(x, index, steps):
        path = conditional_bound.noising_path(KEY, known, x, index)
        return conditional_bound.conditional_bounds(
            KEY, known, path, jnp.arange(3), steps, index[0], num_temperatures=2
        )

    steps = jnp.array([0.1, 0.2, 0.1])
    first, second = (of(x[n : n + 2], jnp.arange(n, n + 2), steps) for n in (0, 1))
    np.testing.assert_allclose(second.lower[0], first.lower[1], rtol=1e-3)
    np.testing.assert_allclose(second.upper[0], first.upper[1], rtol=1e-3)
    np.testing.assert_allclose(second.widths[0], first.widths[1], rtol=2e-2, atol=2e-3)
