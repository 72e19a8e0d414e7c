"""Densities are measured in float32 at the highest precision, and what is rough is said."""

import dataclasses
import json

import gaussian_runs as exact
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from ebm_jax.networks.ensemble import Ensemble
from ebm_jax.runs import build
from ebm_jax.runs.trained import TrainedRun


def tiny_run(dtype):
    config = digits.get_config()
    config.network.update(width=4, multipliers=(1,))
    config.training.batch_size = 8
    config.compute.dtype = dtype
    run = build.build(config)
    return TrainedRun(run, 1, build.init_state(run).params, 0.999)


def test_energies_of_a_run_in_bfloat16_are_those_of_float32():
    half, single = tiny_run("bfloat16"), tiny_run("float32")
    x, key = single.run.scale(single.run.dataset.images[:13]), jax.random.key(0)
    expected = single.energies(key, 0, x)
    with half.for_densities() as found:
        assert found.run.method.network.dtype == jnp.float32
        np.testing.assert_array_equal(found.energies(key, 0, x), expected)
    assert np.abs(half.energies(key, 0, x) - expected).max() > 1e-4 * np.abs(expected).max()
    ensemble = dataclasses.replace(
        half.run,
        method=dataclasses.replace(half.run.method, network=Ensemble(half.run.method.network, 2)),
    )
    assert ensemble.in_float32().method.network.base.dtype == jnp.float32


def run_with_energy(monkeypatch, tmp_path, mode, energy):
    config = exact.small_config(exact.install(monkeypatch, exact.DENSITIES._replace(energy=energy)))
    assert exact.run_mode(mode, config, tmp_path) == 0
    return json.loads((tmp_path / mode / f"{mode}.json").read_text())


@pytest.mark.parametrize("mode", ["long_run", "likelihood"])
def test_all_energies_at_highest_precision_and_what_is_rough_is_said(
    mode, tmp_path, monkeypatch, capsys
):
    """Three nats of noise between neighboring floats: sin(1e6 sum x), of which no slope is seen."""
    seen = set()

    def smooth(level):
        def energy_fn(x):
            seen.add(jax.config.jax_default_matmul_precision)
            return exact.energy(level)(x)

        return energy_fn

    def rough(level):
        def energy_fn(x):
            noise = jnp.sin(1e6 * jnp.sum(x, tuple(range(1, x.ndim))))
            return exact.energy(level)(x) + 3 * jax.lax.stop_gradient(noise)

        return energy_fn

    found = run_with_energy(monkeypatch, tmp_path / "smooth", mode, smooth)
    assert seen == {"highest"}
    assert found["roughness"]["nats"] < 1e-3
    assert found["arithmetic"].startswith("networks in float32")
    assert "neighboring floats" not in capsys.readouterr().out
    found = run_with_energy(monkeypatch, tmp_path / "rough", mode, rough)
    # The difference of two sines of independent phases: 3 nats root mean square.
    assert found["roughness"]["nats"] == pytest.approx(3, rel=0.4)
    said = capsys.readouterr().out
    assert f"warning: the energy jumps by {found['roughness']['nats']:.2g} nats between" in said


def test_chains_that_do_not_move_are_told(tmp_path, monkeypatch, capsys):
    """Energies with so much noise that no step is small enough: the tuned step collapses."""

    def rough(level):
        def energy_fn(x):
            noise = jnp.sin(1e6 * jnp.sum(x, tuple(range(1, x.ndim))))
            return exact.energy(level)(x) + 1e3 * jax.lax.stop_gradient(noise)

        return energy_fn

    found = run_with_energy(monkeypatch, tmp_path, "long_run", rough)
    assert found["warm_up_left_stuck"] == [0]
    assert "warm-up left chains that hardly move at 1 levels (0)" in capsys.readouterr().out


@pytest.mark.parametrize("dequantize", [False, True])
def test_known_images_are_scaled_as_in_training(dequantize, tmp_path, monkeypatch):
    """All intensities there and back; restore with chains that stand still; the sets of ood."""
    from ebm_jax.io.resumable import ResumableWork
    from ebm_jax.tasks import ood, restore

    config = exact.install(monkeypatch)
    config.data.dequantize = dequantize
    general, sections = build.check_sections(config)
    given = []

    class StandsStill(exact.ExactMethod):
        def restore(self, params, rng_key, x, index, label):
            jax.debug.callback(lambda x: given.append(np.asarray(x)), x)
            return x

    run = build.Run(
        config, exact.images("train"), StandsStill(exact.DENSITIES), general, sections["data"],
        sections["sampling"],
    )  # fmt: skip
    intensities = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
    np.testing.assert_allclose(
        run.from_unit(run.to_unit(intensities)), run.scale(intensities), atol=3e-7
    )
    np.testing.assert_array_equal(
        run.to_pixels(run.from_unit(run.to_unit(intensities))), intensities
    )
    trained = TrainedRun(run, 1, {}, 0.999)
    settings = restore.Settings(corruptions=("noise",), num_images=8, noise_std=0.0)
    with ResumableWork(tmp_path / "p", {}) as work:
        errors = restore.run(trained, settings, work).metrics["errors"]["noise"]
    jax.effects_barrier()
    held_out = exact.images("test").images[:8]
    seen = np.sort(np.concatenate(given).reshape(8, -1), axis=0)
    np.testing.assert_allclose(seen, np.sort(run.scale(held_out).reshape(8, -1), axis=0), atol=3e-7)
    assert errors["the model's chains"]["rmse"] < 1e-6
    sets = ood._sets(run, ood.Settings(num_images=8, sets=("flipped",)), "inside")
    np.testing.assert_allclose(run.from_unit(sets["inside"]), run.scale(held_out), atol=3e-7)
    np.testing.assert_allclose(sets["flipped"], sets["inside"][:, ::-1])
