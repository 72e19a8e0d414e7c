"""Runs of configs/toy2d.py: units of what is measured, the loop, what training reaches."""

import json
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from configs import toy2d
from ebm_jax import tasks
from ebm_jax.data import TOY_DENSITIES, Dataset
from ebm_jax.diffusion import make_schedule
from ebm_jax.evaluation.density.grid2d import Grid, learned_density
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.methods.recovery_likelihood import RecoveryLikelihood
from ebm_jax.runs import build, preview

ROOT = pathlib.Path(__file__).resolve().parents[1]


class ExactEnergy(nn.Module):
    """s_0^2 |y - mean|^2 / 2 variance at level 0, where the method divides by s_0^2."""

    mean: float
    variance: float
    scale: float
    input_shape = (2,)

    @nn.compact
    def __call__(self, x, condition):
        """x [batch, 2] -> [batch]; infinite at the other levels."""
        energy = self.scale * jnp.sum((x - self.mean) ** 2, -1) / (2 * self.variance)
        return jnp.where(condition == 0, energy, jnp.inf)


def test_model_of_a_gaussian_is_that_gaussian_with_its_noise():
    """Data N(1, 0.5 I) on [-5, 7], in model units on [-1, 3]: y_0 = a_1 (abar_0 u + sbar_0 eps)."""
    levels = (0.02, 0.3, 0.7)
    config = toy2d.get_config()
    config.data.low, config.data.high = -1.0, 3.0
    schedule = make_schedule(3, levels)
    a, a_bar, sigma_bar = (
        float(v) for v in (schedule.a[1], schedule.a_bar[0], schedule.sigma_bar[0])
    )
    exact = ExactEnergy(
        mean=a * a_bar * (-1 + (1 + 5) / 3),
        variance=a**2 * (a_bar**2 * 0.5 / 9 + sigma_bar**2),
        scale=0.05 * float(schedule.sigma[1]) ** 2,
    )
    dataset = Dataset("made", "train", np.zeros((1, 2), np.float32), np.zeros(1), 1, (-5.0, 7.0))
    method = RecoveryLikelihood(
        exact, num_pairs=3, noise_levels=levels, step_scale=0.05, step_growth=0.5
    )
    general, sections = build.check_sections(config)
    run = build.Run(config, dataset, method, general, sections["data"], sections["sampling"])

    model = preview.plane_model(run, {})
    assert model.noise_std == pytest.approx(3 * 0.02 / a_bar, rel=1e-4)
    grid = Grid(7.0, 280)
    found = learned_density(model.energy_fn, grid, factor=model.factor, offset=model.offset)
    mass = np.exp(found.log_density) * grid.cell_area
    mean = (mass[..., None] * grid.points).sum((0, 1))
    variance = (mass[..., None] * (grid.points - mean) ** 2).sum((0, 1))
    np.testing.assert_allclose(mean, 1.0, atol=1e-4)
    np.testing.assert_allclose(variance, 0.5 + model.noise_std**2, rtol=1e-4)
    points = run.to_data_units(np.array([[-1.0, 3.0], [0.0, 1.0]]))
    np.testing.assert_allclose(points, [[-5.0, 7.0], [-2.0, 1.0]], atol=1e-12)


def test_a_short_run_shows_densities_and_is_evaluated(tmp_path, capsys):
    config = toy2d.get_config("checkerboard")
    config.network.update(width=8, depth=1, num_frequencies=4)
    config.method.update(num_pairs=2, noise_levels=(), num_steps=2)
    config.training.update(batch_size=8, num_steps=2)
    config.train.log_every = 1
    config.optimizer.warmup_steps = 0
    config.sampling.update(num_samples=24, batch_size=24)
    config.evaluate.num_samples = 24
    assert tasks.run("train", config, tmp_path) == 0
    capsys.readouterr()
    assert tasks.run("evaluate", config, tmp_path) == 0
    for drawn in ("samples/step_0000002.png", "evaluate/evaluation.png"):
        width, height = Image.open(tmp_path / drawn).size
        assert 2.5 < width / height < 3.5  # three square panels beside each other
    result = json.loads((tmp_path / "evaluate/evaluation.json").read_text())
    learned = result["learned"]
    assert learned["entropy_of_true"] == pytest.approx(np.log(128.0), abs=1e-9)
    assert result["grid"]["true_mass"] == pytest.approx(1.0, abs=1e-9)
    kl = -learned["expected_log_likelihood"] - np.log(128.0)
    assert learned["kl_true_to_learned"] == pytest.approx(kl, abs=1e-9)
    assert f"{kl:.4f} nats" in capsys.readouterr().out
    assert learned["noise_std"] == pytest.approx(0.01 * 16 / 8, rel=1e-4)
    assert result["measured_on"]["checkpoint_step"] == 2


def test_variants_are_the_densities_there_are():
    assert set(toy2d.DENSITIES) == set(TOY_DENSITIES)
    assert len(toy2d.VARIANTS) == 3 * len(TOY_DENSITIES)
    for density in toy2d.DENSITIES:
        for method in ("recovery_likelihood", *toy2d.METHODS):
            suffix = "" if method == "recovery_likelihood" else f"_{method}"
            config = toy2d.get_config(density + suffix)
            assert (config.data.name, config.method.name) == (density, method)
    with pytest.raises(ValueError, match=r"expected a variant of checkerboard, .*, got 'spiral'"):
        toy2d.get_config("spiral")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "bound"),
    [
        ("checkerboard", 0.06),
        ("eight_gaussians", 0.15),
        ("rings", 0.1),
        ("checkerboard_dual_score_matching", 0.1),
        ("checkerboard_energy_discrepancy", 0.06),
        ("rings_energy_discrepancy", 0.06),
    ],
)
def test_trained_density_is_close_to_the_true_one(variant, bound, tmp_path):
    """KL in nats on the grid, from the command line with the config as it is."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    for mode in ("train", "evaluate"):
        command = [sys.executable, "main.py", f"--config=configs/toy2d.py:{variant}"]
        command += [f"--workdir={tmp_path}", f"--mode={mode}"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    result = json.loads((tmp_path / "evaluate/evaluation.json").read_text())
    assert result["learned"]["kl_true_to_learned"] < bound
    assert result["learned"]["mass_outside_data_square"] < 0.02


def test_outside_its_box_a_density_of_the_plane_is_zero():
    """A flat energy on [-1, 1]^2, of data on [-4, 4]^2: all to the edge, and no more."""

    class Flat:
        def densities(self, params):
            return Densities(
                lambda level: lambda x: jnp.sum(0 * x, -1) + params,
                jnp.ones(1), jnp.zeros(1), BaseDistribution(box=self.box), None,
            )  # fmt: skip

    config = toy2d.get_config()
    config.data.low, config.data.high = -1.0, 1.0
    dataset = Dataset("made", "train", np.zeros((1, 2), np.float32), np.zeros(1), 1, (-4.0, 4.0))
    general, sections = build.check_sections(config)
    flat = Flat()
    run = build.Run(config, dataset, flat, general, sections["data"], sections["sampling"])
    x = jnp.array([[0.0, 0.0], [1.0, -1.0], [1.0, 1.01], [-1.01, 0.0]])
    for box, expected in (((-1.0, 1.0), [3, 3, np.inf, np.inf]), (None, [3, 3, 3, 3])):
        flat.box = box
        np.testing.assert_array_equal(preview.plane_model(run, 3.0).energy_fn(x), expected)
