"""Densities on a grid: normal laws and boxes in closed form, in the data's units."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from ebm_jax.data import toy_density
from ebm_jax.evaluation.density.grid2d import (
    Grid,
    box_masses,
    compare,
    learned_density,
    sample_distance,
)
from ebm_jax.evaluation.density.plane import PlaneModel, density_fit

GRID = Grid(6.0, 240)


def log_normal(x, mean, variance):
    """Log density of N(mean, variance I) at x [..., 2]."""
    return -np.sum((x - mean) ** 2, -1) / (2 * variance) - np.log(2 * np.pi * variance)


def test_points_are_cell_centres_rows_upwards():
    grid = Grid(2.0, 4)
    np.testing.assert_allclose(grid.points[0, :, 0], [-1.5, -0.5, 0.5, 1.5])
    np.testing.assert_allclose(grid.points[:, 0, 1], [-1.5, -0.5, 0.5, 1.5])
    assert grid.cell_area == 1.0
    assert grid.extent == (-2.0, 2.0, -2.0, 2.0)


def test_normal_energy_of_a_scaled_variable():
    """y = offset + factor x with y ~ N(m, v): log Z, the density of x, and the KL in closed form.

    KL(N(a, s) || N(b, t)) in the plane = s / t - 1 - log(s / t) + |a - b|^2 / 2t.
    """
    mean, variance = np.array([0.9, -0.4]), 0.15
    factor, offset = 0.5, 0.25
    found = learned_density(
        lambda y: 7.0 + jnp.sum((y - mean) ** 2, -1) / (2 * variance),
        GRID,
        factor=factor,
        offset=offset,
    )
    assert found.log_z == pytest.approx(np.log(2 * np.pi * variance) - 7.0, abs=1e-5)
    learned_mean, learned_variance = (mean - offset) / factor, variance / factor**2
    wanted = log_normal(GRID.points, learned_mean, learned_variance)
    np.testing.assert_allclose(found.log_density, wanted, atol=1e-4)

    true_mean, true_variance = np.array([0.5, 0.1]), 0.6
    result = compare(found.log_density, log_normal(GRID.points, true_mean, true_variance), GRID)
    ratio = true_variance / learned_variance
    distance = np.sum((true_mean - learned_mean) ** 2)
    kl = ratio - 1 - np.log(ratio) + distance / (2 * learned_variance)
    assert result.kl == pytest.approx(kl, abs=1e-5)
    assert result.entropy == pytest.approx(np.log(2 * np.pi * np.e * true_variance), abs=1e-5)
    assert result.expected_log_likelihood == pytest.approx(-result.entropy - kl, abs=1e-5)
    assert result.true_mass == pytest.approx(1.0, abs=1e-8)


def test_a_density_has_no_divergence_from_itself():
    log_density = log_normal(GRID.points, [0.3, 0.0], 0.2)
    result = compare(log_density, log_density, GRID)
    assert result.kl == pytest.approx(0.0, abs=1e-12)
    assert result.total_variation == 0.0


def test_uniform_squares_that_overlap_by_a_quarter():
    """p uniform on [0, 2]^2, q on [-1, 3]^2 of the grid: KL = log 4, total variation 3/4."""
    x, y = np.moveaxis(GRID.points, -1, 0)
    inner = (x > 0) & (x < 2) & (y > 0) & (y < 2)
    outer = (np.abs(x - 1) < 2) & (np.abs(y - 1) < 2)
    true = np.where(inner, -np.log(4.0), -np.inf)
    # The grid knows no energy of infinity: exp(-60) is none in float64 sums.
    table = jnp.asarray(np.where(outer, 0.0, 60.0), jnp.float32)

    def energy_fn(points):
        j, i = (jnp.round((points[:, k] + 6.0) / 0.05 - 0.5).astype(int) for k in (0, 1))
        return table[i, j]

    found = learned_density(energy_fn, GRID)
    result = compare(found.log_density, true, GRID)
    assert found.log_z == pytest.approx(np.log(16.0), abs=1e-9)
    assert result.kl == pytest.approx(np.log(4.0), abs=1e-9)
    assert result.total_variation == pytest.approx(0.75, abs=1e-9)
    assert result.entropy == pytest.approx(np.log(4.0), abs=1e-9)


def test_boxes_hold_the_mass_of_a_normal_law():
    variance = 0.8
    masses = box_masses(log_normal(GRID.points, [0.5, -1.0], variance), GRID, 6)
    edges = np.linspace(-6, 6, 7)
    along_x, along_y = (np.diff(norm.cdf(edges, mean, np.sqrt(variance))) for mean in (0.5, -1.0))
    np.testing.assert_allclose(masses, np.outer(along_y, along_x), atol=2e-4)


def test_distance_of_points_counts_those_beyond_the_grid():
    grid = Grid(1.0, 4)
    masses = np.array([[0.5, 0.5], [0.0, 0.0]])  # below: left and right
    below = np.array([[-0.5, -0.5], [0.5, -0.5]])
    assert sample_distance(below, masses, grid) == 0.0
    # Shares 1/4 below right, 1/2 above left, 1/4 outside.
    points = np.array([[0.5, -0.5], [-0.5, 0.5], [-0.5, 0.5], [3.0, 0.0]])
    assert sample_distance(points, masses, grid) == pytest.approx(0.75)


def test_exact_draws_are_at_the_distance_that_chance_makes():
    """E|share - m| = sqrt(2 m (1 - m) / pi n) per box, for many draws."""
    rng = np.random.default_rng(0)
    masses = np.full((8, 8), 1 / 64)
    num = 50_000
    found = sample_distance(rng.uniform(-6, 6, (num, 2)), masses, GRID)
    wanted = 64 / 2 * np.sqrt(2 / 64 * (1 - 1 / 64) / (np.pi * num))
    spread = np.sqrt(64) / 2 * np.sqrt((1 - 2 / np.pi) / 64 / num)
    assert abs(found - wanted) < 4 * spread


def test_an_infinite_energy_is_a_density_of_zero():
    """Uniform on the box [-1, 1]^2, of area 4."""
    inside = np.abs(GRID.points).max(-1) < 1
    found = learned_density(
        lambda y: jnp.where(jnp.all(jnp.abs(y) < 1, axis=-1), 7.0, jnp.inf), GRID
    )
    area = inside.sum() * GRID.cell_area
    np.testing.assert_allclose(np.exp(found.log_density), inside / area, rtol=1e-6)
    assert found.log_z == pytest.approx(np.log(area) - 7)
    for everywhere in (jnp.inf, -jnp.inf):
        with pytest.raises(ValueError, match="57600 of 57600 energies"):
            learned_density(lambda y, e=everywhere: jnp.full(y.shape[0], e), GRID)


def test_refusals():
    with pytest.raises(ValueError, match=r"factor: expected > 0, got 0\.0"):
        learned_density(lambda y: y[:, 0], GRID, factor=0.0)
    with pytest.raises(ValueError, match="28800 of 57600 energies on the grid are not finite"):
        learned_density(lambda y: jnp.where(y[:, 0] > 0, jnp.nan, 0.0), GRID)
    with pytest.raises(ValueError, match="7 boxes do not divide 240 cells"):
        box_masses(np.zeros((240, 240)), GRID, 7)


def test_samples_that_are_not_finite_are_counted():
    samples = np.ones((5, 2))
    samples[1] = np.inf
    samples[3, 1] = np.nan
    model = PlaneModel(lambda y: jnp.sum(y**2, -1), 1.0, 0.0, 0.0)
    with pytest.raises(ValueError, match=r"^2 of 5 samples have non-finite values$"):
        density_fit(samples, np.zeros((5, 2)), model, toy_density("rings"))


def test_the_fit_of_a_normal_model_to_rings():
    """N(0, v) of x = (y - offset) / factor; the mass outside by the error function."""
    density = toy_density("rings")
    std, factor, offset = 0.5 * density.bound, 0.4, 1.5

    def energy_fn(y):
        return jnp.sum(((y - offset) / factor) ** 2, -1) / (2 * std**2)

    rng = np.random.default_rng(0)
    exact = density.sample(rng, 60)
    exact[50:] = 1e3  # more than there are samples are not looked at
    model = PlaneModel(energy_fn, factor, offset, 0.25)
    found = density_fit(exact[:50], exact, model, density)
    assert found.grid == Grid(1.5 * density.bound, 480)
    inside = norm.cdf(2) - norm.cdf(-2)
    on_grid = norm.cdf(3) - norm.cdf(-3)
    assert found.mass_outside == pytest.approx(1 - (inside / on_grid) ** 2, rel=1e-3)
    log_z = np.log(2 * np.pi * (factor * std) ** 2 * on_grid**2)
    assert found.log_z == pytest.approx(log_z, abs=1e-4)
    assert (found.num_samples, found.noise_std) == (50, 0.25)
    assert found.sample_distance == found.exact_distance
    masses = box_masses(density.log_density(found.grid.points), found.grid, 24)
    assert found.sample_distance == sample_distance(exact[:50], masses, found.grid)
    assert density_fit(exact[:50], exact[:50], model, density) == found
    said = "num_samples: expected at most 49, the held-out points to compare with, got 50"
    with pytest.raises(ValueError, match=f"^{said}$"):
        density_fit(exact[:50], exact[:49], model, density)
