"""Bad input is refused in one line, 'expected X, got Y'; NaN stays in its chain."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers
from ebm_jax.samplers.metropolis import metropolis

KEY = jax.random.key(0)
X = jnp.ones((4, 3))


def square(x):
    return 0.5 * jnp.sum(x**2, axis=1)


def run(energy_fn, x, make=samplers.mala):
    return samplers.run_chain(KEY, make(energy_fn, 0.1), x, 2)


@pytest.mark.parametrize(
    ("energy_fn", "error", "message"),
    [
        (lambda x: jnp.sum(x**2), ValueError, r"return shape \(4,\), one per chain, got \(\)"),
        (
            lambda x: jnp.sum(x**2, axis=1, keepdims=True),
            ValueError,
            r"\(4, 1\): take \[:, 0\]",
        ),
        (lambda x: x**2, ValueError, r"got \(4, 3\).*sum over all axes but the first"),
        (lambda x: 3.0, TypeError, "return an array .*, got a float"),
        (lambda x: square(x).astype(int), TypeError, "real floating-point energies, got int32"),
    ],
)
def test_energy_of_the_wrong_shape_or_type(energy_fn, error, message):
    with pytest.raises(error, match=message):
        run(energy_fn, X)


def test_energies_of_a_path_whose_kernels_have_their_own():
    """A column of weights [4, 1] against energies [4] would make weights [4, 4]."""

    def path(x, beta):
        return beta * square(x)[:, None]

    def make_kernel(*_):
        return samplers.mala(square, 0.1)

    for weighted in (
        lambda: samplers.ais(KEY, path, X, jnp.array([0.0, 1.0]), make_kernel),
        lambda: samplers.smc(KEY, path, X, make_kernel, step_size=0.1, num_groups=2),
    ):
        with pytest.raises(ValueError, match=r"\(4, 1\): take \[:, 0\]"):
            weighted()


def test_a_path_has_positions_to_start_from():
    def path(x, beta):
        return beta * square(x)

    with pytest.raises(ValueError, match="got an empty pytree"):
        samplers.ais(KEY, path, {}, [0.0, 1.0], lambda energy_fn: samplers.mala(energy_fn, 0.1))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (jnp.ones((0, 3)), ValueError, "got an empty chain axis"),
        (jnp.ones((4, 3), int), TypeError, r"positions, got int32: x.astype"),
        (jnp.float32(1.0), ValueError, "got no chain axis"),
        (jnp.ones((4, 3), jnp.float8_e4m3fn), TypeError, "positions, got float8_e4m3fn"),
        ({}, ValueError, "got an empty pytree"),
        (
            {"a": jnp.ones((4, 1)), "b": jnp.ones((3, 1))},
            ValueError,
            r"in all leaves, got \[3, 4\]",
        ),
        (
            {"a": jnp.ones((4, 1)), "b": jnp.ones((4, 1), jnp.bfloat16)},
            TypeError,
            "one float type, got bfloat16, float32",
        ),
    ],
)
@pytest.mark.parametrize("make", [samplers.mala, samplers.langevin])
def test_positions_that_are_none(x, error, message, make):
    with pytest.raises(error, match=message):
        run(lambda x: square(x), x, make)
    with pytest.raises(error, match=message):
        samplers.roughness(square, x)


def test_float32_positions_and_float64_data():
    with jax.enable_x64(True):
        centre = jnp.zeros(3, jnp.float64)
        with pytest.raises(TypeError, match=r"one float type, got float64 for float32 pos"):
            run(lambda x: square(x - centre), X.astype(jnp.float32))
        with pytest.raises(TypeError, match="one float type, got float32, float64"):
            run(square, {"a": X.astype(jnp.float32), "b": X.astype(jnp.float64)})
        state, info = run(square, X.astype(jnp.float64))
        assert state.x.dtype == state.energy.dtype == info.acceptance.dtype == jnp.float64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.mala(square, -0.1), "expected a finite step_size > 0, got -0.1"),
        (lambda: samplers.langevin(square, 0.0), "expected a finite step_size > 0, got 0"),
        (
            lambda: samplers.langevin(square, np.array([0.1, np.nan])),
            "step_size > 0, got nan",
        ),
        (
            lambda: samplers.langevin(square, 0.1, temperature=-1),
            "temperature >= 0, got -1",
        ),
        (lambda: samplers.langevin(square, 0.1, max_grad=-1.0), "max_grad > 0, got -1"),
        (
            lambda: samplers.mala(square, 0.1, temperature=0.0),
            "temperature > 0, got 0",
        ),
        (lambda: samplers.hmc(square, 0.1, 0), "num_leapfrog_steps to be a Python int >= 1, got 0"),
        (lambda: samplers.hmc(square, 0.1, 2, mass=jnp.zeros((1, 3))), "mass > 0, got 0"),
        (lambda: samplers.hmc(square, 0.1, 2, jitter=1.0), "jitter >= 0 and < 1, got 1"),
        (lambda: samplers.drl_langevin(square, np.nan), "expected a finite s > 0, got nan"),
        (
            lambda: samplers.mala(square, 0.1, max_grad=0.0),
            "expected a finite max_grad > 0, got 0",
        ),
        (lambda: samplers.mala(square, np.inf), "expected a finite step_size > 0, got inf"),
        (lambda: samplers.underdamped_langevin(square, 0.1, friction=-1.0), "friction > 0, got -1"),
        (
            lambda: samplers.igebm_langevin(square, 1.0, max_grad=1.0, max_batch_norm=1.0),
            "expected max_grad or max_batch_norm, got both",
        ),
        (
            lambda: samplers.igebm_update(X, X, square, 1.0, max_grad=1.0, max_batch_norm=1.0),
            "expected max_grad or max_batch_norm, got both",
        ),
        (
            lambda: samplers.mdsm_temperatures(cooling="log"),
            "'exp' or 'linear', got 'log'",
        ),
        (
            lambda: samplers.parallel_tempering(square, [1.0], samplers.mala),
            r"temperatures \[replicas\], at least two, got shape \(1,\)",
        ),
        (
            lambda: samplers.parallel_tempering(square, np.ones((3, 2)), samplers.mala),
            r"temperatures \[replicas\], at least two, got shape \(3, 2\)",
        ),
    ],
)
def test_numbers_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def smc(**counts):
    def path(x, beta):
        return beta * square(x)

    options = {"step_size": 0.1, "num_groups": 2, **counts}
    return samplers.smc(KEY, path, X, lambda e, h: samplers.mala(e, h), **options)


def ladder(**counts):
    def make_kernel(temperatures):
        return samplers.parallel_tempering(
            square, temperatures, lambda e, t: samplers.mala(e, 0.1, temperature=t)
        )

    return samplers.adapt_temperatures(KEY, make_kernel, X, jnp.array([1.0, 2.0, 4.0]), **counts)


def schedule(num_steps=1, **options):
    levels = jnp.ones(2)
    return samplers.run_schedule(
        KEY, lambda h: samplers.mala(square, h), levels, X, num_steps, **options
    )


MALA = samplers.mala(square, 0.1)
COUNTS = {
    "run_chain.num_steps": lambda n: samplers.run_chain(KEY, MALA, X, n),
    "run_chain.unroll": lambda n: samplers.run_chain(KEY, MALA, X, 4, unroll=n),
    "run_chain.keep_every": lambda n: samplers.run_chain(KEY, MALA, X, 4, keep_every=n),
    "run_with_progress.num_steps": lambda n: samplers.run_with_progress(KEY, MALA, X, n),
    "run_with_progress.report_every": lambda n: samplers.run_with_progress(
        KEY, MALA, X, 4, report_every=n
    ),
    "run_schedule.num_steps": schedule,
    "run_schedule.unroll": lambda n: schedule(unroll=n),
    "warmup.num_steps": lambda n: samplers.warmup(KEY, lambda h, m: samplers.mala(square, h), X, n),
    "smc.num_steps": lambda n: smc(num_steps=n),
    "smc.max_temperatures": lambda n: smc(max_temperatures=n),
    "smc.num_groups": lambda n: smc(num_groups=n),
    "adapt_temperatures.num_rounds": lambda n: ladder(num_rounds=n, num_steps=1),
    "adapt_temperatures.num_steps": lambda n: ladder(num_rounds=1, num_steps=n),
    "sample.num_draws": lambda n: samplers.sample(lambda x: -square(x), KEY, X, num_draws=n),
    "sample.steps_per_draw": lambda n: samplers.sample(
        lambda x: -square(x), KEY, X, num_draws=4, steps_per_draw=n
    ),
    "hmc.num_leapfrog_steps": lambda n: samplers.hmc(square, 0.1, n),
}


@pytest.mark.parametrize("count", [0, -2, 2.0, True])
@pytest.mark.parametrize("name", COUNTS)
def test_counts_that_are_none(name, count):
    """Before anything is compiled, with the name that it is given by."""
    named = name.partition(".")[2]
    with pytest.raises(
        ValueError, match=rf"^expected {named} to be a Python int >= 1, got {count}"
    ):
        COUNTS[name](count)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("run", lambda n: samplers.run_chain(KEY, MALA, X, n, unroll=n)),
        ("annealing", lambda n: schedule(n, unroll=n)),
        ("smc", lambda n: smc(num_steps=n, num_groups=n, max_temperatures=n)),
        ("ladder", lambda n: ladder(num_rounds=n, num_steps=n)),
        (
            "warmup",
            lambda n: samplers.warmup(
                KEY, lambda h, m: MALA, X, 10 * n, adapt_mass=n > 1, per_chain=n > 1
            ),
        ),
    ],
)
def test_numpys_counts_are_pythons_in_programs(monkeypatch, name, call):
    """Which are known by their types too: else each would be compiled twice."""
    asked = {}

    def compiled(function, args, **options):
        asked.update(options)
        raise InterruptedError

    monkeypatch.setattr(importlib.import_module(f"ebm_jax.samplers.{name}"), "compiled", compiled)
    with pytest.raises(InterruptedError):
        call(np.int64(2))
    assert asked
    given = {type(value) for name, value in asked.items() if name not in ("keep", "axis_name")}
    assert given <= {int, bool, type(None)}


@pytest.mark.parametrize("shape", [(3,), (2,), (4, 2), (4, 1, 3), (1, 4)])
def test_step_sizes_of_unclear_shape(shape):
    with pytest.raises(ValueError, match=r"of shape \(\), \(4,\) per chain or \(1, 3\) per dim"):
        samplers.run_chain(KEY, samplers.mala(square, jnp.full(shape, 0.1)), X, 1)


def test_metropolis_needs_one_temperature_per_chain():
    kernel = samplers.mala(square, 0.1, temperature=jnp.ones((1, 3)))
    with pytest.raises(ValueError, match="temperature to be a scalar or one per chain"):
        samplers.run_chain(KEY, kernel, X, 1)


@pytest.mark.parametrize(
    "kernel",
    [
        samplers.langevin(lambda x: breaks_beyond_two(x), 0.01),
        samplers.mala(lambda x: breaks_beyond_two(x), 0.01),
        samplers.hmc(lambda x: breaks_beyond_two(x), 0.05, 2),
        samplers.underdamped_langevin(lambda x: breaks_beyond_two(x), 0.05),
    ],
    ids=["langevin", "mala", "hmc", "underdamped"],
)
def test_a_chain_with_nan_is_flagged_and_the_others_go_on(kernel):
    x0 = jnp.array([[0.1, 0.1, 0.1], [9.0, 0.0, 0.0], [0.3, 0.2, 0.1]])
    state, info = samplers.run_chain(KEY, kernel, x0, 5)
    np.testing.assert_array_equal(info.is_finite, [True, False, True])
    assert np.isfinite(np.asarray(state.x)[[0, 2]]).all()
    alone, _ = samplers.run_chain(KEY, kernel, x0[:1], 5)
    np.testing.assert_allclose(state.x[0], alone.x[0], rtol=1e-5)


def breaks_beyond_two(x):
    return jnp.sum(jnp.where(x > 2, jnp.nan, 0.5) * x**2, axis=1)


def test_a_move_is_made_where_the_ratio_is_above_the_uniform_number():
    """Neither at it nor below it, nor for a ratio that is none."""
    state = MALA.init(X)
    proposal = state._replace(x=X + 1)
    log_u = jnp.log(samplers.random.uniform(KEY, state.chain, X))
    ratio = log_u + jnp.array([0.0, 1e-3, -1e-3, jnp.nan])
    new, info = metropolis(KEY, state, proposal, ratio)
    np.testing.assert_array_equal(new.x - X, [[0] * 3, [1] * 3, [0] * 3, [0] * 3])
    np.testing.assert_allclose(info.acceptance[:3], np.exp(ratio[:3]), rtol=1e-5)
    assert info.acceptance[3] == 0


def test_metropolis_never_moves_into_nan():
    def energy_fn(x):
        return jnp.where(x[:, 0] > 0.5, jnp.nan, 0.5 * x[:, 0] ** 2)

    state, info = samplers.run_chain(KEY, samplers.mala(energy_fn, 0.5), jnp.zeros((500, 1)), 30)
    assert float(state.x.max()) <= 0.5
    assert not bool(info.is_finite.all())  # proposals beyond were made, and are told
    assert np.isfinite(np.asarray(info.acceptance)).all()


@pytest.mark.parametrize("make", [samplers.langevin, samplers.mala])
def test_gradients_that_are_not_finite_are_told(make):
    """sqrt |x| is 0 at 0, and its gradient infinite: energies alone do not show it."""

    def energy_fn(x):
        return jnp.sum(jnp.sqrt(jnp.abs(x)), axis=1)

    kernel, x = make(energy_fn, 1e-3), jnp.array([[1.0], [0.0], [4.0]])
    state = kernel.init(x)
    assert np.isfinite(state.energy).all()
    _, info = kernel.step(jax.random.key(0), state)
    np.testing.assert_array_equal(info.is_finite, [True, False, True])
