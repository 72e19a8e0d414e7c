"""Annealed importance sampling against closed forms: bias and its mirror, error bars, log space."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers
from ebm_jax.samplers import ais, geometric_path, hmc, langevin, mala, random

DIMS, VARIANCE = 10, 0.04
TRUTH = DIMS / 2 * math.log(VARIANCE)  # -16.0944


def standard_normal(x):
    return 0.5 * jnp.sum(x**2, axis=-1)


def narrow_normal(x):
    return 0.5 * jnp.sum(x**2, axis=-1) / VARIANCE


PATH = geometric_path(standard_normal, narrow_normal)


def precision(beta):
    return (1 - beta) + beta / VARIANCE


def exact_kernel(energy_fn):
    """Draws afresh from exp(-energy_fn), a centred isotropic Gaussian, whatever came before."""

    def init(x):
        chain = jnp.arange(x.shape[0], dtype=jnp.int32)
        return samplers.State(x, energy_fn(x), jax.grad(lambda x: energy_fn(x).sum())(x), chain)

    def step(rng_key, state):
        dims = state.x.shape[-1]
        curvature = 2 * energy_fn(jnp.ones((1, dims)))[0] / dims
        noise = random.normal(rng_key, state.chain, state.x)
        new = init(noise / jnp.sqrt(curvature))._replace(chain=state.chain)
        nothing = jnp.zeros_like(new.energy)
        return new, samplers.Info(nothing + 1, state.energy, nothing, nothing, nothing == 0)

    return samplers.Kernel(init, step)


def linspace(num):
    """From 0 to 1; in NumPy, as a program for each number would take longer than most tests."""
    return np.linspace(0, 1, num, dtype=np.float32)


def quick(rng_key, path, x, betas, make_kernel, **options):
    """`ais`, compiled once without optimisation."""

    def run(rng_key, x, betas):
        return ais(rng_key, path, x, betas, make_kernel, **options)

    return jax.device_get(jax.jit(run)(rng_key, x, betas))


@functools.partial(jax.jit, static_argnums=(1, 3))
def start(seed, chains, beta, dims=DIMS):
    noise = random.normal(jax.random.key(seed), jnp.arange(chains), jnp.zeros((chains, dims)))
    return noise / jnp.sqrt(precision(beta))


def expected_log_weight(num_steps, dims=DIMS, reverse=False):
    """METHODS: E log w = -d/2 (1/s^2 - 1) sum dbeta / lambda at the point each step starts from."""
    betas = np.linspace(0, 1, num_steps + 1)
    lam = precision(betas[1:] if reverse else betas[:-1])
    value = -dims / 2 * (1 / VARIANCE - 1) * np.sum(1 / num_steps / lam)
    return -value if reverse else value


@pytest.mark.parametrize("num_steps", [100, 1000])
def test_bias_with_perfect_transitions_and_its_mirror(num_steps):
    """Mean log weights of both directions land on the closed form and bracket the truth."""
    up, chains = linspace(num_steps + 1), 200_000 // num_steps
    forward, backward = jax.device_get(
        [
            ais(jax.random.key(1), PATH, start(2, chains, 0.0), up, exact_kernel),
            ais(jax.random.key(3), PATH, start(4, chains, 1.0), up[::-1], exact_kernel),
        ]
    )
    for result, reverse in ((forward, False), (backward, True)):
        expected = expected_log_weight(num_steps, reverse=reverse)
        error = 4 * np.std(result.log_weights) / math.sqrt(chains)
        assert abs(np.mean(result.log_weights) - expected) < error
    table = {100: (-16.694, -15.542), 1000: (-16.152, -16.037)}[num_steps]
    assert expected_log_weight(num_steps) == pytest.approx(table[0], abs=6e-4)
    assert -expected_log_weight(num_steps, reverse=True) == pytest.approx(table[1], abs=6e-4)
    assert np.mean(forward.log_weights) < TRUTH < -np.mean(backward.log_weights)
    assert abs(forward.log_z - TRUTH) < 4 * forward.standard_error
    assert abs(backward.log_z + TRUTH) < 4 * backward.standard_error


def hmc_in_proportion(energy_fn, scale):
    return hmc(energy_fn, 0.5 * scale, 3)


def mala_in_proportion(energy_fn, scale):
    return mala(energy_fn, 0.3 * scale**2)


@pytest.mark.parametrize("make_kernel", [hmc_in_proportion, mala_in_proportion])
def test_markov_transitions_bracket_the_truth(make_kernel):
    """Steps in proportion to the path's scale: unbiased in w both ways, mirrored in log w."""
    up = linspace(201)
    scale = 1 / np.sqrt(precision(up))
    forward, info = jax.device_get(
        ais(
            jax.random.key(5),
            PATH,
            start(6, 400, 0.0),
            up,
            make_kernel,
            kernel_params=scale[1:],
            return_info=True,
        )
    )
    backward = jax.device_get(
        ais(
            jax.random.key(7),
            PATH,
            start(8, 400, 1.0),
            up[::-1],
            make_kernel,
            kernel_params=scale[::-1][1:],
        )
    )
    assert abs(forward.log_z - TRUTH) < 4 * forward.standard_error
    assert abs(backward.log_z + TRUTH) < 4 * backward.standard_error
    assert np.mean(forward.log_weights) < TRUTH < -np.mean(backward.log_weights)
    assert forward.standard_error < 0.15
    assert info.acceptance.shape == (200, 400)
    assert 0.5 < info.acceptance.mean() < 0.99
    # x follows the end of the path: its weighted second moment is the target's variance.
    weights = jax.nn.softmax(forward.log_weights)
    second = jnp.sum(weights[:, None] * forward.x**2, axis=0).mean()
    assert abs(second - VARIANCE) < 4 * VARIANCE * math.sqrt(2 / (DIMS * forward.ess))


