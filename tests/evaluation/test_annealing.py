"""Annealing through levels, where log Z is known: Gaussians, the plane on a grid, a box."""

import functools
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.diffusion import t6_schedule
from ebm_jax.evaluation.density import annealing, log_likelihood
from ebm_jax.methods.densities import BaseDistribution, Densities

KEY = jax.random.key(0)
SCHEDULE = t6_schedule()
A_BAR, SIGMA_BAR = SCHEDULE.a_bar[:-1], SCHEDULE.sigma_bar[:-1]


class Annealed(NamedTuple):
    forward: log_likelihood.Estimate
    reverse: log_likelihood.Estimate
    tuned: list


def anneal(path, shape, exact, *, num_chains, num_temperatures, length=50):
    """Tunes, then both directions; reverse from exact draws u [chains, *shape]."""
    fixed = {"num_leapfrog_steps": 3}
    step = jax.jit(
        functools.partial(
            annealing.tune_step, path=path, num_steps=20, target_acceptance=0.8, **fixed
        )
    )
    base = path.densities.base
    start = base.sample(KEY, jnp.arange(num_chains), shape)
    u, tuned, segment, beta, size = start[:64], [], 0, 0.0, 0.1
    earlier = base.sample(jax.random.key(4), jnp.arange(64), shape)
    while segment < path.num_segments:
        key, place = jax.random.fold_in(KEY, len(tuned)), {"segment": segment, "beta": beta}
        beta, moved, *found = step(key, u_earlier=earlier, u=u, step_size=size, **place)
        earlier, u = u, moved
        found = [float(value) for value in found]
        tuned.append(annealing.AdaptedTemperature(segment, float(beta), *found))
        size = found[0]
        if beta >= 1:
            segment, beta = segment + 1, 0.0
    ladder = annealing.allocate(tuned, num_temperatures, length)
    segment_fn = jax.jit(lambda key, row, u: annealing.anneal(key, path, row, u, **fixed))

    def directed(ladder, u, key):
        total = 0.0
        for n in range(len(ladder.segment)):
            row = annealing.Ladder(*(field[n] for field in ladder))
            found = segment_fn(jax.random.fold_in(key, n), row, u)
            u, total = found.x, total + found.log_weights
        return total

    log_z = base.log_z(int(np.prod(shape)))
    up = directed(ladder, start, jax.random.key(1))
    down = directed(annealing.reversed_ladder(ladder), exact, jax.random.key(2))
    return Annealed(
        log_likelihood.estimate(up, log_z, reverse=False),
        log_likelihood.estimate(down, log_z, reverse=True),
        tuned,
    )


def test_log_likelihood_of_gaussian_levels():
    """Recovery likelihood's six levels for x_0 ~ N(.3, .25 I) in 4 dimensions, exact energies."""
    variance = A_BAR**2 * 0.25 + SIGMA_BAR**2

    def energy(level):
        a_bar = jnp.reshape(A_BAR[level], (-1, 1))
        return lambda x: jnp.sum((x - 0.3 * a_bar) ** 2, 1) / (2 * variance[level])

    path = annealing.Path(
        Densities(energy, A_BAR, SIGMA_BAR, BaseDistribution()), annealing.path_levels(SIGMA_BAR, 6)
    )
    x = 0.3 * A_BAR[0] + jnp.sqrt(variance[0]) * jax.random.normal(jax.random.key(3), (256, 4))
    found = anneal(path, (4,), x, num_chains=256, num_temperatures=300)
    truth = 2 * np.log(2 * np.pi * float(variance[0]))
    for side in (found.forward, found.reverse):
        assert side.standard_error < 0.03
        assert abs(side.log_z - truth) < 4 * side.standard_error
    energies = log_likelihood.split_energy(energy(0)(x))
    bracket = log_likelihood.Bracket(300, found.forward, found.reverse)
    nats = log_likelihood.log_likelihoods(energies, bracket)
    wanted = -float(np.mean(energy(0)(x))) - truth
    for side in ("lower", "upper"):
        assert abs(nats[side] - wanted) < 4 * bracket.forward.standard_error
    assert nats["lower"] - nats["upper"] == pytest.approx(-bracket.width)


