"""Corruptions by their distributions, classical filters, errors and masks."""

import numpy as np
import pytest
from PIL import Image

from ebm_jax.evaluation.images import corruption, masks
from ebm_jax.evaluation.images.errors import image_error

RNG = np.random.default_rng(0)
GRAY = np.full((50, 20, 20, 3), 0.5)


def test_salt_and_pepper_hits_whole_pixels_with_its_probability():
    corrupted = corruption.corrupt("salt_and_pepper", GRAY, 0.1, seed=0)
    black, white = (np.all(corrupted == v, axis=-1) for v in (0, 1))
    assert np.all(black | white | np.all(corrupted == 0.5, axis=-1))
    error = 4 * np.sqrt(0.05 * 0.95 / black.size)
    assert black.mean() == pytest.approx(0.05, abs=error)
    assert white.mean() == pytest.approx(0.05, abs=error)
    levels = corruption.corrupt("salt_and_pepper", GRAY, 0.1, seed=0, salt_levels=(0.1, 0.9))
    np.testing.assert_allclose(levels, np.where(corrupted == 0.5, 0.5, 0.1 + 0.8 * corrupted))
    np.testing.assert_array_equal(
        corruption.corrupt("salt_and_pepper", GRAY[:7], 0.1, seed=0), corrupted[:7]
    )


def test_noise_has_its_deviation_and_blur_its_width():
    noisy = corruption.corrupt("noise", GRAY, 0.2, seed=0)
    assert (noisy - GRAY).std() == pytest.approx(0.2, rel=4 / np.sqrt(2 * noisy.size))
    point = np.zeros((1, 31, 31, 1))
    point[0, 15, 15] = 1
    blurred = corruption.corrupt("blur", point, 1.5, seed=0)[0, ..., 0]
    assert blurred.sum() == pytest.approx(1)
    offset = np.arange(31) - 15
    for axis in (0, 1):
        assert (blurred.sum(axis) * offset**2).sum() == pytest.approx(1.5**2, rel=0.01)


def test_images_and_channels_are_blurred_each_for_itself_and_mirrored_at_the_edges():
    """So that the values of each keep their sum, and a slope along one axis its profile."""
    x = RNG.uniform(size=(2, 5, 7, 3))
    blurred = corruption.corrupt("blur", x, 1.0, seed=0)
    np.testing.assert_allclose(blurred.sum((1, 2)), x.sum((1, 2)))
    slope = np.broadcast_to(np.arange(4.0)[:, None, None], (1, 4, 6, 1))
    found = corruption.corrupt("blur", slope, 0.5, seed=0)[0, ..., 0]
    np.testing.assert_allclose(found, found[:, :1] + np.zeros(6), rtol=1e-12)
    weights = np.exp(-2 * np.arange(-2.0, 3) ** 2)
    mirrored = np.array([1, 0, 0, 1, 2, 3, 3, 2])
    expected = np.convolve(mirrored, weights / weights.sum(), "valid")
    np.testing.assert_allclose(found[:, 0], expected)


def test_medians_are_of_nine_pixels_of_an_image_and_a_channel():
    x = RNG.uniform(size=(2, 4, 5, 2))
    mirrored = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(mirrored, (3, 3), (1, 2))
    found = corruption.BASELINES["median of 3 x 3 pixels"](x)
    np.testing.assert_array_equal(found, np.median(windows, (-2, -1)))


@pytest.mark.parametrize("name", corruption.NAMES)
def test_no_strength_changes_nothing(name):
    x = RNG.uniform(size=(3, 4, 5, 2))
    np.testing.assert_array_equal(corruption.corrupt(name, x, 0, seed=0), x)
    with pytest.raises(ValueError, match=f"of {name}, got -0.1"):
        corruption.corrupt(name, x, -0.1, seed=0)


def test_corruptions_of_full_strength_and_of_an_images_own_noise():
    """Every pixel is hit; noise is in proportion to its strength, drawn by seed, kind and image."""
    x = RNG.uniform(0.2, 0.8, size=(3, 4, 5, 2))
    hit = corruption.corrupt("salt_and_pepper", x, 1, seed=0)
    assert set(hit.ravel()) == {0, 1}
    np.testing.assert_array_equal(hit[..., 0], hit[..., 1])
    noise = [np.random.default_rng((7, 1, i)).normal(size=(4, 5, 2)) for i in range(3)]
    found = corruption.corrupt("noise", x, 2.5, seed=7)  # not clipped
    np.testing.assert_allclose(found, x + 2.5 * np.stack(noise))


def test_median_repairs_single_pixels_and_errors_are_what_they_say():
    corrupted = GRAY.copy()
    corrupted[:, 5, 5], corrupted[:, 10, 3] = 1, 0
    error = image_error(corrupted, GRAY, value_range=1.0)
    assert error.rmse == pytest.approx(np.sqrt(2 * 0.25 / 400))
    assert error.psnr == pytest.approx(-20 * np.log10(error.rmse))
    repaired = corruption.BASELINES["median of 3 x 3 pixels"](corrupted)
    assert image_error(repaired, GRAY, value_range=1.0).rmse == 0
    hidden = np.zeros((20, 20, 1), bool)
    hidden[5, 5] = True
    assert image_error(corrupted, GRAY, value_range=2.0, counted=hidden).rmse == pytest.approx(0.25)