def test_standard_errors_cover_the_truth():
    """|log_z - truth| < 2 standard errors in 95 % of 200 runs of 64 chains, for both errors."""
    betas = linspace(101)

    def one_run(key):
        x = random.normal(key, 1_000 + jnp.arange(64), jnp.zeros((64, DIMS)))
        result = ais(jax.random.fold_in(key, 1), PATH, x, betas, exact_kernel)
        bootstrap = samplers.bootstrap_standard_error(
            jax.random.fold_in(key, 2), result.log_weights, num_resamples=100
        )
        return result.log_z, result.standard_error, bootstrap

    keys = jax.random.split(jax.random.key(9), 200)
    log_z, error, bootstrap = jax.device_get(jax.jit(jax.vmap(one_run))(keys))
    for e in (error, bootstrap):
        share = np.mean(np.abs(log_z - TRUTH) < 2 * e)
        assert share > 0.954 - 4 * math.sqrt(0.954 * 0.046 / 200) - 0.02  # weights are skewed
        assert share < 0.99
        assert abs(np.mean(e) / np.std(log_z) - 1) < 0.25


def test_3072_dimensions_in_log_space():
    """log Z of thousands of nats in float32: finite, on the closed form, no rounding piled up."""
    dims, num_steps, chains = 3072, 500, 6
    up = linspace(num_steps + 1)
    truth = dims / 2 * math.log(VARIANCE)
    means = []
    for betas, beta, sign in ((up, 0.0, 1), (up[::-1], 1.0, -1)):
        result = jax.device_get(
            ais(jax.random.key(10), PATH, start(11, chains, beta, dims), betas, exact_kernel)
        )
        assert np.isfinite(result.log_weights).all()
        assert np.isfinite(result.log_z)
        assert result.log_weights.dtype == jnp.float32
        expected = expected_log_weight(num_steps, dims, reverse=sign < 0)
        spread = np.std(result.log_weights, ddof=1) / math.sqrt(chains)
        assert abs(np.mean(result.log_weights) - expected) < 5 * spread
        means.append(sign * np.mean(result.log_weights))
    assert means[0] < truth < means[1]


