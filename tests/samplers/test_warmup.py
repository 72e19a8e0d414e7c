"""Warm-up finds step sizes that give the wanted acceptance, and the target's variances."""

import itertools
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers
from ebm_jax.samplers.warmup import (
    WarmupResult,
    _averaged,
    _is_stuck,
    _mass,
    _Moments,
    _movement,
    _phases,
    _Pooling,
    _restarted,
    _settled,
    _warn_if_stuck,
    mass_windows,
)

KEY = jax.random.key(6)
SCALES = jnp.array([[0.1, 1.0, 10.0]])


def energy_fn(x):
    return 0.5 * jnp.sum((x / SCALES) ** 2, axis=1)


def start(num_chains):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(num_chains, 3)) * np.asarray(SCALES), jnp.float32)


def make_hmc(step_size, mass):
    return samplers.hmc(energy_fn, step_size, 4, mass=mass)


def test_pooled_step_size_and_mass_for_hmc():
    found = samplers.warmup(KEY, make_hmc, start(64), 300, target_acceptance=0.8)
    assert found.step_size.shape == ()
    assert found.mass.shape == (1, 3)
    # Thousands of draws that are nearly independent: a few per cent.
    np.testing.assert_allclose(found.mass * SCALES**2, 1.0, rtol=0.1)
    kernel = make_hmc(found.step_size, found.mass)
    _, info = samplers.run_chain(jax.random.key(7), kernel, found.state, 200)
    assert abs(float(info.acceptance.mean()) - 0.8) < 0.03
    assert abs(float(found.acceptance) - 0.8) < 0.03


def test_a_step_size_and_a_mass_for_each_chain():
    stiffness = jnp.array([1.0, 1.0, 100.0, 100.0])

    def unequal(x):
        return stiffness * energy_fn(x)

    def make_kernel(step_size, mass):
        return samplers.hmc(unequal, step_size, 4, mass=mass)

    found = samplers.warmup(KEY, make_kernel, start(4), 800, per_chain=True)
    assert found.step_size.shape == (4,)
    assert found.mass.shape == (4, 3)
    assert found.acceptance.shape == found.movement.shape == found.is_stuck.shape == (4,)
    assert found.roughness.shape == ()
    wanted = stiffness[:, None] / SCALES**2
    assert np.abs(np.log(found.mass / wanted)).max() < np.log(2.0)
    kernel = make_kernel(found.step_size, found.mass)
    _, info = samplers.run_chain(jax.random.key(8), kernel, found.state, 400)
    assert np.abs(np.asarray(info.acceptance) - 0.8).max() < 0.1


def test_step_size_alone_for_mala_under_jit():
    @jax.jit
    def find(key, x, target):
        return samplers.warmup(
            key,
            lambda h, mass: samplers.mala(energy_fn, h * SCALES**2 / mass),
            x,
            150,
            initial_step_size=5.0,  # far too long
            target_acceptance=target,
            adapt_mass=False,
        )

    for target in (0.4, 0.7):
        found = find(KEY, start(200), target)
        np.testing.assert_array_equal(found.mass, jnp.ones((1, 3)))
        kernel = samplers.mala(energy_fn, found.step_size * SCALES**2)
        _, info = samplers.run_chain(jax.random.key(9), kernel, found.state, 50)
        assert abs(float(info.acceptance.mean()) - target) < 0.03


@pytest.mark.parametrize("num_steps", [20, 37, 100, 1000, 12_345])
def test_windows_follow_one_another_and_double(num_steps):
    windows = mass_windows(num_steps)
    assert windows[0][0] == num_steps // 10
    assert windows[-1][1] == num_steps - num_steps // 5
    assert all(a[1] == b[0] for a, b in itertools.pairwise(windows))
    lengths = np.diff(windows, axis=1)[:, 0]
    assert (lengths[1:-1] == 2 * lengths[:-2]).all()
    assert (lengths[1:] >= 2 * lengths[:-1]).all()


def test_a_window_is_split_as_long_as_the_next_one_fits():
    assert mass_windows(150) == [(15, 22), (22, 36), (36, 64), (64, 120)]  # 7, 14, 28, 56
    assert mass_windows(149) == [(14, 21), (21, 35), (35, 63), (63, 120)]
    assert mass_windows(147) == [(14, 20), (20, 32), (32, 56), (56, 118)]