def test_the_plane_against_a_grid():
    """Three modes of weights .2, .3, .5, three levels: to .02 nats with 1,000 temperatures."""
    centres = jnp.array([[-1.0, 0.0], [1.0, 0.5], [0.3, -1.0]])
    log_weights = jnp.log(jnp.array([0.2, 0.3, 0.5]))
    a_bar, sigma_bar = A_BAR[::2], SIGMA_BAR[::2]

    def energy(level):
        scale = jnp.reshape(a_bar[level], (-1, 1, 1))
        variance = jnp.reshape(a_bar[level] ** 2 * 0.04 + sigma_bar[level] ** 2, (-1, 1))

        def energy_fn(x):
            squares = jnp.sum((x[:, None] - scale * centres) ** 2, -1)
            mixture = jax.nn.logsumexp(log_weights - squares / (2 * variance), 1)
            return 3.0 - mixture + 0.1 * jnp.sum(x, 1) ** 2

        return energy_fn

    densities = Densities(energy, a_bar, sigma_bar, BaseDistribution())
    along = (jnp.arange(600) + 0.5) / 100 - 3.0
    grid = jnp.stack(jnp.meshgrid(along, along), -1).reshape(-1, 2)
    log_density = -energy(0)(grid)
    truth = float(jax.nn.logsumexp(log_density)) + np.log(1e-4)
    weights = np.exp(np.asarray(log_density, np.float64) - truth) * 1e-4
    exact = grid[np.random.default_rng(0).choice(len(grid), 1_000, p=weights / weights.sum())]
    path = annealing.Path(densities, (2, 1, 0))
    found = anneal(path, (2,), exact, num_chains=1_000, num_temperatures=1_000)
    assert abs(found.forward.log_z - truth) < 0.02
    assert abs(found.reverse.log_z - truth) < 0.02


def test_a_box_is_annealed_from_its_uniform_distribution():
    """exp(-20 (x - .1)^2 - 3 y) on [0, 2]^2, much of it at the faces."""

    def energy(level):
        return lambda x: 20 * (x[:, 0] - 0.1) ** 2 + 3 * x[:, 1]

    along = (np.arange(2_000) + 0.5) / 1_000
    parts = [np.exp(-20 * (along - 0.1) ** 2), np.exp(-3 * along)]
    truth = np.log(parts[0].sum() * 1e-3) + np.log(parts[1].sum() * 1e-3)
    draws = [np.random.default_rng(0).choice(along, 512, p=part / part.sum()) for part in parts]
    base = BaseDistribution(box=(0.0, 2.0))
    path = annealing.Path(Densities(energy, jnp.ones(1), jnp.zeros(1), base), (0,))
    exact = jnp.asarray(np.stack(draws, 1), jnp.float32)
    found = anneal(path, (2,), exact, num_chains=512, num_temperatures=200, length=200)
    for side in (found.forward, found.reverse):
        assert side.standard_error < 0.05
        assert abs(side.log_z - truth) < 4 * side.standard_error


def test_positions_are_reflected_into_the_box():
    base = BaseDistribution(box=(-1.0, 2.0))
    u = jnp.array([[-1.0, 0.5, 2.0, 2.5, 5.0, 5.5, -1.5, -4.0]])
    np.testing.assert_allclose(
        base.reflect(u), [[-1.0, 0.5, 2.0, 1.5, -1.0, -0.5, -0.5, 2.0]], atol=1e-6
    )
    x = base.sample(KEY, jnp.arange(2_000), (1,))
    assert -1 <= x.min() < -0.99
    assert 1.99 < x.max() <= 2
    assert base.log_z(3) == pytest.approx(3 * np.log(3))
    assert BaseDistribution(std=2.0).log_z(3) == pytest.approx(1.5 * np.log(2 * np.pi * 4))