def test_sum_of_many_small_increments_keeps_float32_precision():
    """10,000 increments of an energy that falls by 1/3 at each: the sum is exact to one ulp."""

    def shift(x, beta):
        return beta + 0 * x[:, 0]

    betas = jnp.arange(10_001, dtype=jnp.float32) / 3
    result = ais(jax.random.key(0), shift, jnp.zeros((2, 1)), betas, lambda e: langevin(e, 0.1))
    np.testing.assert_allclose(result.log_weights, -10_000 / 3, rtol=1.2e-7)
    thirds = jnp.full(10_000, jnp.float32(1 / 3))
    plain = jax.lax.scan(lambda total, t: (total - t, None), jnp.float32(0), thirds)[0]
    assert abs(plain + 10_000 / 3) > 0.05  # what a plain float32 sum would have lost


def test_one_gradient_per_temperature_and_one_per_step():
    """The weights need no energy of their own: 1 call at the start, 1 + num_steps traced after."""
    calls = []

    def path(x, beta):
        calls.append(None)
        return PATH(x, beta)

    ais(jax.random.key(0), path, start(0, 4, 0.0), [0.0, 0.5, 1.0], lambda e: mala(e, 0.01))
    traced = len(calls)
    calls.clear()
    evaluations = 0

    def counted(x):
        nonlocal evaluations
        evaluations += 1
        return np.zeros(x.shape[0], np.float32)

    def counting_path(x, beta):
        shape = jax.ShapeDtypeStruct((x.shape[0],), jnp.float32)
        count = jax.pure_callback(counted, shape, jax.lax.stop_gradient(x))
        return PATH(x, beta) + count

    betas = linspace(8)
    result = ais(jax.random.key(0), counting_path, start(0, 4, 0.0), betas, lambda e: mala(e, 0.01))
    jax.block_until_ready(result)
    assert evaluations == 1 + 7 * 2
    assert traced <= 6


def test_keys_count_on_from_temperature_to_temperature():
    """Of a kernel that adds its uniform number and its own size: two steps each at .3 and 1."""

    def make_kernel(energy_fn, size):
        plain = langevin(energy_fn, 1.0)

        def step(rng_key, state):
            u = random.uniform(rng_key, state.chain, ())
            _, info = plain.step(rng_key, state)
            return plain.init(state.x + (size + u)[:, None])._replace(chain=state.chain), info

        return samplers.Kernel(plain.init, step)

    key, x = jax.random.key(1), jnp.array([[1.0], [2.0], [-1.0]])
    betas, sizes = [0.0, 0.3, 1.0], jnp.array([10.0, 20.0])
    result, info = ais(
        key, PATH, x, betas, make_kernel,
        num_steps=2, kernel_params=sizes, first_chain=5, return_info=True,
    )  # fmt: skip
    u = [np.asarray(random.uniform(random.fold_in(key, n), jnp.arange(5, 8), ())) for n in range(4)]
    middle = np.asarray(x)[:, 0] + 20 + u[0] + u[1]
    np.testing.assert_allclose(result.x[:, 0], middle + 40 + u[2] + u[3], rtol=1e-6)
    steps = np.diff([precision(beta) for beta in betas])
    weights = -0.5 * (steps[0] * np.asarray(x)[:, 0] ** 2 + steps[1] * middle**2)
    np.testing.assert_allclose(result.log_weights, weights, rtol=1e-5)
    assert info.energy.shape == (2, 3)


def test_new_betas_keys_and_starts_compile_once():
    traces = 0

    def path(x, beta):
        nonlocal traces
        traces += 1
        return PATH(x, beta)

    def make(energy_fn):
        return mala(energy_fn, 0.01)

    for seed in range(3):
        betas = linspace(11) ** (1 + seed)
        ais(jax.random.key(seed), path, start(seed, 4, 0.0), betas, make)
        if seed == 0:
            first = traces
    assert traces == first


