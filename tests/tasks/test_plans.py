"""What long chains and annealing are about to do, from their settings alone, by hand."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.evaluation.density.annealing import AdaptedTemperature
from ebm_jax.evaluation.density.log_likelihood import Units
from ebm_jax.tasks.likelihood import mode, two_directions
from ebm_jax.tasks.long_run import Settings, reporting
from ebm_jax.tasks.long_run import mode as long_run_mode
from ebm_jax.tasks.long_run.chains import Chains
from ebm_jax.tasks.long_run.plan import make_plan


def settings(**fields):
    return Settings(**{"num_chains": jax.device_count()} | fields)


def plan(levels, *, conditionals=1, **fields):
    densities = types.SimpleNamespace(
        num_levels=levels, native_kernel=len, num_conditionals=conditionals,
        conditional_std=jnp.ones(levels),
    )  # fmt: skip
    return make_plan(settings(**fields), densities)


def test_chains_at_one_level():
    """Rows of the figure at powers of ten; states of the second half are kept."""
    found = plan(3, level=1, num_steps=25)
    assert found.events == [*range(11), *range(13, 26)]
    assert found.shown == [0, 10, 25]
    assert found.kept == [*range(13, 26)]
    assert (found.levels, found.steps_per_level, found.tuned) == ([1], 25, [0])
    given_noisy = plan(3, level=1, num_steps=25, start="pairs")
    assert given_noisy.kept == []
    assert given_noisy.events == [*range(11), 20, 25]


def test_chains_from_the_highest_level_down():
    """Of 32 steps ten at each of three levels, the rest at the lowest."""
    found = plan(3, level=-1, num_steps=32)
    assert found.levels == [2, 1, 0]
    assert found.steps_per_level == 10
    assert found.shown == [0, 6, 13, 19, 26, 32]
    assert found.events == [*range(11), 13, 19, *range(20, 31), 32]
    assert found.kept == []
    assert found.tuned == [0, 1, 2]
    steps = (0, 1, 10, 11, 20, 21, 32)
    assert [found.level_at(step) for step in steps] == [2, 2, 2, 1, 1, 0, 0]
    assert [s for s in range(33) if found.is_last_of_level(s)] == [10, 20]
    where_levels_begin = plan(3, level=-1, num_steps=39).events
    assert where_levels_begin == [*range(11), 13, 16, 20, 23, *range(26, 37), 39]
    one_each = plan(3, level=-1, num_steps=3)
    assert [one_each.level_at(step) for step in range(4)] == [2, 2, 1, 0]
    assert [s for s in range(4) if one_each.is_last_of_level(s)] == [1, 2]


def test_chains_at_every_level_anew():
    found = plan(3, level=-1, num_steps=32, start="pairs")
    assert found.events == [*range(31), 32]
    assert found.shown == [10, 20, 32]
    many = plan(12, level=-1, num_steps=24, start="pairs")
    assert many.shown == [4, 8, 12, 16, 20, 24]
    assert plan(5, level=-1, num_steps=5, start="pairs").shown == [1, 2, 3, 4, 5]


def test_levels_that_there_are_not():
    with pytest.raises(ValueError, match=r"levels 0 to 2, or -1 for all of them, got 3$"):
        plan(3, level=3)
    with pytest.raises(ValueError, match=r"levels 0 to 0, got -1$"):
        plan(1, level=-1)
    assert plan(3, level=2).levels == [2]
    assert plan(3, level=0).levels == [0]
    with pytest.raises(ValueError, match=r"^long_run\.num_chains: expected a multiple of the 8"):
        plan(3, level=0, num_chains=12)
    assert plan(1, level=0, num_steps=1).events == [0, 1]
    with pytest.raises(ValueError, match=r"start: expected data or noise"):
        plan(3, conditionals=0, start="pairs")
    with pytest.raises(ValueError, match="at least 3, one for each level, got 2"):
        plan(3, level=-1, num_steps=2)
    assert plan(3, level=-1, num_steps=3).steps_per_level == 1


def test_what_kind_of_chains():
    assert settings().is_native
    assert not settings(step_size=0.1).is_native
    assert not settings(sampler="mala").is_native
    assert not settings(level=0).is_conditional
    assert settings(level=-1).is_conditional
    assert settings(start="pairs").is_conditional
    assert not settings(level=-1).is_anew


def test_chains_in_words():
    chosen = settings(num_chains=8, num_steps=1_200, sampler="mala", start="noise")
    assert reporting.describe(chosen, plan(3, level=2)) == (
        "8 chains of 1,200 steps of mala from noise, at level 2"
    )
    anew = settings(num_chains=8, num_steps=12_000, start="pairs")
    through = plan(3, level=-1, num_steps=12_000, start="pairs")
    assert reporting.describe(anew, through) == (
        "8 chains of 12,000 steps of langevin from x_{t+1} of real images and given it, at the "
        "levels 2 to 0, 4,000 each"
    )


def test_chains_that_are_nowhere():
    finite, not_finite = np.zeros((2, 3)), np.array([[0.0, np.nan]])
    assert long_run_mode._has_diverged({"records": [1], "x": not_finite})
    assert not long_run_mode._has_diverged({"records": [], "x": not_finite})
    assert not long_run_mode._has_diverged({"records": [1], "x": finite})
    record = long_run_mode._as_record(np.arange(10.0))
    assert (record.step, record.level, record.energy, record.frechet) == (0, 1, 2.0, 9.0)
    assert isinstance(record.step, int)


@pytest.mark.parametrize("is_noisy", [False, True])
def test_where_tuning_begins(is_noisy):
    """At the noise of the first level, or .01 where it has none; then at the step before."""
    asked = []

    def tune(params, level, x_noisy, u, before):
        asked.append((level, before))
        return np.float64(2 * before), np.bool_(level == 0)

    here = types.SimpleNamespace(
        plan=types.SimpleNamespace(levels=[2, 1, 0], tuned=[0, 2]), params=None, tune=tune,
        settings=Settings(sampler="mala"),
        densities=types.SimpleNamespace(sigma_bar=[0.1, 0.3, 0.75 * is_noisy]),
    )  # fmt: skip
    first = 0.75 if is_noisy else 0.01
    state = {"step_sizes": np.zeros(3), "is_stuck": np.zeros(3, bool)}
    for level in (2, 1, 0):
        state = Chains._tuned(here, state, level, None, None)
    assert asked == [(2, first), (0, 2 * first)]
    np.testing.assert_allclose(state["step_sizes"], [2 * first, 2 * first, 4 * first])
    assert state["is_stuck"].tolist() == [False, False, True]
    here.settings = Settings(sampler="mala", step_size=0.125)
    fresh = {"step_sizes": np.zeros(3), "is_stuck": np.zeros(3, bool)}
    assert Chains._tuned(here, fresh, 2, None, None)["step_sizes"].tolist() == [0.125, 0, 0]
    assert len(asked) == 2


def test_how_far_tuning_is():
    """Two and a half of four segments: 25 of 40."""
    annealing = types.SimpleNamespace(num_segments=4)
    point = AdaptedTemperature(2, 0.5, 0.1, 0.7, 1.0)
    assert two_directions.TwoDirections._share(annealing, point, 40) == 25


def test_annealing_that_does_not_end():
    assert two_directions._no_end([], 0) == (
        "energies at the base distribution are not finite: train longer"
    )
    point = AdaptedTemperature(2, 0.125, 0.1, 0.7, 1.0)
    said = two_directions._no_end([point._replace(beta=0.5), point], 3)
    assert said.startswith("annealing does not get beyond beta = 0.125 of segment 3, as ")


def run_of(*, has_images=True, dequantize=False):
    return types.SimpleNamespace(
        has_images=has_images,
        dataset=types.SimpleNamespace(example_shape=(2, 3, 1) if has_images else (2,)),
        data=types.SimpleNamespace(low=-2.0, high=4.0, dequantize=dequantize),
    )


def test_width_of_an_intensity():
    """255 steps from low to high, or 256 cells of dequantized images."""
    assert mode._units(run_of()) == Units(6, 6 / 255)
    assert mode._units(run_of(dequantize=True)) == Units(6, 6 / 256)
    assert mode._units(run_of(has_images=False)) == Units(2, 0.0)


def test_the_plane_is_integrated_over_half_as_far_again_as_the_data():
    """A flat energy of 3 on a square of 1.5 times 6; none on a box, and none of images."""
    densities = types.SimpleNamespace(
        energy=lambda level: lambda x: 3.0 + 0 * x[:, 0], base=types.SimpleNamespace(box=None)
    )
    found = mode._grid(run_of(has_images=False), densities)
    assert found.metrics["log_z_on_grid"] == pytest.approx(2 * np.log(9) - 3)
    assert found.lines == [f"by a grid, log Z is {2 * np.log(9) - 3:.4f}"]
    nothing = {"log_z_on_grid": None}
    assert mode._grid(run_of(), densities).metrics == nothing
    densities.base.box = (-2.0, 4.0)
    assert mode._grid(run_of(has_images=False), densities).metrics == nothing


def test_what_the_density_is_of():
    def measured(run, levels=1, box=None, width=0.1):
        densities = types.SimpleNamespace(
            sigma_bar=np.array([0.25]), num_levels=levels, base=types.SimpleNamespace(box=box)
        )
        return mode._described(run, densities, Units(6, width))

    assert measured(run_of(), box=(0, 1)) == (
        "exp(-E) / Z on the box of the images, at the images themselves"
    )
    assert measured(run_of(dequantize=True), box=(0, 1)).endswith(
        ", at uniformly dequantized images"
    )
    assert measured(run_of(), levels=2) == (
        "the density of the lowest noise level, at images with Gaussian noise of 0.25 model units "
        "(2.5 pixel intensities), one noise each; bits/dim are of that density, and no bound on "
        "the probability of the intensities themselves"
    )
    assert measured(run_of(has_images=False), width=0.0) == (
        "the density of exp(-E) / Z, at points with Gaussian noise of 0.25 model units, one noise "
        "each"
    )