def test_ladders_end_every_segment_and_share_the_temperatures():
    tuned = [
        annealing.AdaptedTemperature(0, 1.0, 0.5, 0.8, 0.2),
        annealing.AdaptedTemperature(1, 0.01, 0.4, 0.8, 0.2),
        annealing.AdaptedTemperature(1, 0.1, 0.1, 0.8, 0.2),
        annealing.AdaptedTemperature(1, 1.0, 0.01, 0.8, 0.2),
    ]
    ladder = annealing.allocate(tuned, 40, length=8)
    assert ladder.segment.tolist() == [0, 0, 1, 1, 1, 1]
    assert ladder.betas.shape == ladder.step_sizes.shape == (6, 9)
    np.testing.assert_allclose(ladder.betas[:2, 0], [0.0, 0.8])
    assert ladder.betas[1, 2:].tolist() == [1.0] * 7  # ten temperatures, then nothing
    second = np.concatenate([ladder.betas[2, :1], *(row[1:] for row in ladder.betas[2:])])
    np.testing.assert_allclose(second[[0, 10, 20, 30]], [0, 0.01, 0.1, 1.0], rtol=1e-6)
    steps = np.concatenate([row[1:] for row in ladder.step_sizes[2:]])
    np.testing.assert_allclose(steps[[14, 19]], [0.2, 0.1], rtol=1e-6)  # half way in the log
    back = annealing.reversed_ladder(ladder)
    assert (back.segment[0], back.betas[0, 0], back.betas[-1, -1]) == (1, 1, 0)
    assert back.segment.tolist() == [1, 1, 1, 1, 0, 0]
    for n in range(6):
        np.testing.assert_array_equal(back.betas[n][::-1], ladder.betas[5 - n])
        np.testing.assert_array_equal(back.step_sizes[n][::-1], ladder.step_sizes[5 - n])
    short = [tuned[0]._replace(length=0.0), *tuned[1:]]  # nearly no distance: few
    assert annealing.allocate(short, 62, length=100).betas[0].tolist()[2:] == [1.0] * 99
    with pytest.raises(ValueError, match=r"num_temperatures: expected at least 2, .* got 1"):
        annealing.allocate(tuned, 1, length=8)


@pytest.mark.parametrize(
    ("sigma_bar", "at_most", "wanted"),
    [
        (np.geomspace(0.01, 1, 6), 9, (5, 4, 3, 2, 1, 0)),
        (np.geomspace(0.01, 1, 1_000), 4, (999, 666, 333, 0)),
        (np.linspace(0.01, 1, 100), 3, (99, 9, 0)),  # .01, .1, 1
        (np.linspace(0.9, 1, 3), 2, (2, 0)),
        (np.geomspace(0.01, 1, 6), 1, (0,)),
        (np.zeros(1), 6, (0,)),
    ],
)
def test_path_levels(sigma_bar, at_most, wanted):
    assert annealing.path_levels(sigma_bar, at_most) == wanted


def test_no_levels_are_refused():
    with pytest.raises(ValueError, match="max_levels: expected at least 1, got 0"):
        annealing.path_levels(SIGMA_BAR, 0)


def test_bits_per_dimension():
    """d = 3 values in [-1, 1] of 256 pixel intensities: NLL / (d ln 2) + log2(127.5)."""
    units = log_likelihood.Units(3, 2 / 255)
    assert units.bits_per_dim(-6.0) == pytest.approx(6 / (3 * np.log(2)) + np.log2(127.5))
    assert log_likelihood.Units(3, 1 / 256).bits_per_dim(0.0) == pytest.approx(8.0)