def test_same_on_one_and_eight_devices_and_for_fewer_chains():
    x = start(12, 16, 0.0)

    def make(energy_fn):
        return hmc(energy_fn, 0.05, 2)

    def run(x, first_chain):
        betas = linspace(11)
        return ais(jax.random.key(13), PATH, x, betas, make, first_chain=first_chain)

    whole = run(x, 0)
    parts = jax.pmap(lambda x, i: run(x, 2 * i))(x.reshape(8, 2, DIMS), jnp.arange(8))
    np.testing.assert_allclose(parts.log_weights.ravel(), whole.log_weights, atol=2e-5)
    np.testing.assert_allclose(parts.x.reshape(16, DIMS), whole.x, atol=2e-5)
    np.testing.assert_allclose(run(x[:5], None).x, whole.x[:5], atol=2e-5)
    summary = samplers.summarize_weights(parts.log_weights.ravel())
    np.testing.assert_allclose(summary.log_z, whole.log_z, atol=2e-5)


def test_log_weights_of_two_stretches_add_up():
    betas = linspace(101)
    first = quick(jax.random.key(19), PATH, start(20, 1000, 0.0), betas[:51], exact_kernel)
    second = quick(jax.random.key(21), PATH, first.x, betas[50:], exact_kernel)
    log_z, error, _ = samplers.summarize_weights(first.log_weights + second.log_weights)
    assert abs(log_z - TRUTH) < 4 * error


def test_weights_summary_by_hand():
    log_weights = jnp.log(jnp.array([1.0, 2.0, 3.0, 6.0])) - 5000.0
    log_z, error, ess = samplers.summarize_weights(log_weights)
    assert log_z == pytest.approx(math.log(3.0) - 5000.0, abs=5e-4)
    assert ess == pytest.approx(144 / 50, rel=1e-3)
    assert error == pytest.approx(np.std([1, 2, 3, 6], ddof=1) / 2 / 3, rel=1e-3)
    assert np.isnan(samplers.summarize_weights(jnp.zeros(1)).standard_error)


def test_infinite_energy_is_weight_zero_and_nan_is_not_hidden():
    def walled(x):
        return jnp.where(x[:, 0] > 0, narrow_normal(x), jnp.inf)

    path = geometric_path(standard_normal, walled)
    x = start(14, 4000, 0.0, dims=1)
    result = quick(jax.random.key(15), path, x, linspace(51), lambda e: mala(e, 1e-3))
    np.testing.assert_array_equal(np.isneginf(result.log_weights), x[:, 0] <= 0)
    truth = math.log(0.5 * math.sqrt(VARIANCE))
    assert abs(result.log_z - truth) < 4 * result.standard_error

    def broken(x):
        return narrow_normal(x) + jnp.where(x[:, 0] > 2, jnp.nan, 0.0)

    path = geometric_path(standard_normal, broken)
    x = x.at[0].set(3.0)
    result = quick(jax.random.key(15), path, x, linspace(5), lambda e: mala(e, 1e-3))
    assert np.isnan(result.log_weights[0])
    assert np.isnan(result.log_z)
    assert np.isfinite(result.log_weights[x[:, 0] < 1.5]).all()


def test_positions_may_be_pytrees():
    def end(x):
        return narrow_normal(x["a"]) + 0.5 * x["b"] ** 2

    def begin(x):
        return standard_normal(x["a"]) + 0.5 * x["b"] ** 2

    x = {"a": start(16, 500, 0.0, 2), "b": start(17, 500, 0.0, 1)[:, 0]}
    path = geometric_path(begin, end)
    betas = linspace(101)
    result = quick(jax.random.key(18), path, x, betas, lambda e: hmc(e, 0.1, 5))
    assert abs(result.log_z - math.log(VARIANCE)) < 4 * result.standard_error
    assert result.x["b"].shape == (500,)


