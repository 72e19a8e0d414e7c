"""What the fields of modes that take or give images do, on a run that is known."""

import numpy as np
import pytest
from effects_stubs import SHAPE, full_bars, images, stubs
from effects_table import shows
from known_model import SAMPLES, columns_of, config_of, rows_of, run

from ebm_jax.evaluation.images import corruption
from ebm_jax.evaluation.images.errors import image_error

__all__ = ["full_bars", "run", "stubs"]


@shows(*rows_of("inpaint"))
def test_inpaint(run, monkeypatch):
    drawn = columns_of(monkeypatch)
    usual = {"inpaint": {"num_images": 5, "num_draws": 3}}
    rows = {"inpaint.mask": 0.25, "inpaint.num_images": 0.5, "inpaint.num_draws": 0.5}
    for field, share in rows.items():
        config = config_of(field, **usual)
        found, s = run("inpaint", config), config.inpaint
        number, draws = s.num_images, s.num_draws
        assert found["share_of_pixels_hidden"] == share
        assert found["measured_on"]["num_samples"] == number * draws
        x = SAMPLES[: number * draws].reshape(number, draws, *SHAPE)
        true = images("test").images[:number] / 127.5 - 1
        hidden = np.zeros((2, 2, 1), bool)
        hidden[0 if share == 0.25 else 1, : 1 if share == 0.25 else 2] = True
        error = image_error(np.clip(x[:, 0], -1, 1), true, value_range=2, counted=hidden)
        errors = found["error_on_hidden_pixels"]
        assert errors["one sample"]["rmse"] == pytest.approx(error.rmse, rel=1e-4)
        trained_on = images("train").images[:number] / 127.5 - 1
        error = image_error(np.clip(x.mean(1), -1, 1), trained_on, value_range=2, counted=hidden)
        of_training = found["error_on_hidden_pixels_of_training_images"]
        assert of_training[f"mean of {draws} samples"]["rmse"] == pytest.approx(
            error.rmse, rel=1e-4
        )
        assert "nearest training image" not in of_training
        spread = x.std(1, ddof=1).mean(where=hidden) / 2
        assert found["standard_deviation_of_samples"] == pytest.approx(spread, rel=1e-4)
        assert [name for name in drawn[-1] if name.startswith("sample")] == [
            f"sample {i + 1}" for i in range(draws)
        ]
        assert {len(column) for column in drawn[-1].values()} == {number}


@shows(*rows_of("interpolate"))
def test_interpolate(run):
    config = config_of(*rows_of("interpolate"))
    found = run("interpolate", config)
    assert found["measured_on"]["num_samples"] == 2 * 5
    assert found["of_a_straight_line"] == 1 / 4
    angle = np.pi / 2 * np.linspace(0, 1, 5)[:, None, None, None]
    for i, largest in enumerate(found["largest_step_over_distance_of_ends"]):
        ends = SAMPLES[2 * i], SAMPLES[2 * i + 1]
        path = np.cos(angle) * ends[0] + np.sin(angle) * ends[1]
        steps = np.linalg.norm(np.diff(path, axis=0).reshape(4, -1), axis=1)
        assert largest == pytest.approx(max(steps) / np.linalg.norm(ends[1] - ends[0]), rel=1e-3)
    assert len(found["largest_step_over_distance_of_ends"]) == 2


@shows(*rows_of("restore"))
def test_restore(run):
    """Corrupted images and their errors; the model's chains here leave them as they are."""
    usual = {"restore": {"num_images": 24}, "sampling": {"seed": 4}}
    for field in (None, "data.low", "data.high", *rows_of("restore")):
        config = config_of(*([field] if field else []), **usual)
        found, s = run("restore", config), config.restore
        strength = {
            "salt_and_pepper": s.salt_fraction, "noise": s.noise_std, "blur": s.blur_std,
        }  # fmt: skip
        assert list(found["errors"]) == list(s.corruptions)
        assert found["measured_on"]["num_samples"] == s.num_images
        true = images("test").images[: s.num_images] / 255
        for name in s.corruptions:
            levels = {"salt_levels": tuple(s.salt_levels)}
            x = corruption.corrupt(name, true, strength[name], seed=4, **levels)
            x = np.clip(x, 0, 1)
            expected = image_error(x, true, value_range=1.0).rmse
            for guess in ("corrupted input", "the model's chains"):  # in float64, and in float32
                rmse = found["errors"][name][guess]["rmse"]
                assert rmse == pytest.approx(expected, rel=1e-4, abs=1e-6)
        if field == "restore.blur_std":
            assert found["errors"]["blur"]["corrupted input"]["rmse"] == 0
        if field == "restore.noise_std":
            rmse = found["errors"]["noise"]["corrupted input"]["rmse"]
            assert rmse == pytest.approx(0.05, rel=4 / np.sqrt(2 * 24 * 4))