def test_log_z_on_a_grid():
    """2 pi s^2 of a Gaussian that lies off the middle of the data's square."""
    energy_fn = lambda x: jnp.sum((x - 2.5) ** 2, 1) / (2 * 0.3**2)  # noqa: E731
    found = log_likelihood.log_z_on_grid(energy_fn, -1.0, 4.0)
    assert found == pytest.approx(np.log(2 * np.pi * 0.3**2), abs=1e-4)
    edge = jnp.array([5.0, -2.0])  # of a grid from -2.25 to 5.25
    found = log_likelihood.log_z_on_grid(lambda x: 200 * jnp.sum((x - edge) ** 2, 1), -1.0, 4.0)
    assert found == pytest.approx(np.log(np.pi / 200), abs=1e-4)
    rows = []
    nothing = log_likelihood.log_z_on_grid(
        lambda x: rows.append(x.shape) or 0 * x[:, 0], -1.0, 4.0
    )  # fmt: skip
    assert nothing == pytest.approx(2 * np.log(7.5))  # half as far again
    assert rows == [(480, 2)]


def test_the_network_is_not_evaluated_where_the_path_leaves_the_base():
    """Segment 0 takes one energy of each chain, the others two; values as by hand."""
    seen = []

    def energy(level):
        def energy_fn(x):
            seen.append(x.shape[0])
            return (1.0 + level) * jnp.sum(x**2, 1)

        return energy_fn

    base = BaseDistribution(std=2.0)
    path = annealing.Path(Densities(energy, jnp.ones(3), jnp.zeros(3), base), (2, 1, 0))
    u = jax.random.normal(KEY, (5, 2))
    squares = jnp.sum(u**2, 1)
    np.testing.assert_allclose(path.along(0)(u, 0.25), 0.75 * squares / 8 + 0.25 * 3 * squares)
    assert seen == [5]
    np.testing.assert_allclose(path.along(2)(u, 0.25), (0.75 * 2 + 0.25) * squares, rtol=1e-6)
    assert seen == [5, 10]
    two = path._replace(levels=(1, 0))
    np.testing.assert_allclose(two.along(1)(u, 0.25), (0.75 * 2 + 0.25) * squares, rtol=1e-6)
    traced = jax.jit(lambda n, u: path.along(n)(u, 0.25))(0, u)
    np.testing.assert_allclose(traced, path.along(0)(u, 0.25), rtol=1e-6)
    one = path._replace(levels=(1,))  # of which there is no other segment
    traced = jax.jit(lambda n, u: one.along(n)(u, 0.25))(0, u)
    np.testing.assert_allclose(traced, (0.75 / 8 + 0.25 * 2) * squares, rtol=1e-6)
    assert seen[-1] == 5


def test_an_end_that_is_infinite_does_not_enter_at_the_other():
    base = BaseDistribution(std=2.0)

    def energy(level):
        return lambda x: jnp.where(level == 1, jnp.inf, jnp.sum(x**2, 1))

    path = annealing.Path(Densities(energy, jnp.ones(2), jnp.zeros(2), base), (1, 0))
    u = jnp.array([[1.0, 2.0], [0.0, 3.0]])
    np.testing.assert_array_equal(path.along(0)(u, 0.0), [5 / 8, 9 / 8])
    np.testing.assert_array_equal(path.along(1)(u, 1.0), [5, 9])
    for segment, beta in ((0, 1.0), (0, 0.5), (1, 0.5), (1, 0.0)):
        np.testing.assert_array_equal(path.along(segment)(u, beta), [jnp.inf] * 2)


