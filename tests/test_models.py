"""The models that come with the package: each loads without data, and is what its card says."""

import hashlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import data, models
from ebm_jax.evaluation.density import grid2d
from ebm_jax.evaluation.fidelity.frechet import fit_gaussian, frechet_distance
from ebm_jax.runs import model_folder

each = pytest.mark.parametrize("name", models.names())


def test_there_are_some():
    assert {"digits_drl", "checkerboard_drl", "checkerboard_ed", "fashion_mnist_drl"} <= set(
        models.names()
    )


@each
def test_a_card_is_of_its_weights(name):
    model = models.load(name)
    folder = model_folder.find(name)
    stored = (folder / "weights.safetensors").read_bytes()
    assert hashlib.sha256(stored).hexdigest() in model.card
    assert f"{model_folder.num_parameters(model.params):,} parameters" in model.card
    assert "not stated" not in model.card
    assert "`--mode=evaluate`:" in model.card
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_000_000
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.md", "model.json", "samples.png", "weights.safetensors",
    ]  # fmt: skip


@each
def test_it_has_energies_without_data(name):
    model = models.load(name)
    shape = model.trained.run.dataset.example_shape
    x = jax.random.uniform(jax.random.key(0), (3, *shape), minval=-1.0)
    energies = model.energy_fn(level=0)(x)
    assert energies.shape == (3,)
    assert np.all(np.isfinite(energies))


def test_densities_of_the_plane_are_the_checkerboard():
    """On a grid, beside what their cards say of KL(true || learned)."""
    for name in ("checkerboard_drl", "checkerboard_ed"):
        model = models.load(name)
        density = data.toy_density("checkerboard")
        grid = grid2d.Grid(1.2 * density.bound, 120)
        units = model.trained.run.data
        x = data.scale_points(
            jnp.asarray(grid.points), model.trained.run.dataset.value_range, units.low, units.high
        )
        energies = model.energy_fn(level=0)(x.reshape(-1, 2))
        log_learned = -np.asarray(energies, np.float64)
        log_learned -= np.log(np.sum(np.exp(log_learned)))  # of a cell
        true = np.exp(np.asarray(density.log_density(grid.points), np.float64)).ravel()
        true /= true.sum()
        inside = true > 0
        kl = np.sum(true[inside] * (np.log(true[inside]) - log_learned[inside]))
        (said,) = re.findall(r"KL\(true \|\| learned\) +([\d.]+) nats", model.card)
        assert kl == pytest.approx(float(said), abs=0.03), name


@pytest.mark.slow
def test_digits_are_as_near_to_the_training_digits_as_the_card_says():
    model = models.load("digits_drl")
    real = model.from_pixels(data.load_dataset("digits", "train").images).reshape(-1, 64)
    x = model.sample(jax.random.key(1), 896).reshape(-1, 64)
    distance = frechet_distance(fit_gaussian(real), fit_gaussian(x))
    (said,) = re.findall(r"first 896 of them +([\d.]+)\n +896 real held-out images +[\d.]+\nclass",
                         model.card)  # fmt: skip
    assert distance == pytest.approx(float(said), rel=0.15)  # another key


def test_points_of_a_model_of_the_plane_in_the_datas_units():
    model = models.load("checkerboard_drl")
    units, in_data = model.trained.run.data, model.trained.run.dataset.value_range
    corners = model.to_data_units(np.array([[units.low, units.high]], np.float32))
    np.testing.assert_allclose(corners, [in_data])
    assert in_data != (units.low, units.high)
