"""Moments and mixtures of data in model units, against NumPy, SciPy and scikit-learn."""

import importlib

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from ebm_jax.data import Dataset, Mixture, batch_indices, data_mixture, mixture, moments
from ebm_jax.data.mixture import fit_mixture
from ebm_jax.data.preprocess import scale_stored

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (23, 2, 3, 1)).astype(np.uint8)
POINTS = RNG.normal(size=(23, 2)).astype(np.float32)
IMAGES = Dataset("some", "train", PIXELS, np.zeros(23, np.int32), 1, (0.0, 255.0))
PLANE = Dataset("plane", "train", POINTS, np.zeros(23, np.int32), 1, (-5.0, 3.0))
OPTIONS = {"num_components": 1, "noise_std": 0.7, "seed": 3}
# (data set, options, its examples between -2 and 4, by hand)
CASES = [
    (IMAGES, {}, -2 + 6 / 255 * PIXELS.reshape(23, 6)),
    (IMAGES, {"dequantized": True}, -2 + 6 / 256 * (PIXELS.reshape(23, 6) + 0.5)),
    (PLANE, {}, -2 + 6 / 8 * (POINTS.astype(float) + 5)),
]


@pytest.mark.parametrize(("dataset", "options", "expected"), CASES)
def test_stored_examples_in_model_units(dataset, options, expected):
    found = scale_stored(dataset.images, dataset.value_range, -2.0, 4.0, **options)
    assert found.dtype == np.float64
    assert found.shape == dataset.images.shape
    np.testing.assert_allclose(found.reshape(23, -1), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", [5, 23, 10_000])
@pytest.mark.parametrize(("dataset", "options", "expected"), CASES)
def test_moments_are_those_of_all_examples(monkeypatch, dataset, options, expected, block):
    monkeypatch.setattr(importlib.import_module("ebm_jax.data.moments"), "_BLOCK", block)
    found = moments(dataset, -2.0, 4.0, **options)
    np.testing.assert_allclose(found.mean, expected.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(expected.T, bias=True), rtol=1e-9)


@pytest.mark.parametrize(("dataset", "options", "expected"), CASES)
def test_a_mixture_of_one_has_the_moments_of_the_data(dataset, options, expected):
    """The variance of the noise, of which EM takes the mean, is taken off again."""
    found = data_mixture(dataset, -2.0, 4.0, **OPTIONS, **options)
    np.testing.assert_allclose(found.weights, [1.0])
    np.testing.assert_allclose(found.means, [expected.mean(0)], rtol=1e-9)
    np.testing.assert_allclose(found.covariances[0], np.cov(expected.T, bias=True), atol=1e-9)


def test_a_mixture_is_of_so_many_examples_at_most(monkeypatch):
    """The first batch of the seed; there may be as many components as examples."""
    monkeypatch.setattr(mixture, "_MAX_EXAMPLES", 7)
    chosen = batch_indices(23, 7, 0, 3)
    found = data_mixture(PLANE, -5.0, 3.0, **OPTIONS)
    np.testing.assert_allclose(found.means, [POINTS[chosen].mean(0)], rtol=1e-5)
    several = data_mixture(PLANE, -5.0, 3.0, **OPTIONS | {"num_components": 7, "noise_std": 0.01})
    assert several.num_components == 7
    with pytest.raises(ValueError, match=r"^expected at most 7, the examples .* to, got 8$"):
        data_mixture(PLANE, -5.0, 3.0, **OPTIONS | {"num_components": 8})
    monkeypatch.undo()
    assert mixture._MAX_EXAMPLES == 10_000  # as documented


def test_fits_are_scikit_learns_of_flattened_examples():
    found = fit_mixture(PIXELS / 255, 2, 0.3, 5)
    expected = GaussianMixture(2, reg_covar=0.3, random_state=5).fit(PIXELS.reshape(23, 6) / 255)
    np.testing.assert_allclose(found.weights, expected.weights_)
    np.testing.assert_allclose(found.means, expected.means_)
    np.testing.assert_allclose(found.covariances, expected.covariances_)


def test_density_of_a_mixture_is_scipys():
    covariances = np.array([[[2.0, 0.6, 0.1], [0.6, 1.0, -0.2], [0.1, -0.2, 0.5]], np.eye(3) * 3])
    found = Mixture(
        np.array([0.3, 0.7]), np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]), covariances
    )
    x = RNG.normal(size=(5, 3, 1)).astype(np.float32)
    parts = [
        weight * multivariate_normal(mean, covariance).pdf(x[..., 0])
        for weight, mean, covariance in zip(*found, strict=True)
    ]
    np.testing.assert_allclose(found.log_density(x), np.log(sum(parts)), rtol=1e-6)
    assert found.num_components == 2
    assert found.log_density(x.tolist()).shape == (5,)