def test_phases_begin_and_end_where_they_should():
    """Windows up to the last fifth, a third of which searches before the rest settles."""
    found = _phases(150, True)
    np.testing.assert_array_equal(found.step, np.arange(150))
    np.testing.assert_array_equal(np.flatnonzero(found.in_window), np.arange(15, 120))
    np.testing.assert_array_equal(np.flatnonzero(found.window_ends), [21, 35, 63, 119])
    found = _phases(47, False)
    assert not found.in_window.any()
    assert not found.window_ends.any()
    np.testing.assert_array_equal(np.flatnonzero(found.last_fifth), [38])
    np.testing.assert_array_equal(np.flatnonzero(found.search_ends), [40])
    np.testing.assert_array_equal(np.flatnonzero(found.settles), np.arange(41, 47))
    np.testing.assert_array_equal(np.flatnonzero(found.last_tenth), np.arange(43, 47))


def test_a_search_is_the_dual_averaging_of_its_paper_and_settles_as_robbins_and_monro():
    """log step = log 10 step_0 - sqrt(t) / 0.05 sum error / (t + 10); weights t^-0.75."""
    errors = np.random.default_rng(1).uniform(-0.5, 0.5, (9, 2))
    search, average = _restarted(jnp.array([0.3, 2.0])), None
    np.testing.assert_allclose(search.log_step, np.log([0.3, 2.0]), rtol=1e-6)
    np.testing.assert_array_equal(search.log_average, search.log_step)
    for t in range(1, 10):
        search = _averaged(search, jnp.asarray(errors[t - 1], jnp.float32))
        step = np.log([3.0, 20.0]) - np.sqrt(t) / 0.05 * errors[:t].sum(0) / (t + 10)
        average = step if t == 1 else t**-0.75 * step + (1 - t**-0.75) * average
        np.testing.assert_allclose(search.log_step, step, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(search.log_average, average, rtol=1e-4, atol=1e-5)
    search = _restarted(jnp.array([0.3, 2.0]))
    for error in errors:
        search = _settled(search, jnp.asarray(error, jnp.float32))
    wanted = np.log([0.3, 2.0]) - (5 / (np.arange(9) + 5)) @ errors
    np.testing.assert_allclose(search.log_step, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(search.log_average, search.log_step)


@pytest.mark.parametrize("per_chain", [True, False])
def test_masses_are_inverse_variances_of_all_that_was_added(per_chain):
    """Of living chains, drawn to 1000 as by 5 draws (Stan); 1000 where there were none."""
    rng = np.random.default_rng(2)
    x = rng.normal(2.0, [[1.0, 0.1, 7.0]], (4, 5, 3))  # 4 times 5 chains
    is_alive = rng.random((4, 5)) < 0.7
    is_alive[0], is_alive[:, 2], is_alive[1:, 3] = False, False, True
    chains = 5 if per_chain else 1
    zeros = {"a": jnp.zeros((chains, 1)), "b": jnp.zeros((chains, 2))}
    moments = _Moments(jnp.zeros(5) if per_chain else jnp.zeros(()), zeros, zeros)
    for positions, alive in zip(x, is_alive, strict=True):
        positions = jnp.asarray(np.where(alive[:, None], positions, np.nan), jnp.float32)
        tree = {"a": positions[:, :1], "b": positions[:, 1:]}
        moments = _Pooling((), per_chain).add(moments, tree, jnp.asarray(alive))
    found = np.concatenate([_mass(moments)["a"], _mass(moments)["b"]], axis=1)
    assert found.shape == (chains, 3)
    for i in range(chains):
        added = x[:, i][is_alive[:, i]] if per_chain else x[is_alive]
        n = len(added)
        variance = added.var(axis=0, ddof=1) if n > 1 else np.zeros(3)
        wanted = 1 / (n / (n + 5) * variance + 1e-3 * 5 / (n + 5))
        np.testing.assert_allclose(found[i], wanted, rtol=1e-4)


def test_means_are_of_the_chains_that_are_alive():
    values, alive = jnp.array([0.2, jnp.nan, 0.6]), jnp.array([True, False, True])
    assert _Pooling((), False).mean(values, alive) == pytest.approx(0.4)
    assert jnp.isnan(_Pooling((), False).mean(values, ~alive & alive))
    np.testing.assert_allclose(_Pooling((), True).mean(values, alive), [0.2, np.nan, 0.6])


def test_bounds_of_what_stands_still():
    """Movement below .05; or .3 nats of roughness and a tenth of the first step; or no chain."""

    def stuck(movement=1.0, nats=0.0, step_size=1.0, initial=1.0, accepted=0.5):
        given = (movement, nats, step_size, initial, accepted)
        return bool(_is_stuck(*(jnp.float32(value) for value in given)))

    assert not stuck()
    assert stuck(movement=0.049)
    assert not stuck(movement=0.051)
    assert not stuck(movement=jnp.nan)  # of one chain
    assert not stuck(nats=9.0)
    assert not stuck(step_size=1e-9)
    assert stuck(nats=0.31, step_size=0.39, initial=4.0)
    assert not stuck(nats=0.31, step_size=0.41, initial=4.0)
    assert not stuck(nats=0.29, step_size=0.39, initial=4.0)
    assert not stuck(nats=jnp.nan, step_size=1e-9)
    assert not stuck(movement=0.05)
    assert not stuck(nats=0.3, step_size=0.39, initial=4.0)
    assert not stuck(nats=0.31, step_size=0.5, initial=5.0)
    assert stuck(accepted=jnp.nan)


def test_movement_is_a_part_of_the_distance_between_independent_draws():
    x, mark = np.random.default_rng(3).normal(1.0, 2.0, (2, 5, 3))
    alive = np.array([True, True, False, True, True])
    state = types.SimpleNamespace(
        x={"a": jnp.asarray(x[:, :2]), "b": jnp.asarray(x[:, 2:])},
        energy=jnp.where(alive, 0.0, jnp.inf),
        grad=jnp.zeros((5, 1)),
    )
    start = {"a": jnp.asarray(mark[:, :2]), "b": jnp.asarray(mark[:, 2:])}
    moved = np.sqrt(((x - mark) ** 2).sum(1))
    spread = np.sqrt(2 * x[alive].var(axis=0, ddof=1).sum())
    across = _Pooling((), False)
    np.testing.assert_allclose(_movement(state, start, across, True), moved / spread, rtol=1e-5)
    together = np.sqrt((moved[alive] ** 2).mean()) / spread
    np.testing.assert_allclose(_movement(state, start, across, False), together, rtol=1e-5)
    state.grad = None  # of an algorithm that may have no energies either: all are alive
    spread = np.sqrt(2 * x.var(axis=0, ddof=1).sum())
    np.testing.assert_allclose(_movement(state, start, across, True), moved / spread, rtol=1e-5)
    two = types.SimpleNamespace(x=jnp.array([[0.0], [4.0]]), energy=jnp.zeros(2), grad=None)
    moved = _movement(two, jnp.array([[1.0], [4.0]]), across, True)  # a variance of 8
    np.testing.assert_allclose(moved, [0.25, 0.0])
    one = types.SimpleNamespace(x=jnp.ones((1, 2)), energy=jnp.zeros(1), grad=None)
    assert jnp.isnan(_movement(one, jnp.zeros((1, 2)), across, False))


def test_the_warning_is_of_the_first_chain_that_stands_still():
    result = WarmupResult(
        None,
        jnp.array([0.5, 0.0123, 0.7]),
        None,
        jnp.array([0.8, 0.766, 0.9]),
        jnp.array([0.9, 0.0321, 0.04]),
        jnp.array(0.678),
        jnp.array([False, True, True]),
    )
    with pytest.warns(UserWarning, match="chains that move") as caught:
        _warn_if_stuck(result, jnp.array(0.25))
    assert str(caught[0].message) == (
        "expected warm-up to leave chains that move, got 0.032 of their spread in its last fifth, "
        "at acceptance 0.77 and a step size of 0.012 after 0.25; the energy jumps by 0.68 nats "
        "between neighboring floats (see samplers.roughness)"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _warn_if_stuck(result._replace(is_stuck=jnp.zeros(3, bool)), jnp.array(0.25))
        elsewhere = types.SimpleNamespace(is_fully_addressable=False)  # of other processes too
        _warn_if_stuck(result._replace(movement=elsewhere), jnp.array(0.25))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 10}, "expected num_steps of at least 20, better 300 or more, got 10"),
        (
            {"num_steps": 20, "target_acceptance": 1.5},
            "target_acceptance > 0 and < 1, got 1.5",
        ),
        (
            {"num_steps": 20, "initial_step_size": -1.0},
            "initial_step_size > 0, got -1",
        ),
    ],
)
def test_bad_numbers(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.warmup(KEY, make_hmc, start(4), **options)


def normal(x):
    return 0.5 * jnp.sum(x**2, axis=-1)


def tuned(step_size, mass):
    return samplers.hmc(normal, step_size, 5, mass=mass)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_chain_that_is_not_finite_is_left_out(bad):
    x = jax.random.normal(jax.random.key(0), (16, 3))
    found = samplers.warmup(KEY, tuned, x.at[3, 0].set(bad), 200)
    others = samplers.warmup(KEY, tuned, jnp.concatenate([x[:3], x[4:]]), 200)
    np.testing.assert_allclose(found.mass, 1.0, rtol=0.3)
    assert abs(np.log(found.step_size / others.step_size)) < 0.3
    assert abs(float(found.acceptance) - 0.8) < 0.1
    assert not found.is_stuck
    with pytest.warns(UserWarning, match="chains that move"):  # for that one
        alone = samplers.warmup(KEY, tuned, x.at[3, 0].set(bad), 60, per_chain=True)
    np.testing.assert_array_equal(alone.is_stuck, np.arange(16) == 3)
    assert np.isfinite(alone.step_size).all()
    assert np.isfinite(alone.mass).all()


def test_no_finite_chain_at_all_is_said():
    with pytest.warns(UserWarning, match="chains that move") as caught:
        found = samplers.warmup(KEY, tuned, jnp.full((4, 2), jnp.nan), 40)
    assert caught[0].filename == __file__  # of the line that asked for it
    assert found.is_stuck
    assert np.isfinite(found.mass).all()
    # An acceptance that is not known changes nothing: searches begin at ten times the last step.
    searches = len(mass_windows(40)) + 1
    np.testing.assert_allclose(found.step_size, 0.1 * 10.0**searches, rtol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "x64"),
    [("float32", True), ("float64", True), ("bfloat16", False), ("float16", False)],
)
def test_all_float_types(dtype, x64):
    with jax.enable_x64(x64):
        x = jax.random.normal(jax.random.key(0), (256, 3)).astype(dtype)
        found = samplers.warmup(KEY, tuned, x, 100)
        assert found.state.x.dtype == dtype
        assert found.step_size.dtype == found.mass.dtype == jnp.promote_types(dtype, jnp.float32)
        assert 0.5 < found.step_size < 2.0
        np.testing.assert_allclose(found.mass, 1.0, rtol=0.15)  # over keys its sd is .03