def test_standard_error_of_the_root_mean_square():
    """Over many sets the RMSE of 100 images of normal errors spreads as it says."""
    sets = RNG.normal(size=(300, 100, 4, 1, 1))
    found = [image_error(x, np.zeros_like(x), value_range=1.0) for x in sets]
    spread = np.std([error.rmse for error in found])
    assert np.mean([error.standard_error for error in found]) == pytest.approx(spread, rel=0.15)


def test_strengths_are_by_name():
    found = corruption.strengths(salt_fraction=0.1, noise_std=0.2, blur_std=0.3)
    assert found == {"salt_and_pepper": 0.1, "noise": 0.2, "blur": 0.3}


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


def test_masks_of_images_that_are_not_square(tmp_path):
    """Halves are rounded down; a file may have an axis of channels, also where the width is 1."""
    lower = masks.hidden_pixels("lower_half", (5, 3, 1))[..., 0]
    assert lower.tolist() == [[False] * 3] * 2 + [[True] * 3] * 3
    centre = masks.hidden_pixels("centre", (9, 6, 2))[..., 0]
    assert centre.any(1).tolist() == [False] * 2 + [True] * 4 + [False] * 3
    assert centre.any(0).tolist() == [False] + [True] * 3 + [False] * 2
    assert centre.sum() == 12
    column = np.array([[0], [1], [-2], [0.5]])
    for values in (column, column[..., None]):
        np.save(tmp_path / "column.npy", values)
        found = masks.hidden_pixels(str(tmp_path / "column.npy"), (4, 1, 3))
        np.testing.assert_array_equal(found, [[[False]], [[True]], [[True]], [[True]]])
    colored = np.zeros((2, 3, 3), np.uint8)
    colored[1, 2] = [0, 9, 0]
    Image.fromarray(colored).save(tmp_path / "colored.png")
    found = masks.hidden_pixels(str(tmp_path / "colored.png"), (2, 3, 1))
    assert np.argwhere(found[..., 0]).tolist() == [[1, 2]]
    np.save(tmp_path / "colored.npy", colored)
    with pytest.raises(ValueError, match=r"has the shape \(2, 3, 3\) and the images are 2 x 3"):
        masks.hidden_pixels(str(tmp_path / "colored.npy"), (2, 3, 1))


def test_refusals(tmp_path):
    np.save(tmp_path / "small.npy", np.ones((4, 4)))
    np.save(tmp_path / "empty.npy", np.zeros((8, 8)))
    (tmp_path / "text.png").write_text("no picture")
    for mask, said in (
        ("upper", "expected mask lower_half, centre or the path of a .png or .npy, got 'upper'"),
        (f"{tmp_path}/small.npy", r"has the shape \(4, 4\) and the images are 8 x 8: give one"),
        (f"{tmp_path}/empty.npy", "expected values other than 0"),
        (f"{tmp_path}/text.png", "cannot be read"),
        (f"{tmp_path}/absent.npy", "cannot be read"),
    ):
        with pytest.raises(ValueError, match=said):
            masks.hidden_pixels(mask, (8, 8, 1))
    with pytest.raises(ValueError, match="unknown corruption 'rain': expected some of salt_and_pe"):
        corruption.corrupt("rain", GRAY, 0.1, seed=0)
    for name, strength, bound in (
        ("salt_and_pepper", 1.5, "0 <= strength <= 1 of salt_and_pepper, got 1.5"),
        ("noise", np.nan, "a finite strength >= 0 of noise, got nan"),
        ("blur", np.inf, "a finite strength >= 0 of blur, got inf"),
    ):
        with pytest.raises(ValueError, match=f"^expected {bound}$"):
            corruption.corrupt(name, GRAY, strength, seed=0)


def test_filters_of_an_image_program_on_one_bright_pixel():
    """None changes a mean; a Gaussian spreads by its variance, and what it takes is added twice."""
    x = np.full((2, 9, 9, 1), 0.25)
    for name, apply in corruption.BASELINES.items():
        np.testing.assert_allclose(apply(x), x, err_msg=name)
    x[1, 4, 4] = 1.25
    found = {name.partition(" ")[0]: apply(x) for name, apply in corruption.BASELINES.items()}
    assert set(found) == {"median", "Gaussian", "unsharp"}
    np.testing.assert_allclose(found["median"], 0.25)
    spread = found["Gaussian"][1, ..., 0] - 0.25
    assert spread.sum() == pytest.approx(1)
    place = np.arange(9) - 4
    for axis in (0, 1):
        variance = np.sum(spread.sum(axis) * place**2)
        assert variance == pytest.approx(0.6**2, rel=0.03)  # of weights at whole pixels
    np.testing.assert_allclose(found["unsharp"], x + (x - found["Gaussian"]))


@pytest.mark.filterwarnings("error")
def test_one_image_has_an_error_of_unknown_uncertainty():
    """And says so without a warning."""
    found = image_error(GRAY[:1], GRAY[:1] + 0.5, value_range=1.0)
    assert found.rmse == pytest.approx(0.5)
    assert np.isnan(found.standard_error)
