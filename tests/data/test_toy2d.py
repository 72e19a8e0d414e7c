"""Densities on the plane: normalized, and the samplers draw from them."""

import itertools

import numpy as np
import pytest
from scipy.integrate import quad

from ebm_jax.data import TOY_DENSITIES, load_dataset, toy_density


def grid(density, m):
    """Midpoints of m x m cells over the bound, and the area of a cell."""
    width = 2 * density.bound / m
    axis = -density.bound + width * (np.arange(m) + 0.5)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1), width**2


@pytest.mark.parametrize("name", TOY_DENSITIES)
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_density_integrates_to_one(name, scale):
    density = toy_density(name, scale=scale)
    points, area = grid(density, 256)
    total = np.exp(density.log_density(points)).sum() * area
    # The midpoint rule on smooth densities that vanish at the edges: spectral accuracy.
    assert total == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", TOY_DENSITIES)
def test_samples_follow_the_density(name):
    density = toy_density(name)
    n, m = 40_000, 16
    samples = density.sample(np.random.default_rng(1), n)
    assert samples.shape == (n, 2)
    assert samples.dtype == np.float32
    assert np.isfinite(density.log_density(samples)).all()
    # Probability of each of m x m boxes, from a grid 16 times as fine, against counts: chi-square.
    points, area = grid(density, 16 * m)
    mass = np.exp(density.log_density(points)).reshape(m, 16, m, 16).sum(axis=(1, 3)) * area
    edges = np.linspace(-density.bound, density.bound, m + 1)
    counts, _, _ = np.histogram2d(*samples.T, bins=[edges, edges])
    often = n * mass >= 5
    chi_square = np.sum((counts - n * mass)[often] ** 2 / (n * mass)[often])
    freedom = often.sum() - 1
    assert abs(chi_square - freedom) < 4.5 * np.sqrt(2 * freedom)
    assert counts[~often].sum() <= n * mass[~often].sum() + 4 * np.sqrt(n * mass[~often].sum()) + 1


def test_checkerboard_has_the_stated_density_and_entropy():
    density = toy_density("checkerboard")
    samples = density.sample(np.random.default_rng(0), 1000)
    np.testing.assert_allclose(density.log_density(samples), -np.log(128.0))
    assert np.log(128.0) == pytest.approx(4.852, abs=5e-4)  # METHODS' figure, in nats
    # Corners of the board are dark on one diagonal, light on the other.
    assert np.isfinite(density.log_density(np.array([[-7.0, -7.0], [7.0, 7.0]]))).all()
    assert np.isneginf(density.log_density(np.array([[-7.0, 7.0], [7.0, -7.0], [9.0, 0.0]]))).all()


def test_rings_against_quadrature():
    density, variance = toy_density("rings"), 0.04
    for x in ([0.0, 0.0], [0.3, 0.2], [0.0, 3.1], [-2.0, 2.0], [4.0, 5.0]):
        total = 0.0
        for radius in (1.0, 2.0, 3.0, 4.0):

            def integrand(angle, radius=radius, x=x):
                dx, dy = x[0] - radius * np.cos(angle), x[1] - radius * np.sin(angle)
                return np.exp(-(dx**2 + dy**2) / (2 * variance)) / (2 * np.pi * variance)

            around = np.arctan2(x[1], x[0])  # the peak is at an edge of the interval
            total += sum(
                quad(integrand, around + a, around + a + 0.5, epsabs=0, epsrel=1e-10)[0]
                for a in np.arange(-3, 3, 0.5)
            )
            total += quad(integrand, around + 3, around + 2 * np.pi - 3, epsabs=0, epsrel=1e-10)[0]
        reference = np.log(total / (4 * 2 * np.pi))
        assert density.log_density(np.array(x)) == pytest.approx(reference, rel=1e-8)


def test_moons_against_adaptive_quadrature():
    density, variance = toy_density("two_moons"), 0.04
    pieces = np.linspace(0.0, np.pi, 40)
    for x in ([0.0, 0.0], [-1.0, 1.5], [-3.0, -0.5], [1.0, -1.4], [2.5, 1.0], [4.0, 4.0]):

        def integrand(t, sign, x=x):
            dx = x[0] - sign * (2 * np.cos(t) - 1)
            dy = x[1] - sign * (2 * np.sin(t) - 0.5)
            return np.exp(-(dx**2 + dy**2) / (2 * variance))

        total = sum(
            quad(integrand, a, b, args=(sign,), epsabs=0, epsrel=1e-11)[0]
            for sign in (1, -1)
            for a, b in itertools.pairwise(pieces)
        )
        reference = np.log(total / (2 * np.pi) / (2 * np.pi * variance))
        assert density.log_density(np.array(x)) == pytest.approx(reference, rel=1e-9)


