"""--mode=evaluate: its metrics recomputed from its samples; real digits in place of samples."""

import json

import numpy as np
import pytest
import scipy.linalg
from main_processes import TINY, run_main
from PIL import Image

from configs import digits
from ebm_jax import data, tasks
from ebm_jax.runs import build, modes
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.trained import TrainedRun


def frechet_by_sqrtm(x, y):
    (m1, c1), (m2, c2) = ((s.mean(0), np.cov(s, rowvar=False)) for s in (x, y))
    ridge = 1e-12 * np.eye(len(c1))  # sqrtm is inexact for singular matrices
    root = scipy.linalg.sqrtm((c1 + ridge) @ (c2 + ridge)).real
    return np.sum((m1 - m2) ** 2) + np.trace(c1 + c2 - 2 * root)


def test_from_the_command_line(tmp_path):
    """Two updates of a tiny network; the samples are those of --mode=sample."""
    flags = (*TINY, f"--workdir={tmp_path}/run", "--config.training.num_steps=2")
    for mode, section in (("train", None), ("sample", "sampling"), ("evaluate", "evaluate")):
        number = (f"--config.{section}.num_samples=80",) if section else ()
        result = run_main(*flags, f"--mode={mode}", *number)
        assert result.code == 0, result.err
    assert result.out.startswith("80 samples from the EMA weights of step 2\n")
    assert "sampling: 80/80" in result.err
    out = tmp_path / "run" / "evaluate"
    assert f"{out}/evaluation.json; evaluation.png" in result.out
    with Image.open(out / "evaluation.png") as picture:
        assert min(picture.size) > 800

    metrics = json.loads((out / "evaluation.json").read_text())
    measured_on = metrics["measured_on"]
    assert (measured_on["checkpoint_step"], measured_on["num_samples"]) == (2, 80)
    assert measured_on["weights"] == "EMA"
    assert measured_on["method"]["num_steps"] == 2
    assert measured_on["versions"]["device_count"] == 1
    samples = np.load(tmp_path / "run" / "sample" / "samples.npz")["x"].astype(np.float64)
    real = data.load_dataset("digits", "train").images / 127.5 - 1
    distance = metrics["frechet_distance_to_training"]["over_pixels"]
    expected = frechet_by_sqrtm(samples.reshape(80, 64), real.reshape(-1, 64))
    assert distance["samples"] == pytest.approx(expected, rel=1e-5)
    assert f"  {'80 samples':<28}{distance['samples']:10.3f}\n" in result.out
    assert (distance["num_samples"], distance["num_training"]) == (80, 901)
    assert metrics["share_of_sample_values_outside"] == np.mean(np.abs(samples) > 1)
    assert metrics["classifier"]["samples"]["num_images"] == 80


def install(monkeypatch, config, path):
    """A run that is trained, with no parameters."""
    config.training.batch_size = 64  # divides among the devices of the tests
    trained = TrainedRun(build.build(config), 7, None, 0.999)
    monkeypatch.setattr(modes, "load_trained", lambda *_: trained)
    monkeypatch.setattr(modes, "check_trained", lambda *_: path)


def test_real_digits_in_place_of_samples_measure_the_floor(tmp_path, monkeypatch, capsys):
    config = digits.get_config()
    config.evaluate.num_samples = 896
    held_out = data.load_dataset("digits", "test").images / 127.5 - 1
    install(monkeypatch, config, tmp_path)
    monkeypatch.setattr(TrainedRun, "samples", lambda *_: held_out)
    assert tasks.run("evaluate", config, tmp_path) == 0
    metrics = json.loads((tmp_path / "evaluate" / "evaluation.json").read_text())
    distance = metrics["frechet_distance_to_training"]["over_pixels"]
    assert distance["samples"] == pytest.approx(distance["floor"], rel=1e-9)
    assert distance["floor"] == pytest.approx(0.3253, abs=1e-4)
    classified = metrics["classifier"]
    assert classified["samples"]["class_share"] == classified["held_out"]["class_share"]
    assert min(classified["samples"]["class_share"]) > 0.08
    assert classified["samples"]["median_confidence"] > 0.93
    assert "896 real held-out images         0.325" in capsys.readouterr().out


def test_a_held_out_split_that_is_not_there_is_told_before_sampling(tmp_path, monkeypatch):
    config = digits.get_config()
    config.held_out_split = "validation"
    install(monkeypatch, config, tmp_path)
    monkeypatch.setattr(TrainedRun, "samples", lambda *_: pytest.fail("sampled"))
    with pytest.raises(ConfigError, match="digits has no split 'validation'"):
        tasks.run("evaluate", config, tmp_path)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
