"""Reflecting walls: the fold, exact laws in a box, what they do to gradients, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers
from ebm_jax.samplers.walls import _fold

KEY = jax.random.key(0)
SLOPE = 3.0
KERNELS = {
    "hmc": lambda energy_fn: samplers.hmc(energy_fn, 0.3, 5),
    "mala": lambda energy_fn: samplers.mala(energy_fn, 0.1),
    "langevin": lambda energy_fn: samplers.langevin(energy_fn, 2e-3),
    "underdamped": lambda energy_fn: samplers.underdamped_langevin(energy_fn, 0.05),
}


def exponential(x):
    """exp(-3 x), most of it at the lower wall."""
    return SLOPE * jnp.sum(x, axis=1)


def test_the_fold_runs_up_and_down():
    u = jnp.array([[-2.5, -1.0, -0.25, 0.0, 0.5, 1.0, 1.25, 2.0, 3.25]]).T
    folded = samplers.fold_into_box(u, 0.0, 1.0)[:, 0]
    np.testing.assert_allclose(folded, [0.5, 1.0, 0.25, 0.0, 0.5, 1.0, 0.75, 0.0, 0.75], atol=1e-6)
    above = samplers.fold_into_box(u, 0.0, jnp.inf)
    np.testing.assert_allclose(above, np.abs(u), atol=1e-6)
    below = samplers.fold_into_box(u, -jnp.inf, 1.0)
    np.testing.assert_allclose(below, 1 - np.abs(1 - u), atol=1e-6)
    np.testing.assert_array_equal(samplers.fold_into_box(u, -jnp.inf, jnp.inf), u)
    each = samplers.fold_into_box(jnp.array([[1.5, 1.5]]), 0.0, jnp.array([[1.0, 2.0]]))
    np.testing.assert_allclose(each, [[0.5, 1.5]])


def test_walls_stand_anywhere():
    """In NumPy, one reflection after another; a face is a place to be."""
    u = np.array([-9.0, -3.0, -2.0, 1.0, 4.0, 5.0, 9.9, 10.0, 11.0, 29.0])[:, None]
    wanted = u.copy()
    while ((wanted < -2) | (wanted > 4)).any():
        wanted = np.where(wanted < -2, -4 - wanted, wanted)
        wanted = np.where(wanted > 4, 8 - wanted, wanted)
    found = samplers.fold_into_box(jnp.asarray(u), -2.0, 4.0)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    one = samplers.fold_into_box({"a": jnp.array([[-2.0], [5.0]])}, 1.0, {"a": jnp.inf})
    np.testing.assert_array_equal(one["a"], [[4.0], [5.0]])
    one = samplers.fold_into_box(jnp.array([[-5.0], [2.0]]), -jnp.inf, -1.0)
    np.testing.assert_array_equal(one, [[-5.0], [-4.0]])
    sides = samplers.fold_into_box(
        jnp.array([[-1.0, 5.0, -7.0]]), jnp.array([[2.0, -jnp.inf, -8.0]]), jnp.array([[3.0, 1, 0]])
    )
    np.testing.assert_array_equal(sides, [[3.0, -3.0, -7.0]])


def test_an_axis_turns_round_beyond_a_wall_and_not_at_it():
    u = jnp.array([-3.0, -2.0, 1.0, 4.5, 9.0])
    for low, high, wanted in (
        (-2.0, 4.0, [-1, 1, 1, -1, -1]),
        (-2.0, jnp.inf, [-1, 1, 1, 1, 1]),
        (-jnp.inf, 4.5, [1, 1, 1, 1, -1]),
        (-jnp.inf, jnp.inf, [1] * 5),
    ):
        _, slope = _fold(u, jnp.float32(low), jnp.float32(high))
        np.testing.assert_array_equal(slope, wanted)
        assert slope.dtype == u.dtype


@pytest.mark.parametrize("name", KERNELS)
def test_law_on_an_interval(name):
    """The truncated exponential of mean 1/3 - exp(-3) / (1 - exp(-3)), also beside the walls."""
    kernel = samplers.reflecting_walls(exponential, KERNELS[name], 0.0, 1.0)
    x = jax.random.uniform(KEY, (4_000, 1))
    state, _ = samplers.run_chain(KEY, kernel, x, 200)
    assert 0 <= float(state.x.min()) <= float(state.x.max()) <= 1
    mean = 1 / SLOPE - np.exp(-SLOPE) / (1 - np.exp(-SLOPE))
    assert float(state.x.mean()) == pytest.approx(mean, abs=4 * 0.22 / np.sqrt(4_000) + 0.003)
    for edge in (0.1, 0.9):  # no mass is missing at either wall
        share = (1 - np.exp(-SLOPE * edge)) / (1 - np.exp(-SLOPE))
        error = np.sqrt(share * (1 - share) / 4_000)
        assert float((state.x < edge).mean()) == pytest.approx(share, abs=4 * error + 0.01)


def test_state_is_that_of_the_positions():
    """Energies and gradients of the folded positions, displacement in the box."""
    kernel = samplers.reflecting_walls(exponential, KERNELS["hmc"], 0.0, 1.0)
    state = kernel.init(jnp.array([[0.01], [0.5], [0.99]]))
    for n in range(20):
        new, info = kernel.step(jax.random.fold_in(KEY, n), state)
        energy, grad = samplers.energy_and_grad(exponential, new.x)
        np.testing.assert_allclose(new.energy, energy, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(new.grad, grad, rtol=1e-6)
        np.testing.assert_allclose(info.displacement, np.abs(new.x - state.x)[:, 0], atol=1e-6)
        state = new


def test_a_momentum_turns_round_at_a_wall():
    """A free particle that runs up an interval comes down again."""
    kernel = samplers.reflecting_walls(
        lambda x: jnp.zeros(len(x)) * x[:, 0],
        lambda energy_fn: samplers.underdamped_langevin(energy_fn, 0.3, friction=1e-8),
        0.0,
        1.0,
    )
    state = kernel.init(jnp.array([[0.9]]))._replace(momentum=jnp.array([[1.0]]))
    path = []
    for n in range(6):
        state, _ = kernel.step(jax.random.fold_in(KEY, n), state)
        path.append(float(state.x[0, 0]))
    np.testing.assert_allclose(path, [0.8, 0.5, 0.2, 0.1, 0.4, 0.7], atol=1e-3)
    np.testing.assert_allclose(state.momentum, 1.0, atol=1e-3)


def test_inside_of_tempering_and_in_trees():
    def energy(x):
        return SLOPE * (x["a"][:, 0] + x["b"][:, 0])

    kernel = samplers.parallel_tempering(
        energy,
        [1.0, 2.0, 4.0],
        lambda energy_fn, t: samplers.reflecting_walls(
            energy_fn,
            lambda e: samplers.hmc(e, 0.3, 3, temperature=t),
            {"a": 0.0, "b": -1.0},
            {"a": 1.0, "b": 0.0},
        ),
    )
    x = {"a": jnp.full((2_000, 1), 0.5), "b": jnp.full((2_000, 1), -0.5)}
    state, _ = samplers.run_chain(KEY, kernel, x, 100)
    mean = 1 / SLOPE - np.exp(-SLOPE) / (1 - np.exp(-SLOPE))
    assert float(state.x["a"].mean()) == pytest.approx(mean, abs=0.025)
    assert float(state.x["b"].mean()) == pytest.approx(mean - 1, abs=0.025)
    outside = samplers.reflecting_walls(
        lambda x: x[:, 0], lambda e: samplers.parallel_tempering(e, [1.0, 2.0], samplers.mala), 0, 1
    )
    with pytest.raises(ValueError, match="put the walls into its make_kernel"):
        outside.init(jnp.full((2, 1), 0.5))


def test_half_types_stay_between_the_walls():
    kernel = samplers.reflecting_walls(exponential, KERNELS["mala"], 0.0, 1.0)
    x = jnp.full((500, 1), 0.5, jnp.bfloat16)
    state, _ = samplers.run_chain(KEY, kernel, x, 200)
    assert state.x.dtype == jnp.bfloat16
    assert 0 <= float(state.x.min()) <= float(state.x.max()) <= 1
    assert float(state.x.astype(jnp.float32).mean()) == pytest.approx(0.281, abs=0.045)


def test_bad_input():
    with pytest.raises(ValueError, match=r"walls low < high, got 1\.0 and 0\.0"):
        samplers.reflecting_walls(exponential, KERNELS["hmc"], 1.0, 0.0)
    with pytest.raises(ValueError, match=r"walls low < high, got 1\.0 and 1\.0"):
        samplers.reflecting_walls(exponential, KERNELS["hmc"], 1.0, 1.0)
    low, high = {"a": 0.0, "b": 2.0}, {"a": 1.0, "b": 1.0}
    with pytest.raises(ValueError, match=r"walls low < high, got 2\.0 and 1\.0"):
        samplers.reflecting_walls(exponential, KERNELS["hmc"], low, high)
    with pytest.raises(ValueError, match=r"walls low < high, got 0\.0 and \[\[1\. 0\.\]\]"):
        samplers.reflecting_walls(exponential, KERNELS["hmc"], 0.0, np.array([[1.0, 0.0]]))
    kernel = samplers.reflecting_walls(exponential, KERNELS["hmc"], 0.0, 1.0)
    with pytest.raises(ValueError, match=r"between the walls 0 and 1, got one at 1\.5: fold"):
        kernel.init(jnp.array([[0.5], [1.5]]))
    with pytest.raises(ValueError, match=r"between the walls 0 and 1, got one at -0\.25: fold"):
        kernel.init(jnp.array([[0.5], [-0.25], [7.0]]))
    np.testing.assert_array_equal(kernel.init(jnp.array([[0.0], [1.0]])).energy, [0.0, SLOPE])
    box = np.array([[-2.0, -3.0]]), np.array([[4.0, 5.0]])
    kernel = samplers.reflecting_walls(exponential, KERNELS["hmc"], *box)
    with pytest.raises(ValueError, match=r"the walls -3 and 5, got one at 4\.5: fold"):
        kernel.init(jnp.array([[4.0, 5.0], [4.5, -4.0]]))