def test_entropy_of_eight_gaussians_is_that_of_the_mixture():
    """Well apart: entropy is log 8 + log(2 pi e v), less the little that neighbors overlap."""
    density = toy_density("eight_gaussians")
    points, area = grid(density, 400)
    log_p = density.log_density(points)
    entropy = -np.sum(np.exp(log_p) * log_p) * area
    apart = np.log(8.0) + np.log(2 * np.pi * np.e * 0.25)
    assert apart - 0.02 < entropy < apart


def test_scaling_shifts_the_log_density_by_the_jacobian():
    base, scaled = toy_density("two_moons"), toy_density("two_moons", scale=3.0)
    x = base.sample(np.random.default_rng(0), 100)
    np.testing.assert_allclose(
        scaled.log_density(3.0 * x.astype(float)), base.log_density(x) - 2 * np.log(3.0)
    )
    np.testing.assert_allclose(scaled.sample(np.random.default_rng(0), 100), 3.0 * x, rtol=1e-6)


def test_loads_as_a_data_set():
    train, test = (load_dataset("rings", split, scale=0.5) for split in ("train", "test"))
    assert train.images.shape == (100_000, 2)
    assert train.value_range == (-2.75, 2.75)
    assert not np.array_equal(train.images, test.images)
    np.testing.assert_array_equal(train.images, load_dataset("rings", scale=0.5).images)
    for seed, part in enumerate((train, test)):
        points = toy_density("rings").sample(np.random.default_rng(seed), 100_000)
        np.testing.assert_allclose(part.images, 0.5 * points, rtol=1e-6)
        assert (part.name, part.split, part.num_classes) == ("rings", ("train", "test")[seed], 1)
        assert part.labels.dtype == np.int32
        np.testing.assert_array_equal(part.labels, np.zeros(100_000))
    plain = load_dataset("rings", "test")
    assert plain.value_range == (-5.5, 5.5)
    np.testing.assert_allclose(plain.images, 2 * test.images, rtol=1e-6)


def test_bounds_and_names():
    bounds = {name: toy_density(name).bound for name in TOY_DENSITIES}
    assert bounds == {
        "checkerboard": 8.0, "eight_gaussians": 7.5, "rings": 5.5, "two_moons": 4.5,
    }  # fmt: skip
    for name in TOY_DENSITIES:
        assert toy_density(name).name == name
        assert toy_density(name, scale=2).bound == 2 * bounds[name]
        assert toy_density(name).log_density([0.25, 3.0]).shape == ()


def test_edges_of_the_checkerboard():
    """Its squares hold their left and lower edges; the square at the lower left is dark."""
    density = toy_density("checkerboard").log_density
    edges = np.array([[-8, -8], [-4, -4], [-4.001, -8], [4, 4], [7.99, 7.99], [0, -8], [-8, 0]])
    np.testing.assert_allclose(density(edges), -np.log(128))
    beyond = np.array([[8, -4], [8, 8], [7, 8], [-8.001, -8], [-8, -8.001], [-4, -8], [4, 0]])
    assert np.isneginf(density(beyond)).all()
    points = toy_density("checkerboard").sample(np.random.default_rng(0), 20_000)
    within = points % 4
    assert within.min() < 0.01
    assert within.max() > 3.99


def test_moons_of_many_points_are_those_of_each():
    """Points are taken a few thousand at a time."""
    density = toy_density("two_moons").log_density
    x = np.random.default_rng(0).normal(size=(3, 2_731, 2))  # 8,193
    found = density(x)
    assert found.shape == (3, 2_731)
    chosen = [(0, 0), (1, 1_364), (1, 1_365), (2, 2_729), (2, 2_730)]  # about 4,096 and the end
    np.testing.assert_allclose([found[i] for i in chosen], [density(x[i]) for i in chosen])


def test_refuses():
    assert type(TOY_DENSITIES) is tuple
    with pytest.raises(ValueError, match="unknown toy density 'moons'"):
        toy_density("moons")
    with pytest.raises(ValueError, match="scale is 0"):
        toy_density("rings", scale=0)
    with pytest.raises(ValueError, match=r"^scale is nan; it must be above 0$"):
        toy_density("rings", scale=np.nan)
    with pytest.raises(ValueError, match="rings has no split 'validation'"):
        load_dataset("rings", "validation")