@pytest.mark.parametrize("per_chain", [True, False])
def test_acceptance_is_the_target_on_average(per_chain):
    """Over 64 chains and keys; the average of dual averaging alone gives .86 to .91."""
    found, rates = [], []
    for seed in range(2):
        x = jax.random.normal(jax.random.key(seed), (64 if per_chain else 8, 3))
        result = samplers.warmup(jax.random.key(seed + 9), tuned, x, 300, per_chain=per_chain)
        kernel = tuned(result.step_size, result.mass)
        _, info = samplers.run_chain(jax.random.key(seed + 99), kernel, result.state, 200)
        rates.append(float(info.acceptance.mean()))
        found.append(float(result.acceptance.mean()))
    assert abs(np.mean(rates) - 0.8) < 0.03
    assert abs(np.mean(found) - 0.8) < 0.05


def test_devices_find_one_step_size_and_one_mass():
    """As one device with all the chains; the order of sums decides a Metropolis test now and then,
    from which step sizes go apart by their Monte Carlo error."""
    x = start(32)

    def find(x, **options):
        return samplers.warmup(KEY, make_hmc, x, 60, **options)

    alone = find(x)
    pmapped = jax.pmap(find)(x.reshape(8, 4, 3))
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    axis, everywhere = jax.sharding.PartitionSpec("devices"), jax.sharding.PartitionSpec()

    def numbers(x):
        found = find(x)
        return found.step_size, found.mass, found.movement, found.is_stuck

    sharded = jax.jit(jax.shard_map(numbers, mesh=mesh, in_specs=axis, out_specs=everywhere))(x)
    for found in (pmapped.step_size[0], pmapped.step_size[7], sharded[0]):
        np.testing.assert_allclose(found, alone.step_size, rtol=0.25)
    np.testing.assert_array_equal(pmapped.step_size, pmapped.step_size[0])
    np.testing.assert_array_equal(pmapped.mass[0], pmapped.mass[7])
    np.testing.assert_allclose(sharded[1], alone.mass, rtol=0.5)
    np.testing.assert_allclose(sharded[2], alone.movement, rtol=0.5)
    assert not sharded[3]

    own = jax.pmap(lambda x: find(x, axis_name=()))(x.reshape(8, 4, 3)).step_size
    assert len(np.unique(own)) == 8

    def each(x):
        return samplers.warmup(KEY, make_hmc, x, 20, per_chain=True).step_size

    per_chain = jax.shard_map(each, mesh=mesh, in_specs=axis, out_specs=axis)
    assert jax.jit(per_chain)(x).shape == (32,)


@pytest.mark.filterwarnings("ignore:expected warm-up to leave chains that move")
def test_the_chains_make_as_many_steps_as_asked_for():
    """Of a kernel that counts them; and the result goes on from the last."""

    def make_kernel(step_size, mass):
        plain = samplers.mala(lambda x: jnp.sum(x**2, 1), step_size)

        def step(rng_key, state):
            _, info = plain.step(rng_key, state)
            return state._replace(x=state.x + 1), info

        return samplers.Kernel(plain.init, step)

    for num_steps in (20, 45):
        found = samplers.warmup(
            jax.random.key(0), make_kernel, jnp.zeros((4, 2)), num_steps, adapt_mass=False
        )
        np.testing.assert_array_equal(found.state.x, num_steps)