def test_bad_input_is_refused_in_one_line():
    x, key = start(0, 4, 0.0), jax.random.key(0)

    def make(energy_fn):
        return mala(energy_fn, 0.01)

    with pytest.raises(ValueError, match="at least two"):
        ais(key, PATH, x, [0.0], make)
    with pytest.raises(ValueError, match="at least two"):
        ais(key, PATH, x, jnp.zeros((3, 2)), make)
    with pytest.raises(ValueError, match="not finite"):
        ais(key, PATH, x, [0.0, math.nan], make)
    with pytest.raises(ValueError, match="kernel_params"):
        ais(key, PATH, x, [0.0, 1.0], make, kernel_params=jnp.ones(2))
    with pytest.raises(ValueError, match="num_steps"):
        ais(key, PATH, x, [0.0, 1.0], make, num_steps=0)
    with pytest.raises(ValueError, match=r"expected energy_fn to return shape \(4,\)"):
        ais(key, lambda x, beta: PATH(x, beta)[:, None], x, [0.0, 1.0], make)
    with pytest.raises(TypeError, match="expected floating-point positions, got int32"):
        ais(key, PATH, jnp.zeros((4, 2), jnp.int32), [0.0, 1.0], make)


@pytest.mark.parametrize("shape", [(0,), (2, 2), ()])
def test_weights_of_no_chain_or_of_a_table_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected log_weights \[chains\], got shape \("):
        samplers.summarize_weights(np.zeros(shape))


def test_weights_that_are_all_zero():
    found = samplers.summarize_weights(jnp.full(4, -jnp.inf))
    assert np.isneginf(found.log_z)
    assert np.isposinf(found.standard_error)
    assert found.ess == 0
    x = start(1, 4, 0.0)
    path = geometric_path(standard_normal, lambda x: jnp.full(x.shape[0], jnp.inf))
    result = ais(jax.random.key(0), path, x, [0.0, 0.5, 1.0], lambda e: mala(e, 0.01))
    assert np.isneginf(result.log_z)
    assert result.ess == 0
    some = samplers.summarize_weights(jnp.array([-jnp.inf, 0.0]))
    np.testing.assert_allclose(some.log_z, -math.log(2), rtol=1e-6)
    assert some.ess == 1
    rare = jnp.array([0.0, -jnp.inf, -jnp.inf])
    assert np.isposinf(samplers.bootstrap_standard_error(jax.random.key(0), rare))


def test_an_end_that_is_infinite_does_not_enter_by_its_gradient():
    def repulsive(x):
        return jnp.sum(jnp.abs(x) ** -12.0, axis=-1)

    x = jnp.array([[0.0, 1.0], [0.5, 2.0]])
    for path, beta in (
        (geometric_path(standard_normal, repulsive), 0.0),
        (geometric_path(repulsive, standard_normal), 1.0),
    ):
        slope = jax.grad(lambda x, path=path, beta=beta: path(x, jnp.float32(beta)).sum())
        np.testing.assert_allclose(slope(x), x, rtol=1e-6)
        energies = jax.vmap(path, in_axes=(None, 0))(x, jnp.array([beta, 0.5]))
        np.testing.assert_allclose(energies[0], standard_normal(x), rtol=1e-6)
        tangent = jax.jvp(lambda x, p=path, b=beta: p(x, jnp.float32(b)), (x,), (x,))[1]
        np.testing.assert_allclose(tangent, jnp.sum(x**2, axis=1), rtol=1e-6)
        middle = jax.grad(lambda x, path=path: path(x, jnp.float32(0.5)).sum())(x[1:])
        np.testing.assert_allclose(middle, 0.5 * x[1:] - 6 * x[1:] ** -13.0, rtol=1e-5)
