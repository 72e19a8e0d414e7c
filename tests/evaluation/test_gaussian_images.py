"""Images of a Gaussian: their moments, and that each depends on its number alone."""

import numpy as np
import pytest

from ebm_jax.evaluation.fidelity.gaussian_images import GaussianImages, fit_gaussian_images


def test_they_have_the_moments_of_the_images():
    """Also where a pixel never varies, so that the covariance is singular."""
    rng = np.random.default_rng(0)
    blocks = rng.normal(size=(4_000, 1)) * 20 + rng.normal(size=(4_000, 4)) * 5 + 120
    blocks[:, 3] = 0
    images = np.rint(blocks).astype(np.uint8).reshape(-1, 2, 2, 1)
    drawn = fit_gaussian_images(images).draw(0, 4_000, seed=1)
    assert drawn.dtype == np.uint8
    assert np.all(drawn[:, 1, 1] == 0)
    x, y = (a.reshape(-1, 4).astype(float) for a in (images, drawn))
    # Standard errors: of a mean .33, of a covariance about 9; twice, of a difference, four of them.
    np.testing.assert_allclose(y.mean(0), x.mean(0), atol=2.0)
    np.testing.assert_allclose(np.cov(y.T), np.cov(x.T), atol=55)
    assert np.cov(y.T)[0, 1] > 300


def test_an_image_is_a_function_of_seed_and_number():
    gaussian = GaussianImages(np.array([100.0, 50.0]), 30 * np.eye(2), (1, 2, 1))
    whole = gaussian.draw(0, 10, seed=3)
    assert whole.shape == (10, 1, 2, 1)
    np.testing.assert_array_equal(gaussian.draw(4, 7, seed=3), whole[4:7])
    assert np.any(gaussian.draw(0, 10, seed=4) != whole)


def test_what_lies_beyond_black_and_white_is_cut_off():
    drawn = GaussianImages(np.array([-50.0, 300.0]), 1e-3 * np.eye(2), (1, 2, 1)).draw(0, 1, seed=0)
    np.testing.assert_array_equal(drawn.ravel(), [0, 255])


def test_too_few_images():
    with pytest.raises(ValueError, match="4 examples leave the covariance of 4 features"):
        fit_gaussian_images(np.zeros((4, 2, 2, 1), np.uint8))
