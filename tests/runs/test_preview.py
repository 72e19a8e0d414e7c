"""Figures of samples by hand: the density of a plane in the data's units, grids, histograms."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import data
from ebm_jax.data import Dataset
from ebm_jax.io import charts, image_grids
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.runs import build, preview, settings


def run_of(images, value_range, *, name="made", sigma_bar=(0.25, 0.5), box=None, **fields):
    def energy(level):
        return lambda x: jnp.sum(x**2, -1) + 10 * level

    base = BaseDistribution() if box is None else types.SimpleNamespace(box=box)
    densities = Densities(energy, jnp.array([0.5, 0.25]), jnp.array(sigma_bar), base)
    method = types.SimpleNamespace(densities=lambda params: densities)
    labels = np.zeros(len(images), np.int32)
    dataset = Dataset(name, "train", images, labels, 1, value_range)._replace(**fields)
    described = settings.Data(low=-3.0, high=5.0, random_flip=False)
    return build.Run(
        None, dataset, method, settings.General(), described, settings.Sampling(seed=3)
    )


POINTS = np.zeros((4, 2), np.float32)


def test_the_density_of_a_plane_is_in_the_units_of_the_data():
    """Values -2 to 2 are -3 to 5: twice, and one more; level 0 has half of that, and its noise."""
    model = preview.plane_model(run_of(POINTS, (-2.0, 2.0)), None)
    assert (model.factor, model.offset) == pytest.approx((0.5 * 2, 0.5 * 1))
    assert model.noise_std == pytest.approx(0.25 / 0.5 / 2)
    x = jnp.array([[1.0, 2.0], [-4.0, 0.0]])
    np.testing.assert_allclose(model.energy_fn(x), [5, 16])


def test_outside_of_a_box_the_density_is_zero():
    box = (jnp.array([-3.0, -2.0]), jnp.array([5.0, 4.0]))
    model = preview.plane_model(run_of(POINTS, (-2.0, 2.0), box=box), None)
    x = jnp.array([[-3.0, 4.0], [5.0, -2.0], [-3.1, 0.0], [5.1, 0.0], [0.0, 4.1], [0.0, -2.1]])
    np.testing.assert_allclose(model.energy_fn(x), [25, 29, *[np.inf] * 4])


def test_densities_of_points(monkeypatch):
    """On a square a fifth wider than the data; the first two thousand samples in its units."""
    drawn = []
    monkeypatch.setattr(
        charts, "density_picture", lambda *given, **how: drawn.append((given, how)) or "picture"
    )
    density = data.toy_density("checkerboard")
    run = run_of(POINTS, (-density.bound, density.bound), name="checkerboard")
    samples = np.tile(np.array([[-3.0, 5.0]], np.float32), (2_500, 1))
    samples[2_000:] = 0
    assert preview.figure(run, None, samples) == "picture"
    (((learned, true, points), how),) = drawn
    half = 1.2 * density.bound
    assert how == {"extent": (-half, half, -half, half)}
    assert learned.shape == true.shape == (240, 240)
    np.testing.assert_allclose(points, np.tile([[-density.bound, density.bound]], (2_000, 1)))
    along = half * ((2 * np.arange(240) + 1) / 240 - 1)
    x = 0.5 * (1 + 4 / density.bound * along)  # of the variable of level 0
    expected = -(x[None] ** 2 + x[:, None] ** 2)
    expected -= np.log(np.sum(np.exp(expected)) * (2 * half / 240) ** 2)
    np.testing.assert_allclose(learned, expected, atol=1e-3)


def test_states_of_trajectories_are_histograms(monkeypatch):
    """Of the first six values, beside as many states as there are samples, or labels in turn."""
    drawn = []
    monkeypatch.setattr(charts, "histograms_picture", drawn.append)
    states = np.arange(5 * 8, dtype=np.float32).reshape(5, 8)
    trajectories = types.SimpleNamespace(columns=tuple("abcdefgh"))
    run = run_of(states, (-1.0, 1.0), name="pendulum", trajectories=trajectories)
    preview.figure(run, None, states[:3] + 0.5)
    (panels,) = drawn
    assert list(panels) == [f"{column}, z-score" for column in "abcdef"]
    assert list(panels["b, z-score"]) == ["generated", "real: pendulum"]
    np.testing.assert_array_equal(panels["b, z-score"]["generated"], [1.5, 9.5, 17.5])
    np.testing.assert_array_equal(panels["b, z-score"]["real: pendulum"], [1, 9, 17])
    monkeypatch.setattr(preview.data_facts, "NUM_LABELS", 2)
    preview.figure(run, None, states[:3])
    assert drawn[1]["f, z-score"]["real: pendulum"].tolist() == [5, 13]
    assert len(drawn[1]["f, z-score"]["generated"]) == 3


def test_samples_stand_beside_as_many_real_images(monkeypatch):
    monkeypatch.setattr(image_grids, "image_grid", lambda images: images)
    monkeypatch.setattr(image_grids, "side_by_side", lambda *given: given)
    images = np.arange(20 * 4, dtype=np.uint8).reshape(20, 2, 2, 1)
    run = run_of(images, (0.0, 255.0))
    samples = np.full((7, 2, 2, 1), 1.0, np.float32)
    generated, real, titles = preview.figure(run, None, samples)
    assert titles == ("generated", "real: made")
    np.testing.assert_array_equal(generated, np.full((7, 2, 2, 1), 128))
    assert len({image.tobytes() for image in real} & {image.tobytes() for image in images}) == 7
    again = preview.figure(run, None, samples)[1]
    np.testing.assert_array_equal(again, real)
