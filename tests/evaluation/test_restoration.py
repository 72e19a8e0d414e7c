"""Corruptions by their laws, plain filters, errors, neighbours and masks."""

import numpy as np
import pytest
from PIL import Image

from ebm_jax.evaluation.images import corruption, masks
from ebm_jax.evaluation.images.errors import image_error, nearest, nearest_by

RNG = np.random.default_rng(0)
GREY = np.full((50, 20, 20, 3), 0.5)


def test_salt_and_pepper_hits_whole_pixels_with_its_probability():
    spoiled = corruption.corrupt("salt_and_pepper", GREY, 0.1, seed=0)
    black, white = (np.all(spoiled == v, axis=-1) for v in (0, 1))
    assert np.all(black | white | np.all(spoiled == 0.5, axis=-1))
    error = 4 * np.sqrt(0.05 * 0.95 / black.size)
    assert black.mean() == pytest.approx(0.05, abs=error)
    assert white.mean() == pytest.approx(0.05, abs=error)
    np.testing.assert_array_equal(
        corruption.corrupt("salt_and_pepper", GREY[:7], 0.1, seed=0), spoiled[:7]
    )


def test_noise_has_its_deviation_and_blur_its_width():
    noisy = corruption.corrupt("noise", GREY, 0.2, seed=0)
    assert (noisy - GREY).std() == pytest.approx(0.2, rel=4 / np.sqrt(2 * noisy.size))
    point = np.zeros((1, 31, 31, 1))
    point[0, 15, 15] = 1
    blurred = corruption.corrupt("blur", point, 1.5, seed=0)[0, ..., 0]
    assert blurred.sum() == pytest.approx(1)
    offset = np.arange(31) - 15
    assert (blurred.sum(0) * offset**2).sum() == pytest.approx(1.5**2, rel=0.01)


def test_median_repairs_single_pixels_and_errors_are_what_they_say():
    spoiled = GREY.copy()
    spoiled[:, 5, 5], spoiled[:, 10, 3] = 1, 0
    error = image_error(spoiled, GREY, value_range=1.0)
    assert error.rmse == pytest.approx(np.sqrt(2 * 0.25 / 400))
    assert error.psnr == pytest.approx(-20 * np.log10(error.rmse))
    repaired = corruption.BASELINES["median of 3 x 3 pixels"](spoiled)
    assert image_error(repaired, GREY, value_range=1.0).rmse == 0
    hidden = np.zeros((20, 20, 1), bool)
    hidden[5, 5] = True
    assert image_error(spoiled, GREY, value_range=2.0, counted=hidden).rmse == pytest.approx(0.25)


def test_standard_error_of_the_root_mean_square():
    """Over many sets the RMSE of 100 images of normal errors spreads as it says."""
    sets = RNG.normal(size=(300, 100, 4, 1, 1))
    found = [image_error(x, np.zeros_like(x), value_range=1.0) for x in sets]
    spread = np.std([error.rmse for error in found])
    assert np.mean([error.standard_error for error in found]) == pytest.approx(spread, rel=0.15)


def test_nearest_neighbours_by_brute_force():
    x, others = RNG.normal(size=(40, 6)), RNG.normal(size=(90, 6))
    others[17] = x[3] + 1e-9
    index, distance = nearest(x, others, 3, block=16)
    every = np.linalg.norm(x[:, None] - others, axis=2)
    np.testing.assert_array_equal(index, np.argsort(every, 1)[:, :3])
    np.testing.assert_allclose(distance, np.sort(every, 1)[:, :3], rtol=1e-9)
    known = np.array([True, True, False, False, False, False])
    partial = np.linalg.norm((x[:, None] - others)[..., :2], axis=2).argmin(1)
    np.testing.assert_array_equal(nearest_by(x, others, known), partial)


def test_masks(tmp_path):
    assert masks.hidden_pixels("lower_half", (8, 8, 1))[4:].all()
    assert masks.hidden_pixels("lower_half", (8, 8, 1)).sum() == 32
    centre = masks.hidden_pixels("centre", (8, 8, 3))
    assert centre.shape == (8, 8, 1)
    assert centre.sum() == centre[2:6, 2:6].sum() == 16
    hidden = RNG.uniform(size=(8, 8)) < 0.5
    Image.fromarray(np.uint8(255 * hidden)).save(tmp_path / "mask.png")
    np.save(tmp_path / "mask.npy", hidden[..., None])
    for name in ("mask.png", "mask.npy"):
        found = masks.hidden_pixels(str(tmp_path / name), (8, 8, 1))
        np.testing.assert_array_equal(found[..., 0], hidden)


def test_refusals(tmp_path):
    np.save(tmp_path / "small.npy", np.ones((4, 4)))
    np.save(tmp_path / "empty.npy", np.zeros((8, 8)))
    (tmp_path / "text.png").write_text("no picture")
    for mask, said in (
        ("upper", "mask is 'upper': write lower_half, centre, or the path"),
        (f"{tmp_path}/small.npy", r"has the shape \(4, 4\) and the images are 8 x 8: give one"),
        (f"{tmp_path}/empty.npy", "hides no pixel"),
        (f"{tmp_path}/text.png", "cannot be read"),
        (f"{tmp_path}/absent.npy", "cannot be read"),
    ):
        with pytest.raises(ValueError, match=said):
            masks.hidden_pixels(mask, (8, 8, 1))
    with pytest.raises(ValueError, match="unknown corruption 'rain': write some of salt_and_pe"):
        corruption.corrupt("rain", GREY, 0.1, seed=0)
    with pytest.raises(ValueError, match=r"salt_and_pepper is 1\.5: write 0 or more, at most 1"):
        corruption.corrupt("salt_and_pepper", GREY, 1.5, seed=0)