def test_settling_is_one_chain_however_it_is_cut():
    """And keeps the lowest level's law, of variance .25, whose energies it gives at the ends."""
    densities = Densities(
        lambda level: lambda x: (2 + level) * jnp.sum(x**2, 1),
        A_BAR[:1], SIGMA_BAR[:1], BaseDistribution(),
    )  # fmt: skip
    path = annealing.Path(densities, (0,))

    @jax.jit
    def settle(x, first_step, num_steps):
        return annealing.settle(
            KEY, path, x, jnp.asarray(0.3), first_step, num_steps, num_leapfrog_steps=3
        )

    x = 0.5 * jax.random.normal(jax.random.key(3), (4_000, 2))
    once, energies = settle(x, 0, 12)
    cut, _ = settle(settle(x, 0, 7)[0], 7, 5)
    np.testing.assert_allclose(cut, once, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(energies, 2 * np.sum(np.square(once), 1), rtol=1e-5)
    np.testing.assert_allclose(np.cov(once.T), 0.25 * np.eye(2), atol=0.02)
    assert np.abs(once - x).mean() > 0.3
    np.testing.assert_array_equal(settle(x, 0, 0)[0], x)


def test_settling_in_a_box_asks_for_no_energy_beyond_it():
    densities = Densities(
        lambda level: lambda x: jnp.where(jnp.all(jnp.abs(x) <= 1, 1), jnp.sum(x, 1), jnp.nan),
        A_BAR[:1], SIGMA_BAR[:1], BaseDistribution(box=(-1.0, 1.0)),
    )  # fmt: skip
    x = jnp.array([[0.5, -0.5], [0.9, 0.9], [1.5, -1.25], [0.0, -0.9]])
    found, energies = jax.jit(
        lambda n: annealing.settle(
            KEY, annealing.Path(densities, (0,)), x, 0.4, 0, n, num_leapfrog_steps=3
        )
    )(5)
    assert np.abs(found).max() > 1
    assert np.abs(found - x).max(1).min() > 0
    folded = 1 - np.abs((np.asarray(found) + 1) % 4 - 2)  # a mirror at each face
    np.testing.assert_allclose(energies, folded.sum(1), atol=1e-5)


def test_steps_are_capped_at_half_the_width_of_the_base():
    for base, cap in (
        (BaseDistribution(std=3.0), 1.5),
        (BaseDistribution(center=9.0, std=0.2), 0.1),
        (BaseDistribution(box=(-1.0, 4.0)), 2.5),
    ):
        path = annealing.Path(Densities(None, A_BAR, SIGMA_BAR, base), (0,))
        assert annealing._capped(jnp.float32(1e3), path) == pytest.approx(cap)
        assert annealing._capped(jnp.float32(0.9 * cap), path) == pytest.approx(0.9 * cap)


def test_the_next_temperature_by_hand():
    """D = x, whose changes spread by sqrt(pi) / 2 of their mean absolute deviation."""
    base = BaseDistribution(std=1e3)
    densities = Densities(
        lambda level: lambda x: base.energy(x) + x[:, 0] + 0 * level,
        A_BAR[:1], SIGMA_BAR[:1], base,
    )  # fmt: skip
    path = annealing.Path(densities, (0,))

    @jax.jit
    def tune(beta, spread):
        change = jnp.array([-2.0, -1, 3, 4]) * spread  # about their mean: -3, -2, 2, 3
        earlier = jnp.array([0.3, -0.2, 0.1, 0.5])
        return annealing.tune_step(
            KEY, path, 0, beta, earlier[:, None], (earlier + change)[:, None], jnp.float32(0.1),
            num_steps=20, num_leapfrog_steps=2, target_acceptance=0.8,
        )  # fmt: skip

    unit = 2.5 * np.sqrt(np.pi) / 2  # nats of a spread of 1
    quarter = 0.8 / 0.25 / unit  # .8 nats are a step of 1/4
    for beta, spread, wanted in (
        (0.2, quarter, 0.45),
        (0.7, quarter, 0.95),  # 1.1 steps do not reach the end
        (0.74, quarter, 1.0),
        (0.2, 0.0, 1.0),
    ):
        found, u, _, _, length, _ = tune(beta, spread)
        assert found == pytest.approx(wanted, abs=1e-5)
        assert length == pytest.approx((wanted - beta) * spread * unit, rel=1e-4)
        assert np.all(np.isfinite(u))
    assert tune(0.0, 1e7)[0] == pytest.approx(1e-6)
    assert np.isnan(tune(0.2, np.inf)[0])


def test_the_step_at_a_temperature_is_tuned_from_the_one_before(monkeypatch):
    """Without a mass, which annealing has not either; never beyond what the base allows."""
    asked = {}

    def warmup(rng_key, make, x, num_steps, **options):
        asked.update(options, key=rng_key, x=x, num_steps=num_steps)
        asked["kernels"] = [make(jnp.float32(step), "mass") for step in (0.2, 9.0)]
        state = types.SimpleNamespace(x="moved")
        return types.SimpleNamespace(
            state=state, step_size=jnp.float32(9), acceptance="seen", is_stuck="stuck"
        )

    monkeypatch.setattr(annealing.samplers, "warmup", warmup)
    monkeypatch.setattr(annealing.samplers, "hmc", lambda *given: given)
    densities = Densities(
        lambda level: lambda x: 2 * jnp.sum(x**2, 1) + 0 * level,
        A_BAR[:1], SIGMA_BAR[:1], BaseDistribution(std=3.0),
    )  # fmt: skip
    path, u = annealing.Path(densities, (0,)), jnp.array([[1.0], [2.0]])
    found = annealing.tune_step(
        "key", path, 0, 0.2, jnp.array([[0.5], [3.0]]), u, "first",
        num_steps=31, num_leapfrog_steps=7, target_acceptance=0.65,
    )  # fmt: skip
    assert found[1:4] == ("moved", 1.5, "seen")
    assert found[5] == "stuck"
    kernels = asked.pop("kernels")
    assert [kernel[1:] for kernel in kernels] == [(pytest.approx(0.2), 7), (1.5, 7)]
    np.testing.assert_allclose(kernels[0][0](u), path.along(0)(u, found[0]), rtol=1e-6)
    assert asked == {
        "key": "key", "x": u, "num_steps": 31, "initial_step_size": "first",
        "target_acceptance": 0.65, "adapt_mass": False,
    }  # fmt: skip


def test_chains_are_annealed_alike_in_any_batch():
    """By the number of the first, which is 0 where nothing is said."""
    densities = Densities(
        lambda level: lambda x: 2 * jnp.sum(x**2, 1) + 0 * level,
        A_BAR[:1], SIGMA_BAR[:1], BaseDistribution(),
    )  # fmt: skip
    path = annealing.Path(densities, (0,))
    chunk = annealing.Ladder(jnp.int32(0), jnp.array([0, 0.1, 1]), jnp.array([9.0, 0.4, 0.3]))
    anneal = functools.partial(annealing.anneal, KEY, path, chunk, num_leapfrog_steps=2)
    u = jax.random.normal(jax.random.key(3), (5, 2))
    whole, last = jax.jit(lambda u: (anneal(u), anneal(u[3:], first_chain=3)))(u)
    np.testing.assert_allclose(last.x, whole.x[3:], rtol=1e-5)
    np.testing.assert_allclose(last.log_weights, whole.log_weights[3:], rtol=1e-5)


def test_one_temperature_for_each_segment_is_enough():
    tuned = [
        annealing.AdaptedTemperature(0, 1.0, 0.5, 0.8, 0.2),
        annealing.AdaptedTemperature(1, 1.0, 0.4, 0.8, 9.0),
    ]
    ladder = annealing.allocate(tuned, 2, length=1)
    assert ladder.segment.tolist() == [0, 1, 1]  # each has one at least
    np.testing.assert_allclose(ladder.betas, [[0, 1], [0, 0.5], [0.5, 1]])
    np.testing.assert_allclose(ladder.step_sizes, [[0.5] * 2, [0.4] * 2, [0.4] * 2])
    assert [field.dtype for field in ladder] == [np.int32, np.float32, np.float32]
    assert [type(level) for level in annealing.path_levels(np.geomspace(0.1, 1, 9), 2)] == [int] * 2
