"""The models that come with the package: each loads without data, and is what its card says."""

import dataclasses
import hashlib
import re
import types

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


def with_run(**of_run):
    """A model of a run that has these alone."""
    run = types.SimpleNamespace(**of_run)
    return models.Model("name", "card", types.SimpleNamespace(run=run, params="parameters"))


def test_samples_come_in_batches_from_the_first():
    asked = []

    def sampler(rng_key):
        asked.append(rng_key)
        return lambda first, stop: asked.append((first, stop)) or np.arange(first, stop)

    model = with_run(sampling=types.SimpleNamespace(batch_size=4))
    model.trained.sampler = sampler
    np.testing.assert_array_equal(model.sample("key", 10, first=3), np.arange(3, 13))
    assert asked == ["key", (3, 7), (7, 11), (11, 13)]
    np.testing.assert_array_equal(model.sample("key", 1), [0])
    with pytest.raises(ValueError, match=r"^number: expected a whole number >= 1, got 0$"):
        model.sample("key", 0)


def test_levels_of_energies():
    """From the first to the last, in float32, of the parameters of the run."""
    densities = types.SimpleNamespace(num_levels=3, energy=lambda level: lambda x: 10 * level + x)
    method = types.SimpleNamespace(densities={"parameters": densities}.get)
    exact = types.SimpleNamespace(method=method)
    model = with_run(in_float32=lambda: exact)
    for level in range(3):
        assert model.energy_fn(level)(1) == 10 * level + 1
    assert model.energy_fn()(1) == 1
    for level in (-1, 3):
        says = f"^level: expected a whole number from 0 to 2, got {level}$"
        with pytest.raises(ValueError, match=says):
            model.energy_fn(level)


def test_units_are_those_of_the_run():
    """Images black and white by turns: 255 where x is 1, in a grid of two columns."""
    model = with_run(
        method="method", config="config", to_pixels=lambda x: np.uint8(255 * x),
        scale=lambda image: image / 255, to_data_units=lambda points: points + 7,
    )  # fmt: skip
    assert (model.method, model.params, model.config) == ("method", "parameters", "config")
    x = np.zeros((2, 60, 60, 1))
    x[1] = 1
    np.testing.assert_array_equal(model.to_pixels(x), 255 * x)
    np.testing.assert_array_equal(model.from_pixels(model.to_pixels(x)), x)
    np.testing.assert_array_equal(model.to_data_units(np.array([[1.0, 2]])), [[8, 9]])
    grid = model.grid(x)
    assert grid.dtype == np.uint8
    assert (grid[30, 30], grid[30, -30]) == (0, 255)
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.name = "another"


def test_a_card_is_read_where_there_is_one(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(model_folder, "find", lambda name: tmp_path / name)
    monkeypatch.setattr(model_folder, "read", lambda folder: f"the run in {folder.name}")
    assert models.load("model") == models.Model("model", "", "the run in model")
    (tmp_path / "model" / "card.md").write_bytes("β = .9".encode())
    assert models.load("model").card == "β = .9"


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
